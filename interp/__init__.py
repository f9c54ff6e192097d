"""interp: mechanistic interpretability of pairs of a base model and its fine-tuned model.

Public names are loaded on first use, so that reading stored results does not wait for torch. Other
analyzers are in ``interp.analyzers``, dictionaries in ``interp.sae``, assertions for test suites in
``interp.testing``.
"""

from importlib import import_module as _load
from types import ModuleType as _Module
from typing import Any as _Any

__version__ = "0.1.0.dev0"

_HOMES = {
    "Ablate": "interventions.edits",
    "Add": "interventions.edits",
    "Claim": "claims",
    "Compare": "analyzers.compare",
    "Contrast": "prompts",
    "Graft": "analyzers.graft",
    "InterpError": "errors",
    "Intruders": "analyzers.intruders",
    "LocateNeurons": "analyzers.locate_neurons",
    "Pair": "exploration",
    "Scale": "interventions.edits",
    "Site": "sites",
    "Store": "store",
    "Study": "study",
    "Table": "table",
    "Tuco": "analyzers.tuco",
    "VerifyNeurons": "analyzers.verify_neurons",
    "load_pair": "exploration",
    "load_study": "studies",
    "plot": "figures",
    "read_prompts": "prompts",
    "verify": "reports",
    "write_report": "reports",
}

# names are loaded on first use: no checker of types can list them
__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> _Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_load(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    own = (
        name
        for name, value in globals().items()
        if name.startswith("__") or isinstance(value, _Module)
    )
    return sorted({*own, *_HOMES})
