"""A cache of singular vectors of base matrices, for further fine-tuned models of the same base.

There is one safetensors file per matrix, ``<store>/.svd/<name>.safetensors``, and its name
identifies the matrix and options. A file that cannot be read, or has another checksum, is ignored.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from interp.atomic import complete_file
from interp.errors import reporting_os_errors
from interp.permissions import apply_umask


class SvdCache:
    """Arrays by name in ``root/.svd``, which is created on first use."""

    def __init__(self, root: str | os.PathLike) -> None:
        self.root = Path(root).absolute() / ".svd"

    def recall(self, name: str) -> dict[str, np.ndarray] | None:
        """The arrays stored as ``name``, or None."""
        try:
            with safe_open(self.root / f"{name}.safetensors", framework="numpy") as file:
                # it is not a mapping
                arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
                is_intact = (file.metadata() or {}).get("crc32") == _checksum(arrays)
        except (OSError, SafetensorError, ValueError):
            return None
        return arrays if is_intact else None

    def keep(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Store arrays as ``name``, completely or not at all; ``StoreError`` if that fails."""
        arrays = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
        with reporting_os_errors("write", self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            try:
                with complete_file(self.root / f"{name}.safetensors") as draft:
                    save_file(arrays, draft, {"crc32": _checksum(arrays)})
                    apply_umask(draft)
            except SafetensorError as error:
                raise OSError(str(error)) from error


def _checksum(arrays: Mapping[str, np.ndarray]) -> str:
    # a cryptographic digest would take longer than the computation that the cache saves
    checksum = 0
    for key in sorted(arrays):
        checksum = zlib.crc32(f"{key} {arrays[key].shape} {arrays[key].dtype}".encode(), checksum)
        checksum = zlib.crc32(np.ascontiguousarray(arrays[key]).data.cast("B"), checksum)
    return f"{checksum:08x}"
