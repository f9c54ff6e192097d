"""Claims about a pruning, with their nulls."""

from __future__ import annotations

from interp.analyzers.wrapped_pruning.compute import PrunedModel
from interp.claims import Claim, Draws, mean
from interp.claims.control_fine_tunes import beyond_new_control
from interp.experiments.base_answers import CHANGED, BaseAnswers, changed_claim

MIN_REVIVED = 0.5
"""Share of the changed answers, or of the rise of their loss, that has to return."""
VERDICT = ("answers-revive", "loss-recovers")
"""The claims of which one has to be supported for the run to be."""
_ROWS = {"table": "answers", "where": {"changed": True}}
_CONTROL = "random sets with as many neurons per block, matched on the size of their change"


def claims_of(answers: BaseAnswers, tuned: PrunedModel, score: str, n_controls: int) -> list[Claim]:
    """That answers changed, that they return, that their loss does, and more than in controls.

    Only the first is made where no held-out answer changed, or nothing was pruned.
    """
    changed = changed_claim("answers")
    if not tuned.size or not answers.changed[answers.held_out].any():
        return [changed]
    pruned = (
        f"With {tuned.size:,} of {tuned.scores.size:,} neurons set to zero, in the order of the"
        f" {score} score (size chosen on other prompts), the fine-tuned model"
    )
    claims = [_revive(pruned), _recover()]
    if n_controls:
        gained = mean("after", table="answers", minus={"column": "before"})
        claims.append(
            beyond_new_control(
                "revive-beyond-controls",
                gained,
                "gained",
                n_controls,
                "the gain in held-out prompts with the base's answer",
                "+.3f",
            )
        )
    return [*claims, changed]


def _revive(pruned: str) -> Claim:
    return Claim(
        name="answers-revive",
        estimate=mean("after", **_ROWS),
        at_least=MIN_REVIVED,
        null=Draws("random", "revived"),
        control=_CONTROL,
        requires=[CHANGED],
        text=(
            f"{pruned} writes the base's answer to {{value:.1%}} [{{low:.1%}}, {{high:.1%}}] of the"
            " held-out prompts whose answer fine-tuning changed, and its own to {own:.1%};"
            " {draws:.0f} random sets: {control:.1%}, at most {control_max:.1%}."
        ),
        also={"own": mean("own", **_ROWS)},
    )


def _recover() -> Claim:
    base = {"column": "loss_base"}
    return Claim(
        name="loss-recovers",
        estimate=mean(
            "loss_before",
            minus={"column": "loss_after"},
            over={"column": "loss_before", "minus": base},
            **_ROWS,
        ),
        at_least=MIN_REVIVED,
        null=Draws("random", "recovered"),
        control=_CONTROL,
        requires=[CHANGED],
        text=(
            "Pruning undoes {value:.1%} [{low:.1%}, {high:.1%}] of the rise of the loss of these"
            " answers ({base:.3f} nats per token in the base, {before:.3f} in the fine-tuned"
            " model, {after:.3f} in the pruned one); random sets {control:.1%}, at most"
            " {control_max:.1%}."
        ),
        undefined=(
            "The loss of the base's answers is not clearly higher in the fine-tuned model than in"
            " the base, so no rise can be undone."
        ),
        also={
            "base": mean("loss_base", **_ROWS),
            "before": mean("loss_before", **_ROWS),
            "after": mean("loss_after", **_ROWS),
        },
    )
