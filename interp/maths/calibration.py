"""Calibration of predicted probabilities."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def calibration_error(confidence: ArrayLike, correct: ArrayLike, bins: int = 15) -> float:
    """Expected calibration error (Naeini et al., 2015): sum over bins of ``n_b / n * |accuracy_b -
    confidence_b|``.

    ``bins`` of equal width divide [0, 1], each closed above (0 is in the first). ``confidence`` [n]
    is in [0, 1]; ``correct`` [n] is boolean. Raises ValueError for confidences outside [0, 1],
    unequal lengths or empty input.
    """
    confidence, correct = (
        np.asarray(confidence, np.float64).ravel(),
        np.asarray(correct, np.float64).ravel(),
    )
    if confidence.size != correct.size or not confidence.size or bins < 1:
        raise ValueError(
            f"{confidence.size} confidences, {correct.size} outcomes in {bins} bins cannot be"
            " compared"
        )
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError(
            f"confidences from {confidence.min():g} to {confidence.max():g}: expected 0 to 1"
        )
    which = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(which, weights=correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / confidence.size)
