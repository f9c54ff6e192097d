"""Pairs of which only one is in memory at a time, because there can be many control fine-tunes."""

from collections.abc import Callable, Sequence
from typing import Any, overload

from interp.models.pair import Pair


class PairsOnDemand(Sequence[Pair]):
    """A sequence of pairs, each loaded when it is indexed; the previous one is freed.

    Every pair is loaded once at the start to record ``names`` of the fine-tuned models and
    ``inputs``, the properties that determine results.
    """

    def __init__(self, loads: Sequence[Callable[[], Pair]]) -> None:
        self._loads = list(loads)
        self._last: tuple[int, Pair] | None = None
        self.names: list[str] = []
        self.inputs: list[dict[str, Any]] = []
        for index in range(len(self._loads)):
            self.names.append(self[index].tuned.name)
            self.inputs.append(self[index].inputs)

    def __len__(self) -> int:
        return len(self._loads)

    @overload
    def __getitem__(self, index: int) -> Pair: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Pair]: ...

    def __getitem__(self, index: int | slice) -> Pair | Sequence[Pair]:
        if isinstance(index, slice):
            raise TypeError("pairs loaded on demand cannot be sliced; index them one at a time")
        position = range(len(self))[index]
        if self._last is None or self._last[0] != position:
            self._last = None  # freed before the next is loaded
            self._last = position, self._loads[position]()
        return self._last[1]


def tuned_names(pairs: Sequence[Pair]) -> list[str]:
    """The names of the fine-tuned models."""
    return (
        list(pairs.names)
        if isinstance(pairs, PairsOnDemand)
        else [pair.tuned.name for pair in pairs]
    )


def pair_inputs(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """The properties of each pair that determine results."""
    return (
        list(pairs.inputs) if isinstance(pairs, PairsOnDemand) else [pair.inputs for pair in pairs]
    )
