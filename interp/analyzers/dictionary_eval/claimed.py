"""Claims of an evaluation: a dictionary beside its baselines, with intervals over clusters of prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from interp.analyzers.dictionary_eval.passes import DEVIATION, OWN, PCA, PCA_ALONE, RANDOM, Sums
from interp.claims import Claim
from interp.dictionaries.config import DictionaryConfig
from interp.dictionaries.place import BOTH, DIFFERENCE, TUNED, Place
from interp.dictionaries.scores import ALL, Scores
from interp.dictionaries.splice import CLEAN, MEAN, recovered
from interp.maths.statistics import clustered_bootstrap

DRAWS = 1000


class Words(NamedTuple):
    """How an evaluation of one kind of dictionary is told.

    ``variance``: of what; ``pca``, ``random``: the baselines; ``mean``, ``zero``: what stands in the target's place;
    ``fitted``: what saw the tokens before; ``limits``: what is to be known of this kind.
    """

    variance: str = "the variance"
    pca: str = "principal components"
    random: str = "random rows by matching pursuit"
    mean: str = "the mean"
    zero: str = "the zero"
    fitted: str = "Principal components"
    limits: tuple[str, ...] = ()


def words(place: Place, config: DictionaryConfig) -> Words:
    """The words for a dictionary of this configuration that stands here."""
    said = Words()
    if place.of == BOTH:
        said = said._replace(
            variance="both models' variance",
            limits=(
                "A crosscoder's codes read both models: spliced into one, its half knows what the other model does "
                "with the same tokens.",
            ),
        )
    elif place.of == DIFFERENCE:
        said = said._replace(
            variance="the variance of tuned less base", mean="the base's value and the mean difference",
            zero="the base's value",
            limits=(
                "The base's own value stands in the splice beside the reconstruction: what is recovered is of the "
                "difference, and mean and zero are the mean difference and none.",
            ),
        )  # fmt: skip
    if place.site == place.target:
        return said
    whole, few = "the target's least-squares prediction", "of the target's least-squares prediction"
    return said._replace(
        variance=f"{said.variance} of the target", fitted="The least-squares prediction, its principal components",
        pca=whole if config.skip else f"principal components {few}", random=f"random rows by matching pursuit {few}",
        limits=(
            *said.limits,
            "Baselines of a transcoder read its input: their codes are of the target's least-squares prediction from "
            "it" + (", given whole, as a skip connection has it." if config.skip else "."),
        ),
    )  # fmt: skip


def claims_of(scored: Mapping[str, Scores], sums: Sums, clusters: np.ndarray, k: int, said: Words) -> list[Claim]:
    """What is claimed; nothing of a variance that is zero, or of an ablation that costs nothing."""

    def interval(statistic: Callable[[Any], float]) -> tuple[float, float, float]:
        # rows are drawn by number, since a ratio needs two columns of each
        return clustered_bootstrap(np.arange(len(clusters)), clusters, lambda rows: statistic(rows.astype(int)), DRAWS)

    made: list[Claim] = []
    for part, errors, against in ((ALL, sums.prompts, (PCA, RANDOM)), (DIFFERENCE, sums.halves, (PCA,))):
        if errors and errors[DEVIATION].sum() > 0:
            made += [_more(scored, part, errors, name, interval, k, said) for name in against]
    for index, (what, cost) in enumerate((("ce", "loss"), ("kl", "divergence"))):
        if not np.isfinite(_saved(sums, index, OWN)(slice(None))):
            continue
        mine, other = interval(_saved(sums, index, OWN)), interval(_saved(sums, index, PCA))
        gap = interval(_less(_saved(sums, index, OWN), _saved(sums, index, PCA)))
        where = {"dictionary": OWN, "cost": what, "ablation": MEAN} | ({"model": TUNED} if sums.halves else {})
        recipe = {"table": "recovered", "statistic": "mean", "column": "recovered", "where": where}
        shown = bool(gap[1] > 0 and mine[0] >= other[0])
        verb = "costs" if said.mean == "the mean" else "cost"
        made.append(Claim(
            f"recovers-more-{cost}-than-pca",
            f"Spliced in, it saves {mine[0]:.3f} of the {cost} that {said.mean} in its place {verb}, {said.pca} "
            f"{other[0]:.3f}: {'more' if shown else 'not shown to be more'}.",
            *mine, f"{said.pca}, {k} codes", *other, float("nan"), other[0], "at least", shown, recipe,
        ))  # fmt: skip
    return made


def _more(
    scored: Mapping[str, Scores], part: str, errors: Mapping[str, np.ndarray], name: str, interval: Callable, k: int,
    said: Words,
) -> Claim:  # fmt: skip
    """That the dictionary explains more of a part than a baseline does."""

    def share(which: str) -> Callable[[Any], float]:
        return lambda rows: 1 - errors[which][rows].sum() / errors[DEVIATION][rows].sum()

    own, other, gap = interval(share(OWN)), interval(share(name)), interval(_less(share(OWN), share(name)))
    mine, beside = scored[OWN].summary(part), scored[name].summary(part)
    value, l0, level = mine["explained_variance"], mine["l0"], beside["explained_variance"]
    shown = bool(gap[1] > 0 and value >= level)
    by = said.random if name == RANDOM else said.pca
    more = "more" if shown else "not shown to be more"
    if part == ALL:
        title = f"explains-more-than-{name}"
        sentence = (
            f"The dictionary explains {value:.3f} of {said.variance} with {l0:.1f} codes a token, {by} {level:.3f} "
            f"with {beside['l0']:.1f}: {more}."
        )
    else:
        title = f"explains-more-of-the-difference-than-{name}"
        sentence = (
            f"The difference of its halves explains {value:.3f} of the variance of tuned less base, that of {by}' "
            f"halves {level:.3f}: {more}. Components of tuned less base alone, with as many codes, explain "
            f"{share(PCA_ALONE)(slice(None)):.3f}."
        )
    recipe = {
        "table": "", "statistic": "mean", "column": "explained_variance", "where": {"dictionary": OWN, "part": part}
    }  # fmt: skip
    return Claim(
        title, sentence, value, own[1], own[2], f"{by}, {k} codes", level, other[1], other[2], float("nan"), level,
        "at least", shown, recipe,
    )  # fmt: skip


def _saved(sums: Sums, index: int, name: str) -> Callable[[Any], float]:
    def share(rows: Any) -> float:
        lost, clean, mean = (sums.costs[TUNED, condition][index][rows].sum() for condition in (name, CLEAN, MEAN))
        return recovered(lost, clean, mean)

    return share


def _less(one: Callable[[Any], float], other: Callable[[Any], float]) -> Callable[[Any], float]:
    return lambda rows: one(rows) - other(rows)
