"""A cache for arrays computed from the base alone, reused for further fine-tuned models."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class ArrayCache(Protocol):
    """Stores arrays computed from the base alone."""

    def recall(self, name: str) -> dict[str, np.ndarray] | None:
        """The stored arrays of this name, or None."""
        ...

    def keep(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Store arrays under this name."""
        ...
