"""What a configuration says of all blocks of a model: newer families state some sizes block by
block.
"""

from typing import Any

from transformers import PreTrainedConfig


def setting(config: PreTrainedConfig, name: str, default: Any = None) -> Any:
    """A setting that holds for every block; ``default`` where it is not stated, or where blocks
    differ in it.
    """
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
