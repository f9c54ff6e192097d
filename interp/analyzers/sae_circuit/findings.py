"""Claims about codes of heads: beyond permuted labels, beyond controls, and of a known circuit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from interp.claims import Claim, Draws, mean, statistic
from interp.claims.control_fine_tunes import beyond_new_control

EXCHANGED = "the two models' runs exchanged at random, all prompts of a cluster together"
PERMUTED = "labels of whole clusters permuted, within clusters that have both classes"
UNEQUAL = 0.1
MODELS_DIFFER = (
    "Any fine-tuning that moves a head's output changes its codes, whatever was learned. No control"
    " was given (--control), so that this was not measured."
)
OWN_TRIALS = "Intervals are over autoencoders (trials), and not over prompts."
FEW_CODES = 0.5


def claims_of(summary: Mapping[str, Any], first: str, controls: int, edges: bool) -> list[Claim]:
    """All claims of a run. ``first``: the head that ranks first, as ``layer.head``."""
    models = summary["comparison"] == "models"
    control = EXCHANGED if models else PERMUTED
    whose = "the fine-tuned model's runs" if models else "positive prompts"
    others = "the base's" if models else "negative ones"
    null = {"arrangements": summary["arrangements"]}
    made = [
        Claim(
            name="codes-beyond-permuted",
            estimate=mean("score", table="trials", cluster="trial"),
            at_least=0.0,
            null=Draws("permuted", "score", **null),
            control=control,
            text=(
                f"On {whose} a head has {{value:.2f}} [{{low:.2f}}, {{high:.2f}}] codes that"
                f" {others} never show, mean of {summary['heads']} heads; labels permuted give"
                " {control:.2f} (p = {p:.2g})."
            ),
        ),
        Claim(
            name="heads-beyond-permuted",
            estimate=statistic("maximum", "moderated"),
            at_least=0.0,
            null=Draws("permuted", "largest", **null),
            control=control,
            text=(
                f"{summary['beyond']} of {summary['heads']} heads are beyond the largest of all"
                f" heads with labels permuted (p at most 0.05); head {first} has the most codes,"
                " {codes:.1f}; the largest moderated score is {value:.2f} (permuted {control:.2f},"
                " p = {p:.2g})."
            ),
            also={"codes": statistic("maximum", "score")},
        ),
    ]
    if summary["circuit"]:
        kinds = {"nodes": "codes"} | ({"edges": "appearances in the first pairs"} if edges else {})
        made += [
            _of_circuit(name, words, summary["circuit"], control, null)
            for name, words in kinds.items()
        ]
    if controls:
        made.append(
            beyond_new_control(
                "codes-beyond-new-control",
                mean("excess", table="trials", cluster="trial"),
                "excess",
                controls,
                "the mean number of codes of a head that only the fine-tuned model's runs show,"
                " minus that with labels permuted,",
                ".2f",
            )
        )
    return made


def _of_circuit(name: str, words: str, heads: int, control: str, null: Mapping[str, Any]) -> Claim:
    return Claim(
        name=f"circuit-{name}-beyond-permuted",
        estimate=mean(f"auc_{name}", table="trials", cluster="trial"),
        at_least=0.5,
        null=Draws("permuted", f"auc_{name}", family="circuit", **null),
        control=control,
        text=(
            f"By {words} the {heads} heads of the known circuit have an AUC of {{value:.3f}}"
            " [{low:.3f}, {high:.3f}] over trials; labels permuted give {control:.3f}"
            " (p = {p:.2g})."
        ),
    )


def limits_of(summary: Mapping[str, Any], analyzer: Any) -> list[str]:
    """What the numbers do not show."""
    limits = [OWN_TRIALS]
    if summary["comparison"] == "models":
        limits += [] if analyzer.controls else [MODELS_DIFFER]
    else:
        tokens = summary["mean_tokens"]
        uneven = abs(summary["length_auc"] - 0.5)
        if uneven > UNEQUAL or abs(tokens[0] - tokens[1]) > 1:
            effect = (
                "averages over tokens"
                if analyzer.reduce == "mean"
                else "the last token's attention"
            )
            limits.append(
                f"Positive prompts have {tokens[0]:.1f} tokens and negative ones {tokens[1]:.1f}"
                f" (AUC of length {summary['length_auc']:.2f}): length alone changes {effect}, and"
                " with it codes. Use prompts of equal length."
            )
    if summary["silent"] > FEW_CODES:
        limits.append(
            f"On {summary['silent']:.0%} of heads and runs no latent is active, and all of these"
            " have one code: lower --sparsity, or use --scale rms."
        )
    positive, negative = summary["runs"]
    if positive != negative:
        limits.append(
            f"There are {positive} positive and {negative} negative runs: numbers of distinct"
            " codes grow with runs."
        )
    return limits
