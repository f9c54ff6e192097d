"""Our own format: see ``interp.sae.core.files``."""

from __future__ import annotations

from pathlib import Path

from interp.sae.core.files import CONFIG, WEIGHTS, load
from interp.sae.formats.base import Format, Found, peek_json


def holds(path: Path) -> bool:
    """Whether a folder is a dictionary of ours."""
    said = peek_json(path / CONFIG)
    return "dictionary" in said and "format" in said


def read(path: Path) -> Found:
    """A dictionary of ours and what it says about itself."""
    dictionary, about = load(path)
    return Found(dictionary, {"format": "interp", **about})


FORMAT = Format("interp", f"{CONFIG} and {WEIGHTS}", holds, read)
