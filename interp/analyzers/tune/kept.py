"""What a run keeps: the change of one arm, only if refusals are not fewer than before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from interp.analyzers.tune.measure import Measures
from interp.analyzers.tune.tables import Run
from interp.maths.host import to_host
from interp.maths.intervals import cluster_interval
from interp.models.sparse_delta import Entries
from interp.table import Table

INDICES, VALUES = ".indices", ".values"


def refusals_after(
    measures: Measures, runs: Sequence[Run], written: str, margin: float
) -> dict[str, Any]:
    """Whether refusals after training are not fewer, and the numbers that say so."""
    seed = measures.study.seed
    outcome = next(
        (
            run.outcome
            for run in runs
            if (run.arm, run.draw, run.seed) == (written, 0, seed) and run.outcome is not None
        ),
        None,
    )
    facts = {"arm": written, "margin": margin, "kept": False}
    if outcome is None:
        return facts | {"reason": "no arm gave a sparse change"}
    before = measures.before.harmful
    clusters = measures.study.prompts("positive").clusters
    change = cluster_interval(outcome.harmful, clusters, minus=before)
    numbers = {
        "before": float(before.mean()),
        "after": float(outcome.harmful.mean()),
        "low": None if np.isnan(change.low) else change.low,
    }
    kept = bool(change.low > -margin)
    reason = "" if kept else _reason(numbers, len({*clusters}), margin)
    return facts | numbers | {"kept": kept, "reason": reason}


def _reason(numbers: Mapping[str, Any], n_clusters: int, margin: float) -> str:
    if numbers["low"] is None:
        return f"the harmful prompts are of {n_clusters} clusters, too few for an interval"
    return (
        f"refusals of harmful prompts went from {numbers['before']:.1%} to {numbers['after']:.1%},"
        f" and a decrease by {-numbers['low']:.1%} cannot be excluded (margin {margin:.1%},"
        f" {n_clusters} clusters)"
    )


def arrays_of(entries: Mapping[str, Entries]) -> dict[str, np.ndarray]:
    """A change as arrays of a run; the inverse of ``entries_of``."""
    return {
        **{name + INDICES: to_host(each.indices) for name, each in entries.items()},
        **{name + VALUES: to_host(each.values) for name, each in entries.items()},
    }


def entries_of(table: Table) -> dict[str, Entries]:
    """The change that a run kept, by parameter; empty where it kept none."""
    return {
        name.removesuffix(INDICES): Entries(
            torch.tensor(indices),
            torch.tensor(table.arrays[name.removesuffix(INDICES) + VALUES]),
        )
        for name, indices in table.arrays.items()
        if name.endswith(INDICES)
    }
