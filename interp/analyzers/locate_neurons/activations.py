"""Methods that compare activations: ``change``, ``change-difference`` and ``contrast``.

change              root mean square of h_tuned - h_base over tokens both models read: the prompt's by default
                    (which located better on the shipped organisms), or those of the base's greedy answer, as in
                    Chen et al. 2024 (arXiv 2406.14144).
change-difference   the same for positive prompts minus the same for negative ones; signed.
contrast            Cohen's d between positive and negative prompts of h in the tuned model at the decision position
                    (SafeNeuron, arXiv 2602.12158, whose d is an effect size: significance is from t), with
                    Benjamini-Hochberg over all neurons; needs no base. Prompts count as independent, which is cautious
                    for twins (what they share cancels in the difference, not in the variance).
"""

from collections.abc import Mapping

import numpy as np
import torch

from interp.analyzers.locate_neurons.scores import Scores, chosen
from interp.capture import batches, capture
from interp.errors import OptionError
from interp.maths.host import to_host
from interp.maths.moments import Moments
from interp.maths.statistics import benjamini_hochberg, standardised_difference_of_moments
from interp.models.model import Model
from interp.prompts import Encoded
from interp.sites import neurons
from interp.study import Study

_EPSILON = float(np.finfo(np.float32).eps)


def change(study: Study, positions: str, steps: int) -> Scores:
    """Root mean square change from base to tuned on positive prompts; needs a base."""
    moved, size = _change(study, positions, "positive")
    return Scores(moved, 8 * _EPSILON * size, "root mean square change of the activation from base to tuned")


def change_difference(study: Study, positions: str, steps: int) -> Scores:
    """Change on positive prompts minus change on negative ones; needs a base."""
    moved, size = _change(study, positions, "positive")
    still, other = _change(study, positions, "negative")
    floor = 8 * _EPSILON * np.maximum(size, other)
    return Scores(moved - still, floor, "root mean square change on positive minus on negative prompts")


def contrast(study: Study, positions: str, steps: int) -> Scores:
    """Standardised mean difference between the classes in the tuned model; needs no base, and two prompts of each."""
    for group in ("positive", "negative"):
        if len(study.prompts(group)) < 2:
            raise OptionError(f"method contrast needs two {group} prompts, only one was given; give more prompts")
    moments = {group: _moments(study, positions, group) for group in ("positive", "negative")}
    a, b = moments["positive"], moments["negative"]
    sides = [(m.count, to_host(m.mean), to_host(m.variance)) for m in (a, b)]
    difference = standardised_difference_of_moments(*sides[0], *sides[1])
    q = benjamini_hochberg(difference.p)
    # a neuron that is constant in both classes has no effect size: its difference is rounding error, if any
    d = np.nan_to_num(difference.d, nan=0.0, posinf=0.0, neginf=0.0)
    return Scores(
        d,
        np.zeros_like(d),
        "standardised mean difference (Cohen's d) between positive and negative prompts",
        measures={"q": (q, "Benjamini-Hochberg adjusted p of the t statistic")},
        eligible=q <= 0.05,
        summary={"n_significant": int((q <= 0.05).sum())},
    )


def _texts(study: Study, group: str, positions: str) -> list[Encoded]:
    encoded = study.encoded(group)
    if positions != "completion":
        return encoded
    study.pair.require_base("reading completions")
    answers = study.answers("base", group)
    return [item.with_completion(answer) for item, answer in zip(encoded, answers, strict=True)]


def _change(study: Study, positions: str, group: str) -> tuple[np.ndarray, np.ndarray]:
    """Root mean square of the change and of the base's activation, ``[L, N]`` each."""
    models = {"base": study.pair.require_base("this method"), "tuned": study.pair.tuned}
    moved, size = _empty(study.pair.tuned), _empty(study.pair.tuned)
    for layer, values, roles in _rows(study, _texts(study, group, positions), models, f"change, {group}"):
        mask = chosen(roles, positions)
        moved[layer].update((values["tuned"].double() - values["base"].double())[mask])
        size[layer].update(values["base"][mask])
    return tuple(np.stack([to_host(item.root_mean_square) for item in side]) for side in (moved, size))


def _moments(study: Study, positions: str, group: str) -> Moments:
    """Moments over prompts of each neuron's mean activation at the chosen positions, ``[L, N]``."""
    model = study.pair.tuned
    found = _empty(model)
    for layer, values, roles in _rows(study, _texts(study, group, positions), {"tuned": model}, f"contrast, {group}"):
        mask = chosen(roles, positions)[..., None]
        h = values["tuned"].double()
        found[layer].update((h * mask).sum(1) / mask.sum(1).clamp(min=1))
    return Moments(
        found[0].count, torch.stack([item.mean for item in found]), torch.stack([item.deviation for item in found])
    )


def _empty(model: Model) -> list[Moments]:
    return [Moments.empty((model.anatomy.n_neurons,), model.device) for _ in range(model.anatomy.n_layers)]


def _rows(study: Study, encoded: list[Encoded], models: Mapping[str, Model], what: str):
    """Per batch and layer: activations by model role, and the roles of the tokens."""
    model = study.pair.tuned
    sites = [neurons(layer) for layer in range(model.anatomy.n_layers)]
    per_token = 4 * len(models) * model.anatomy.n_layers * model.anatomy.n_neurons
    groups = study.progress(batches(encoded, model, study.batch_size, per_token), what)
    for seen in capture(study.engine, models, encoded, groups, sites, pad_id=study.pad_id):
        for layer, site in enumerate(sites):
            yield layer, {role: seen.values[role, site] for role in models}, seen.roles
