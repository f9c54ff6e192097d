"""Matching pursuit: select latents one at a time, each by the residual of those before it (Costa et
al. 2025, arXiv 2506.03093).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.maths.host import to_host
from interp.sae.core.sparse_products import Codes, Pattern


def pursue(
    x: Float[Tensor, "N D"], atoms: Float[Tensor, "F D"], *, threshold: float, steps: int | None
) -> tuple[Codes, Float[Tensor, "N D"]]:
    """Codes of ``x`` in unit-norm ``atoms``, and the residual; gradients flow through the values,
    not through the selection.

    A row ends when its residual is shorter than ``threshold``, no atom has a positive correlation
    with it, an atom was selected twice (its second value is still added), or after ``steps`` (by
    default D). An atom selected twice has one code.
    """
    chosen, values, rest = [], [], x
    alive = torch.ones(len(x), dtype=torch.bool, device=x.device)
    picked = torch.zeros(len(x), len(atoms), dtype=torch.bool, device=x.device)
    for _ in range(x.shape[1] if steps is None else steps):
        with torch.no_grad():
            alive = alive & (rest.norm(dim=1) >= threshold)
            if not bool(to_host(alive.any())):
                break
            best, latent = (rest @ atoms.T).max(1)
            alive = alive & (best > 0)
        atom = atoms[latent]
        value = torch.where(alive, (rest * atom).sum(1).relu(), 0.0)
        rest = rest - value[:, None] * atom
        chosen.append(latent)
        values.append(value)
        alive = alive & ~picked.gather(1, latent[:, None]).squeeze(1)
        picked.scatter_(1, latent[:, None], True)
    return _gathered(chosen, values, len(x), len(atoms), x), rest


def _gathered(
    chosen: list[Int[Tensor, " N"]],
    values: list[Float[Tensor, " N"]],
    n: int,
    width: int,
    x: Tensor,
) -> Codes:
    """The steps as sparse codes; values of an atom selected in several steps are summed."""
    if not chosen:
        empty = torch.zeros(0, dtype=torch.int64, device=x.device)
        return Codes(
            Pattern(torch.zeros(n + 1, dtype=torch.int64, device=x.device), empty),
            x.new_zeros(0),
            width,
        )
    latents, amounts = torch.stack(chosen, 1), torch.stack(values, 1)
    used = amounts > 0
    rows = torch.arange(n, device=x.device)[:, None].expand_as(latents)[used]
    flat, where = (rows * width + latents[used]).unique(return_inverse=True)
    summed = amounts.new_zeros(len(flat)).index_add(0, where, amounts[used])
    starts = torch.zeros(n + 1, dtype=torch.int64, device=x.device)
    starts[1:] = torch.bincount(flat // width, minlength=n).cumsum(0)
    return Codes(Pattern(starts, flat % width), summed, width)
