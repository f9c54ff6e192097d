"""What a stitched model shows, beside its nulls."""

from __future__ import annotations

import numpy as np

from interp.analyzers.stitch.rows import Rows
from interp.claims import Claim
from interp.maths.bootstrap import clustered_bootstrap
from interp.maths.statistics import clustered_rise, permutation_p

KEEPS, ALPHA = 0.95, 0.05
NAN = float("nan")


class Findings:
    """Claims about a stitched model: one per task, and one about averaging."""

    def __init__(self, rows: Rows, seed: int) -> None:
        self.rows, self.seed = rows, seed
        self.tasks = range(1, len(rows.asked) + 1)

    def correct(self, kind: str, task: int) -> np.ndarray:
        """Right answers of a model to a task."""
        return self.rows.seen[kind][task - 1].correct

    def gains(self, kind: str) -> list[float]:
        """Of every task the share of its own tune's gain that a model keeps."""
        return [self.rows.gain(task, float(self.correct(kind, task).mean())) for task in self.tasks]

    def claims(self) -> list[Claim]:
        """All of them, the first is what a person reads first."""
        return [*(self._keeps(task) for task in self.tasks), self._beats_average()]

    def _keeps(self, task: int) -> Claim:
        base, tuned, own = (self.correct(kind, task) for kind in ("base", f"tune {task}", "stitched"))
        clusters = self.rows.clusters(task)
        better = clustered_rise(tuned, base, clusters, self.seed)[1] > 0
        null = np.array([self.rows.gain(task, value) for one, _, value in self.rows.draws if one == task])
        value = self.rows.gain(task, float(own.mean()))

        def share(drawn: np.ndarray) -> float:
            rows = drawn.astype(int)
            low, high = base[rows].mean(), tuned[rows].mean()
            return float((own[rows].mean() - low) / (high - low)) if high != low else NAN

        rows = np.arange(len(own), dtype=np.float64)
        _, low, high = clustered_bootstrap(rows, clusters, statistic=share, draws=1000, seed=self.seed)
        p = permutation_p(value, null)
        floor, ceiling = (float(end) for end in np.quantile(null, [0.025, 0.975]))
        said = (
            f"Stitched, the base keeps {value:.1%} of what tune {task} gained on {len(base)} held-out questions of its "
            f"task ({base.mean():.1%} to {tuned.mean():.1%} right; random masks with equal counts in every parameter: "
            f"{null.mean():.1%}, at most {null.max():.1%})."
            if better
            else f"Tune {task} answers no more of {len(base)} held-out questions of its task rightly than the base "
            f"({tuned.mean():.1%} and {base.mean():.1%}), so that there is nothing to keep."
        )
        at = {"table": "answers", "statistic": "mean", "column": "correct", "cluster": "cluster"}
        minus, over = (_where(kind, task) for kind in ("base", f"tune {task}"))
        observed = {**at, **_where("stitched", task), "minus": minus, "over": {**over, "minus": minus}}
        return Claim(
            f"keeps-{task}", said, value, low, high,
            f"{len(null)} times random masks with equal counts in every parameter, stitched alike", null.mean(), floor,
            ceiling, p, KEEPS, "at least", bool(better and value >= KEEPS and p <= ALPHA and low > ceiling),
            {**observed, "beyond": ["control_high"],
             "p": {"null": {"table": "random", "column": "kept_gain", "where": {"task": task}},
                               "observed": observed}},
        )  # fmt: skip

    def _beats_average(self) -> Claim:
        one, other = (
            np.concatenate([self.correct(kind, task) for task in self.tasks]) for kind in ("stitched", "average")
        )
        clusters = np.concatenate([self.rows.clusters(task) for task in self.tasks])
        value, low, high = clustered_rise(one, other, clusters, self.seed)
        return Claim(
            "beats-average",
            f"Of the questions of all tasks the stitched model gets {one.mean():.1%} right, the plain average of the "
            f"tunes {other.mean():.1%}.",
            value, low, high, "the plain average of all tunes", 0.0, NAN, NAN, NAN, 0.0, "at least", bool(low > 0),
            {"table": "answers", "statistic": "mean", "column": "correct", "cluster": "cluster",
             "where": {"kind": "stitched"}, "minus": {"where": {"kind": "average"}}},
        )  # fmt: skip


def _where(kind: str, task: int) -> dict:
    return {"where": {"kind": kind, "task": task}}
