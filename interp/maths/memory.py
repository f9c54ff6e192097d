"""Whose fault an error is: whether memory ran out."""

import torch


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether this error says that a device or the host has no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # the CPU's allocator and Apple's have no class of their own
    said = ("can't allocate memory", "not enough memory", "MPS backend out of memory")
    return isinstance(error, RuntimeError) and any(text in str(error) for text in said)
