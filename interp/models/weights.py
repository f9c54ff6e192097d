"""A pair of models as matrices streamed from disk: one pair of matrices in memory, no model.

Tensors are identified by the anatomy of a model built without weights: fused projections are split,
GPT-2's transposed matrices are brought to ``(out, in)``. ``notes`` lists what is left out.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from interp.errors import OutOfMemory, PairError, required
from interp.models import load, meta_model, preflight, sources, text_models, weight_index
from interp.models.anatomy import read_anatomy
from interp.models.checkpoint import Checkpoint
from interp.models.low_rank import Factors, LowRank
from interp.models.precision import name_of
from interp.models.renamed_tensors import experts
from interp.models.weight_index import Matrix
from interp.provenance import Provenance, digest, environment, plain

Result = TypeVar("Result")


@runtime_checkable
class ArrayCache(Protocol):
    """Stores arrays computed from the base alone, for further fine-tuned models."""

    def recall(self, name: str) -> dict[str, np.ndarray] | None:
        """The stored arrays of this name, or None."""
        ...

    def keep(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Store arrays under this name."""
        ...


@dataclass(frozen=True)
class MatrixPair:
    """A matrix of the base and of the fine-tuned model, ``(out, in)``, and the factors of the
    update if there are any.
    """

    base: Float[Tensor, "out in"]
    tuned: Float[Tensor, "out in"]
    factors: Factors | None = None

    @property
    def changed(self) -> bool:
        """Whether they differ in any entry."""
        return not torch.equal(self.base, self.tuned)


@dataclass(frozen=True, eq=False)
class WeightPair:
    """The study of analyzers that read only weights: two checkpoints, their matrices, and a random
    seed.

    ``jobs`` pairs of matrices are in memory at a time. ``kept`` caches arrays computed from the
    base alone.
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
    kept: ArrayCache | None = None
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

        ``tuned`` may be a LoRA adapter, whose base is ``base`` or the one in its configuration.
        ``embeddings`` adds the embedding and the head, tied ones once. Raises a ModelError or a
        PairError.
        """
        source = sources.as_numbers(sources.find(tuned))
        root = text_models.beside(sources.as_numbers(source.base(base)), source)
        opened = Checkpoint.open(root)
        skeleton = meta_model.skeleton(root, trust_remote_code)
        own = opened.loaded_as(skeleton)
        notes = [*source.notes, *root.notes]
        other: Checkpoint | LowRank
        full = 2 if source.adapter is None else 1
        if source.adapter is None:
            preflight.require_same_shape(root, source, vocabulary=False)
            other = Checkpoint.open(source).loaded_as(skeleton)
        else:
            other = LowRank.read(source, {path for path, _ in skeleton.named_modules()})
            notes += preflight.recorded_base(source, root)
        digests = {"tuned": load.weights_digest(source), "base": load.weights_digest(root)}
        if digests["tuned"] == digests["base"]:
            notes.append(
                "base and fine-tuned model have the same weights: every difference is zero"
            )
        anatomy, prefix = read_anatomy(skeleton), skeleton.base_model_prefix
        found = [
            *weight_index.blocks(skeleton, anatomy),
            *(Matrix(*entry) for entry in experts(own.renamed, anatomy, prefix)),
        ]
        if embeddings:
            said = {
                model_source.name: meta_model.tied(
                    meta_model.configuration(model_source, trust_remote_code)
                )
                for model_source in (root, source)[:full]
            }
            found += weight_index.ends(skeleton, own, other, said, notes)
        matrices = weight_index.in_both(found, own, other, prefix, notes)
        notes += weight_index.left_out(own, other, matrices, anatomy, prefix, embeddings)
        if not matrices:
            raise PairError(
                f"{root.name} has no matrix that can be identified exactly; see docs/intruders.md"
            )
        made = cls(
            tuned,
            root.name,
            tuple(matrices),
            digests,
            tuple(notes),
            anatomy.architecture,
            _base=own,
            _tuned=other,
            _prefix=prefix,
            **settings,
        )
        if half := next(filter(None, map(made._rounded, matrices)), None):
            note = (
                f"{tuned} is stored in {name_of(half)} and {root.name} is not: it is compared with "
                f"the base rounded to {name_of(half)}"
            )
            made = replace(made, notes=(*notes, note))
        return made

    def read(self, matrix: Matrix) -> MatrixPair:
        """Both versions of a matrix, from disk."""
        whole, tuned = (
            self._own(required(self._base, "a checkpoint"), matrix),
            required(self._tuned, "a checkpoint"),
        )
        if half := self._rounded(matrix):
            whole = whole.to(half).to(whole.dtype)
        mine = matrix.place.cut_out(whole)
        if isinstance(tuned, Checkpoint):
            return MatrixPair(mine, matrix.place.cut_out(self._own(tuned, matrix)))
        if matrix.place.path not in tuned.touched:
            return MatrixPair(mine, mine)
        return MatrixPair(
            mine, *tuned.apply(matrix.place.path, matrix.place, whole, matrix.transposed)
        )

    def _rounded(self, matrix: Matrix) -> torch.dtype | None:
        """The 16-bit format in which the fine-tuned model's file stores this matrix, if the base's
        has more bits.
        """
        if not isinstance(self._tuned, Checkpoint) or (
            self._base and self._base.half(matrix.tensor, self._prefix)
        ):
            return None
        return self._tuned.half(matrix.tensor, self._prefix)

    def _own(self, checkpoint: Checkpoint, matrix: Matrix) -> Float[Tensor, "rows in"]:
        value = checkpoint.read(checkpoint.find(matrix.tensor, self._prefix))
        return value.T.contiguous() if matrix.transposed else value

    def each(self, work: Callable[[int, Matrix], Result], what: str) -> list[Result]:
        """Call ``work`` with the number of every matrix and the matrix, ``jobs`` at a time; results
        in order.
        """
        hidden = self.quiet or not sys.stderr.isatty()
        with ThreadPoolExecutor(self.jobs) as pool:
            done = pool.map(work, range(len(self.matrices)), self.matrices)
            try:
                return list(
                    tqdm(
                        done, what, len(self.matrices), leave=False, disable=hidden, file=sys.stderr
                    )
                )
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def of_base(
        self, matrix: Matrix, what: str, compute: Callable[[], Mapping[str, np.ndarray]]
    ) -> dict:
        """Arrays that depend only on the base's matrix: from the cache, or computed and cached."""
        if self.kept is None:
            return dict(compute())
        half = [str(rounded)] if (rounded := self._rounded(matrix)) else []
        name = digest([what, self.digests["base"], matrix.part, matrix.layer, *half])[:32]
        if (found := self.kept.recall(name)) is None:
            found = dict(compute())
            self.kept.keep(name, found)
        return found

    def back_off(self, reason: str) -> None:
        """Raises OutOfMemory: batches cannot be smaller than a pair of matrices."""
        raise OutOfMemory(
            f"not enough memory for {self.jobs} pair(s) of matrices at a time ({reason}); use "
            "--jobs 1, or a larger machine"
        )

    @property
    def inputs(self) -> dict[str, Any]:
        """The properties of the weights that determine an analyzer's results, as JSON."""
        return {
            **self.digests,
            "matrices": [str(matrix) for matrix in self.matrices],
            "seed": self.seed,
        }

    def provenance(self, analyzer: Any) -> Provenance:
        """The provenance of a result of this analyzer on these weights."""
        context = {name: getattr(self, name) for name in ("tuned", "base", "architecture", "jobs")}
        context |= {"notes": list(self.notes), "environment": environment()}
        return Provenance(
            analyzer.name,
            analyzer.version,
            plain(analyzer.options),
            analyzer.parent,
            self.inputs,
            context,
        )
