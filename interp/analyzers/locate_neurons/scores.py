"""Options and result of a method, and the token positions it can read."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Int
from torch import Tensor

from interp.errors import OptionError
from interp.models.anatomy import Anatomy
from interp.models.units import NEURON, Unit
from interp.prompts import ROLES
from interp.table import JSON, Table

POSITIONS = ("prompt", "content", "decision", "last", "completion")
ROUNDING = 8 * float(np.finfo(np.float32).eps)
"""Rounding error to expect of a score, relative to the magnitude of what is summed."""


@dataclass(frozen=True)
class MethodOptions:
    """Options of a method: which tokens to read, how many steps an integral has, which units to
    score.

    ``steps``: ``auto`` or one of ``interp.maths.quadrature.STEPS``. ``probe_fit``: how a probe's
    regression is fitted, one of ``probes.FITS``. ``top``: the selection, on which the agreement of
    two rules is judged.
    """

    positions: str
    steps: int | str = "auto"
    unit: Unit = NEURON
    probe_fit: str = "optimum"
    top: str = "0.5%"


@dataclass(frozen=True)
class Scores:
    """Scores ``[L, N]`` (signed where the method has a sign); below ``floor`` they are rounding
    error.

    ``measures`` are further numbers per neuron, name -> (values ``[L, N]``, meaning). ``eligible``
    marks neurons that may be selected (None: all).
    """

    score: np.ndarray
    floor: np.ndarray
    meaning: str
    measures: Mapping[str, tuple[np.ndarray, str]] = field(default_factory=dict)
    eligible: np.ndarray | None = None
    tables: Mapping[str, Table] = field(default_factory=dict)
    summary: Mapping[str, JSON] = field(default_factory=dict)


def mlp_branches(anatomy: Anatomy) -> dict[str, str]:
    """The branches of an MLP that neurons read by, and the hook of the output of each."""
    if anatomy.gated:
        return {"gate": "mlp.hook_pre", "up": "mlp.hook_pre_linear"}
    return {"up": "mlp.hook_pre"}


def position_mask(roles: Int[Tensor, "B T"], positions: str) -> Bool[Tensor, "B T"]:
    """Mask of the tokens that a method reads, without padding (role -1).

    ``prompt``: every token of the prompt; ``last``: its last token, before the answer; else the
    tokens of that role.
    """
    prompt = (roles >= 0) & (roles != ROLES["completion"])
    if positions == "prompt":
        return prompt
    if positions == "last":
        return prompt & (prompt.flip(1).cumsum(1).flip(1) == 1)
    if positions not in POSITIONS:
        raise OptionError(f"unknown positions {positions!r}; use one of {', '.join(POSITIONS)}")
    return roles == ROLES[positions]
