"""Settings of a configuration that hold for all blocks: newer families state some sizes per block."""

from typing import Any

from transformers import PreTrainedConfig


def setting(config: PreTrainedConfig, name: str, default: Any = None) -> Any:
    """A setting that holds for every block; ``default`` if it is missing or differs between blocks."""
    try:
        return getattr(config, name, default)
    except RuntimeError:  # transformers' AmbiguousGlobalPerLayerAttributeError
        return default


def differs(config: PreTrainedConfig, name: str) -> bool:
    """Whether blocks differ in a setting."""
    try:
        getattr(config, name, None)
    except RuntimeError:
        return True
    return False
