"""Text into HTML, so that whatever a prompt or a token holds stays text."""

from __future__ import annotations

import hashlib
from base64 import b64encode

from interp.display import escaped, interval, number

__all__ = ["escaped", "interval", "json_text", "number", "script_hash"]


def json_text(text: str) -> str:
    """JSON that may stand in a script element: nothing in it can end the element or open a comment."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def script_hash(script: str) -> str:
    """How a content security policy names one inline script that may run."""
    return f"'sha256-{b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
