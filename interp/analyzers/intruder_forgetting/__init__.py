"""``IntruderForgetting``: is the number of intruders correlated with forgetting across checkpoints?

Shuttleworth, Andreas, Torralba, Sharma (arXiv 2410.21228) compute, across fine-tuned models,
Spearman's rank correlation between the number of intruder dimensions and the increase of the loss
on pre-training text. Here the models are checkpoints fine-tuned from one base. p comes from
permutations of the checkpoints, from all of them where they are few.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any, ClassVar

import numpy as np

from interp.analyzers.framework import Analyzer, Result, option
from interp.analyzers.intruder_forgetting.losses import Forgetting, TextRow
from interp.claims import Claim, Draws, from_table, statistic
from interp.errors import OptionError
from interp.maths.intervals import cluster_interval
from interp.maths.statistics import rank_correlation
from interp.provenance import Provenance, environment
from interp.rows import columns_of, key, measure, rows_table
from interp.table import Table

__all__ = ["Checkpoints", "Forgetting", "IntruderForgetting"]

MIN_CHECKPOINTS = 5
LIMIT = (
    "Everything that grows during training is correlated, so across checkpoints of one run a"
    " correlation is not evidence that intruders cause forgetting. Compare it with the correlation"
    " of the size of the update, and scale the intruders (--scale)."
)


class ByCheckpointRow:
    """Rows about one checkpoint."""

    checkpoint: str = key("name of the checkpoint")


class CheckpointRow(ByCheckpointRow):
    """A row per checkpoint."""

    place: int = key("position in the given order, from 1")
    intruders: float = measure("intruders (the published definition)")
    subspace_intruders: float = measure(
        "intruders also when compared with base vectors of similar singular value"
    )
    relative_norm: float = measure(
        "norm of the update divided by that of the base, mean over matrices"
    )
    loss: float = measure("loss on plain text", "nats")
    forgetting: float = measure("loss minus the base's loss", "nats")
    low: float = measure("lower end of the 95 % interval of forgetting, over texts", "nats")
    high: float = measure("upper end of the 95 % interval of forgetting, over texts", "nats")


class CheckpointTextRow(TextRow, ByCheckpointRow):
    """A row per checkpoint and text."""


class PermutationRow:
    """A row per permutation of the checkpoints."""

    correlation: float = measure("rank correlation after forgetting is permuted among checkpoints")


@dataclass(frozen=True)
class Checkpoints:
    """Checkpoints of one base: for each, a run of ``Intruders`` and, in the same order, one of
    ``Forgetting``.

    Raises OptionError for fewer than two checkpoints, and for runs whose base, options or texts
    differ.
    """

    intruder_runs: Sequence[Table]
    forgetting_runs: Sequence[Table]
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.intruder_runs) != len(self.forgetting_runs) or len(self.intruder_runs) < 2:
            raise OptionError(
                f"{len(self.intruder_runs)} runs of intruders and {len(self.forgetting_runs)} of"
                " forgetting: give one of each for two or more checkpoints"
            )
        for kind, tables in (
            ("intruders", self.intruder_runs),
            ("forgetting", self.forgetting_runs),
        ):
            if wrong := [run.kind for run in tables if run.kind != kind]:
                raise OptionError(f"a run of kind {wrong[0]} was given; give one of kind {kind}")
            first, *others = (run.require_provenance() for run in tables)
            for other in others:
                # the number of draws of the null does not change the counts
                same_options = {**first.options, "draws": 0} == {**other.options, "draws": 0}
                if not same_options or any(
                    first.inputs.get(name) != other.inputs.get(name) for name in ("base", "prompts")
                ):
                    raise OptionError(
                        f"runs {first.key} and {other.key} differ in base, texts or options; use"
                        " the same for every checkpoint"
                    )
        tuned = [
            [run.require_provenance().inputs["tuned"] for run in tables]
            for tables in (self.intruder_runs, self.forgetting_runs)
        ]
        if tuned[0] != tuned[1] or len(set(tuned[0])) != len(tuned[0]):
            raise OptionError(
                "runs of intruders and of forgetting must be of the same checkpoints, each given"
                " once"
            )

    @property
    def names(self) -> list[str]:
        """Names of the checkpoints."""
        return [
            str(run.require_provenance().context.get("tuned", "")) for run in self.intruder_runs
        ]

    def provenance(self, analyzer: Any) -> Provenance:
        """Provenance of a result of this analyzer on these runs."""
        base = self.intruder_runs[0].require_provenance()
        inputs = {
            "base": base.inputs["base"],
            "counted": [run.require_provenance().key for run in self.intruder_runs],
            "lost": [run.require_provenance().key for run in self.forgetting_runs],
            "seed": self.seed,
        }
        context = {
            "base": base.context.get("base"),
            "tuned": self.names[-1],
            "checkpoints": self.names,
            "environment": environment(),
        }
        return Provenance(analyzer.name, analyzer.version, analyzer.options, None, inputs, context)


@dataclass(frozen=True)
class IntruderForgetting(Analyzer):
    """Rank correlation of the number of intruders with forgetting across ``Checkpoints``.

    It is tested with 5 or more checkpoints. All permutations are taken where there are at most
    ``draws`` + 1, otherwise ``draws`` random ones. Returns a table of kind ``intruder-forgetting``,
    one row per checkpoint, with the tables ``texts`` and ``permuted``.
    """

    name: ClassVar[str] = "intruder-forgetting"
    version: ClassVar[int] = 1

    draws: int = option(9999, "Random permutations, where there are too many to take all.", ge=19)

    def run(self, study: Checkpoints) -> Result:
        """Join both runs of every checkpoint and correlate."""
        names, intruder_runs, forgetting_runs = (
            study.names,
            study.intruder_runs,
            study.forgetting_runs,
        )
        claims_by_run = [
            {claim.name: claim.value for claim in from_table(run.tables["claims"])}
            for run in intruder_runs
        ]
        counts, subspace_counts = (
            np.array([values[name] for values in claims_by_run])
            for name in ("intruders", "intruders-by-subspace")
        )
        intervals = [
            cluster_interval(run["loss"], run["cluster"], minus=run["base_loss"])
            for run in forgetting_runs
        ]
        value, low, high = (np.array(ends) for ends in zip(*intervals, strict=True))
        rows = {
            "checkpoint": names,
            "place": np.arange(1, len(names) + 1),
            "intruders": counts,
            "subspace_intruders": subspace_counts,
            "relative_norm": np.array([run.summary["mean_relative_norm"] for run in intruder_runs]),
            "loss": np.array([run["loss"].mean() for run in forgetting_runs]),
            "forgetting": value,
            "low": low,
            "high": high,
        }
        texts = {
            "checkpoint": np.repeat(np.array(names, object), [len(run) for run in forgetting_runs]),
            **{
                name: np.concatenate([run[name] for run in forgetting_runs])
                for name in columns_of(TextRow)
            },
        }
        permuted = self.permuted_correlations(counts, value, study.seed)
        return Result(
            rows_table(CheckpointRow, "", rows),
            tables={
                "texts": rows_table(CheckpointTextRow, "", texts),
                "permuted": rows_table(PermutationRow, "", {"correlation": permuted}),
            },
            claims=[_claim(len(names))],
            summary={
                "checkpoints": len(names),
                "base_loss": float(forgetting_runs[0]["base_loss"].mean()),
            },
            limits=[LIMIT],
        )

    def permuted_correlations(
        self, counts: np.ndarray, forgetting: np.ndarray, seed: int
    ) -> np.ndarray:
        """Correlations under all permutations but the observed one, or under random ones."""
        n = len(counts)
        if math.factorial(n) <= self.draws + 1:
            orders = [list(order) for order in permutations(range(n))][1:]
        else:
            generator = np.random.default_rng(seed)
            orders = [generator.permutation(n) for _ in range(self.draws)]
        return np.array([rank_correlation(counts, forgetting[order]) for order in orders])


def _claim(n: int) -> Claim:
    tested = n >= MIN_CHECKPOINTS
    p_text = ", p = {p:.2g}" if tested else f" (a test needs {MIN_CHECKPOINTS} checkpoints or more)"
    return Claim(
        name="intruders-correlate-with-forgetting",
        estimate=statistic("rank-correlation", "intruders", by="forgetting"),
        at_least=0.0,
        null=(
            Draws("permuted", "correlation", arrangements=float(math.factorial(n)))
            if tested
            else None
        ),
        control="permutations of the checkpoints" if tested else "",
        text=(
            f"Across {n} checkpoints the number of intruders and forgetting have a rank correlation"
            f" of {{value:.2f}}{p_text}; the update's relative norm and forgetting have one of"
            " {norm:.2f}."
        ),
        undefined=(
            f"Across {n} checkpoints no correlation is defined: the number of intruders, or"
            " forgetting, is the same in all of them."
        ),
        also={"norm": statistic("rank-correlation", "relative_norm", by="forgetting")},
    )
