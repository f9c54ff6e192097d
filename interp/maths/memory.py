"""Memory: recognising an out-of-memory error, and the memory budget of a batch."""

import ctypes
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import psutil
import torch

from interp.errors import OptionError


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a device or the host is out of memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # the allocators of the CPU and of MPS raise no dedicated class
    messages = ("can't allocate memory", "not enough memory", "MPS backend out of memory")
    return isinstance(error, RuntimeError) and any(text in str(error) for text in messages)


class PeakMemory:
    """The most memory in use inside a ``with`` block, in ``bytes`` above that at its beginning.

    Of a CUDA device what torch has allocated; else the resident memory of this process, from the
    high-water mark that Linux can reset. NaN where that cannot be measured.
    """

    _RESET, _STATUS = "/proc/self/clear_refs", "/proc/self/status"

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.bytes = float("nan")

    def __enter__(self) -> "PeakMemory":
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = float(torch.cuda.memory_allocated(self._device))
        else:
            if (trim := _malloc_trim()) is not None:
                trim(0)
            try:
                with open(self._RESET, "w", encoding="ascii") as file:
                    file.write("5")  # proc(5): resets the peak resident set size
                self._before = float(psutil.Process().memory_info().rss)
            except OSError:
                self._before = float("nan")
        return self

    def __exit__(self, *_: object) -> None:
        if self._device.type == "cuda":
            peak = float(torch.cuda.max_memory_allocated(self._device))
        else:
            peak = self._high_water_mark()
        self.bytes = max(peak - self._before, 0.0) if peak == peak else peak

    def _high_water_mark(self) -> float:
        try:
            with open(self._STATUS, encoding="ascii") as file:
                lines = [line.split() for line in file if line.startswith("VmHWM:")]
        except OSError:
            lines = []
        return 1024.0 * float(lines[0][1]) if lines else float("nan")


MIN_BYTES, MAX_BYTES, MAX_BYTES_ON_CPU = 1 << 26, 1 << 30, 512 << 20
"""Bytes for a batch's activations: the minimum, and the default maximum on a GPU and on a CPU."""
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass(frozen=True)
class Memory:
    """Memory limit of the whole process, in bytes; a batch gets half of what is left of it."""

    total: int

    @classmethod
    def parse(cls, text: str) -> "Memory":
        """Parse ``4G`` or ``800M`` (powers of 1024); raises OptionError for anything else."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT])(?:i?B)?", text.strip(), re.IGNORECASE)
        if match is None or not float(match[1]):
            raise OptionError(f"--memory {text!r} is not an amount of memory; use 4G or 800M")
        return cls(round(float(match[1]) * _UNITS[match[2].upper()]))

    def __str__(self) -> str:
        return f"at most {self.total / _UNITS['G']:.3g} GiB"


def activation_budget(memory: Memory | None, device: torch.device) -> int:
    """Bytes for the activations of a batch: half of what is left of ``memory``, or of the free
    memory, within limits.
    """
    on_gpu = device.type == "cuda"
    if memory is None:
        free = torch.cuda.mem_get_info(device)[0] if on_gpu else psutil.virtual_memory().available
        return max(min(free // 2, MAX_BYTES if on_gpu else MAX_BYTES_ON_CPU), MIN_BYTES)
    used = torch.cuda.memory_allocated(device) if on_gpu else psutil.Process().memory_info().rss
    return max((memory.total - used) // 2, MIN_BYTES)


# growth of the process, in bytes, after which freed memory is returned again
_TRIM_AFTER = 1 << 28
_last_trim = {"resident": 0}


def release_freed_memory() -> None:
    """Return freed memory to the operating system (glibc only; a no-op elsewhere).

    A pass frees hundreds of megabytes that the next one cannot reuse entirely. Takes at most 0.1 s.
    """
    process = psutil.Process()
    if (
        process.memory_info().rss >= _last_trim["resident"] + _TRIM_AFTER
        and (trim := _malloc_trim()) is not None
    ):
        trim(0)
        _last_trim["resident"] = process.memory_info().rss


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    """glibc's ``malloc_trim``."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
