"""interp: mechanistic interpretability for pairs of a base model and its tuned child.

Public names are loaded on first use, so that looking at stored results never waits for torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0.dev0"

_HOMES = {
    "Claim": "claims",
    "InterpError": "errors",
    "Pair": "models.pair",
    "Provenance": "provenance",
    "Site": "sites",
    "Table": "table",
    "Weight": "sites",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
