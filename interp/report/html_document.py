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

from interp.errors import StoreError
from interp.report.plotly_bundle import packed, unpacked_hash
from interp.report.text import escaped, script_hash

LONGEST_BUNDLE = 50_000_000
"""Characters of plotly.js that are unpacked at most."""


def document(title: str, body: str) -> str:
    """A whole page: ``title`` is text, ``body`` is HTML."""
    script, style = _resource("page.js"), _resource("page.css")
    policy = (
        f"default-src 'none'; script-src {unpacked_hash()} {script_hash(script)}; style-src"
        " 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta'
        f' http-equiv="Content-Security-Policy" content="{escaped(policy)}">\n<meta name="viewport"'
        ' content="width=device-width, initial-scale=1">\n<meta name="color-scheme" content="light'
        ' dark">\n<meta name="referrer"'
        f' content="no-referrer">\n<title>{escaped(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n<main>\n<p'
        ' id="no-figures" hidden>Figures need a browser that can unpack gzip (any since 2023). All'
        f' text and tables are here.</p>\n{body}\n</main>\n<script type="text/plain"'
        f' id="plotly">{packed()}</script>\n<script>{script}</script>\n</body>\n</html>\n'
    )


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


def footer() -> str:
    """What stands at the end of every page, the same wherever it is made."""
    return (
        "Made by interp. This page is complete in itself: it loads nothing, and carries its own"
        " copy of plotly.js (packed)."
    )


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
