"""Masks of several tasks: how far they overlap, beside what chance gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool
from torch import Tensor

from interp.errors import OptionError
from interp.experiments.mask_overlaps import overlaps_table
from interp.experiments.masks import masks_of
from interp.models.grafts import Scope
from interp.study import Study
from interp.table import Table

KINDS = ("learned", "relaxed", "movement", "first-order")


def same_tune(run: Table, study: Study) -> bool:
    """Whether a run is of the study's own tuned model."""
    digests = study.pair.digests
    return all(
        run.require_provenance().inputs.get(role) == digests.get(role)
        for role in ("base", "tuned", "adapter")
    )


def others_mask(run: Table, study: Study, scope: Scope) -> Bool[Tensor, " P"]:
    """The learned mask of another run, in this scope."""
    return scope.mask(masks_of(run, "learned"))


def require_comparable(run: Table, study: Study, scope: Scope) -> None:
    """Raise OptionError for a run whose masks number other weights than the scope's."""
    made = run.require_provenance()
    if run.kind != "graft":
        raise OptionError(
            f"run {made.key} is of kind {run.kind}; give keys of graft runs (interp ls)"
        )
    if made.inputs.get("base") != study.pair.digests.get("base"):
        raise OptionError(
            f"run {made.key} grafts into another base; masks of two bases cannot be compared"
        )
    sizes = {piece.name: piece.size for piece in scope.pieces}
    if {row["parameter"]: row["size"] for row in run.tables["layers"].rows()} != sizes:
        raise OptionError(
            f"run {made.key} has another scope than {', '.join(scope.parts)}; graft both in the"
            " same one"
        )


def all_overlaps(
    indices: Mapping[str, Mapping[str, np.ndarray]],
    beside: Sequence[Table],
    study: Study,
    scope: Scope,
) -> Table:
    """Masks of this run (``this``) and of those beside it (by key), every one against every other."""
    found = {}
    for kind in KINDS if beside else ():
        by_name = {"this": indices.get(kind, {})}
        for run in beside:
            name = run.require_provenance().key + (
                "" if same_tune(run, study) else " (another tune)"
            )
            by_name[name] = masks_of(run, kind)
        found[kind] = {name: mask for name, mask in by_name.items() if mask}
    return overlaps_table(found, scope.size)
