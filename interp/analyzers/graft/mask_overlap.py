"""Overlaps of the masks of several tasks, compared with chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool
from torch import Tensor

from interp.errors import OptionError
from interp.experiments.mask_overlaps import overlaps_table
from interp.experiments.masks import stored_masks
from interp.models.grafts import Scope
from interp.study import Study
from interp.table import Table

KINDS = ("learned", "relaxed", "movement", "first-order")


def is_same_model(run: Table, study: Study) -> bool:
    """Whether a run is of the study's fine-tuned model."""
    digests = study.pair.digests
    return all(
        run.require_provenance().inputs.get(role) == digests.get(role)
        for role in ("base", "tuned", "adapter")
    )


def learned_mask(run: Table, study: Study, scope: Scope) -> Bool[Tensor, " P"]:
    """The learned mask of another run, within the scope."""
    return scope.mask(stored_masks(run, "learned"))


def require_comparable(run: Table, study: Study, scope: Scope) -> None:
    """Raise OptionError for a run whose base or scope differs, so that masks cannot be compared."""
    provenance = run.require_provenance()
    if run.kind != "graft":
        raise OptionError(
            f"run {provenance.key} is of kind {run.kind}; give keys of graft runs (interp ls)"
        )
    if provenance.inputs.get("base") != study.pair.digests.get("base"):
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
    study: Study,
    scope: Scope,
) -> Table:
    """Pairwise overlaps of the masks of this run (``this``) and of other runs (by key)."""
    masks_by_kind = {}
    for kind in KINDS if other_runs else ():
        by_name = {"this": indices.get(kind, {})}
        for run in other_runs:
            name = run.require_provenance().key + (
                "" if is_same_model(run, study) else " (another fine-tuned model)"
            )
            by_name[name] = stored_masks(run, kind)
        masks_by_kind[kind] = {name: mask for name, mask in by_name.items() if mask}
    return overlaps_table(masks_by_kind, scope.size)
