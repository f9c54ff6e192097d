"""Memory: whether an error says that it ran out, and how much of it a batch may take."""

import ctypes
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import psutil
import torch

from interp.errors import OptionError


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether this error says that a device or the host has no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # the CPU's allocator and Apple's have no class of their own
    said = ("can't allocate memory", "not enough memory", "MPS backend out of memory")
    return isinstance(error, RuntimeError) and any(text in str(error) for text in said)


LEAST, MOST, MOST_ON_CPU = 1 << 26, 1 << 30, 512 << 20
"""Bytes that a batch's activations may always take, and that they take at most where nobody says
more.
"""
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass(frozen=True)
class Memory:
    """What the whole process may take, in bytes: a batch gets half of what models and all else
    leave of it.
    """

    total: int

    @classmethod
    def parse(cls, text: str) -> "Memory":
        """``4G``, ``800M``: powers of 1024; raises OptionError for anything else."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT])(?:i?B)?", text.strip(), re.IGNORECASE)
        if found is None or not float(found[1]):
            raise OptionError(f"--memory {text!r} is no amount of memory; use 4G or 800M")
        return cls(round(float(found[1]) * _UNITS[found[2].upper()]))

    def __str__(self) -> str:
        return f"at most {self.total / _UNITS['G']:.3g} GiB"


def for_activations(memory: Memory | None, device: torch.device) -> int:
    """Bytes for the activations of a batch: half of what is left of ``memory``, else of what is
    free, up to a limit.
    """
    on_gpu = device.type == "cuda"
    if memory is None:
        free = torch.cuda.mem_get_info(device)[0] if on_gpu else psutil.virtual_memory().available
        return max(min(free // 2, MOST if on_gpu else MOST_ON_CPU), LEAST)
    taken = torch.cuda.memory_allocated(device) if on_gpu else psutil.Process().memory_info().rss
    return max((memory.total - taken) // 2, LEAST)


# bytes by which a process grew since it gave back last, from which on it looks for what it can give
_MORE = 1 << 28
_last = {"resident": 0}


def give_back() -> None:
    """Give the system what was freed and is kept between blocks in use, as glibc does; elsewhere
    nothing is done.

    A pass frees hundreds of megabytes, of which the next one cannot use all. Takes a tenth of a
    second at most.
    """
    process = psutil.Process()
    if process.memory_info().rss >= _last["resident"] + _MORE and (trim := _trim()) is not None:
        trim(0)
        _last["resident"] = process.memory_info().rss


@cache
def _trim() -> Callable[[int], int] | None:
    """glibc's ``malloc_trim``."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
