"""Masks of several tasks: how far they overlap, beside what chance gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool
from torch import Tensor

from interp.errors import OptionError
from interp.maths.overlap import overlap
from interp.models.grafts import Scope
from interp.study import Study
from interp.table import Table, table

KINDS = ("learned", "relaxed", "movement", "first-order")


def masks_of(run: Table, kind: str) -> dict[str, np.ndarray]:
    """The mask of a kind in a stored graft run: sorted flat indices per parameter."""
    return {name.split("/", 1)[1]: where for name, where in run.arrays.items() if name.startswith(f"{kind}/")}


def same_tune(run: Table, study: Study) -> bool:
    """Whether a run is of the study's own tuned model."""
    digests = study.pair.digests
    return all(run.provenance.inputs.get(role) == digests.get(role) for role in ("base", "tuned", "adapter"))


def others_mask(run: Table, study: Study, scope: Scope) -> Bool[Tensor, " P"]:
    """The learned mask of another run, in this scope."""
    return scope.mask(masks_of(run, "learned"))


def require_comparable(run: Table, study: Study, scope: Scope) -> None:
    """Raise OptionError for a run whose masks number other weights than the scope's."""
    made = run.provenance
    if run.kind != "graft":
        raise OptionError(f"run {made.key} is of kind {run.kind}; give keys of graft runs (interp ls)")
    if made.inputs.get("base") != study.pair.digests.get("base"):
        raise OptionError(f"run {made.key} grafts into another base; masks of two bases cannot be compared")
    sizes = {piece.name: piece.size for piece in scope.pieces}
    if {row["parameter"]: row["size"] for row in run.tables["layers"].rows()} != sizes:
        raise OptionError(f"run {made.key} has another scope than {', '.join(scope.parts)}; graft both in the same one")


def overlaps_table(
    indices: Mapping[str, Mapping[str, np.ndarray]], beside: Sequence[Table], study: Study, scope: Scope
) -> Table:
    """One row per run and kind of mask: this run's mask against that one's, and random ones of these sizes."""
    rows = []
    for run in beside:
        for kind in KINDS:
            mine, theirs = indices.get(kind, {}), masks_of(run, kind)
            if not theirs or not mine:
                continue
            shared = sum(len(np.intersect1d(where, theirs.get(name, []))) for name, where in mine.items())
            sizes = (sum(map(len, part.values())) for part in (mine, theirs))
            found = overlap(shared, *sizes, scope.size)
            rows.append((run.provenance.key, kind, same_tune(run, study), *found))
    run, kind, same, shared, of_first, of_second, jaccard, expected, above = (
        zip(*rows, strict=True) if rows else [()] * 9
    )
    return table(
        "graft-overlaps",
        {
            "beside": (list(run), "key", "key of the other graft run"),
            "kind": (list(kind), "key", "which mask of both"),
            "same_tune": (list(same), "flag", "both are of one tuned model"),
            "shared": (list(shared), "measure", "weights in both masks", "weights"),
            "of_this": (list(of_first), "measure", "share of this run's mask that is in the other"),
            "of_other": (list(of_second), "measure", "share of the other's mask that is in this run's"),
            "jaccard": (list(jaccard), "measure", "shared weights over weights in either"),
            "expected": (list(expected), "measure", "shared by random masks of these sizes, on average", "weights"),
            "p": (list(above), "measure", "random masks share as many or more (hypergeometric)"),
        },
    )
