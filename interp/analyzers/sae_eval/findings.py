"""Claims of an evaluation: a dictionary compared with its baselines, with intervals over clusters
of prompts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from interp.analyzers.sae_eval.compute import DEVIATION, OWN, PCA, PCA_ALONE, RANDOM, Sums
from interp.claims import Claim, Estimate, mean, statistic
from interp.sae.analysis.input_output import BOTH, DIFFERENCE, TUNED, Place
from interp.sae.analysis.scores import ALL
from interp.sae.analysis.splice import CLEAN, MEAN, recovered
from interp.sae.core.config import DictionaryConfig


class Words(NamedTuple):
    """Wording of an evaluation for one kind of dictionary.

    ``variance``: of what; ``pca``, ``random``: the baselines; ``mean``, ``zero``: the ablations;
    ``fitted``: what was fitted on the evaluation tokens; ``limits``: limitations of this kind.
    """

    variance: str = "the variance"
    pca: str = "principal components"
    random: str = "random rows by matching pursuit"
    mean: str = "the mean"
    zero: str = "the zero"
    fitted: str = "Principal components"
    limits: tuple[str, ...] = ()


def words(place: Place, config: DictionaryConfig) -> Words:
    """The wording for a dictionary with this configuration and these inputs and outputs."""
    said = Words()
    if place.of == BOTH:
        said = said._replace(
            variance="both models' variance",
            limits=(
                (
                    "A crosscoder's codes depend on both models: its half spliced into one model"
                    " contains information from the other model on the same tokens."
                ),
            ),
        )
    elif place.of == DIFFERENCE:
        said = said._replace(
            variance="the variance of tuned minus base",
            mean="the base's value and the mean difference",
            zero="the base's value",
            limits=(
                (
                    "The splice contains the base's activation plus the reconstruction: the"
                    " recovered share refers to the difference, and mean and zero ablation use"
                    " the mean difference and no difference."
                ),
            ),
        )
    if place.site == place.target:
        return said
    whole, few = "the target's least-squares prediction", "of the target's least-squares prediction"
    return said._replace(
        variance=f"{said.variance} of the target",
        fitted="The least-squares prediction, its principal components",
        pca=whole if config.skip else f"principal components {few}",
        random=f"random rows by matching pursuit {few}",
        limits=(
            *said.limits,
            "Baselines of a transcoder read its input: their codes are of the least-squares"
            " prediction of the target from it"
            + ("; with a skip connection, the full prediction is used." if config.skip else "."),
        ),
    )


def claims_of(sums: Sums, k: int, wording: Words) -> list[Claim]:
    """The claims; none about a variance of zero, or an ablation that has no cost.

    Every claim is about a paired difference between the dictionary and a baseline, as a ratio of
    means over prompts: of squared errors to the squared distance from the mean, or of costs to the
    cost of mean ablation.
    """
    made: list[Claim] = []
    for part, errors, baselines in (
        (ALL, sums.prompts, (PCA, RANDOM)),
        (DIFFERENCE, sums.halves, (PCA,)),
    ):
        if errors and errors[DEVIATION].sum() > 0:
            made += [_explains(part, name, k, wording) for name in baselines]
    for index, column in enumerate(("loss", "kl")):
        spent, clean, ablated = (
            float(sums.costs[TUNED, name][index].sum()) for name in (OWN, CLEAN, MEAN)
        )
        if math.isfinite(recovered(spent, clean, ablated)):
            made.append(_recovers(column, {"model": TUNED} if sums.halves else {}, k, wording))
    return made


def explained(prefix: str, which: str) -> Estimate:
    """Share of the variance that ``which`` explains, from squared errors in the table "prompts"."""
    whole = f"{prefix}{DEVIATION}"
    return mean(
        whole, table="prompts", minus={"column": f"{prefix}{which}"}, over={"column": whole}
    )


def saved(column: str, which: str, where: Mapping[str, Any]) -> Estimate:
    """Share of the cost of mean ablation that ``which`` avoids, from costs in the table
    "splice".
    """
    return _spent(column, MEAN, which, where)


def _spent(column: str, more: str, less: str, where: Mapping[str, Any]) -> Estimate:
    """Cost of ``more`` minus that of ``less``, divided by the cost of mean ablation (minus the
    clean pass).
    """
    rows: dict[str, dict[str, Any]] = {
        name: {"where": {"condition": name, **where}} for name in {more, less, MEAN, CLEAN}
    }
    return mean(
        column,
        table="splice",
        pair="prompt_id",
        **rows[more],
        minus=rows[less],
        over={**rows[MEAN], "minus": rows[CLEAN]},
    )


def _explains(part: str, name: str, k: int, wording: Words) -> Claim:
    """Claim that the dictionary explains more of a part than a baseline does."""
    prefix = "" if part == ALL else "difference_"
    by = wording.random if name == RANDOM else wording.pca
    gap = "{value:+.3f} [{low:+.3f}, {high:+.3f}]"
    also = {"own": explained(prefix, OWN)}
    if part == ALL:
        also |= {
            label: statistic("mean", "l0", where={"dictionary": which, "part": part})
            for label, which in (("codes", OWN), ("baseline_codes", name))
        }
        text = (
            f"The dictionary explains {{own:.3f}} of {wording.variance} with {{codes:.1f}} codes a"
            f" token, {by} {{control:.3f}} with {{baseline_codes:.1f}}: a difference of {gap}."
        )
    else:
        also["alone"] = explained(prefix, PCA_ALONE)
        text = (
            "The difference of its halves explains {own:.3f} of the variance of tuned minus base,"
            f" that of the halves of {by} {{control:.3f}}: a difference of {gap}. Components of"
            " tuned minus base alone, with as many codes, explain {alone:.3f}."
        )
    return Claim(
        name=f"explains-more{'' if part == ALL else '-of-the-difference'}-than-{name}",
        estimate=mean(
            f"{prefix}{name}",
            table="prompts",
            minus={"column": f"{prefix}{OWN}"},
            over={"column": f"{prefix}{DEVIATION}"},
        ),
        at_least=0.0,
        reference=explained(prefix, name),
        control=f"{by}, {k} codes",
        text=text,
        also=also,
    )


def _recovers(column: str, where: Mapping[str, Any], k: int, wording: Words) -> Claim:
    """Claim that the dictionary recovers more of the cost of mean ablation than principal
    components do.
    """
    cost = {"loss": "loss", "kl": "divergence"}[column]
    verb = "costs" if wording.mean == "the mean" else "cost"
    return Claim(
        name=f"recovers-more-{cost}-than-pca",
        estimate=_spent(column, PCA, OWN, where),
        at_least=0.0,
        reference=saved(column, PCA, where),
        control=f"{wording.pca}, {k} codes",
        text=(
            f"Spliced in, it recovers {{own:.3f}} of the {cost} that {wording.mean} in its place"
            f" {verb}, {wording.pca} {{control:.3f}}: a difference of {{value:+.3f}} [{{low:+.3f}},"
            " {high:+.3f}]."
        ),
        undefined=(
            f"The {cost} that {wording.mean} in its place {verb} does not differ significantly"
            " from 0 on these prompts, so no share of it is given."
        ),
        also={"own": saved(column, OWN, where)},
    )
