"""The HTML around a page's body, and how a page reaches the disk.

A content security policy backs up the escaping: the page may load nothing, and the only scripts
that may run are the two that it names by their hashes, plotly.js and the page's own.
"""

from __future__ import annotations

import os
import re
import secrets
import zlib
from base64 import b64decode
from importlib.resources import files
from pathlib import Path
from typing import Any

from interp.errors import StoreError
from interp.report.plotly_bundle import packed, unpacked_hash
from interp.report.rendering import Html, render
from interp.report.text import script_hash

LONGEST_BUNDLE = 50_000_000
"""Characters of plotly.js that are unpacked at most."""


def document(template: str, title: str, **values: Any) -> str:
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


# base64 and nothing else: a script element ends in more ways than one, and what follows is markup
_BUNDLE = re.compile(r'(<script type="text/plain" id="plotly">)([A-Za-z0-9+/=]*)(</script>)')


def without_bundle(text: str) -> str:
    """A page with its packed plotly.js taken out: two machines may pack the same script into other
    bytes.
    """
    return _BUNDLE.sub(r"\1\3", text, count=1)


def bundle_hash(text: str) -> str:
    """What the content security policy would call the script that a page has packed; "" where it
    has none.
    """
    found = _BUNDLE.search(text)
    try:
        script = (
            zlib.decompressobj(wbits=31).decompress(b64decode(found[2]), LONGEST_BUNDLE)
            if found
            else b""
        )
        return script_hash(script.decode()) if script else ""
    except (ValueError, zlib.error):
        return ""


def write_text(path: Path, text: str) -> Path:
    """Write ``text`` whole or not at all; ``StoreError`` when it cannot be written there."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        try:
            with open(draft, "x", encoding="utf-8", newline="\n") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"cannot write the page {path}: {error.strerror or error}") from error
    return path


def _resource(name: str) -> str:
    return (files("interp.report") / name).read_text(encoding="utf-8")
