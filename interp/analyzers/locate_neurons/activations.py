"""Methods that compare activations: ``change``, ``change-difference`` and ``contrast``.

change              root mean square of h_tuned - h_base over tokens that both models read: the
                    prompt's by default (which located better on the shipped organisms), or those of
                    the base's greedy answer, as in Chen et al. 2024 (arXiv 2406.14144).
change-difference   the same for positive prompts minus the same for negative ones; signed.
contrast            Cohen's d between positive and negative prompts of h in the fine-tuned model, at
                    the decision position (SafeNeuron, arXiv 2602.12158). Significance is from
                    Student's t with Benjamini-Hochberg over all neurons; needs no base. Where every
                    prompt names its twin, t is paired: the unpaired t finds neurons in twice as
                    many permutations within twins as its level allows. Pairs count as independent.
"""

from itertools import zip_longest

import numpy as np
import torch

from interp.analyzers.locate_neurons.scores import ROUNDING, MethodOptions, Scores, position_mask
from interp.capture import capture
from interp.errors import OptionError, required
from interp.maths.host import to_host
from interp.maths.moments import Moments
from interp.maths.statistics import (
    benjamini_hochberg,
    paired_t_test_from_moments,
    standardised_difference_from_moments,
)
from interp.models.model import Model
from interp.prompts import Encoded
from interp.sites import neurons
from interp.study import GROUPS, Study

_TESTS = {True: "paired by twin", False: "of two independent classes"}


def change(study: Study, options: MethodOptions) -> Scores:
    """Root mean square change from base to tuned on positive prompts; needs a base."""
    changes, size = _change(study, options, "positive")
    return Scores(
        changes, ROUNDING * size, "root mean square change of the activation from base to tuned"
    )


def change_difference(study: Study, options: MethodOptions) -> Scores:
    """Change on positive prompts minus change on negative ones; needs a base."""
    positive, size = _change(study, options, "positive")
    negative, negative_size = _change(study, options, "negative")
    return Scores(
        positive - negative,
        ROUNDING * np.maximum(size, negative_size),
        "root mean square change on positive minus on negative prompts",
    )


def contrast(study: Study, options: MethodOptions) -> Scores:
    """Standardised mean difference between the classes in the fine-tuned model; needs no base, and
    two prompts of each.

    Where every positive prompt names its twin, the test is paired by twin.
    """
    for group in ("positive", "negative"):
        if len(study.prompts(group)) < 2:
            raise OptionError(
                f"method contrast needs two {group} prompts and got one; give more prompts"
            )
    pairs = study.require_contrast().pairs()
    a, b, gap = _moments(study, options.positions, pairs)
    # the spread is at least the resolution of the dtype: equal bfloat16 values can hide differences
    grain = torch.finfo(study.pair.tuned.dtype).eps * torch.maximum(
        a.root_mean_square, b.root_mean_square
    )
    sides = [
        (m.count, to_host(m.mean), to_host(torch.maximum(m.variance, grain**2))) for m in (a, b)
    ]
    difference = standardised_difference_from_moments(*sides[0], *sides[1])
    p = difference.p
    if pairs is not None:
        p = paired_t_test_from_moments(
            gap.count, to_host(gap.mean), to_host(torch.maximum(gap.variance, grain**2))
        )
    q = benjamini_hochberg(p)
    # a neuron that is constant in both classes has no effect size
    d = np.nan_to_num(difference.d, nan=0.0, posinf=0.0, neginf=0.0)
    return Scores(
        d,
        np.zeros_like(d),
        "standardised mean difference (Cohen's d) between positive and negative prompts",
        measures={
            "q": (q, f"Benjamini-Hochberg adjusted p of Student's t, {_TESTS[pairs is not None]}")
        },
        eligible=q <= 0.05,
        summary={"n_significant": int((q <= 0.05).sum()), "test": _TESTS[pairs is not None]},
    )


def _change(study: Study, options: MethodOptions, group: str) -> tuple[np.ndarray, np.ndarray]:
    """Root mean square of the change and of the base's activation, ``[L, N]`` each."""
    models = {"base": study.pair.require_base("this method"), "tuned": study.pair.tuned}
    unit, anatomy, encoded = options.unit, study.pair.tuned.anatomy, study.encoded(group)
    if options.positions == "completion":
        answers = study.answers("base", group)
        encoded = [text.with_completion(one) for text, one in zip(encoded, answers, strict=True)]
    sites, n_channels = [unit.site(at) for at in range(anatomy.n_layers)], unit.n_channels(anatomy)
    changes, size = (
        [Moments.empty((n_channels,), study.pair.tuned.device) for _ in sites] for _ in range(2)
    )
    batches = study.batches(encoded, study.pair.tuned, 4 * len(models) * len(sites) * n_channels)
    rows = study.progress(batches, f"change, {group}")
    for captured in capture(study.engine, models, encoded, rows, sites, pad_id=study.pad_id):
        mask = position_mask(captured.roles, options.positions)
        for layer, site in enumerate(sites):
            base, tuned = (captured.values[role, site] for role in models)
            changes[layer].update((tuned.double() - base.double())[mask])
            size[layer].update(base[mask])

    def gathered(side: list[Moments]) -> np.ndarray:
        return np.stack(
            [to_host(unit.gather(anatomy, item.root_mean_square, "norm")) for item in side]
        )

    return gathered(changes), gathered(size)


def _moments(
    study: Study, positions: str, pairs: list[int] | None
) -> tuple[Moments, Moments, Moments]:
    """Moments ``[L, N]`` over prompts of mean activations: positive, negative and, with ``pairs``,
    their difference.

    Batches of the two classes alternate, each batch of positive prompts with its twins, so that no
    activations have to be stored.
    """
    model = study.pair.tuned
    shape = (model.anatomy.n_layers, model.anatomy.n_neurons)
    positive, negative, gap = (Moments.empty(shape, model.device) for _ in range(3))
    texts = {group: study.encoded(group) for group in GROUPS}
    groups = {
        group: study.batches(texts[group], model, _bytes_per_token(model, 1)) for group in GROUPS
    }
    if pairs is not None:
        twins = [texts["negative"][row] for row in pairs]
        longer = [
            max(pair, key=lambda text: len(text.ids))
            for pair in zip(texts["positive"], twins, strict=True)
        ]
        groups["positive"] = study.batches(longer, model, _bytes_per_token(model, 2))
        groups["negative"] = [[pairs[row] for row in rows] for rows in groups["positive"]]
    batches = [
        _prompt_means(study, texts[group], groups[group], positions, f"contrast, {group}")
        for group in GROUPS
    ]
    for positive_means, negative_means in zip_longest(*batches):
        if positive_means is not None:
            positive.update(positive_means)
        if negative_means is not None:
            negative.update(negative_means)
        if pairs is not None:
            gap.update(
                required(positive_means, "every twin") - required(negative_means, "every twin")
            )
    return positive, negative, gap


def _prompt_means(
    study: Study, encoded: list[Encoded], groups: list[list[int]], positions: str, label: str
):
    """Per batch, mean activation of each prompt over the selected positions: ``[B, L, N]``,
    float64.
    """
    model = study.pair.tuned
    sites = [neurons(layer) for layer in range(model.anatomy.n_layers)]
    rows = study.progress(groups, label)
    for captured in capture(
        study.engine, {"tuned": model}, encoded, rows, sites, pad_id=study.pad_id
    ):
        mask = position_mask(captured.roles, positions)[..., None]
        size = mask.sum(1).clamp(min=1)
        means = [(captured.values["tuned", site].double() * mask).sum(1) / size for site in sites]
        yield torch.stack(means, 1)


def _bytes_per_token(model: Model, n_models: int) -> int:
    return 4 * n_models * model.anatomy.n_layers * model.anatomy.n_neurons
