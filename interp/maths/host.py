"""The only functions that move tensors to the host."""

import numpy as np
import torch
from torch import Tensor

from interp.maths.precision import widen


def raw_bytes(tensor: Tensor) -> bytes:
    """The memory of a dense tensor in C order and its own dtype, without conversion."""
    return to_host(tensor.contiguous().reshape(-1).view(torch.uint8)).tobytes()


def to_host(tensor: Tensor) -> np.ndarray:
    """A tensor's values as a numpy array on the host; bfloat16 and float16 become float32."""
    return widen(tensor.detach()).cpu().numpy()


def in_host_memory(tensor: Tensor) -> Tensor:
    """A tensor's values as a contiguous tensor in host memory with the same dtype, ready to be
    written to a file.
    """
    return tensor.detach().cpu().contiguous()
