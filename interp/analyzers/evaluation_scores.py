"""``EvaluationScores``: per-sample scores of an evaluation that was run elsewhere, of both models.

Files of lm-evaluation-harness or logs of Inspect (``interp.prompts.evaluation_logs``) are matched
document by document, so that differences are paired: the harness itself compares two models by an
unpaired z-test. No model is run. The null exchanges both models' scores of a document at random.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from interp.analyzers.framework import Analyzer, Known, Result, option
from interp.claims import Claim, Draws, escape_braces, mean
from interp.errors import OptionError, required
from interp.prompts.evaluation_logs import PairedTask, notes_of, pair_scores, read_scores
from interp.rows import DrawRow, key, measure, rows_table
from interp.study import Study

NOT_RUN_HERE = (
    "The scores were computed elsewhere: that they are of these two models is not checked."
)


class ScoreRow:
    """A row per task, metric and document."""

    task: str = key("task")
    metric: str = key("its metric, with the filter where it has one")
    document: str = key("document of the task")
    cluster: str = key("documents that are not independent of each other share a cluster")
    base: float = measure("the base's score")
    tuned: float = measure("the fine-tuned model's score")


class ExchangedRow(DrawRow):
    """A row per draw, task and metric."""

    task: str = key("task")
    metric: str = key("its metric")
    shift: float = measure("mean difference with both scores exchanged at random")


@dataclass(frozen=True)
class EvaluationScores(Analyzer):
    """Scores of the base and of the fine-tuned model on the documents that both were scored on.

    ``base`` and ``tuned``: files by name (``score_files``; lm-eval's have the task in it). Returns a table of kind
    ``evaluation-scores``, one row per task, metric and document, with ``exchanged``, the null.
    Raises PromptError for files that cannot be read or compared.
    """

    name: ClassVar[str] = "evaluation-scores"
    version: ClassVar[int] = 1

    base: Mapping[str, Path] | None = option(None, "Files with scores of the base.")
    tuned: Mapping[str, Path] | None = option(None, "Files with scores of the fine-tuned model.")
    draws: int = option(999, "Random exchanges of the two models.", ge=19)

    def check(self, known: Known) -> None:
        """Raise OptionError without both files."""
        del known
        if not self.base or not self.tuned:
            raise OptionError(
                "evaluation scores need files of both models; give the base's and the tuned model's"
            )

    def run(self, study: Study) -> Result:
        """Read and pair the scores."""
        scores = [read_scores(required(files, "scores")) for files in (self.base, self.tuned)]
        tasks = pair_scores(scores[0], scores[1])
        sizes = [len(task.documents) for task in tasks]
        rows = rows_table(
            ScoreRow,
            "",
            {
                "task": np.repeat(np.array([task.task for task in tasks], object), sizes),
                "metric": np.repeat(np.array([task.metric for task in tasks], object), sizes),
                "document": [one for task in tasks for one in task.documents],
                "cluster": [f"{task.task} {one}" for task in tasks for one in task.documents],
                "base": np.concatenate([task.base for task in tasks]),
                "tuned": np.concatenate([task.tuned for task in tasks]),
            },
        )
        shifts = [_exchanged(task, self.draws, study.seed) for task in tasks]
        exchanged = rows_table(
            ExchangedRow,
            "",
            {
                "draw": np.tile(np.arange(self.draws), len(tasks)),
                "task": np.repeat(np.array([task.task for task in tasks], object), self.draws),
                "metric": np.repeat(np.array([task.metric for task in tasks], object), self.draws),
                "shift": np.concatenate(shifts),
            },
        )
        notes = [*notes_of(scores), *(note for task in tasks for note in task.notes)]
        return Result(
            rows,
            {"exchanged": exchanged},
            [_claim(task) for task in tasks],
            {"tasks": len({task.task for task in tasks}), "notes": notes},
            [NOT_RUN_HERE, *(f"{note}." for note in notes)],
        )


def _exchanged(task: PairedTask, draws: int, seed: int) -> np.ndarray:
    difference = task.tuned - task.base
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (draws, difference.size))
    return signs @ difference / difference.size


def _claim(task: PairedTask) -> Claim:
    where = {"task": task.task, "metric": task.metric}
    rises = bool((task.tuned - task.base).mean() >= 0)
    name = escape_braces(f"{task.task}, {task.metric}")
    return Claim(
        name=f"{task.task}-{task.metric}-changes",
        estimate=mean("tuned", where=where, minus={"column": "base"}),
        at_least=0.0 if rises else None,
        at_most=None if rises else 0.0,
        beyond=["threshold"],
        null=Draws("exchanged", "shift", where, alternative="two-sided"),
        control="both models' scores exchanged at random, document by document",
        text=(
            f"{name}: {{tuned:.4g}} of the fine-tuned model, {{base:.4g}} of the base,"
            f" {{value:+.4g}} [{{low:+.4g}}, {{high:+.4g}}] over {len(task.documents)} documents,"
            " p = {p:.2g}."
        ),
        also={role: mean(role, where=where) for role in ("tuned", "base")},
    )
