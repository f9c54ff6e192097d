"""Residual streams of unedited passes, from which passes under an intervention can start."""

from collections.abc import Callable

from interp.interventions.teacher_forcing import UneditedStream


class StreamCache:
    """Unedited streams that enter the last few requested layers, on some texts."""

    MOST = 2

    def __init__(self) -> None:
        self._kept: dict[int, UneditedStream] = {}

    def get(self, layer: int, read: Callable[[], UneditedStream]) -> UneditedStream | None:
        """The stream from which a pass can start at this layer; None for layer 0."""
        if layer == 0:
            return None
        if layer not in self._kept:
            while len(self._kept) >= self.MOST:
                self._kept.pop(next(iter(self._kept)))
            self._kept[layer] = read()
        return self._kept[layer]
