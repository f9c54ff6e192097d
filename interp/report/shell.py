"""The HTML around a page's body, and how a page reaches the disk.

A content security policy backs up the escaping: the page may load nothing, and the only scripts that may run are the
two that it names by their hashes, plotly.js and the page's own.
"""

from __future__ import annotations

import os
import secrets
from importlib.resources import files
from pathlib import Path

from interp.errors import StoreError
from interp.report.bundle import packed, unpacked_hash
from interp.report.text import escaped, script_hash


def document(title: str, body: str) -> str:
    """A whole page: ``title`` is text, ``body`` is HTML."""
    script, style = _resource("page.js"), _resource("page.css")
    policy = (
        f"default-src 'none'; script-src {unpacked_hash()} {script_hash(script)}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escaped(policy)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>{escaped(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n<main>\n"
        f'<p id="no-figures" hidden>Figures need a browser that can unpack gzip (any since 2023). All text and tables '
        f"are here.</p>\n{body}\n</main>\n"
        f'<script type="text/plain" id="plotly">{packed()}</script>\n<script>{script}</script>\n</body>\n</html>\n'
    )


def without_bundle(text: str) -> str:
    """A page without its packed plotly.js: two machines may pack the same script into other bytes."""
    head, _, rest = text.partition('<script type="text/plain" id="plotly">')
    return head + rest.partition("</script>")[2]


def footer() -> str:
    """What stands at the end of every page."""
    size = round(len(packed()) / 1e6, 1)
    return (
        "Made by interp. This page is complete in itself: it loads nothing, and carries its own copy of "
        f"plotly.js (packed, {size} MB)."
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
