"""Which tokens a direction of the residual stream writes: the logit lens, centred and scaled."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int

from interp.analyzers.activation_difference.differences import REST, SINK, Differences
from interp.engines import Batch, Engine
from interp.interventions.edits import Replace
from interp.maths.host import to_host
from interp.maths.precision import widen
from interp.models.model import Model
from interp.sites import Site

GROUPS = (SINK, REST)
ROUNDING = 4
"""Differences below this many units of rounding of the stream's norm are 0."""


def lens_logits(
    engine: Engine, model: Model, vectors: Float[np.ndarray, "R D"]
) -> Float[np.ndarray, "R V"]:
    """A model's final norm and head on some vectors (logit lens, nostalgebraist 2020)."""
    count = len(vectors)
    # norm and head act on every position separately, so that any token can be read
    placeholder = Batch(
        torch.zeros((count, 1), dtype=torch.int64, device=model.device),
        torch.ones((count, 1), dtype=torch.bool, device=model.device),
    )
    streams = torch.from_numpy(vectors).float().to(model.device)[:, None]
    replacement = Replace(Site(model.anatomy.n_layers - 1, "hook_resid_post"), streams)
    run = engine.run(model, placeholder, edits=[replacement], keep=None)
    return to_host(widen(run.require_logits()[:, 0]).double())


def lens_scores(
    engine: Engine, model: Model, directions: Float[np.ndarray, "R D"], vocabulary: int
) -> Float[np.ndarray, "R V"]:
    """Every token's score along some directions, in standard deviations over the vocabulary.

    ``(u_v - mean u) / sd u`` with ``u = (lens(x) - lens(-x)) / 2`` and x the direction at a root
    mean square of 1, since the final norm removes the length. Half the difference of both signs
    leaves out what norm and head add to any input, so that the score changes its sign with the
    direction, to rounding. All scores are 0 for a direction of 0.
    """
    sizes = np.sqrt(np.square(directions).mean(1, keepdims=True))
    unit = np.divide(directions, sizes, out=np.zeros_like(directions), where=sizes > 0)
    logits = lens_logits(engine, model, np.concatenate([unit, -unit]))[:, :vocabulary]
    half = (logits[: len(unit)] - logits[len(unit) :]) / 2
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
