"""Claims: circuits are faithful beyond random ones, and the two share more heads than chance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from interp.claims import Claim, Draws, Estimate, mean
from interp.claims.control_fine_tunes import beyond_new_control

RANDOM = (
    "random circuits with as many heads per group and band of blocks, drawn without replacement"
)
HALF = 0.5


def claims_of(summary: Mapping[str, Any], draws: int, controls: int) -> list[Claim]:
    """All claims; the first is of the base's circuit in the fine-tuned model."""
    claims = [
        _faithful(
            "base-circuit-carries",
            "tuned",
            "base",
            f"In the fine-tuned model the base's circuit of {summary['heads_base']} heads",
            draws,
        ),
        _faithful(
            "tuned-circuit-carries",
            "tuned",
            "tuned",
            f"Its own circuit of {summary['heads_tuned']} heads",
            draws,
        ),
    ]
    if summary["heads_base"] and summary["heads_tuned"]:
        claims.append(_shared(draws))
    if controls and summary["heads_tuned"]:
        claims.append(
            beyond_new_control(
                "new-heads-beyond-control",
                mean("new", where={"in_tuned": True}, cluster=""),
                "new",
                controls,
                "the share of the fine-tuned model's circuit that is not in the base's",
                ".0%",
            )
        )
    return claims


def faithfulness(model: str, circuit: str) -> Estimate:
    """Accuracy of a circuit in a model over the model's."""
    where = {"model": model, "circuit": circuit}
    return mean("right", table="answers", where=where, over={"column": "right_full"})


def _faithful(name: str, model: str, circuit: str, subject: str, draws: int) -> Claim:
    text = (
        f"{subject} alone gives {{value:.0%}} [{{low:.0%}}, {{high:.0%}}] of the model's accuracy"
        " ({full:.0%})"
    )
    where = {"model": model, "circuit": circuit}
    also = {"full": mean("right_full", table="answers", where=where)}
    if not draws:
        missing = "no random circuit was drawn"
        return Claim(
            name=name,
            estimate=faithfulness(model, circuit),
            at_least=HALF,
            text=f"{text}.",
            missing=missing,
            also=also,
        )
    return Claim(
        name=name,
        estimate=faithfulness(model, circuit),
        at_least=HALF,
        null=Draws("random", "faithfulness", where),
        control=RANDOM,
        text=f"{text}; {draws} random circuits give {{control:.0%}} on average, at most"
        " {control_max:.0%} (p = {p:.2g} by rank).",
        also=also,
    )


def _shared(draws: int) -> Claim:
    text = "{value:.0%} of the heads of the base's circuit are in the fine-tuned model's"
    estimate = mean("in_tuned", where={"in_base": True}, cluster="")
    if not draws:
        return Claim(
            name="circuits-share-heads",
            estimate=estimate,
            at_least=0.0,
            text=f"{text}.",
            missing="no random circuit was drawn",
        )
    return Claim(
        name="circuits-share-heads",
        estimate=estimate,
        at_least=0.0,
        null=Draws("random", "shared", {"model": "tuned", "circuit": "base"}),
        control=RANDOM,
        text=f"{text}; of random circuits {{control:.0%}} on average, at most {{control_max:.0%}}"
        " (p = {p:.2g} by rank).",
    )
