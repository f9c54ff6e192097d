"""Operations on key-value caches: repeat one row, rearrange columns, drop rows, join several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from interp.errors import OptionError


def is_plain(cache: Any) -> bool:
    """Whether a cache contains only keys and values by position."""
    layers: list[Any] = list(getattr(cache, "layers", []))
    kinds = (DynamicLayer, DynamicSlidingWindowLayer)
    return type(cache) is DynamicCache and all(
        type(layer) in kinds and (not layer.is_initialized or layer.keys.ndim == 4)
        for layer in layers
    )


def repeat_rows(cache: Any, rows: int) -> None:
    """Repeat the prefix's keys and values for every row.

    Blocks below an inserted stream have none, but the length of a cache is that of its first layer,
    so they get placeholders that nothing reads.
    """
    filled_layers = [layer for layer in cache.layers if layer.is_initialized]
    for layer in filled_layers:
        layer.keys, layer.values = (
            layer.keys.expand(rows, -1, -1, -1),
            layer.values.expand(rows, -1, -1, -1),
        )
    for layer in cache.layers[: cache.layers.index(filled_layers[0])]:
        keys = filled_layers[0].keys[..., :1, :1].expand(-1, -1, filled_layers[0].keys.shape[2], 1)
        layer.lazy_initialization(keys, keys)
        layer.keys = layer.values = keys
        if isinstance(layer, DynamicSlidingWindowLayer):
            layer.cumulative_length = keys.shape[2]


def arrange_columns(cache: Any, positions: Int[Tensor, "B T"]) -> None:
    """Move keys and values to the columns they have in a pass over whole, padded prompts, and drop
    placeholders.
    """
    layers = [layer for layer in cache.layers if layer.is_initialized]
    length = max(layer.keys.shape[2] for layer in layers)
    for layer in layers:
        if layer.keys.shape[2] < length:
            layer.reset()
            continue
        columns = positions.to(layer.keys.device)[:, None, :, None]
        layer.keys = layer.keys.gather(
            2, columns.expand(-1, layer.keys.shape[1], -1, layer.keys.shape[3])
        )
        layer.values = layer.values.gather(
            2, columns.expand(-1, layer.values.shape[1], -1, layer.values.shape[3])
        )
        if isinstance(layer, DynamicSlidingWindowLayer):
            layer.cumulative_length = positions.shape[1]


def keep_rows(cache: Any, rows: Int[Tensor, " K"]) -> None:
    """Drop all other rows, in place."""
    for layer in cache.layers:
        if layer.is_initialized:
            indices = rows.to(layer.keys.device)
            layer.keys, layer.values = layer.keys[indices], layer.values[indices]


@dataclass(frozen=True)
class CachedPrefix:
    """Keys and values of the first ``lengths`` tokens of some texts, right-aligned, for each block.

    ``cache`` makes a cache from which passes continue after these tokens; ``mask`` marks their
    cells. ``cache``, ``take_rows`` and ``concatenate`` hand the tensors over, so that they are
    never in memory twice: ``blocks`` is empty afterwards.
    """

    lengths: tuple[int, ...]
    blocks: list[tuple[Float[Tensor, "B H T K"], Float[Tensor, "B H T V"]]]

    @classmethod
    def from_caches(
        cls,
        caches: Sequence[tuple[Any, int | None]],
        rows: Sequence[int],
        starts: Sequence[int],
        lengths: Sequence[int],
    ) -> CachedPrefix | None:
        """From caches of texts on the same columns; None if a pass needs more than they contain.

        ``caches``: each with the number of blocks whose keys and values it provides (None: all of
        its own), of which those not provided by earlier caches are used. For each of ``rows``, in
        that order, it takes ``lengths`` tokens starting at the column ``starts``.
        """
        blocks: list[tuple[Tensor, Tensor]] = []
        for cache, until in caches:
            if not is_plain(cache):
                return None
            layers = cache.layers[len(blocks) : until]
            if until is None:
                layers = [layer for layer in layers if layer.is_initialized]
            if any(type(layer) is not DynamicLayer or not layer.is_initialized for layer in layers):
                return None
            blocks += [(layer.keys, layer.values) for layer in layers]
        width, ends = max(lengths), torch.tensor([*starts]) + torch.tensor([*lengths])
        row_indices, columns = (
            torch.tensor([*rows]),
            (ends[:, None] - width + torch.arange(width)[None]).clamp(min=0),
        )
        return cls(
            tuple(lengths),
            [
                (_gather_cells(k, row_indices, columns), _gather_cells(v, row_indices, columns))
                for k, v in blocks
            ],
        )

    @classmethod
    def concatenate(cls, prefixes: Sequence[CachedPrefix]) -> CachedPrefix:
        """The rows of all, one after another; raises OptionError if one was already handed over."""
        width, lengths = (
            max(max(prefix.lengths) for prefix in prefixes),
            [length for prefix in prefixes for length in prefix.lengths],
        )

        def stack(sides: Sequence[Tensor]) -> Tensor:
            return torch.cat([pad(side, (0, 0, width - side.shape[2], 0)) for side in sides])

        remaining, blocks = [prefix._release_blocks() for prefix in prefixes], []
        while remaining[0]:
            block = [blocks_of.pop(0) for blocks_of in remaining]
            blocks.append((stack([k for k, _ in block]), stack([v for _, v in block])))
        return cls(tuple(lengths), blocks)

    def of(self, rows: Sequence[int]) -> CachedPrefix:
        """A selection of rows."""
        if [*rows] == [*range(len(self.lengths))]:
            return self
        blocks = []
        for keys, values in self.blocks:
            row_indices = torch.tensor([*rows], device=keys.device)
            blocks.append((keys[row_indices], values[row_indices]))
        return CachedPrefix(tuple(self.lengths[row] for row in rows), blocks)

    def take_rows(self, rows: Sequence[int]) -> CachedPrefix:
        """A selection of rows, handed over block by block so that the others are freed."""
        if [*rows] == [*range(len(self.lengths))]:
            return self
        remaining, blocks = self._release_blocks(), []
        while remaining:
            keys, values = remaining.pop(0)
            row_indices = torch.tensor([*rows], device=keys.device)
            blocks.append((keys[row_indices], values[row_indices]))
        return CachedPrefix(tuple(self.lengths[row] for row in rows), blocks)

    @property
    def mask(self) -> Bool[Tensor, "B T"]:
        """Which cells are tokens."""
        keys, _ = self._require_blocks()[0]
        width, lengths = keys.shape[2], torch.tensor(self.lengths, device=keys.device)
        return torch.arange(width, device=keys.device)[None] >= width - lengths[:, None]

    def cache(self) -> DynamicCache:
        """A cache from which passes can continue; raises OptionError if it was already handed over."""
        result = DynamicCache()
        for keys, values in self._release_blocks():
            layer = DynamicLayer()
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys, values
            result.layers.append(layer)
        return result

    def _require_blocks(self) -> list[tuple[Tensor, Tensor]]:
        if not self.blocks:
            raise OptionError(
                "these keys and values were already moved to another cache; compute them again"
            )
        return self.blocks

    def _release_blocks(self) -> list[tuple[Tensor, Tensor]]:
        blocks = [*self._require_blocks()]
        self.blocks.clear()
        return blocks


def _gather_cells(
    value: Float[Tensor, "B H T W"], rows: Tensor, columns: Int[Tensor, "R n"]
) -> Float[Tensor, "R H n W"]:
    selected = value[rows.to(value.device)]
    return selected.gather(
        2,
        columns.to(value.device)[:, None, :, None].expand(
            -1, selected.shape[1], -1, selected.shape[3]
        ),
    )
