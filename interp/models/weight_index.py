"""The matrices of a pair of checkpoints, located by the anatomy of a model without weights, and
notes on those left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from interp.errors import WidthMismatch
from interp.models import preflight
from interp.models.anatomy import Anatomy, Place
from interp.models.checkpoint import Checkpoint, ends_of
from interp.models.low_rank import LowRank
from interp.sites import MATRICES, Weight

_ENDS = ("embed", "unembed")
OUTSIDE = -1
"""The layer number of embedding and head."""


@dataclass(frozen=True)
class Matrix:
    """One matrix: its block (-1 outside blocks), part, and location."""

    layer: int
    part: str
    place: Place
    transposed: bool = False

    def __str__(self) -> str:
        return self.part if self.layer == OUTSIDE else f"blocks.{self.layer}.{self.part}"

    @property
    def tensor(self) -> str:
        """Name of the tensor in a checkpoint."""
        return f"{self.place.path}.weight"


def blocks(skeleton: PreTrainedModel, anatomy: Anatomy) -> list[Matrix]:
    """Every matrix of a block with an exact module."""
    found = []
    for layer in range(anatomy.n_layers):
        for part in MATRICES:
            if part in anatomy.matrices:
                place = anatomy.place(Weight(layer, part))
                transposed = isinstance(skeleton.get_submodule(place.path), Conv1D)
                found.append(Matrix(layer, part, place, transposed))
    return found


def ends(
    skeleton: PreTrainedModel,
    own: Checkpoint,
    other: Checkpoint | LowRank,
    said: Mapping[str, bool],
    notes: list[str],
) -> list[Matrix]:
    """Embedding and head, or only one of them if they are tied in both models.

    ``said``: whether each configuration ties them, by model name. Raises UnsupportedModel if only
    one does and does not store both.
    """
    ends, prefix = ends_of(skeleton), skeleton.base_model_prefix
    found = [
        Matrix(OUTSIDE, part, Place(end.removesuffix(".weight")))
        for part, end in zip(_ENDS, ends, strict=False)
    ]
    if isinstance(other, Checkpoint):
        if not all(checkpoint.holds(end, prefix) for checkpoint in (own, other) for end in ends):
            so = (
                "embedding and head cannot be compared; leave out --embeddings to compare only the "
                "blocks"
            )
            preflight.require_same_tie(said, so)
        alike = bool(other.tied)
    else:
        alike = other.changes_alike([matrix.place.path for matrix in found])
    if not (own.tied and alike):
        if any(said.values()):
            notes.append(
                "the configuration ties the head to the embedding but the weights differ: both are "
                "analysed"
            )
        return found
    if isinstance(other, LowRank) and found[-1].place.path in other.parts:
        notes.append("the embedding is tied to the head: counted once, as unembed")
        return found[-1:]
    notes.append("the head is tied to the embedding: counted once, as embed")
    return found[:1]


def in_both(
    found: Sequence[Matrix],
    own: Checkpoint,
    other: Checkpoint | LowRank,
    prefix: str,
    notes: list[str],
) -> list[Matrix]:
    """The matrices whose shapes agree; a resized vocabulary gives a note, any other difference an
    error.
    """
    kept, apart = [], []
    holders = [part for part in (own, other) if isinstance(part, Checkpoint)]
    for matrix in found:
        if any(
            matrix.tensor in part.converted and not part.has(matrix.tensor, prefix)
            for part in holders
        ):
            apart.append(matrix.tensor)
            continue
        if matrix.layer == OUTSIDE and not all(part.has(matrix.tensor, prefix) for part in holders):
            notes.append(f"{matrix.tensor} is not in the checkpoint under this name: not analysed")
            continue
        mine = own.shape(own.find(matrix.tensor, prefix))
        if len(mine) != 2:
            notes.append(f"{matrix.tensor} has shape {mine} and is not a matrix: not analysed")
            continue
        whole = isinstance(other, Checkpoint)
        theirs = (
            other.shape(other.find(matrix.tensor, prefix))
            if whole
            else other.saved_shape(matrix.place.path, mine)
        )
        if mine != theirs and matrix.layer == OUTSIDE:
            notes.append(f"{matrix.tensor} was resized from {mine} to {theirs}: not analysed")
            continue
        if whole and mine != theirs:
            raise WidthMismatch(
                f"{matrix.tensor} is {mine} in the base and {theirs} in the fine-tuned model; give "
                "the model that was fine-tuned"
            )
        if (
            not whole
            and matrix.layer == OUTSIDE
            and "lora_embedding_A" in other.parts.get(matrix.place.path, {})
        ):
            notes.append(f"{matrix.tensor} has an adapter for embeddings: not analysed")
            continue
        kept.append(matrix)
    if apart:
        notes.append(
            f"{len(apart)} matrices are stored differently in the checkpoint than in the model, "
            f"first {apart[0]}: not analysed"
        )
    return sorted(kept, key=lambda matrix: matrix.layer)


def left_out(
    own: Checkpoint,
    other: Checkpoint | LowRank,
    matrices: Sequence[Matrix],
    anatomy: Anatomy,
    prefix: str,
    embeddings: bool,
) -> list[str]:
    """Notes on matrices of the base that are not analysed, so that none is left out silently."""
    taken = {own.find(matrix.tensor, prefix) for matrix in matrices}
    inside = anatomy.blocks_path.removeprefix(f"{prefix}.") + "."
    loaded = {name: as_loaded for as_loaded, name in own.renamed.items()}
    rest = [
        name for name, (_, shape, _) in own.places.items() if name not in taken and len(shape) > 1
    ]
    blocks = [name for name in rest if loaded[name].removeprefix(f"{prefix}.").startswith(inside)]
    notes = (
        [f"{len(blocks)} tensors of blocks were not analysed, first {sorted(blocks)[0]}"]
        if blocks
        else []
    )
    root = anatomy.blocks_path.rpartition(".")[0] + "."
    nested = [
        name for name in rest if "." in loaded[name].removesuffix(".weight") and name not in blocks
    ]
    other_parts = [
        name for name in nested if name in own.unused or not loaded[name].startswith(root)
    ]
    if other_parts:
        notes.append(
            f"{len(other_parts)} tensors outside the text model were not analysed, first"
            f" {min(other_parts)}"
        )
    if not embeddings and len(rest) > len(blocks) + len(other_parts):
        notes.append("embedding and head were not analysed (--embeddings adds them)")
    if isinstance(other, LowRank) and (
        lost := sorted(other.touched - {matrix.place.path for matrix in matrices})
    ):
        notes.append(
            f"the adapter also changes {len(lost)} module{'s' * (len(lost) != 1)} not analysed"
            f" here, first {lost[0]}"
        )
    return notes
