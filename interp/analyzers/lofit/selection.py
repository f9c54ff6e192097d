"""Ways to choose heads: by trained scales, by integrated gradients, by probes, at random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.analyzers.lofit.answers import TunedAnswers
from interp.analyzers.lofit.training import Examples, Head, Recipe, train_scales
from interp.capture import make_batch
from interp.experiments.cluster_probes import cluster_folds, cross_validated
from interp.interventions.edits import Add
from interp.maths.host import to_host
from interp.metrics import token_losses
from interp.models.model import Model
from interp.models.units import HEAD
from interp.sites import Site
from interp.study import Study

NODES = 4
"""Points between the base's and the fine-tuned model's head outputs, midpoints of equal parts."""


def scale_scores(
    study: Study, model: Model, examples: Examples, recipe: Recipe, title: str
) -> Float[np.ndarray, "L H"]:
    """Norms of the scales of every head after training under L1."""
    scales = train_scales(study, model, examples, recipe, title)
    return to_host(HEAD.gather(model.anatomy, scales.double(), "norm"))


def gradient_scores(study: Study, examples: Examples) -> Float[np.ndarray, "L H"]:
    """By how much moving each head's output from the base's to the fine-tuned model's lowers the
    loss of the answers: gradients integrated over the path of all heads together.
    """
    base, tuned = study.pair.require_base("lofit"), study.pair.tuned
    layers = range(base.anatomy.n_layers)
    sites = [HEAD.site(layer) for layer in layers]
    total = torch.zeros((len(layers), HEAD.n_channels(base.anatomy)), dtype=torch.float64)
    for rows in study.progress(examples.groups(study, base), "integrated gradients"):
        part = examples.select(rows)
        texts, _ = part.batch(range(len(part)), study.pad_id, base)
        own, other = (
            study.engine.run(model, texts, reads=sites, keep=0).values for model in (base, tuned)
        )
        moved = {site: other[site].to(own[site]) - own[site] for site in sites}
        for node in range(NODES):
            share = (node + 0.5) / NODES
            for layer, value in _along(study, base, part, moved, share).items():
                total[layer] -= value.to(total) / NODES
    return to_host(HEAD.gather(base.anatomy, total))


def _along(
    study: Study, base: Model, part: Examples, moved: Mapping[Site, Tensor], share: float
) -> dict[int, Float[Tensor, " C"]]:
    """At a share of the path, the derivative of the summed loss along it, by layer and channel."""
    texts, answers = part.batch(range(len(part)), study.pad_id, base)
    run = study.engine.run(
        base,
        texts,
        edits=[Add(site, share * value) for site, value in moved.items()],
        gradients_at=list(moved),
        gradient_of=lambda logits: token_losses(logits, answers.ids, answers.mask).double().sum(1),
        keep=answers.ids.shape[1],
    )
    return {
        site.layer: (run.gradients[site].double() * value.double()).sum((0, 1))
        for site, value in moved.items()
    }


def probe_scores(answers: TunedAnswers, rows: Sequence[int]) -> Float[np.ndarray, "L H"]:
    """Accuracy of a linear probe of every head: which model's answer has the base just read?

    After inference-time intervention (Li et al. 2023, arXiv 2306.03341), which probes true and
    false answers: here those of the fine-tuned model and of the base to the same prompt, at their
    last token, cross-validated by cluster. Without two clusters of answers that differ, NaN.
    """
    study, base = answers.study, answers.study.pair.require_base("lofit")
    layers, n_heads = range(base.anatomy.n_layers), base.anatomy.n_heads
    rows = [row for row in rows if answers.answers[row] != answers.base_answers[row]]
    clusters = [answers.keys[row]["cluster"] for row in rows] * 2
    if len(set(clusters)) < 2:
        return np.full((len(layers), n_heads), np.nan)
    texts = [
        answers.encoded[row].with_completion(written[row])
        for written in (answers.base_answers, answers.answers)
        for row in rows
    ]
    labels = np.repeat([0, 1], len(rows))
    sites = [HEAD.site(layer) for layer in layers]
    values = np.zeros((len(layers), len(texts), HEAD.n_channels(base.anatomy)))
    for group in study.progress(study.batches(texts, base), "head outputs"):
        batch, _ = make_batch(texts, group, study.pad_id, base.device)
        run = study.engine.run(base, batch, reads=sites, keep=0)
        for layer, site in enumerate(sites):
            values[layer, group] = to_host(run.values[site][:, -1])
    folds, width = cluster_folds(clusters, study.seed), HEAD.width(base.anatomy)
    return np.array(
        [
            [
                cross_validated(
                    values[layer][:, head * width : (head + 1) * width], labels, folds
                ).mean()
                for head in range(n_heads)
            ]
            for layer in layers
        ]
    )


def first_heads(scores: Float[np.ndarray, "L H"], count: int) -> tuple[Head, ...]:
    """The heads of the largest scores, of equal ones those of lower blocks first."""
    order = np.argsort(-scores.ravel(), kind="stable")[:count]
    return tuple(sorted(divmod(int(at), scores.shape[1]) for at in order))


def random_heads(shape: tuple[int, int], count: int, seed: int, draw: int) -> tuple[Head, ...]:
    """Heads drawn without replacement from all heads of a model."""
    chosen = np.random.default_rng([seed, draw]).choice(shape[0] * shape[1], count, replace=False)
    return tuple(sorted(divmod(int(at), shape[1]) for at in chosen))
