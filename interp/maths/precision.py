"""Arithmetic in at least float32."""

import torch
from torch import Tensor


def widen(tensor: Tensor) -> Tensor:
    """bfloat16 and float16 as float32; other dtypes unchanged."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
