"""What a dictionary is, as data: architecture, sizes, and every convention that changes its
numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from interp.errors import OptionError

ARCHITECTURES = {
    "standard": "relu(pre)",
    "jumprelu": (
        "pre where it exceeds a threshold per latent (Rajamanoharan et al. 2024, arXiv 2407.14435)"
    ),
    "gated": (
        "a gate decides, a magnitude says how much (Rajamanoharan et al. 2024, arXiv 2404.16014)"
    ),
    "topk": "the k largest of every input (Gao et al. 2024, arXiv 2406.04093)",
    "batchtopk": (
        "the k * N largest of a batch in training, a threshold afterwards (Bussmann et al. 2024,"
        " 2412.06410)"
    ),
    "matryoshka": (
        "batchtopk whose first latents reconstruct alone (Bussmann et al. 2025, arXiv 2503.17547)"
    ),
    "matching_pursuit": (
        "one latent after the other, by what the others left (Costa et al. 2025, arXiv 2506.03093)"
    ),
}
SPARSE = ("topk", "batchtopk", "matryoshka")
"""Architectures with ``k`` codes an input, whose backward touches the active rows only."""

BY_BATCH = ("batchtopk", "matryoshka")
"""Architectures that need a threshold outside of training."""

NORMALISATIONS = {
    "none": "inputs as they are",
    "scale": "inputs times one number per model",
    "layer-norm": "each input less its mean by its standard deviation, undone at decoding",
    "constant-norm": "each input to norm sqrt(d_in), undone at decoding",
}
RANKINGS = ("value", "norm")


@dataclass(frozen=True)
class DictionaryConfig:
    """Everything that says how a dictionary's parameters are to be read.

    ``d_in``: width of one model's input, ``width``: number of latents F, ``d_out``: width of one
    model's target where that is another site (a transcoder). ``models``: how many models'
    activations stand side by side (a crosscoder's axis). ``k``: codes per input. ``prefixes``: how
    many first latents reconstruct alone (matryoshka), the last being ``width``. ``input_bias``: the
    decoder's bias is subtracted from inputs. ``rank_by``: what the k are the largest of, "value" or
    "norm" (value times the norm of its decoder row, over models the sum of norms). ``skip``: a
    linear map of the input is added. ``residual_threshold`` and ``steps`` end a matching pursuit.
    ``loss`` and ``sparsity`` name the convention that its coefficient is expressed in, see
    ``losses``.
    """

    architecture: str
    d_in: int
    width: int
    d_out: int | None = None
    models: int = 1
    k: int | None = None
    prefixes: tuple[int, ...] = ()
    input_bias: bool = True
    rank_by: str = "value"
    normalisation: str = "none"
    skip: bool = False
    residual_threshold: float = 1e-2
    steps: int | None = None
    loss: str = "sum"
    sparsity: str = "l1"

    def __post_init__(self) -> None:
        for name, known in (
            ("architecture", ARCHITECTURES),
            ("normalisation", NORMALISATIONS),
            ("rank_by", RANKINGS),
        ):
            if getattr(self, name) not in known:
                raise OptionError(f"unknown {name} {getattr(self, name)!r}; use {', '.join(known)}")
        for name in ("d_in", "width", "models"):
            if getattr(self, name) < 1:
                raise OptionError(
                    f"a dictionary needs {name} of at least 1, not {getattr(self, name)}"
                )
        if self.architecture in SPARSE and not 1 <= (self.k or 0) <= self.width:
            raise OptionError(
                f"{self.architecture} needs k from 1 to its width {self.width}, not {self.k}"
            )
        object.__setattr__(self, "prefixes", tuple(self.prefixes))
        if self.architecture == "matryoshka":
            rising = all(a < b for a, b in zip((0, *self.prefixes), self.prefixes, strict=False))
            if not self.prefixes or not rising or self.prefixes[-1] != self.width:
                raise OptionError(
                    f"matryoshka needs rising prefixes that end at its width {self.width}, not"
                    f" {list(self.prefixes)}"
                )
        elif self.prefixes:
            raise OptionError(f"prefixes belong to matryoshka, not to {self.architecture}")
        if self.is_transcoder and self.input_bias:
            raise OptionError(
                "a transcoder's output bias lies in another space than its inputs; use"
                " input_bias=False"
            )
        if self.architecture == "matching_pursuit" and (self.is_transcoder or self.skip):
            raise OptionError(
                "a matching pursuit reconstructs its own inputs; it cannot be a transcoder"
            )
        if self.normalisation in ("layer-norm", "constant-norm") and (
            self.models > 1 or self.is_transcoder
        ):
            raise OptionError(
                f"{self.normalisation} is undone per input, which several sites do not have; use"
                " scale"
            )

    @property
    def is_transcoder(self) -> bool:
        """Whether targets are another site's activations."""
        return self.d_out is not None

    @property
    def inputs(self) -> int:
        """Width of an input row: all models' activations side by side."""
        return self.d_in * self.models

    @property
    def outputs(self) -> int:
        """Width of a reconstruction row."""
        return (self.d_in if self.d_out is None else self.d_out) * self.models

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return {**asdict(self), "prefixes": list(self.prefixes)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> DictionaryConfig:
        """Inverse of ``to_json``; OptionError names fields that this version does not know."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(value) - known):
            raise OptionError(
                f"a dictionary's configuration has the unknown field {unknown[0]!r}; expected"
                f" {sorted(known)}"
            )
        return cls(**{**value, "prefixes": tuple(value.get("prefixes", ()))})
