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
from interp.models.precision import dtype_name
from interp.models.renamed_tensors import expert_matrices
from interp.models.weight_index import Matrix
from interp.provenance import Provenance, digest, environment, to_json_value

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
    def is_changed(self) -> bool:
        """Whether they differ in any entry."""
        return not torch.equal(self.base, self.tuned)


@dataclass(frozen=True, eq=False)
class WeightPair:
    """The study of analyzers that read only weights: two checkpoints, their matrices, and a random
    seed.

    ``jobs`` pairs of matrices are in memory at a time. ``array_cache`` caches arrays computed from
    the base alone.
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
    array_cache: ArrayCache | None = None
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
        source = sources.dequantised(sources.find(tuned))
        source.require_no_delta("its matrices are in no checkpoint to be read one at a time")
        base_source = text_models.match_language_model(
            sources.dequantised(source.base(base)), source
        )
        base_files = Checkpoint.open(base_source)
        skeleton = meta_model.skeleton(base_source, trust_remote_code)
        base_checkpoint = base_files.loaded_as(skeleton)
        notes = [*source.notes, *base_source.notes]
        tuned_weights: Checkpoint | LowRank
        n_checkpoints = 2 if source.adapter is None else 1
        if source.adapter is None:
            preflight.require_same_shape(base_source, source, vocabulary=False)
            tuned_weights = Checkpoint.open(source).loaded_as(skeleton)
        else:
            tuned_weights = LowRank.read(source, {path for path, _ in skeleton.named_modules()})
            notes += preflight.recorded_base_notes(source, base_source)
        digests = {"tuned": load.weights_digest(source), "base": load.weights_digest(base_source)}
        if digests["tuned"] == digests["base"]:
            notes.append(
                "base and fine-tuned model have the same weights: every difference is zero"
            )
        anatomy, prefix = read_anatomy(skeleton), skeleton.base_model_prefix
        candidates = [
            *weight_index.block_matrices(skeleton, anatomy),
            *(
                Matrix(*entry)
                for entry in expert_matrices(base_checkpoint.renamed, anatomy, prefix)
            ),
        ]
        if embeddings:
            configured_tying = {
                model_source.name: meta_model.is_tied(
                    meta_model.configuration(model_source, trust_remote_code)
                )
                for model_source in (base_source, source)[:n_checkpoints]
            }
            candidates += weight_index.end_matrices(
                skeleton, base_checkpoint, tuned_weights, configured_tying, notes
            )
        matrices = weight_index.matrices_in_both(
            candidates, base_checkpoint, tuned_weights, prefix, notes
        )
        notes += weight_index.left_out_notes(
            base_checkpoint, tuned_weights, matrices, anatomy, prefix, embeddings
        )
        if not matrices:
            raise PairError(
                f"{base_source.name} has no matrix that can be identified exactly; see"
                " docs/intruders.md"
            )
        pair = cls(
            tuned,
            base_source.name,
            tuple(matrices),
            digests,
            tuple(notes),
            anatomy.architecture,
            _base=base_checkpoint,
            _tuned=tuned_weights,
            _prefix=prefix,
            **settings,
        )
        if dtype := next(filter(None, map(pair._stored_dtype, matrices)), None):
            note = (
                f"{tuned} is stored in {dtype_name(dtype)} and {base_source.name} is not: it is"
                f" compared with the base rounded to {dtype_name(dtype)}"
            )
            pair = replace(pair, notes=(*notes, note))
        return pair

    def read(self, matrix: Matrix) -> MatrixPair:
        """Both versions of a matrix, from disk."""
        base_matrix, tuned = (
            self._read_matrix(required(self._base, "a checkpoint"), matrix),
            required(self._tuned, "a checkpoint"),
        )
        if dtype := self._stored_dtype(matrix):
            base_matrix = base_matrix.to(dtype).to(base_matrix.dtype)
        base_rows = matrix.place.copied_rows_of(base_matrix)
        if isinstance(tuned, Checkpoint):
            return MatrixPair(
                base_rows, matrix.place.copied_rows_of(self._read_matrix(tuned, matrix))
            )
        if matrix.place.path not in tuned.changed_modules:
            return MatrixPair(base_rows, base_rows)
        return MatrixPair(
            base_rows, *tuned.apply(matrix.place.path, matrix.place, base_matrix, matrix.transposed)
        )

    def _stored_dtype(self, matrix: Matrix) -> torch.dtype | None:
        """The 16-bit format in which the fine-tuned model's file stores this matrix, if the base's
        has more bits.
        """
        if not isinstance(self._tuned, Checkpoint) or (
            self._base and self._base.half_dtype(matrix.tensor, self._prefix)
        ):
            return None
        return self._tuned.half_dtype(matrix.tensor, self._prefix)

    def _read_matrix(self, checkpoint: Checkpoint, matrix: Matrix) -> Float[Tensor, "rows in"]:
        value = checkpoint.read(checkpoint.find(matrix.tensor, self._prefix))
        return value.T.contiguous() if matrix.transposed else value

    def map_matrices(self, work: Callable[[int, Matrix], Result], what: str) -> list[Result]:
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

    def base_arrays(
        self, matrix: Matrix, what: str, compute: Callable[[], Mapping[str, np.ndarray]]
    ) -> dict:
        """Arrays that depend only on the base's matrix: from the cache, or computed and cached."""
        if self.array_cache is None:
            return dict(compute())
        dtype_name = [str(rounded)] if (rounded := self._stored_dtype(matrix)) else []
        name = digest([what, self.digests["base"], matrix.part, matrix.layer, *dtype_name])[:32]
        if (arrays := self.array_cache.recall(name)) is None:
            arrays = dict(compute())
            self.array_cache.keep(name, arrays)
        return arrays

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
            to_json_value(analyzer.options),
            analyzer.parent,
            self.inputs,
            context,
        )
