"""The one door through which tensors leave the device."""

import numpy as np
import torch
from torch import Tensor


def to_host(tensor: Tensor) -> np.ndarray:
    """A tensor's values as a numpy array on the host; bfloat16 and float16 become float32."""
    tensor = tensor.detach()
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()
    return tensor.cpu().numpy()
