"""Sparse deltas: a few weights of a base that fine-tuning changed, in a file of their own.

For every parameter the file contains sorted flat indices and as many float32 values, which are
added to the base's weights at these indices. All ways of choosing weights (rows, columns, single
entries, clusters that share their values) have this one format.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from interp.atomic import complete_file
from interp.errors import (
    MissingWeights,
    NonFiniteWeights,
    TruncatedWeights,
    UnsupportedModel,
    WrongBase,
)
from interp.maths.host import to_host
from interp.maths.precision import widen
from interp.models.offload import is_dispatched
from interp.models.quiet import error_text
from interp.models.sources import DELTA, DELTA_FORMAT, DELTA_KEY

_INDICES, _VALUES = ".indices", ".values"


@dataclass(frozen=True, eq=False)
class Entries:
    """Sorted flat indices into a parameter [K], and what is added there [K]."""

    indices: Int[Tensor, " K"]
    values: Float[Tensor, " K"]

    def add_to(self, weights: Tensor) -> Tensor:
        """The weights with the values added, in new memory.

        The sum is taken in at least float32 and rounded to the weights' own dtype. Where a value is
        zero the weight keeps its bits.
        """
        flat = weights.detach().clone(memory_format=torch.contiguous_format).view(-1)
        indices, values = (part.to(flat.device) for part in (self.indices, self.values))
        before = flat[indices]
        after = (widen(before) + values.to(widen(before).dtype)).to(flat.dtype)
        flat[indices] = torch.where(values == 0, before, after)
        return flat.view(weights.shape)


@dataclass(frozen=True, eq=False)
class SparseDelta:
    """Changed weights of the base called ``base``, whose files have the digest ``base_digest``.

    ``mode``: how the weights were chosen. ``entries``: parameter -> its changed weights.
    """

    base: str
    base_digest: str
    mode: str
    entries: Mapping[str, Entries]

    @property
    def size(self) -> int:
        """Number of listed weights."""
        return sum(len(each.indices) for each in self.entries.values())

    def save(self, directory: Path) -> Path:
        """Write ``delta.safetensors`` in a directory, completely or not at all; returns its path."""
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for name, each in self.entries.items():
            tensors[name + _INDICES] = each.indices.to(torch.int64).contiguous()
            tensors[name + _VALUES] = each.values.to(torch.float32).contiguous()
        stated = {
            "format": DELTA_FORMAT,
            "base": self.base,
            "base_digest": self.base_digest,
            "mode": self.mode,
        }
        # one key, since safetensors writes several in any order and the file has a digest
        metadata = {DELTA_KEY: json.dumps(stated)}
        path = directory / DELTA
        with complete_file(path) as draft:
            save_file(tensors, draft, metadata)
        return path

    @classmethod
    def read(cls, name: str, directory: Path) -> SparseDelta:
        """Read ``delta.safetensors`` of a directory; ``name`` is used in errors.

        Raises TruncatedWeights, MissingWeights or NonFiniteWeights for a damaged file.
        """
        path = directory / DELTA
        try:
            with safe_open(path, framework="pt") as file:
                stated = json.loads((file.metadata() or {})[DELTA_KEY])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise TruncatedWeights(
                f"{path.name} of {name} is truncated or damaged ({error_text(error)}); copy it"
                " again"
            ) from error
        entries = dict(_entries(name, tensors))
        return cls(stated["base"], stated["base_digest"], stated["mode"], entries)

    def require_base(self, name: str, base: str, digest: str) -> None:
        """Raise WrongBase for a base with another digest."""
        if digest != self.base_digest:
            raise WrongBase(
                f"{name} was trained on {self.base} ({self.base_digest[:12]}), and {base} has other"
                f" weights or another configuration ({digest[:12]}); give the base it was trained"
                " on"
            )

    @torch.no_grad()
    def applied_to(self, name: str, base: PreTrainedModel) -> PreTrainedModel:
        """A copy of the base with the values added.

        Raises WrongBase for parameters that the base does not have, UnsupportedModel for a
        quantised or offloaded base.
        """
        if is_dispatched(base):
            raise UnsupportedModel(
                f"the base of {name} is partly offloaded, where single weights cannot be changed;"
                " use a device with enough memory"
            )
        tuned = copy.deepcopy(base)
        parameters = dict(tuned.named_parameters())
        for parameter, each in self.entries.items():
            require_entries(name, parameter, each.indices, parameters)
            weights = parameters[parameter]
            weights.data = each.add_to(weights.data)
        return tuned


def require_entries(
    name: str, parameter: str, indices: Int[Tensor, " K"], parameters: Mapping[str, nn.Parameter]
) -> None:
    """Raise WrongBase or UnsupportedModel for indices that a parameter does not have."""
    if parameter not in parameters:
        raise WrongBase(
            f"{name} changes {parameter}, which its base does not have; give the base it was"
            " trained on"
        )
    weights = parameters[parameter]
    if not weights.is_floating_point() or weights.itemsize == 1:
        raise UnsupportedModel(
            f"{parameter} of the base of {name} is quantised, and single weights cannot be added to"
            " codes; give the unquantised base"
        )
    last = int(to_host(indices[-1])) if len(indices) else -1
    if last >= weights.numel():
        raise WrongBase(
            f"{name} changes weight {last} of {parameter}, which has {weights.numel()}; give the"
            " base it was trained on"
        )


def _entries(name: str, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Entries]]:
    for key, indices in sorted(tensors.items()):
        if not key.endswith(_INDICES):
            continue
        parameter = key.removesuffix(_INDICES)
        values = tensors.get(parameter + _VALUES)
        if values is None or values.shape != indices.shape or indices.ndim != 1:
            raise MissingWeights(
                f"{name} lacks a value for every index of {parameter}; its file is incomplete: copy"
                " it again"
            )
        if len(indices) and not to_host((indices.diff() > 0).all() & (indices[0] >= 0)):
            raise MissingWeights(
                f"{name}: the indices of {parameter} are not sorted numbers from 0 on; its file is"
                " damaged: copy it again"
            )
        if not to_host(torch.isfinite(values).all()):
            raise NonFiniteWeights(
                f"{name}: {parameter} contains NaN or infinity; the file is damaged or its training"
                " diverged"
            )
        yield parameter, Entries(indices, values)
