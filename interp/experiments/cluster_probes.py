"""Linear probes of several classes, cross-validated by cluster."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

FOLDS = 5
MAX_ITERATIONS, TOLERANCE = 300, 1e-3


def cluster_folds(clusters: Sequence[str], seed: int, folds: int = FOLDS) -> Int[np.ndarray, " n"]:
    """The fold of every row: clusters in random order are dealt to the smallest fold."""
    names, code, sizes = np.unique(
        np.asarray(clusters, object), return_inverse=True, return_counts=True
    )
    filled, fold_of = np.zeros(min(folds, len(names)), np.int64), np.zeros(len(names), np.int64)
    for name in np.random.default_rng(seed).permutation(len(names)):
        fold_of[name] = filled.argmin()
        filled[fold_of[name]] += sizes[name]
    return fold_of[code]


def cross_validated(
    features: Float[np.ndarray, "n W"], labels: Int[np.ndarray, " n"], folds: Int[np.ndarray, " n"]
) -> Bool[np.ndarray, " n"]:
    """Whether a logistic regression fitted on all other folds gives each row its label.

    Features are centred and divided by one number, their root mean square over the other folds, so
    that directions keep their relative sizes; the L2 penalty is scikit-learn's default.
    """
    correct = np.zeros(len(labels), bool)
    for fold in np.unique(folds):
        held_out = folds == fold
        correct[held_out] = _predicted(features, labels, ~held_out) == labels[held_out]
    return correct


def _predicted(
    features: Float[np.ndarray, "n W"],
    labels: Int[np.ndarray, " n"],
    fitted: Bool[np.ndarray, " n"],
) -> Int[np.ndarray, " m"]:
    """Predicted labels of the rows that are not fitted."""
    classes = np.unique(labels[fitted])
    if len(classes) < 2:
        return np.full(int((~fitted).sum()), classes[0])
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    inputs = features.astype(np.float64)
    inputs = inputs - inputs[fitted].mean(0)
    inputs /= np.sqrt(np.square(inputs[fitted]).mean()) or 1.0
    inputs = _in_span(inputs, fitted)
    with warnings.catch_warnings():
        # a few more iterations do not change which class is the likeliest
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe = LogisticRegression(max_iter=MAX_ITERATIONS, tol=TOLERANCE).fit(
            inputs[fitted], labels[fitted]
        )
    return probe.predict(inputs[~fitted])


def _in_span(
    inputs: Float[np.ndarray, "n W"], fitted: Bool[np.ndarray, " n"]
) -> Float[np.ndarray, "n R"]:
    """Coordinates in the span of the fitted rows, in which the weights of a regression with an L2
    penalty lie; the fit is the same in fewer dimensions.
    """
    if fitted.sum() >= inputs.shape[1]:
        return inputs
    _, _, axes = np.linalg.svd(inputs[fitted], full_matrices=False)
    return inputs @ axes.T


def shuffled_by_cluster(
    labels: Int[np.ndarray, " n"], clusters: Sequence[str], generator: np.random.Generator
) -> Int[np.ndarray, " n"]:
    """Labels permuted so that rows of a cluster with one label keep a common one.

    Rows are put into units of equal cluster and label, and the units' labels are permuted among
    units of equal size, so that every class keeps its number of rows.
    """
    keys = [f"{label}:{name}" for label, name in zip(labels.tolist(), clusters, strict=True)]
    _, first, code, sizes = np.unique(
        np.asarray(keys, object), return_index=True, return_inverse=True, return_counts=True
    )
    unit_labels = labels[first]
    for size in np.unique(sizes):
        units = np.flatnonzero(sizes == size)
        unit_labels[units] = unit_labels[generator.permutation(units)]
    return unit_labels[code]
