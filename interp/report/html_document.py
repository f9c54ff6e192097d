"""The document around a page's content, and writing it to disk.

A content security policy backs up the escaping: the page may not load anything, and only the two
scripts whose hashes the policy names may run, plotly.js and the page's own.
"""

from __future__ import annotations

import os
import re
import zlib
from base64 import b64decode
from importlib.resources import files
from pathlib import Path
from typing import Any

from interp.atomic import complete_file
from interp.errors import reporting_os_errors
from interp.report.plotly_bundle import packed, unpacked_hash
from interp.report.rendering import Html, render
from interp.report.text import script_hash

MAX_BUNDLE_CHARACTERS = 50_000_000
"""Maximum number of characters of plotly.js to decompress."""


def render_document(template: str, title: str, **values: Any) -> str:
    """A whole page from a template that extends ``document.html``; ``title`` is text."""
    script, style = _resource("page.js"), _resource("page.css")
    policy = (
        f"default-src 'none'; script-src {unpacked_hash()} {script_hash(script)}; style-src"
        " 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    page = render(
        template,
        title=title,
        policy=policy,
        style=Html(style),
        script=Html(script),
        plotly=Html(packed()),
        **values,
    )
    return f"{page}\n"


# base64 only: a script element can end in several ways, and what follows it would be markup
_BUNDLE = re.compile(r'(<script type="text/plain" id="plotly">)([A-Za-z0-9+/=]*)(</script>)')


def without_bundle(text: str) -> str:
    """A page without its compressed plotly.js, because two machines may compress the same script to
    different bytes.
    """
    return _BUNDLE.sub(r"\1\3", text, count=1)


def bundle_hash(text: str) -> str:
    """The hash by which a content security policy would name the compressed script of a page; empty
    if the page has none.
    """
    match = _BUNDLE.search(text)
    try:
        script = (
            zlib.decompressobj(wbits=31).decompress(b64decode(match[2]), MAX_BUNDLE_CHARACTERS)
            if match
            else b""
        )
        return script_hash(script.decode()) if script else ""
    except (ValueError, zlib.error):
        return ""


def write_text(path: Path, text: str) -> Path:
    """Write ``text`` atomically; raises ``StoreError`` if it cannot be written."""
    with (
        reporting_os_errors("write the page", path),
        complete_file(path) as draft,
        open(draft, "x", encoding="utf-8", newline="\n") as stream,
    ):
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    return path


def _resource(name: str) -> str:
    return (files("interp.report") / name).read_text(encoding="utf-8")
