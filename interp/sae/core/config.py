"""Configuration of a dictionary: architecture, sizes, and every convention that changes its
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
        "a gate selects, a separate magnitude gives the value (Rajamanoharan et al. 2024, arXiv"
        " 2404.16014)"
    ),
    "topk": "the k largest codes of each input (Gao et al. 2024, arXiv 2406.04093)",
    "batchtopk": (
        "the k * N largest codes of a batch in training, a threshold afterwards (Bussmann et al."
        " 2024,"
        " 2412.06410)"
    ),
    "matryoshka": (
        "batchtopk whose leading latents also reconstruct by themselves (Bussmann et al. 2025,"
        " arXiv 2503.17547)"
    ),
    "matching_pursuit": (
        "latents selected one at a time by the residual (Costa et al. 2025, arXiv 2506.03093)"
    ),
}
TOPK_ARCHITECTURES = ("topk", "batchtopk", "matryoshka")
"""Architectures with ``k`` active latents per input; their backward pass touches active rows only.
"""

BATCHTOPK_ARCHITECTURES = ("batchtopk", "matryoshka")
"""Architectures that choose codes over a batch in training and need a threshold afterwards."""

NORMALISATIONS = {
    "none": "inputs as they are",
    "scale": "inputs times one factor per model",
    "layer-norm": "each input minus its mean, divided by its standard deviation; undone at"
    " decoding",
    "constant-norm": "each input scaled to norm sqrt(d_in); undone at decoding",
}
RANKINGS = ("value", "norm")


@dataclass(frozen=True)
class DictionaryConfig:
    """Everything needed to interpret the parameters of a dictionary.

    ``d_in``: width of one model's input. ``width``: number of latents F. ``d_out``: width of one
    model's target if that is another site (a transcoder). ``models``: number of models whose
    activations are concatenated (2 for a crosscoder). ``k``: active latents per input.
    ``prefixes``: numbers of leading latents that also reconstruct by themselves (matryoshka); the
    last is ``width``. ``input_bias``: whether the decoder bias is subtracted from inputs.
    ``rank_by``: what the top k are ranked by, "value" or "norm" (value times the norm of its
    decoder row, summed over models). ``skip``: whether a linear map of the input is added to the
    output. ``residual_threshold`` and ``steps``: stopping criteria of a matching pursuit. ``loss``
    and ``sparsity``: conventions of the training loss, see ``interp.sae.training.losses``.
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
        if self.architecture in TOPK_ARCHITECTURES and not 1 <= (self.k or 0) <= self.width:
            raise OptionError(
                f"{self.architecture} needs k from 1 to its width {self.width}, not {self.k}"
            )
        object.__setattr__(self, "prefixes", tuple(self.prefixes))
        if self.architecture == "matryoshka":
            rising = all(a < b for a, b in zip((0, *self.prefixes), self.prefixes, strict=False))
            if not self.prefixes or not rising or self.prefixes[-1] != self.width:
                raise OptionError(
                    f"matryoshka needs increasing prefixes that end at its width {self.width}, not"
                    f" {list(self.prefixes)}"
                )
        elif self.prefixes:
            raise OptionError(f"prefixes are for matryoshka, not for {self.architecture}")
        if self.is_transcoder and self.input_bias:
            raise OptionError(
                "a transcoder's output bias is in another space than its inputs; use"
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
                f"{self.normalisation} is undone per input, which is undefined for several"
                " sites; use scale"
            )

    @property
    def is_transcoder(self) -> bool:
        """Whether targets are activations of another site."""
        return self.d_out is not None

    @property
    def inputs(self) -> int:
        """Width of an input row: activations of all models concatenated."""
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
