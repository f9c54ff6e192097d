"""Several processes that train one dictionary with torch.distributed; with one process every
function here is a no-op.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, distributed

from interp.errors import OptionError


def _has_several() -> bool:
    return (
        distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
    )


def world() -> int:
    """Number of processes."""
    return distributed.get_world_size() if _has_several() else 1


def rank() -> int:
    """Index of this process, from 0."""
    return distributed.get_rank() if _has_several() else 0


def sum_(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over processes."""
    if _has_several():
        for tensor in tensors:
            distributed.all_reduce(tensor)


def mean_(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over processes."""
    sum_(tensors)
    if _has_several():
        for tensor in tensors:
            tensor /= world()


def min_(tensor: Tensor) -> None:
    """Replace a tensor by its minimum over processes."""
    if _has_several():
        distributed.all_reduce(tensor, distributed.ReduceOp.MIN)


def wait() -> None:
    """Barrier over all processes."""
    if _has_several():
        distributed.barrier()


@contextmanager
def process_group(device: str = "cpu") -> Iterator[None]:
    """Join the process group that ``torchrun`` started (nccl on GPUs, else gloo); a no-op for a
    single process.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or _has_several():
        yield
        return
    cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if cuda:
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise OptionError(
                f"process {local} has no GPU: {torch.cuda.device_count()} are visible; start fewer"
            )
        torch.cuda.set_device(local)
    distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        yield
        # a process that exits while another still communicates with it can be aborted
        wait()
    finally:
        distributed.destroy_process_group()
