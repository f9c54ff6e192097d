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
from interp.models.checkpoint import Checkpoint, embedding_and_head
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


def block_matrices(skeleton: PreTrainedModel, anatomy: Anatomy) -> list[Matrix]:
    """Every matrix of a block with an exact module."""
    matrices = []
    for layer in range(anatomy.n_layers):
        for part in MATRICES:
            if part in anatomy.matrices:
                place = anatomy.place(Weight(layer, part))
                transposed = isinstance(skeleton.get_submodule(place.path), Conv1D)
                matrices.append(Matrix(layer, part, place, transposed))
    return matrices


def end_matrices(
    skeleton: PreTrainedModel,
    base: Checkpoint,
    tuned: Checkpoint | LowRank,
    configured_tying: Mapping[str, bool],
    notes: list[str],
) -> list[Matrix]:
    """Embedding and head, or only one of them if they are tied in both models.

    ``configured_tying``: whether each configuration ties them, by model name. Raises
    UnsupportedModel if only one does and does not store both.
    """
    tensor_names, prefix = embedding_and_head(skeleton), skeleton.base_model_prefix
    matrices = [
        Matrix(OUTSIDE, part, Place(end.removesuffix(".weight")))
        for part, end in zip(_ENDS, tensor_names, strict=False)
    ]
    if isinstance(tuned, Checkpoint):
        if not all(
            checkpoint.holds(end, prefix) for checkpoint in (base, tuned) for end in tensor_names
        ):
            consequence = (
                "embedding and head cannot be compared; leave out --embeddings to compare only the "
                "blocks"
            )
            preflight.require_equal_tying(configured_tying, consequence)
        tuned_is_tied = bool(tuned.tied)
    else:
        tuned_is_tied = tuned.keeps_tied([matrix.place.path for matrix in matrices])
    if not (base.tied and tuned_is_tied):
        if any(configured_tying.values()):
            notes.append(
                "the configuration ties the head to the embedding but the weights differ: both are "
                "analysed"
            )
        return matrices
    if isinstance(tuned, LowRank) and matrices[-1].place.path in tuned.factor_keys:
        notes.append("the embedding is tied to the head: counted once, as unembed")
        return matrices[-1:]
    notes.append("the head is tied to the embedding: counted once, as embed")
    return matrices[:1]


def matrices_in_both(
    candidates: Sequence[Matrix],
    base: Checkpoint,
    tuned: Checkpoint | LowRank,
    prefix: str,
    notes: list[str],
) -> list[Matrix]:
    """The matrices whose shapes agree; a resized vocabulary gives a note, any other difference an
    error.
    """
    matrices, converted = [], []
    checkpoints = [part for part in (base, tuned) if isinstance(part, Checkpoint)]
    for matrix in candidates:
        if any(
            matrix.tensor in part.converted and not part.has(matrix.tensor, prefix)
            for part in checkpoints
        ):
            converted.append(matrix.tensor)
            continue
        if matrix.layer == OUTSIDE and not all(
            part.has(matrix.tensor, prefix) for part in checkpoints
        ):
            notes.append(f"{matrix.tensor} is not in the checkpoint under this name: not analysed")
            continue
        base_shape = base.shape(base.find(matrix.tensor, prefix))
        if len(base_shape) != 2:
            notes.append(
                f"{matrix.tensor} has shape {base_shape} and is not a matrix: not analysed"
            )
            continue
        is_checkpoint = isinstance(tuned, Checkpoint)
        tuned_shape = (
            tuned.shape(tuned.find(matrix.tensor, prefix))
            if is_checkpoint
            else tuned.saved_shape(matrix.place.path, base_shape)
        )
        if base_shape != tuned_shape and matrix.layer == OUTSIDE:
            notes.append(
                f"{matrix.tensor} was resized from {base_shape} to {tuned_shape}: not analysed"
            )
            continue
        if is_checkpoint and base_shape != tuned_shape:
            raise WidthMismatch(
                f"{matrix.tensor} is {base_shape} in the base and {tuned_shape} in the fine-tuned"
                " model; give the model that was fine-tuned"
            )
        if (
            not is_checkpoint
            and matrix.layer == OUTSIDE
            and "lora_embedding_A" in tuned.factor_keys.get(matrix.place.path, {})
        ):
            notes.append(f"{matrix.tensor} has an adapter for embeddings: not analysed")
            continue
        matrices.append(matrix)
    if converted:
        notes.append(
            f"{len(converted)} matrices are stored differently in the checkpoint than in the model,"
            f" first {converted[0]}: not analysed"
        )
    return sorted(matrices, key=lambda matrix: matrix.layer)


def left_out_notes(
    base: Checkpoint,
    tuned: Checkpoint | LowRank,
    matrices: Sequence[Matrix],
    anatomy: Anatomy,
    prefix: str,
    embeddings: bool,
) -> list[str]:
    """Notes on matrices of the base that are not analysed, so that none is left out silently."""
    analysed = {base.find(matrix.tensor, prefix) for matrix in matrices}
    block_prefix = anatomy.blocks_path.removeprefix(f"{prefix}.") + "."
    model_names = {name: as_loaded for as_loaded, name in base.renamed.items()}
    remaining = [
        name
        for name, (_, shape, _) in base.locations.items()
        if name not in analysed and len(shape) > 1
    ]
    block_tensors = [
        name
        for name in remaining
        if model_names[name].removeprefix(f"{prefix}.").startswith(block_prefix)
    ]
    notes = (
        [
            f"{len(block_tensors)} tensors of blocks were not analysed, first"
            f" {sorted(block_tensors)[0]}"
        ]
        if block_tensors
        else []
    )
    root = anatomy.blocks_path.rpartition(".")[0] + "."
    nested = [
        name
        for name in remaining
        if "." in model_names[name].removesuffix(".weight") and name not in block_tensors
    ]
    other_parts = [
        name for name in nested if name in base.unused or not model_names[name].startswith(root)
    ]
    if other_parts:
        notes.append(
            f"{len(other_parts)} tensors outside the text model were not analysed, first"
            f" {min(other_parts)}"
        )
    if not embeddings and len(remaining) > len(block_tensors) + len(other_parts):
        notes.append("embedding and head were not analysed (--embeddings adds them)")
    if isinstance(tuned, LowRank) and (
        other_modules := sorted(tuned.changed_modules - {matrix.place.path for matrix in matrices})
    ):
        notes.append(
            f"the adapter also changes {len(other_modules)} module{'s' * (len(other_modules) != 1)}"
            f" not analysed here, first {other_modules[0]}"
        )
    return notes
