"""Outputs of a pass must be finite: half precision can overflow on some prompts and not on others."""

from collections.abc import Callable, Iterator
from functools import wraps
from typing import ParamSpec

import torch
from jaxtyping import Bool
from torch import Tensor

from interp.engines.base import Batch, Run
from interp.errors import NonFinitePass
from interp.maths.host import to_host
from interp.models.model import Model

P = ParamSpec("P")


def with_finite_check(run: Callable[P, Run]) -> Callable[P, Run]:
    """Wrap an engine's method ``run(self, model, batch, ...)``: NonFinitePass is raised instead of
    returning NaN.

    It checks logits, values and gradients at real tokens; those on padding are ignored.
    """

    @wraps(run)
    def checked(*args: P.args, **kwargs: P.kwargs) -> Run:
        result = run(*args, **kwargs)
        model, batch = args[1], args[2]
        if isinstance(model, Model) and isinstance(batch, Batch):
            require_finite(model, batch, result)
        return result

    return checked


def require_finite(model: Model, batch: Batch, run: Run) -> None:
    """Raise NonFinitePass with the tokens of the first row that is not finite."""
    if _all_finite([value for value, _ in _outputs_by_token(batch, run)]):
        return
    affected = torch.zeros(len(batch.ids), dtype=torch.bool, device=batch.mask.device)
    for value, real in _outputs_by_token(batch, run):
        not_finite = ~torch.isfinite(value).flatten(2).all(-1).to(affected.device) & real
        # cells shared by all rows are stored as one row
        affected |= not_finite.any(1) if len(not_finite) == len(affected) else not_finite.any()
    rows = to_host(affected).nonzero()[0]
    if len(rows):
        row = int(rows[0])
        ids = to_host(batch.ids[row][batch.real[row]]).tolist()
        raise NonFinitePass(
            f"{model.name} gives NaN or infinity in {str(model.dtype).removeprefix('torch.')} on"
            f" {len(rows)} of {len(affected)} texts of a batch",
            tuple(ids),
        )


def _outputs_by_token(batch: Batch, run: Run) -> Iterator[tuple[Tensor, Bool[Tensor, "B T"]]]:
    """Every output with one entry per token, and the mask of real tokens."""
    outputs = [*run.values.values(), *run.gradients.values()]
    for value in [*([] if run.logits is None else [run.logits]), *outputs]:
        yield value.detach(), batch.mask[:, -value.shape[1] :]
    for part in run.parts:
        for value in (*part.values.values(), *part.gradients.values()):
            yield value.detach(), part.mask.to(batch.mask.device)


def _all_finite(values: list[Tensor]) -> bool:
    # sums in float32 or wider stay finite for finite values, and need no extra memory
    sums = [
        value.sum(dtype=torch.float64 if value.dtype == torch.float64 else torch.float32)
        for value in values
    ]
    return not sums or bool(
        to_host(torch.isfinite(torch.stack([total.to(sums[0].device) for total in sums])).all())
    )
