"""plotly.js, packed: the page unpacks it in the browser, which saves two thirds of its size.

A browser without DecompressionStream (before 2023) reads the text and the tables, and is told that
figures need a newer one. The content security policy names the unpacked script by its hash, so that
nothing else can run in its place.
"""

from __future__ import annotations

import gzip
from base64 import b64encode
from functools import cache

from interp.report.text import script_hash


@cache
def packed() -> str:
    """plotly.js as base64 of gzip, the same text every time."""
    return b64encode(gzip.compress(_plotlyjs().encode(), compresslevel=9, mtime=0)).decode("ascii")


@cache
def unpacked_hash() -> str:
    """What the content security policy calls the unpacked script."""
    return script_hash(_plotlyjs())


def _plotlyjs() -> str:
    # here: whoever only reads a report need not wait for it
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()
