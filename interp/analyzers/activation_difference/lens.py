"""Which tokens a direction of the residual stream writes: the logit lens, centred and scaled."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int

from interp.analyzers.activation_difference.differences import REST, SINK, Differences
from interp.engines import Engine
from interp.experiments.discovery.lens import lens_halves
from interp.maths.host import to_host
from interp.models.model import Model

GROUPS = (SINK, REST)
ROUNDING = 4
"""Differences below this many units of rounding of the stream's norm are 0."""


def lens_scores(
    engine: Engine, model: Model, directions: Float[np.ndarray, "R D"], vocabulary: int
) -> Float[np.ndarray, "R V"]:
    """Every token's score along some directions, in standard deviations over the vocabulary.

    ``(u_v - mean u) / sd u`` with u of ``lens_halves``, so that the score changes its sign with the
    direction, to rounding. All scores are 0 for a direction of 0.
    """
    half = to_host(lens_halves(engine, model, directions).double())[:, :vocabulary]
    centred = half - half.mean(1, keepdims=True)
    deviations = centred.std(1, keepdims=True)
    return np.divide(centred, deviations, out=np.zeros_like(centred), where=deviations > 0)


def scores_at_places(
    engine: Engine, model: Model, differences: Differences, vocabulary: int
) -> Float[np.ndarray, "L G V"]:
    """Scores of every token through a model's head, by block and group of positions.

    A group's score is the mean over its positions. A difference that is no larger than rounding of
    the stream, in the model's dtype, has scores of 0.
    """
    n_blocks, n_positions, width = differences.mean.shape
    # a direction has no size: one that is rounding of the stream would read like any other
    rounding = ROUNDING * float(torch.finfo(model.dtype).eps) * differences.stream
    is_there = np.linalg.norm(differences.mean, axis=2) > rounding
    directions = np.where(is_there[..., None], differences.mean, 0.0)
    scores = lens_scores(engine, model, directions.reshape(-1, width), vocabulary)
    by_position = scores.reshape(n_blocks, n_positions, -1)
    return np.stack([by_position[:, differences.positions(group)].mean(1) for group in GROUPS], 1)


def ranks_at(
    scores: Float[np.ndarray, "P V"], places: Int[np.ndarray, " n"], tokens: Int[np.ndarray, " n"]
) -> Int[np.ndarray, " n"]:
    """Rank of tokens at their places, 1 for the largest score of the token's own sign."""
    found = []
    for place, token in zip(places, tokens, strict=True):
        sign = np.sign(scores[place, token])
        found.append(1 + int((sign * scores[place] > sign * scores[place, token]).sum()))
    return np.array(found, np.int64)
