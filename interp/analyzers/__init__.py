"""Analyzers: each a frozen record of its options with one method, ``analyzer(study) -> Table``.

The classes named here are loaded on first use.
"""

from importlib import import_module as _load
from typing import Any as _Any

_HOMES = {
    "Baselines": "baselines",
    "Checkpoints": "intruder_forgetting",
    "Coalitions": "coalitions",
    "Compare": "compare",
    "ComponentMasking": "component_masking",
    "ConceptShift": "concept_shift",
    "ControlLocations": "control_locations",
    "CrossPatch": "cross_patch",
    "DataSelection": "data_selection",
    "SaeCircuit": "sae_circuit",
    "SaeDiff": "sae_diff",
    "SaeEval": "sae_eval",
    "SaeFeatures": "sae_features",
    "SaeProbe": "sae_probe",
    "Dissociation": "dissociation",
    "FindCircuit": "circuit",
    "Forgetting": "intruder_forgetting",
    "FtcAlpha": "ftc_alpha",
    "Graft": "graft",
    "IntruderForgetting": "intruder_forgetting",
    "IntruderScaling": "intruder_scaling",
    "Intruders": "intruders",
    "LocateNeurons": "locate_neurons",
    "Lofit": "lofit",
    "PatchHeads": "patch_heads",
    "PatchWeights": "patch_weights",
    "Redundancy": "redundancy",
    "RefusalDirection": "refusal_direction",
    "Stability": "stability",
    "Stitch": "stitch",
    "StitchInput": "stitch",
    "Transfer": "transfer",
    "Tuco": "tuco",
    "Tune": "tune",
    "VerifyNeurons": "verify_neurons",
    "WrappedConjugate": "wrapped_conjugate",
    "WrappedProbes": "wrapped_probes",
    "WrappedPruning": "wrapped_pruning",
    "WrappedReversal": "wrapped_reversal",
}

# names are loaded on first use: no checker of types can list them
__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> _Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_load(f"{__name__}.{_HOMES[name]}"), name)
