"""Claims of an evaluation: a dictionary compared with its baselines, with intervals over clusters
of prompts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from interp.analyzers.sae_eval.compute import (
    DEVIATION,
    DICTIONARY,
    PCA,
    PCA_DIFFERENCE,
    RANDOM,
    EvaluationSums,
)
from interp.claims import Claim, Estimate, mean, statistic
from interp.sae.analysis.input_output import BOTH, DIFFERENCE, TUNED, InputOutput
from interp.sae.analysis.scores import ALL
from interp.sae.analysis.splice import CLEAN, MEAN, recovered_share
from interp.sae.core.config import DictionaryConfig


class Wording(NamedTuple):
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


def wording_for(inputs_outputs: InputOutput, config: DictionaryConfig) -> Wording:
    """The wording for a dictionary with this configuration and these inputs and outputs."""
    wording = Wording()
    if inputs_outputs.model_role == BOTH:
        wording = wording._replace(
            variance="both models' variance",
            limits=(
                "A crosscoder's codes depend on both models: its half spliced into one model"
                " contains information from the other model on the same tokens.",
            ),
        )
    elif inputs_outputs.model_role == DIFFERENCE:
        wording = wording._replace(
            variance="the variance of tuned minus base",
            mean="the base's value and the mean difference",
            zero="the base's value",
            limits=(
                "The splice contains the base's activation plus the reconstruction: the recovered"
                " share refers to the difference, and mean and zero ablation use the mean"
                " difference and no difference.",
            ),
        )
    if inputs_outputs.site == inputs_outputs.target:
        return wording
    prediction = "the target's least-squares prediction"
    return wording._replace(
        variance=f"{wording.variance} of the target",
        fitted="The least-squares prediction, its principal components",
        pca=prediction if config.skip else f"principal components of {prediction}",
        random=f"random rows by matching pursuit of {prediction}",
        limits=(
            *wording.limits,
            "Baselines of a transcoder read its input: their codes are of the least-squares"
            " prediction of the target from it"
            + ("; with a skip connection, the full prediction is used." if config.skip else "."),
        ),
    )


def claims_of(sums: EvaluationSums, k: int, wording: Wording) -> list[Claim]:
    """The claims; none about a variance of zero, or an ablation that has no cost.

    Every claim is about a paired difference between the dictionary and a baseline, as a ratio of
    means over prompts: of squared errors to the squared distance from the mean, or of costs to the
    cost of mean ablation.
    """
    claims: list[Claim] = []
    for part, errors, baselines in (
        (ALL, sums.prompts, (PCA, RANDOM)),
        (DIFFERENCE, sums.differences, (PCA,)),
    ):
        if errors and errors[DEVIATION].sum() > 0:
            claims += [_explains_more(part, name, k, wording) for name in baselines]
    for index, column in enumerate(("loss", "kl")):
        spliced, clean, ablated = (
            float(sums.costs[TUNED, name][index].sum()) for name in (DICTIONARY, CLEAN, MEAN)
        )
        if math.isfinite(recovered_share(spliced, clean, ablated)):
            claims.append(
                _recovers_more(column, {"model": TUNED} if sums.differences else {}, k, wording)
            )
    return claims


def _explained_share(prefix: str, which: str) -> Estimate:
    """Share of the variance that ``which`` explains, from squared errors in the table "prompts"."""
    deviation = f"{prefix}{DEVIATION}"
    return mean(
        deviation, table="prompts", minus={"column": f"{prefix}{which}"}, over={"column": deviation}
    )


def _cost_ratio(column: str, condition: str, reference: str, where: Mapping[str, Any]) -> Estimate:
    """Cost of ``condition`` minus that of ``reference``, divided by the cost of mean ablation
    (minus the clean pass): with mean ablation as ``condition``, the share that ``reference``
    recovers.
    """
    rows: dict[str, dict[str, Any]] = {
        name: {"where": {"condition": name, **where}}
        for name in (condition, reference, MEAN, CLEAN)
    }
    return mean(
        column,
        table="splice",
        pair="prompt_id",
        **rows[condition],
        minus=rows[reference],
        over={**rows[MEAN], "minus": rows[CLEAN]},
    )


def _explains_more(part: str, name: str, k: int, wording: Wording) -> Claim:
    """Claim that the dictionary explains more of a part than a baseline does."""
    prefix = "" if part == ALL else "difference_"
    baseline = wording.random if name == RANDOM else wording.pca
    gap = "{value:+.3f} [{low:+.3f}, {high:+.3f}]"
    also = {"own": _explained_share(prefix, DICTIONARY)}
    if part == ALL:
        also |= {
            label: statistic("mean", "l0", where={"dictionary": which, "part": part})
            for label, which in (("codes", DICTIONARY), ("baseline_codes", name))
        }
        text = (
            f"The dictionary explains {{own:.3f}} of {wording.variance} with {{codes:.1f}} codes a"
            f" token, {baseline} {{control:.3f}} with {{baseline_codes:.1f}}: a difference of"
            f" {gap}."
        )
    else:
        also["alone"] = _explained_share(prefix, PCA_DIFFERENCE)
        text = (
            "The difference of its halves explains {own:.3f} of the variance of tuned minus"
            f" base, that of the halves of {baseline} {{control:.3f}}: a difference of {gap}."
            " Components of tuned minus base alone, with as many codes, explain {alone:.3f}."
        )
    return Claim(
        name=f"explains-more{'' if part == ALL else '-of-the-difference'}-than-{name}",
        estimate=mean(
            f"{prefix}{name}",
            table="prompts",
            minus={"column": f"{prefix}{DICTIONARY}"},
            over={"column": f"{prefix}{DEVIATION}"},
        ),
        at_least=0.0,
        reference=_explained_share(prefix, name),
        control=f"{baseline}, {k} codes",
        text=text,
        also=also,
    )


def _recovers_more(column: str, where: Mapping[str, Any], k: int, wording: Wording) -> Claim:
    """Claim that the dictionary recovers more of the cost of mean ablation than principal
    components do.
    """
    cost = {"loss": "loss", "kl": "divergence"}[column]
    verb = "costs" if wording.mean == "the mean" else "cost"
    return Claim(
        name=f"recovers-more-{cost}-than-pca",
        estimate=_cost_ratio(column, PCA, DICTIONARY, where),
        at_least=0.0,
        reference=_cost_ratio(column, MEAN, PCA, where),
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
        also={"own": _cost_ratio(column, MEAN, DICTIONARY, where)},
    )
