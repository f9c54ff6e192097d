"""What became of a latent between base and tuned model, claimed only where its whole interval says
so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interp.errors import OptionError
from interp.sae.analysis.cross_model_evaluation import Applied
from interp.sae.analysis.differences import Slopes
from interp.sae.analysis.latent_scaling import BASE, TUNED, Scaled

CLASSES = {
    "tuned-only": "only the tuned model has it",
    "base-only": "only the base has it",
    "rotated": "both have it, in different directions",
    "rescaled": "both have it in one direction, one of them more of it",
    "shared": "both have it alike",
    "opposed": (
        "the base loses as much as the tuned model gains: a turned direction, or noise of both"
    ),
    "unclear": "its interval lies on both sides of a threshold",
    "silent": "active in too few folds of documents to say anything",
}
HALF = 0.5**0.5
"""The cosine whose square is a half."""
CHANGED = ("rotated", "rescaled")


@dataclass(frozen=True)
class Thresholds:
    """Where classes begin. ``error``, ``reconstruction``: a latent is specific where ``|nu|`` of
    that target is smaller (Minder et al. 2025: 0.2, and 0.5 of the reconstruction with the
    decoder's bias). ``cosine``: rotated where both measured cosines are smaller. ``factor``:
    rescaled where one model has that many times as much. ``folds``: with activity in fewer a latent
    is silent.
    """

    error: float = 0.2
    reconstruction: float = 0.5
    cosine: float = 0.95
    factor: float = 1.5
    folds: int = 8

    def __post_init__(self) -> None:
        if not (
            0 < self.error < 1
            and 0 < self.reconstruction <= 1
            and 0 < self.cosine < 1
            and self.factor > 1
        ):
            raise OptionError(
                f"thresholds error {self.error:g}, reconstruction {self.reconstruction:g}, cosine"
                f" {self.cosine:g} lie between 0 and 1, factor {self.factor:g} above 1"
            )


def of_crosscoder(found: Scaled, limits: Thresholds | None = None) -> NDArray[np.object_]:
    """Class of every latent of a crosscoder by its latent scaling.

    Specific to a model: both nu along its own decoder row lie below their thresholds and its own
    beta above 0. In both: neither by its decoder row nor by its slope does either model have less
    than ``error`` of the other's. Rotated: by the cosine of the models' slopes on its codes and by
    that of their parts; one alone turns with what fires along (slopes), or with what of other
    features a split latent's decoder rows hold (parts).
    """
    limits = limits or Thresholds()
    specific, apart = {}, {}
    for model in (BASE, TUNED):
        own = found.beta["error", model, model].above(0.0)
        error, reconstruction = found.nu["error", model], found.nu["reconstruction", model]
        specific[model] = (
            own & error.within(limits.error) & reconstruction.within(limits.reconstruction)
        )
        apart[model] = error.above(limits.error)
    classes = np.full(len(found.rate), "unclear", dtype=object)
    both = apart[BASE] & apart[TUNED]
    for kept in found.kept:
        both &= kept.above(limits.error)
    alike = found.cosine.above(limits.cosine) & found.part_cosine.above(limits.cosine)
    more = found.ratio.above(limits.factor) | found.ratio.below(1 / limits.factor)
    equal = found.ratio.above(1 / limits.factor) & found.ratio.below(limits.factor)
    classes[both & alike & equal] = "shared"
    classes[both & alike & more] = "rescaled"
    classes[both & found.cosine.below(limits.cosine) & found.part_cosine.below(limits.cosine)] = (
        "rotated"
    )
    classes[specific[BASE]] = "base-only"
    classes[specific[TUNED]] = "tuned-only"
    classes[found.folds_active < limits.folds] = "silent"
    return classes


def by_norms(found: Scaled) -> NDArray[np.object_]:
    """Class by the decoder's norms alone (Lindsey et al. 2024), which claims too much: for
    comparison only.
    """
    with np.errstate(invalid="ignore"):
        bins = [
            found.norm_difference > 0.9,
            found.norm_difference < 0.1,
            abs(found.norm_difference - 0.5) <= 0.1,
        ]
        classes = np.select(bins, ["tuned-only", "base-only", "shared"], "unclear").astype(object)
    classes[found.rate == 0] = "silent"
    return classes


def of_differences(found: Slopes, limits: Thresholds | None = None) -> NDArray[np.object_]:
    """Class of every latent of a dictionary of differences, by what the base has of it where it is
    active.

    Nothing is said of a latent whose row points along less than half of what the models differ in
    where it fires (its squared cosine with that): what it stands for is another direction. There
    are no shared latents; a turned direction and noise of both models look alike and are "opposed".
    """
    limits = limits or Thresholds()
    part, size = found.base_part, limits.error
    classes = np.full(len(found.rate), "unclear", dtype=object)
    classes[part.above(size) | part.below(-1 - size)] = "rescaled"
    classes[part.above(size - 1) & part.below(-size)] = "opposed"
    classes[part.within(size, -1.0)] = "base-only"
    classes[part.within(size)] = "tuned-only"
    classes[~(found.difference.above(0.0) & found.row_cosine.above(HALF))] = "unclear"
    classes[found.folds_active < limits.folds] = "silent"
    return classes


def of_applied(found: Applied, limits: Thresholds | None = None) -> NDArray[np.object_]:
    """Class of every latent of one model's dictionary by what of it the other has; never "only"
    that other one's.
    """
    limits = limits or Thresholds()
    kept = found.kept
    classes = np.full(len(found.folds_active), "unclear", dtype=object)
    classes[kept.above(1 / limits.factor) & kept.below(limits.factor)] = "shared"
    classes[
        kept.above(limits.factor) | (kept.below(1 / limits.factor) & kept.above(limits.error))
    ] = "rescaled"
    classes[kept.within(limits.error)] = ("base-only", "tuned-only")[found.own]
    classes[found.folds_active < limits.folds] = "silent"
    return classes
