"""Overlaps of the masks of several tasks, compared with chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from interp.errors import OptionError
from interp.experiments.mask_overlaps import overlaps_table
from interp.experiments.masks import is_run_of, require_graft_run, stored_masks
from interp.models.grafts import Scope
from interp.models.pair import Pair
from interp.table import Table

RANKED_KINDS = ("learned", "relaxed", "movement", "first-order")


def require_comparable(run: Table, pair: Pair, scope: Scope) -> None:
    """Raise OptionError for a run whose base or scope differs, so that masks cannot be compared."""
    require_graft_run(run)
    provenance = run.require_provenance()
    if provenance.inputs.get("base") != pair.digests.get("base"):
        raise OptionError(
            f"run {provenance.key} grafts into another base; give graft runs of the same base"
        )
    sizes = {piece.name: piece.size for piece in scope.pairs}
    if {row["parameter"]: row["size"] for row in run.tables["layers"].rows()} != sizes:
        raise OptionError(
            f"run {provenance.key} has another scope than {', '.join(scope.parts)}; give graft runs"
            " of the same scope"
        )


def all_overlaps(
    indices: Mapping[str, Mapping[str, np.ndarray]],
    other_runs: Sequence[Table],
    pair: Pair,
    universe: int,
) -> Table:
    """Pairwise overlaps of the masks of this run (``this``) and of other runs (by key), out of
    ``universe`` weights.
    """
    names = [
        run.require_provenance().key
        + ("" if is_run_of(run, pair) else " (another fine-tuned model)")
        for run in other_runs
    ]
    masks_by_kind = {
        kind: {
            "this": indices.get(kind, {}),
            **{name: stored_masks(run, kind) for name, run in zip(names, other_runs, strict=True)},
        }
        for kind in RANKED_KINDS
    }
    return overlaps_table(masks_by_kind, universe)
