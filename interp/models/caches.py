"""Caches of keys and values: one row for all, another layout, rows left out."""

from typing import Any

from jaxtyping import Int
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer


def is_plain(cache: Any) -> bool:
    """Whether all that a cache holds is keys and values by position."""
    layers: list[Any] = list(getattr(cache, "layers", []))
    kinds = (DynamicLayer, DynamicSlidingWindowLayer)
    return type(cache) is DynamicCache and all(
        type(layer) in kinds and (not layer.is_initialized or layer.keys.ndim == 4) for layer in layers
    )


def repeat(cache: Any, rows: int) -> None:
    """Give every row the prefix's keys and values.

    Blocks below a stream that is put in keep none, and the length of a cache is that of its first: nothing reads these.
    """
    kept = [layer for layer in cache.layers if layer.is_initialized]
    for layer in kept:
        layer.keys, layer.values = layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1)
    for layer in cache.layers[: cache.layers.index(kept[0])]:
        keys = kept[0].keys[..., :1, :1].expand(-1, -1, kept[0].keys.shape[2], 1)
        layer.lazy_initialization(keys, keys)
        layer.keys = layer.values = keys
        if isinstance(layer, DynamicSlidingWindowLayer):
            layer.cumulative_length = keys.shape[2]


def lay_out(cache: Any, positions: Int[Tensor, "B T"]) -> None:
    """Put keys and values where a pass over whole, padded prompts has them."""
    for layer in cache.layers:
        if layer.is_initialized:
            columns = positions.to(layer.keys.device)[:, None, :, None]
            layer.keys = layer.keys.gather(2, columns.expand(-1, layer.keys.shape[1], -1, layer.keys.shape[3]))
            layer.values = layer.values.gather(2, columns.expand(-1, layer.values.shape[1], -1, layer.values.shape[3]))
            if isinstance(layer, DynamicSlidingWindowLayer):
                layer.cumulative_length = positions.shape[1]


def keep_rows(cache: Any, rows: Int[Tensor, " K"]) -> None:
    """Leave out all other rows, in place."""
    for layer in cache.layers:
        if layer.is_initialized:
            where = rows.to(layer.keys.device)
            layer.keys, layer.values = layer.keys[where], layer.values[where]
