"""Engines: run one batch through one model with reads, edits and gradients."""

from interp.engines.base import Batch, BatchPart, Direction, Edit, Engine, Run
from interp.engines.torch_hooks import TorchEngine
from interp.errors import OptionError

ENGINES = ("torch", "nnsight")

__all__ = [
    "ENGINES",
    "Batch",
    "BatchPart",
    "Direction",
    "Edit",
    "Engine",
    "Run",
    "TorchEngine",
    "engine_named",
]


def engine_named(name: str, remote: bool = False) -> Engine:
    """The engine of this name; raises OptionError for an unknown name, or if ``remote`` is not
    supported.
    """
    if name not in ENGINES:
        raise OptionError(f"unknown engine {name!r}; known: {', '.join(ENGINES)}")
    if name == "torch":
        if remote:
            raise OptionError(
                "the torch engine runs only on this machine; add --engine nnsight to run remotely"
            )
        return TorchEngine()
    # nnsight patches libraries when it is imported, so it is imported only on request
    from interp.engines.nnsight_trace import NNsightEngine

    return NNsightEngine(remote)
