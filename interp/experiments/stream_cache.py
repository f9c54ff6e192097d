"""Streams of a model as it is, at which passes under an intervention begin."""

from collections.abc import Callable

from interp.interventions.teacher_forcing import Stream


class Streams:
    """What a block is given on some texts without an intervention, for the last few layers that
    were asked for.
    """

    MOST = 2

    def __init__(self) -> None:
        self._kept: dict[int, Stream] = {}

    def at(self, layer: int, read: Callable[[], Stream]) -> Stream | None:
        """What lets a pass begin at this layer, None at the first."""
        if layer == 0:
            return None
        if layer not in self._kept:
            while len(self._kept) >= self.MOST:
                self._kept.pop(next(iter(self._kept)))
            self._kept[layer] = read()
        return self._kept[layer]
