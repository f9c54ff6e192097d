"""Weights that accelerate offloads (to main memory or disk) and loads into a module only while it
runs.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from accelerate.utils import align_module_device
from torch import Tensor, nn


@contextmanager
def materialized(module: nn.Module) -> Iterator[None]:
    """Load the tensors of a module and its submodules; they are offloaded again afterwards."""
    with ExitStack() as stack:
        for part in module.modules():
            stack.enter_context(align_module_device(part))
        yield


def named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The entries of ``module.state_dict()``, one module at a time, each loaded if it is offloaded."""
    for path, part in module.named_modules(remove_duplicate=False):
        with align_module_device(part):
            module_tensors: dict[str, Tensor] = {}
            part._save_to_state_dict(module_tensors, f"{path}." * bool(path), keep_vars=False)
            yield from module_tensors.items()


def execution_device(module: nn.Module) -> torch.device:
    """The device on which a module runs, wherever its weights are stored."""
    weight = next(module.parameters())
    if not weight.is_meta:
        return weight.device
    hook = getattr(module, "_hf_hook", None)
    for part in (hook, *getattr(hook, "hooks", ())):
        if (device := getattr(part, "execution_device", None)) is not None:
            return torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    return weight.device


def is_dispatched(module: nn.Module) -> bool:
    """Whether accelerate controls where the parts of a module are."""
    return bool(getattr(module, "hf_device_map", None)) or any(
        hasattr(part, "_hf_hook") for part in module.modules()
    )
