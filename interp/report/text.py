"""Text into HTML, so that whatever a prompt or a token holds stays text."""

from __future__ import annotations

import hashlib
import html
import math
import re
from base64 import b64encode
from typing import Any

from interp.provenance import whole_text

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
PICTURES = {"\n": "↵", "\t": "⇥"}


def escaped(value: object) -> str:
    """``value`` as HTML text, fit for attributes too; control characters become visible signs (a line end is ↵)."""
    return html.escape(CONTROL.sub(_picture, whole_text(str(value))), quote=True)


def _picture(match: re.Match) -> str:
    code = ord(match.group())
    return PICTURES.get(match.group()) or (chr(0x2400 + code) if code < 0x20 else "\ufffd")


def json_text(text: str) -> str:
    """JSON that may stand in a script element: nothing in it can end the element or open a comment."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def script_hash(script: str) -> str:
    """How a content security policy names one inline script that may run."""
    return f"'sha256-{b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def number(value: Any) -> str:
    """A number as people read it: three or four digits, thousands apart, a dash for what is not there."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer() and abs(value) < 1e15):
        return f"{int(value):,}".replace("-", "−")
    if isinstance(value, float):
        return (f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.3g}").replace("-", "−").replace("inf", "∞")
    return str(value)


def interval(value: float, low: float, high: float) -> str:
    """value [low, high], without the brackets where there is no interval."""
    if math.isnan(low) and math.isnan(high):
        return number(value)
    return f"{number(value)} [{number(low)}, {number(high)}]"
