"""Engines: run one batch through one model with reads, edits and gradients."""

from interp.engines.base import Batch, Edit, Engine, Run
from interp.engines.torch_hooks import TorchEngine

__all__ = ["Batch", "Edit", "Engine", "Run", "TorchEngine"]
