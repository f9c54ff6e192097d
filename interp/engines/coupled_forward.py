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

from interp.engines.shared_prefix import whole_prompts
from interp.maths.precision import widen
from interp.models.model import Model
from interp.models.unexamined_changes import blocks_of


@contextmanager
def lockstep(tuned: Model, base: Model, alpha: Sequence[float]) -> Iterator[None]:
    """Scale the fine-tuned model's blocks by ``alpha``, one factor per block, until closed.

    It affects every pass of the torch engine. Passes may use a cache (the base's keys and values
    are cached separately) and read the stream between blocks. The base's blocks are called with the
    fine-tuned model's masks and positions, so the settings of both models must agree.
    """
    walk = _Walk(base, None if base.dtype == tuned.dtype else base.dtype)
    with ExitStack() as stack:
        stack.enter_context(whole_prompts(tuned))
        for block, other, share in zip(blocks_of(tuned), blocks_of(base), alpha, strict=True):
            if share != 1:
                stack.callback(
                    block.register_forward_pre_hook(walk.before, with_kwargs=True).remove
                )
                after = partial(walk.after, other, share)
                stack.callback(block.register_forward_hook(after, with_kwargs=True).remove)
        yield


class _Walk:
    """Calls the base's block on the inputs of the fine-tuned model's block, with a cache of its
    own.

    ``dtype``: what the base computes in, if it differs from the fine-tuned model's.
    """

    def __init__(self, base: Model, dtype: torch.dtype | None) -> None:
        self.base, self.dtype = base, dtype
        self.inside = False
        self.cache: Any = None
        self.other: Any = None

    def before(self, _: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        for value in (*args, *kwargs.values()):
            if (
                hasattr(value, "get_seq_length")
                and value is not self.cache
                and value is not self.other
            ):
                # copied before the fine-tuned block writes to it; later steps pass the same cache
                self.cache, self.other = value, copy.deepcopy(value)

    def after(
        self,
        block: nn.Module,
        share: float,
        _: nn.Module,
        args: tuple,
        kwargs: dict[str, Any],
        out: Any,
    ) -> Any:
        if self.inside:  # both models may share this module, with the adapter switched
            return None
        args = tuple(self._own(value) for value in args)
        kwargs = {name: self._own(value) for name, value in kwargs.items()}
        self.inside = True
        try:
            with self.base.active():
                theirs = block(*args, **kwargs)
        finally:
            self.inside = False
        if isinstance(out, tuple):
            return (_mixed(out[0], theirs[0], share), *out[1:])
        return _mixed(out, theirs, share)

    def _own(self, value: Any) -> Any:
        if value is not None and value is self.cache:
            return self.other
        return value if self.dtype is None else _cast(value, self.dtype)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Every floating-point tensor in another precision, including masks and rotary embeddings."""
    if isinstance(value, (tuple, list)):
        return type(value)(_cast(item, dtype) for item in value)
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    # the lowest number of one precision overflows in a narrower one, and a row of -inf has no softmax
    least = value == torch.finfo(value.dtype).min
    return value.to(dtype).masked_fill(least, torch.finfo(dtype).min)


def _mixed(tuned: Tensor, base: Tensor, share: float) -> Tensor:
    if share == 0:
        return base.to(tuned.dtype)
    plain = widen(base)
    return (plain + share * (widen(tuned) - plain)).to(tuned.dtype)
