"""Escaping of text for HTML, so that prompts and tokens never become markup."""

from __future__ import annotations

import hashlib
from base64 import b64encode

from interp.display import escaped, format_interval, format_number

__all__ = ["escaped", "format_interval", "format_number", "json_text", "script_hash"]


def json_text(text: str) -> str:
    """JSON that is safe inside a script element: it cannot end the element or open a comment."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def script_hash(script: str) -> str:
    """The expression by which a content security policy allows one inline script."""
    return f"'sha256-{b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
