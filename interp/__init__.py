"""interp: mechanistic interpretability for pairs of a base model and its tuned child.

Public names are loaded on first use, so that looking at stored results never waits for torch.
"""

from importlib import import_module as _load
from types import ModuleType as _Module
from typing import Any as _Any

__version__ = "0.1.0.dev0"

# fmt: off
_HOMES = {
    "Agreement": "agreement", "Baselines": "analyzers.baselines",
    "Checkpoints": "analyzers.intruder_forgetting", "Claim": "claims",
    "Coalitions": "analyzers.coalitions", "Compare": "analyzers.compare", "ConceptShift": "analyzers.concept_shift",
    "Contrast": "prompts", "ControlLocations": "analyzers.control_locations",
    "DictionaryDiff": "analyzers.sae_diff", "DictionaryEval": "analyzers.sae_eval",
    "DictionaryFeatures": "analyzers.sae_features", "DictionaryProbe": "analyzers.sae_probe",
    "Dissociation": "analyzers.dissociation", "Forgetting": "analyzers.intruder_forgetting",
    "FtcAlpha": "analyzers.ftc_alpha", "Graft": "analyzers.graft", "InterpError": "errors",
    "IntruderForgetting": "analyzers.intruder_forgetting", "IntruderScaling": "analyzers.intruder_scaling",
    "Intruders": "analyzers.intruders", "LocateNeurons": "analyzers.locate_neurons", "OneClass": "prompts",
    "Pair": "models.pair", "StitchInput": "analyzers.stitch", "Provenance": "provenance",
    "Redundancy": "analyzers.redundancy", "Refusal": "metrics", "RefusalDirection": "analyzers.refusal_direction",
    "Runs": "agreement", "Site": "sites", "Stability": "analyzers.stability", "Stitch": "analyzers.stitch",
    "Store": "store", "Study": "study", "Table": "table", "Task": "metrics", "Transfer": "analyzers.transfer",
    "Tuco": "analyzers.tuco", "VerifyNeurons": "analyzers.verify_neurons", "Weight": "sites",
    "WeightPair": "models.weights", "load_behaviour": "metrics",
    "load_study": "studies", "plot": "figures", "read_prompts": "prompts",
    "read_task": "prompts",
}
# fmt: on

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
