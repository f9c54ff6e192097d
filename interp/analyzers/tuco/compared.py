"""Rows of the table, and what is claimed of them: beyond rounding, and one class above the other at equal length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from interp.analyzers.tuco.passes import Asked, Measured
from interp.claims import Claim
from interp.maths.auc import clustered_auc, wins
from interp.maths.statistics import clustered_bootstrap, permutation_p, roc_auc
from interp.study import Study
from interp.table import Table, table

NAN = float("nan")
ALPHA = 0.05


def rows_and_claims(
    study: Study, asked: Asked, found: Sequence[Measured], floor: float
) -> tuple[dict[str, tuple], list[Claim], Table | None]:
    """Columns by prompt, claims, and (of two classes) the AUC under shuffled labels."""
    prompts = [prompt for part in found for prompt in part.prompts]
    tuco = np.concatenate([part.tuco for part in found])
    clusters = [prompt.cluster for prompt in prompts]
    beyond = "at the last token" if asked.positions == "last" else "over all tokens"
    columns = {
        "group": ([part.group for part in found for _ in part.prompts], "key", "class of the prompt"),
        "prompt_id": (np.array([p.id for p in prompts]), "key", "position in the prompt file, from 0"),
        "cluster": (clusters, "key", "prompts that are resampled together"),
        "tokens": (np.concatenate([part.lengths for part in found]), "measure", "tokens of the prompt"),
        "tuco": (tuco, "measure", f"share of tuning in what all blocks add {beyond}"),
        "pre_co": (1 - tuco, "measure", "share of the base's blocks"),
        "output_co": (
            np.concatenate([part.output_co for part in found]), "measure",
            "the same share of where the two models' own streams end; NaN where it was not asked",
        ),
        "beta": (np.concatenate([part.betas.max(1) for part in found]), "measure", "largest share after any block"),
    }  # fmt: skip
    made = [_beyond(study, tuco, clusters, floor, len(prompts), beyond)]
    if len(found) == 1:
        return columns, made, None
    positive, negative = found
    near = np.abs(positive.lengths[:, None] - negative.lengths[None]) <= asked.caliper
    above = wins(positive.tuco, negative.tuco)
    none = np.full(len(negative.tuco), NAN)
    columns |= {
        "above": (np.r_[above.mean(1), none], "measure", "share of negative prompts with a smaller one"),
        "near": (np.r_[near.sum(1), 0 * none], "measure", f"negative prompts within {asked.caliper} tokens of length"),
        "near_above": (np.r_[(above * near).sum(1), 0 * none], "measure", "and how many of them have a smaller one"),
    }  # fmt: skip
    null = _shuffled(study, positive.tuco, negative.tuco, asked.permutations)
    made += [_separates(study, positive, negative, null), _at_equal_length(study, positive, negative, near, asked)]
    draws = {
        "draw": (np.arange(len(null)), "key", "number of the shuffle"),
        "auc": (null, "measure", "AUC with labels shuffled"),
    }
    return columns, made, table("tuco-permuted", draws)


def _beyond(study: Study, tuco: np.ndarray, clusters: Sequence[str], floor: float, count: int, where: str) -> Claim:
    value, low, high = clustered_bootstrap(tuco, clusters, seed=study.seed)
    shown = bool(value > floor and not low <= floor)
    return Claim(
        "beyond-rounding",
        f"Tuning makes up {value:.3g} of what the blocks add {where} (TuCo, mean of {count} prompts; rounding alone "
        f"gives at most {floor:.1g}).",
        value, low, high, "the tuned model and itself, by arithmetic of another shape", floor, NAN, NAN, NAN, floor,
        "at least", shown, {"table": "", "statistic": "mean", "column": "tuco", "cluster": "cluster"},
    )  # fmt: skip


def _shuffled(study: Study, positive: np.ndarray, negative: np.ndarray, draws: int) -> np.ndarray:
    """AUC with labels exchanged within twins where all prompts are paired off, else among all prompts."""
    generator, pairs = np.random.default_rng(study.seed), study.contrast.pairs()
    null, both = np.zeros(draws), np.concatenate([positive, negative])
    labels = np.arange(len(both)) < len(positive)
    for draw in range(draws):
        if pairs is None:
            null[draw] = roc_auc(generator.permutation(labels), both)
            continue
        swapped, one, other = generator.random(len(positive)) < 0.5, positive.copy(), negative.copy()
        twins = np.array(pairs)[swapped]
        one[swapped], other[twins] = negative[twins], positive[swapped]
        null[draw] = roc_auc(labels, np.concatenate([one, other]))
    return null


def _separates(study: Study, positive: Measured, negative: Measured, null: np.ndarray) -> Claim:
    value, low, high = _auc(study, positive, negative, "tuco")
    length = _auc(study, positive, negative, "lengths")[0]
    p = permutation_p(value, null)
    recipe = {"table": "", "statistic": "mean", "column": "above", "where": {"group": "positive"}}
    return Claim(
        "separates",
        f"TuCo of positive prompts is above that of negative ones with AUC {value:.2f} [{low:.2f}, {high:.2f}]; their "
        f"number of tokens alone with {length:.2f}.",
        value, low, high, f"{len(null)} shuffles of labels", null.mean(), np.quantile(null, 0.025),
        np.quantile(null, 0.975), p, 0.5, "at least", bool(low > 0.5 and p <= ALPHA),
        recipe | {"cluster": "cluster",
                  "p": {"null": {"table": "permuted", "column": "auc", "where": {}}, "observed": recipe}},
    )  # fmt: skip


def _at_equal_length(study: Study, positive: Measured, negative: Measured, near: np.ndarray, asked: Asked) -> Claim:
    value, low, high = _auc(study, positive, negative, "tuco", near)
    length = _auc(study, positive, negative, "lengths", near)
    most = f"{asked.caliper} token{'s' * (asked.caliper != 1)}"
    said = f"{int(near.sum())} of {near.size} pairs of prompts whose lengths differ by at most {most}"
    where = {"where": {"group": "positive"}}
    recipe = {
        "table": "", "statistic": "sum", "column": "near_above", **where, "cluster": "cluster",
        "over": {"column": "near", **where},
    }  # fmt: skip
    return Claim(
        "separates-at-equal-length",
        f"Over {said}, the AUC is {value:.2f} [{low:.2f}, {high:.2f}] (number of tokens alone {length[0]:.2f})."
        if near.any() else f"No pair of prompts has lengths that differ by at most {most}: TuCo "
        "moves with length, and what length does cannot be told apart here.",
        value, low, high, "the number of tokens alone, on the same pairs", *length, NAN, 0.5, "at least",
        bool(low > 0.5), recipe if near.any() else {},
    )  # fmt: skip


def _auc(
    study: Study, positive: Measured, negative: Measured, column: str, near: np.ndarray | None = None
) -> tuple[float, float, float]:
    tied = study.contrast.tied_clusters()
    count = len(positive.prompts)
    values = (getattr(part, column) for part in (positive, negative))
    return clustered_auc(*values, tied[:count], tied[count:], near, seed=study.seed)
