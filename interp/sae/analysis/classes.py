"""Classes of latents by what changed between base and tuned model, decided by entire confidence
intervals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interp.errors import OptionError
from interp.sae.analysis.cross_model_evaluation import CrossModelEvaluation
from interp.sae.analysis.differences import DifferenceSlopes
from interp.sae.analysis.latent_scaling import BASE, TUNED, LatentScalingResult

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
MIN_COSINE = 0.5**0.5
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


def classify_crosscoder(
    scaling: LatentScalingResult, thresholds: Thresholds | None = None
) -> NDArray[np.object_]:
    """Class of each latent of a crosscoder by latent scaling.

    Specific to a model: both nu along its decoder row are below their thresholds and its own beta
    is above 0. In both models: neither model has less than ``error`` of the other's part, both
    along the decoder rows and by the slopes. Rotated: the cosine of the models' slopes on the codes
    and the cosine of their parts are both low; each alone also changes with correlated features
    (slopes) or with mixtures in the decoder rows of a split latent (parts).
    """
    thresholds = thresholds or Thresholds()
    specific, in_both_along = {}, {}
    for model in (BASE, TUNED):
        is_present = scaling.beta["error", model, model].above(0.0)
        error, reconstruction = scaling.nu["error", model], scaling.nu["reconstruction", model]
        specific[model] = (
            is_present
            & error.within(thresholds.error)
            & reconstruction.within(thresholds.reconstruction)
        )
        in_both_along[model] = error.above(thresholds.error)
    classes = np.full(len(scaling.rate), "unclear", dtype=object)
    in_both = in_both_along[BASE] & in_both_along[TUNED]
    for share in scaling.kept:
        in_both &= share.above(thresholds.error)
    same_direction = scaling.cosine.above(thresholds.cosine) & scaling.part_cosine.above(
        thresholds.cosine
    )
    rescaled = scaling.ratio.above(thresholds.factor) | scaling.ratio.below(1 / thresholds.factor)
    same_strength = scaling.ratio.above(1 / thresholds.factor) & scaling.ratio.below(
        thresholds.factor
    )
    classes[in_both & same_direction & same_strength] = "shared"
    classes[in_both & same_direction & rescaled] = "rescaled"
    classes[
        in_both
        & scaling.cosine.below(thresholds.cosine)
        & scaling.part_cosine.below(thresholds.cosine)
    ] = "rotated"
    classes[specific[BASE]] = "base-only"
    classes[specific[TUNED]] = "tuned-only"
    classes[scaling.folds_active < thresholds.folds] = "silent"
    return classes


def classify_by_norms(scaling: LatentScalingResult) -> NDArray[np.object_]:
    """Class by the decoder norms alone (Lindsey et al. 2024), for comparison only: it finds too
    many specific latents.
    """
    with np.errstate(invalid="ignore"):
        bins = [
            scaling.norm_difference > 0.9,
            scaling.norm_difference < 0.1,
            abs(scaling.norm_difference - 0.5) <= 0.1,
        ]
        classes = np.select(bins, ["tuned-only", "base-only", "shared"], "unclear").astype(object)
    classes[scaling.rate == 0] = "silent"
    return classes


def classify_differences(
    slopes: DifferenceSlopes, thresholds: Thresholds | None = None
) -> NDArray[np.object_]:
    """Class of each latent of a dictionary of differences, by the base's part where the latent is
    active.

    A latent is unclear if the squared cosine of its decoder row with the difference of the models'
    slopes is below 1/2, since it then represents another direction. No latent is "shared". A
    rotated direction and independent noise of both models cannot be told apart and are "opposed".
    """
    thresholds = thresholds or Thresholds()
    base_part, margin = slopes.base_part, thresholds.error
    classes = np.full(len(slopes.rate), "unclear", dtype=object)
    classes[base_part.above(margin) | base_part.below(-1 - margin)] = "rescaled"
    classes[base_part.above(margin - 1) & base_part.below(-margin)] = "opposed"
    classes[base_part.within(margin, -1.0)] = "base-only"
    classes[base_part.within(margin)] = "tuned-only"
    classes[~(slopes.difference.above(0.0) & slopes.row_cosine.above(MIN_COSINE))] = "unclear"
    classes[slopes.folds_active < thresholds.folds] = "silent"
    return classes


def classify_one_model(
    evaluation: CrossModelEvaluation, thresholds: Thresholds | None = None
) -> NDArray[np.object_]:
    """Class of each latent of one model's dictionary by how much of it the other model has; never
    "only" for that other model.
    """
    thresholds = thresholds or Thresholds()
    share = evaluation.kept
    classes = np.full(len(evaluation.folds_active), "unclear", dtype=object)
    classes[share.above(1 / thresholds.factor) & share.below(thresholds.factor)] = "shared"
    classes[
        share.above(thresholds.factor)
        | (share.below(1 / thresholds.factor) & share.above(thresholds.error))
    ] = "rescaled"
    classes[share.within(thresholds.error)] = ("base-only", "tuned-only")[evaluation.own_model]
    classes[evaluation.folds_active < thresholds.folds] = "silent"
    return classes
