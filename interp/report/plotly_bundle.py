"""plotly.js, compressed: the page decompresses it in the browser, which saves two thirds of its
size.

A browser without DecompressionStream (before 2023) gets the text and the tables and a note that
figures need a newer browser. The content security policy names the decompressed script by its hash,
so that no other script can run in its place.
"""

from __future__ import annotations

import gzip
from base64 import b64encode
from functools import cache

from interp.report.text import script_hash


@cache
def packed() -> str:
    """plotly.js as gzip in base64, deterministic."""
    return b64encode(gzip.compress(_plotlyjs().encode(), compresslevel=9, mtime=0)).decode("ascii")


@cache
def unpacked_hash() -> str:
    """The hash by which the content security policy names the decompressed script."""
    return script_hash(_plotlyjs())


def _plotlyjs() -> str:
    # imported here, because reading a report does not need it
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()
