"""Caches of keys and values whose finished rows are left out."""

from typing import Any

from jaxtyping import Int
from torch import Tensor

from interp.engines.shared_prefix import is_plain, is_whole
from interp.models.model import Model


def may_drop_rows(model: Model, cache: Any) -> bool:
    """Whether rows can be left out of what a pass of this model kept."""
    return is_plain(cache) and not is_whole(model)


def keep_rows(cache: Any, rows: Int[Tensor, " K"]) -> None:
    """Leave out all other rows, in place."""
    for layer in cache.layers:
        if layer.is_initialized:
            where = rows.to(layer.keys.device)
            layer.keys, layer.values = layer.keys[where], layer.values[where]
