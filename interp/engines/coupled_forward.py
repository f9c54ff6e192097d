"""One residual stream through two models: every block adds a mixture of both models' updates.

``x + (1 - alpha) f_base(x) + alpha f_tuned(x)`` on the scaled stream itself (FTC_alpha of TuCo,
arXiv 2506.23423). At alpha 1 it is the fine-tuned model bit for bit; at alpha 0 the base's blocks
between the fine-tuned embedding, final norm and head.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from interp.engines.shared_prefix import full_passes
from interp.maths.precision import widen
from interp.models.model import Model
from interp.models.unexamined_changes import blocks_of


@contextmanager
def coupled_forward(tuned: Model, base: Model, alpha: Sequence[float]) -> Iterator[None]:
    """Scale the fine-tuned model's blocks by ``alpha``, one factor per block, until closed.

    It affects every pass of the torch engine. Passes may use a cache (the base's keys and values
    are cached separately) and read the stream between blocks. The base's blocks are called with the
    fine-tuned model's masks and positions, so the settings of both models must agree.
    """
    coupled = _CoupledBlocks(base, None if base.dtype == tuned.dtype else base.dtype)
    with ExitStack() as stack:
        stack.enter_context(full_passes(tuned))
        for block, base_block, block_alpha in zip(
            blocks_of(tuned), blocks_of(base), alpha, strict=True
        ):
            if block_alpha != 1:
                stack.callback(
                    block.register_forward_pre_hook(coupled.before_block, with_kwargs=True).remove
                )
                after_hook = partial(coupled.after_block, base_block, block_alpha)
                stack.callback(block.register_forward_hook(after_hook, with_kwargs=True).remove)
        yield


class _CoupledBlocks:
    """Calls the base's block on the inputs of the fine-tuned model's block, with a cache of its
    own.

    ``dtype``: what the base computes in, if it differs from the fine-tuned model's.
    """

    def __init__(self, base: Model, dtype: torch.dtype | None) -> None:
        self.base, self.dtype = base, dtype
        self.running_base = False
        self.tuned_cache: Any = None
        self.base_cache: Any = None

    def before_block(self, _: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        for value in (*args, *kwargs.values()):
            if (
                hasattr(value, "get_seq_length")
                and value is not self.tuned_cache
                and value is not self.base_cache
            ):
                # copied before the fine-tuned block writes to it; later steps pass the same cache
                self.tuned_cache, self.base_cache = value, copy.deepcopy(value)

    def after_block(
        self,
        block: nn.Module,
        alpha: float,
        _: nn.Module,
        args: tuple,
        kwargs: dict[str, Any],
        output: Any,
    ) -> Any:
        if self.running_base:  # both models may share this module, with the adapter switched
            return None
        args = tuple(self._for_base(value) for value in args)
        kwargs = {name: self._for_base(value) for name, value in kwargs.items()}
        self.running_base = True
        try:
            with self.base.active():
                base_output = block(*args, **kwargs)
        finally:
            self.running_base = False
        if isinstance(output, tuple):
            return (_mix(output[0], base_output[0], alpha), *output[1:])
        return _mix(output, base_output, alpha)

    def _for_base(self, value: Any) -> Any:
        if value is not None and value is self.tuned_cache:
            return self.base_cache
        return value if self.dtype is None else _cast(value, self.dtype)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Every floating-point tensor in another precision, including masks and rotary embeddings."""
    if isinstance(value, (tuple, list)):
        return type(value)(_cast(item, dtype) for item in value)
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    # the lowest number of one precision overflows in a narrower one, and a row of -inf has no
    # softmax
    is_lowest = value == torch.finfo(value.dtype).min
    return value.to(dtype).masked_fill(is_lowest, torch.finfo(dtype).min)


def _mix(tuned: Tensor, base: Tensor, alpha: float) -> Tensor:
    if alpha == 0:
        return base.to(tuned.dtype)
    wide_base = widen(base)
    return (wide_base + alpha * (widen(tuned) - wide_base)).to(tuned.dtype)
