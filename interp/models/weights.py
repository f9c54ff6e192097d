"""A pair of models as matrices streamed from disk: one pair of matrices in memory, no model.

Which tensor is which matrix is read from the anatomy of a model laid out without weights: fused projections are split
into what the blocks use, GPT-2's transposed ones are turned to ``(out, in)``. What is left out is named in ``notes``.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from interp.errors import OutOfMemory, PairError, WidthMismatch, required
from interp.models import layout, load, preflight, sources
from interp.models.anatomy import Anatomy, Place, read_anatomy
from interp.models.checkpoint import Checkpoint
from interp.models.kept import Kept
from interp.models.low_rank import Factors, LowRank
from interp.models.precision import name_of
from interp.models.renamed import experts
from interp.models.sources import Source
from interp.provenance import Provenance, digest, environment, plain
from interp.sites import MATRICES, Weight

Result = TypeVar("Result")

_ENDS = {"embed": "get_input_embeddings", "unembed": "get_output_embeddings"}
OUTSIDE = -1
"""The layer of what belongs to no block: the embedding and the head."""


@dataclass(frozen=True)
class Matrix:
    """One matrix: its block (-1 outside blocks), part, the module that holds it, and which rows of that are its."""

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


@dataclass(frozen=True)
class Both:
    """A matrix of the base and of the tuned model, ``(out, in)``, and the factors of the update where it has some."""

    base: Float[Tensor, "out in"]
    tuned: Float[Tensor, "out in"]
    factors: Factors | None = None

    @property
    def changed(self) -> bool:
        """Whether they differ in any number."""
        return not torch.equal(self.base, self.tuned)


@dataclass(frozen=True, eq=False)
class WeightPair:
    """What a study is where only weights are looked at: two checkpoints, their matrices, and a seed.

    ``jobs`` pairs of matrices are in memory at a time. ``kept`` remembers what was computed from the base alone.
    """

    tuned: str
    base: str
    matrices: Sequence[Matrix]
    digests: Mapping[str, str]
    notes: Sequence[str] = ()
    architecture: str = ""
    seed: int = 0
    jobs: int = 1
    quiet: bool = True
    kept: Kept | None = None
    _base: Checkpoint | None = field(default=None, repr=False)
    _tuned: Checkpoint | LowRank | None = field(default=None, repr=False)
    _prefix: str = field(default="", repr=False)

    @classmethod
    def load(
        cls,
        tuned: str,
        base: str | None = None,
        *,
        embeddings: bool = False,
        trust_remote_code: bool = False,
        **settings: Any,
    ) -> "WeightPair":
        """Find both checkpoints, read their headers, and list the matrices that both have.

        ``tuned`` may be a LoRA adapter, whose base comes from ``base`` or from its own configuration. ``embeddings``
        adds the embedding and the head, tied ones once (in both, or neither). Raises a ModelError or a PairError.
        """
        source = sources.find(tuned)
        root = source.base(base)
        opened = Checkpoint.open(root)
        skeleton = layout.skeleton(root, trust_remote_code)
        own = opened.loaded_as(skeleton)
        notes = [*source.notes, *root.notes]
        other: Checkpoint | LowRank
        if source.adapter is None:
            preflight.require_same_shape(root, source, vocabulary=False)
            other = Checkpoint.open(source).loaded_as(skeleton)
        else:
            other = LowRank.read(source, {path for path, _ in skeleton.named_modules()})
            notes += preflight.recorded_base(source, root)
        digests = {"tuned": load.weights_digest(source), "base": load.weights_digest(root)}
        if digests["tuned"] == digests["base"]:
            notes.append("base and tuned model have the same weights: every difference is zero")
        anatomy, prefix = read_anatomy(skeleton), skeleton.base_model_prefix
        found = [*_blocks(skeleton, anatomy), *(Matrix(*one) for one in experts(own.renamed, anatomy, prefix))]
        found += _ends(skeleton, root, source, notes, trust_remote_code) if embeddings else []
        matrices = _in_both(found, own, other, prefix, notes)
        notes += _left_out(own, other, matrices, anatomy, prefix, embeddings)
        if not matrices:
            raise PairError(f"{root.name} has no matrix that can be told apart exactly; see docs/intruders.md")
        made = cls(
            tuned, root.name, tuple(matrices), digests, tuple(notes), anatomy.architecture, _base=own, _tuned=other,
            _prefix=prefix, **settings,
        )  # fmt: skip
        if half := next(filter(None, map(made._rounded, matrices)), None):
            note = (
                f"{tuned} is kept in {name_of(half)}, {root.name} is not: it is compared with the base rounded to that"
            )
            made = replace(made, notes=(*notes, note))
        return made

    def read(self, matrix: Matrix) -> Both:
        """Both versions of a matrix, from disk."""
        whole, tuned = self._own(required(self._base, "a checkpoint"), matrix), required(self._tuned, "a checkpoint")
        if half := self._rounded(matrix):
            whole = whole.to(half).to(whole.dtype)
        mine = matrix.place.cut_out(whole)
        if isinstance(tuned, Checkpoint):
            return Both(mine, matrix.place.cut_out(self._own(tuned, matrix)))
        if matrix.place.path not in tuned.touched:
            return Both(mine, mine)
        return Both(mine, *tuned.apply(matrix.place.path, matrix.place, whole, matrix.transposed))

    def _rounded(self, matrix: Matrix) -> torch.dtype | None:
        """The 16-bit format in which the tuned model's file has this matrix, where the base's has more bits."""
        if not isinstance(self._tuned, Checkpoint) or (self._base and self._base.half(matrix.tensor, self._prefix)):
            return None
        return self._tuned.half(matrix.tensor, self._prefix)

    def _own(self, checkpoint: Checkpoint, matrix: Matrix) -> Float[Tensor, "rows in"]:
        value = checkpoint.read(checkpoint.find(matrix.tensor, self._prefix))
        return value.T.contiguous() if matrix.transposed else value

    def each(self, work: Callable[[int, Matrix], Result], what: str) -> list[Result]:
        """``work`` on every matrix and its number, ``jobs`` at a time; results in order."""
        hidden = self.quiet or not sys.stderr.isatty()
        with ThreadPoolExecutor(self.jobs) as pool:
            done = pool.map(work, range(len(self.matrices)), self.matrices)
            try:
                return list(tqdm(done, what, len(self.matrices), leave=False, disable=hidden, file=sys.stderr))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def of_base(self, matrix: Matrix, what: str, compute: Callable[[], Mapping[str, np.ndarray]]) -> dict:
        """Arrays that follow from the base's matrix alone: recalled, or computed and kept."""
        if self.kept is None:
            return dict(compute())
        half = [str(rounded)] if (rounded := self._rounded(matrix)) else []
        name = digest([what, self.digests["base"], matrix.part, matrix.layer, *half])[:32]
        if (found := self.kept.recall(name)) is None:
            found = dict(compute())
            self.kept.keep(name, found)
        return found

    def back_off(self, reason: str) -> None:
        """Nothing is smaller than a pair of matrices; raises OutOfMemory."""
        raise OutOfMemory(
            f"no memory for {self.jobs} pair(s) of matrices at a time ({reason}); use --jobs 1, or a larger machine"
        )

    @property
    def inputs(self) -> dict[str, Any]:
        """What of the weights determines an analyzer's numbers, as JSON."""
        return {**self.digests, "matrices": [str(matrix) for matrix in self.matrices], "seed": self.seed}

    def provenance(self, analyzer: Any) -> Provenance:
        """What a result of this analyzer on these weights is made from."""
        context = {name: getattr(self, name) for name in ("tuned", "base", "architecture", "jobs")}
        context |= {"notes": list(self.notes), "environment": environment()}
        return Provenance(
            analyzer.name, analyzer.version, plain(analyzer.options), analyzer.parent, self.inputs, context
        )


def _blocks(skeleton: PreTrainedModel, anatomy: Anatomy) -> list[Matrix]:
    found = []
    for layer in range(anatomy.n_layers):
        for part in MATRICES:
            if part in anatomy.matrices:
                place = anatomy.place(Weight(layer, part))
                transposed = isinstance(skeleton.get_submodule(place.path), Conv1D)
                found.append(Matrix(layer, part, place, transposed))
    return found


def _ends(skeleton: PreTrainedModel, base: Source, tuned: Source, notes: list[str], trusted: bool) -> list[Matrix]:
    paths = {id(module): path for path, module in skeleton.named_modules()}
    found = [Matrix(OUTSIDE, part, Place(paths[id(getattr(skeleton, get)())])) for part, get in _ENDS.items()]
    tied = layout.tied(skeleton.config)
    if tuned.adapter is None:
        so = "their ends cannot be compared; leave out --embeddings to compare the matrices of the blocks"
        preflight.require_same_tie({base.name: tied, tuned.name: layout.tied(layout.configuration(tuned, trusted))}, so)
    if tied:
        notes.append("the head is tied to the embedding: counted once, as embed")
        return found[:1]
    return found


def _in_both(
    found: Sequence[Matrix], own: Checkpoint, other: Checkpoint | LowRank, prefix: str, notes: list[str]
) -> list[Matrix]:
    """The matrices whose shapes agree; a vocabulary that was resized is named, any other difference refused."""
    kept, apart = [], []
    holders = [part for part in (own, other) if isinstance(part, Checkpoint)]
    for matrix in found:
        if any(matrix.tensor in part.converted and not part.has(matrix.tensor, prefix) for part in holders):
            apart.append(matrix.tensor)
            continue
        if matrix.layer == OUTSIDE and not all(part.has(matrix.tensor, prefix) for part in holders):
            notes.append(f"{matrix.tensor} is not in the checkpoint under this name: not analysed")
            continue
        mine = own.shape(own.find(matrix.tensor, prefix))
        if len(mine) != 2:
            notes.append(f"{matrix.tensor} has shape {mine} and is no matrix: not analysed")
            continue
        whole = isinstance(other, Checkpoint)
        theirs = other.shape(other.find(matrix.tensor, prefix)) if whole else other.saved_shape(matrix.place.path, mine)
        if mine != theirs and matrix.layer == OUTSIDE:
            notes.append(f"{matrix.tensor} was resized from {mine} to {theirs}: not analysed")
            continue
        if whole and mine != theirs:
            raise WidthMismatch(
                f"{matrix.tensor} is {mine} in the base and {theirs} in the tuned model; give the model that was tuned"
            )
        if not whole and matrix.layer == OUTSIDE and "lora_embedding_A" in other.parts.get(matrix.place.path, {}):
            notes.append(f"{matrix.tensor} has an adapter for embeddings: not analysed")
            continue
        kept.append(matrix)
    if apart:
        notes.append(
            f"{len(apart)} matrices are kept in another form in the checkpoint than in the model, first {apart[0]}: "
            "not analysed"
        )
    return sorted(kept, key=lambda matrix: matrix.layer)


def _left_out(
    own: Checkpoint,
    other: Checkpoint | LowRank,
    matrices: Sequence[Matrix],
    anatomy: Anatomy,
    prefix: str,
    embeddings: bool,
) -> list[str]:
    """Remarks on matrices of the base that are in no list, so that none is left out silently."""
    taken = {own.find(matrix.tensor, prefix) for matrix in matrices}
    inside = anatomy.blocks_path.removeprefix(f"{prefix}.") + "."
    loaded = {name: as_loaded for as_loaded, name in own.renamed.items()}
    rest = [name for name, (_, shape, _) in own.places.items() if name not in taken and len(shape) > 1]
    blocks = [name for name in rest if loaded[name].removeprefix(f"{prefix}.").startswith(inside)]
    notes = [f"{len(blocks)} tensors of blocks were not analysed, first {sorted(blocks)[0]}"] if blocks else []
    root = anatomy.blocks_path.rpartition(".")[0] + "."
    nested = [name for name in rest if "." in loaded[name].removesuffix(".weight") and name not in blocks]
    other_parts = [name for name in nested if name in own.unused or not loaded[name].startswith(root)]
    if other_parts:
        notes.append(f"{len(other_parts)} tensors outside the text model were not analysed, first {min(other_parts)}")
    if not embeddings and len(rest) > len(blocks) + len(other_parts):
        notes.append("embedding and head were not analysed (--embeddings adds them)")
    if isinstance(other, LowRank) and (lost := sorted(other.touched - {matrix.place.path for matrix in matrices})):
        notes.append(
            f"the adapter also changes {len(lost)} module{'s' * (len(lost) != 1)} not analysed here, first {lost[0]}"
        )
    return notes
