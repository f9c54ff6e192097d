"""Claims about a stitched model, with their nulls."""

from __future__ import annotations

from collections.abc import Sequence

from interp.claims import Claim, Draws, Estimate, mean

MIN_KEPT_GAIN = 0.95


def claims_of(questions: Sequence[int]) -> list[Claim]:
    """Per task the gain and the share of it that is kept, and a comparison with averaging.

    ``questions``: number of held-out questions of each task.
    """
    tasks = list(enumerate(questions, 1))
    return [
        *(_keeps_claim(*task) for task in tasks),
        *(_gains_claim(*task) for task in tasks),
        _beats_average(),
    ]


def _rows_of(kind: str, task: int) -> dict:
    return {"where": {"kind": kind, "task": task}}


def _accuracy(where: dict, **rest) -> Estimate:
    """Accuracy of one model on one task, paired by question with other models."""
    return mean("correct", table="answers", pair="prompt_id", **where, **rest)


def _accuracies(task: int) -> dict[str, Estimate]:
    return {
        "base": _accuracy(_rows_of("base", task)),
        "tuned": _accuracy(_rows_of(f"model {task}", task)),
    }


def _keeps_claim(task: int, questions: int) -> Claim:
    base, tuned = _rows_of("base", task), _rows_of(f"model {task}", task)
    return Claim(
        name=f"keeps-{task}",
        estimate=_accuracy(_rows_of("stitched", task), minus=base, over={**tuned, "minus": base}),
        at_least=MIN_KEPT_GAIN,
        beyond=["control"],
        null=Draws("random", "kept_gain", {"task": task}),
        control="stitched random masks with the same count in every parameter",
        requires=[f"gains-{task}"],
        text=(
            "The stitched model keeps {value:.1%} of the change in correct answers to"
            f" {questions:,} held-out questions of task {task} ({{base:.1%}} in the base,"
            " {tuned:.1%} in its own fine-tuned model; random masks with equal counts in every"
            " parameter keep {control:.1%}, at most {control_max:.1%})."
        ),
        undefined=(
            f"Fine-tuned model {task} does not clearly answer more of {questions:,} held-out"
            " questions of its task correctly than the base ({tuned:.1%} and {base:.1%}; the"
            " interval of the gain covers 0), so there is no gain to keep."
        ),
        also=_accuracies(task),
    )


def _gains_claim(task: int, questions: int) -> Claim:
    ends = _accuracies(task)
    return Claim(
        name=f"gains-{task}",
        estimate=_accuracy(_rows_of(f"model {task}", task), minus=_rows_of("base", task)),
        at_least=0.0,
        reference=ends["base"],
        control="the base on the same questions",
        text=(
            f"Fine-tuned model {task} answers {{tuned:.1%}} of {questions:,} held-out questions of"
            " its task correctly, the base {control:.1%}: {value:+.3f} [{low:+.3f}, {high:+.3f}]."
        ),
        also=ends,
    )


def _beats_average() -> Claim:
    all_tasks = {"table": "answers", "pair": ["task", "prompt_id"]}
    stitched, average = {"where": {"kind": "stitched"}}, {"where": {"kind": "average"}}
    return Claim(
        name="beats-average",
        estimate=mean("correct", minus=average, **stitched, **all_tasks),
        at_least=0.0,
        reference=mean("correct", **average, **all_tasks),
        control="the plain average of all fine-tuned models",
        text=(
            "The stitched model answers {stitched:.1%} of the questions of all tasks correctly, the"
            " plain average of the fine-tuned models {control:.1%}."
        ),
        also={"stitched": mean("correct", **stitched, **all_tasks)},
    )
