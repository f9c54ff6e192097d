"""Pairs of which one is in memory at a time: control fine-tunes of one base can be many."""

from collections.abc import Callable, Sequence
from typing import Any, overload

from interp.models.pair import Pair


class PairsOnDemand(Sequence[Pair]):
    """A sequence of pairs, each loaded when it is asked for by its index; the one before is let go
    of.

    Every pair is loaded once at the start, which reads what it is: ``names`` of its tuned model,
    ``inputs`` that determine numbers, and the digest of its base.
    """

    def __init__(self, loads: Sequence[Callable[[], Pair]]) -> None:
        self._loads = list(loads)
        self._last: tuple[int, Pair] | None = None
        self.names: list[str] = []
        self.inputs: list[dict[str, Any]] = []
        for at in range(len(self._loads)):
            self.names.append(self[at].tuned.name)
            self.inputs.append(self[at].inputs)

    def __len__(self) -> int:
        return len(self._loads)

    @overload
    def __getitem__(self, index: int) -> Pair: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Pair]: ...

    def __getitem__(self, index: int | slice) -> Pair | Sequence[Pair]:
        if isinstance(index, slice):
            raise TypeError("pairs that are loaded on demand are taken one at a time")
        at = range(len(self))[index]
        if self._last is None or self._last[0] != at:
            self._last = None  # before the next is loaded
            self._last = at, self._loads[at]()
        return self._last[1]


def names_of(pairs: Sequence[Pair]) -> list[str]:
    """The names of the tuned models."""
    return (
        list(pairs.names)
        if isinstance(pairs, PairsOnDemand)
        else [pair.tuned.name for pair in pairs]
    )


def inputs_of(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """What of each determines numbers."""
    return (
        list(pairs.inputs) if isinstance(pairs, PairsOnDemand) else [pair.inputs for pair in pairs]
    )
