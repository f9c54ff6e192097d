"""What is claimed of a stitched model, and the nulls of it."""

from __future__ import annotations

from collections.abc import Sequence

from interp.claims import Claim, Draws, Estimate, mean

KEEPS = 0.95


def claims_of(questions: Sequence[int]) -> list[Claim]:
    """Per task, of so many held-out ``questions``, what its model gains and what of that is kept;
    and averaging.
    """
    tasks = list(enumerate(questions, 1))
    return [
        *(_keeps(*task) for task in tasks),
        *(_gains(*task) for task in tasks),
        _beats_average(),
    ]


def _kind(kind: str, task: int) -> dict:
    return {"where": {"kind": kind, "task": task}}


def _right(where: dict, **rest) -> Estimate:
    """Right answers of one model to one task, paired by question with those of others."""
    return mean("correct", table="answers", pair="prompt_id", **where, **rest)


def _ends(task: int) -> dict[str, Estimate]:
    return {"base": _right(_kind("base", task)), "tuned": _right(_kind(f"tune {task}", task))}


def _keeps(task: int, questions: int) -> Claim:
    base, tuned = _kind("base", task), _kind(f"tune {task}", task)
    return Claim(
        name=f"keeps-{task}",
        estimate=_right(_kind("stitched", task), minus=base, over={**tuned, "minus": base}),
        at_least=KEEPS,
        beyond=["control"],
        null=Draws("random", "kept_gain", {"task": task}),
        control="random masks with equal counts in every parameter, stitched alike",
        requires=[f"gains-{task}"],
        text=(
            "Stitched, the base keeps {value:.1%} of the change in right answers to"
            f" {questions:,} held-out questions of task {task} ({{base:.1%}} in the base,"
            " {tuned:.1%} in its own fine-tuned model; random masks with equal counts in every"
            " parameter keep {control:.1%}, at most {control_max:.1%})."
        ),
        undefined=(
            f"Within its interval fine-tuned model {task} answers no more of {questions:,} held-out"
            " questions of its task rightly than the base ({tuned:.1%} and {base:.1%}), so"
            " that there is nothing to keep."
        ),
        also=_ends(task),
    )


def _gains(task: int, questions: int) -> Claim:
    ends = _ends(task)
    return Claim(
        name=f"gains-{task}",
        estimate=_right(_kind(f"tune {task}", task), minus=_kind("base", task)),
        at_least=0.0,
        reference=ends["base"],
        control="the base on the same questions",
        text=(
            f"Fine-tuned model {task} gets {{tuned:.1%}} of {questions:,} held-out questions of its"
            " task right, the base {control:.1%}: {value:+.3f} [{low:+.3f}, {high:+.3f}]."
        ),
        also=ends,
    )


def _beats_average() -> Claim:
    all_tasks = {"table": "answers", "pair": ["task", "prompt_id"]}
    own, average = {"where": {"kind": "stitched"}}, {"where": {"kind": "average"}}
    return Claim(
        name="beats-average",
        estimate=mean("correct", minus=average, **own, **all_tasks),
        at_least=0.0,
        reference=mean("correct", **average, **all_tasks),
        control="the plain average of all fine-tuned models",
        text=(
            "Of the questions of all tasks the stitched model gets {stitched:.1%} right, the plain"
            " average of the fine-tuned models {control:.1%}."
        ),
        also={"stitched": mean("correct", **own, **all_tasks)},
    )
