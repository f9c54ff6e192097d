"""Classes of latents by what changed between base and tuned model, decided by entire confidence
intervals.
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
    "rescaled": "both have it in the same direction, with different strength",
    "shared": "both have it, with equal direction and strength",
    "opposed": (
        "the base loses as much as the tuned model gains: a rotated direction, or noise of both"
    ),
    "unclear": "its interval contains a threshold",
    "silent": "active in too few folds of documents to be classified",
}
HALF = 0.5**0.5
"""The cosine whose square is 1/2."""
CHANGED = ("rotated", "rescaled")


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of the classes.

    ``error``, ``reconstruction``: a latent is specific to one model if ``|nu|`` of that target is
    below this (Minder et al. 2025: 0.2, and 0.5 for the reconstruction with decoder bias).
    ``cosine``: rotated if both measured cosines are below this. ``factor``: rescaled if the latent
    is this many times as strong in one model. ``folds``: a latent active in fewer folds is silent.
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
                f" {self.cosine:g} must be between 0 and 1, factor {self.factor:g} above 1"
            )


def of_crosscoder(found: Scaled, limits: Thresholds | None = None) -> NDArray[np.object_]:
    """Class of each latent of a crosscoder by latent scaling.

    Specific to a model: both nu along its decoder row are below their thresholds and its own beta
    is above 0. In both models: neither model has less than ``error`` of the other's part, both
    along the decoder rows and by the slopes. Rotated: the cosine of the models' slopes on the codes
    and the cosine of their parts are both low; each alone also changes with correlated features
    (slopes) or with mixtures in the decoder rows of a split latent (parts).
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
    """Class by the decoder norms alone (Lindsey et al. 2024), for comparison only: it finds too
    many specific latents.
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
    """Class of each latent of a dictionary of differences, by the base's part where the latent is
    active.

    A latent is unclear if the squared cosine of its decoder row with the difference of the models'
    slopes is below 1/2, since it then represents another direction. No latent is "shared". A
    rotated direction and independent noise of both models cannot be told apart and are "opposed".
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
    """Class of each latent of one model's dictionary by how much of it the other model has; never
    "only" for that other model.
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
