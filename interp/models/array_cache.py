"""What was computed of a base alone, kept for its next child."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class ArrayCache(Protocol):
    """Where arrays computed from a base alone are kept between children."""

    def recall(self, name: str) -> dict[str, np.ndarray] | None:
        """The arrays of this name, if they are there."""
        ...

    def keep(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep arrays under this name."""
        ...
