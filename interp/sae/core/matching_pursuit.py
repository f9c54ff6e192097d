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
    selected, values, residual = [], [], x
    running = torch.ones(len(x), dtype=torch.bool, device=x.device)
    was_selected = torch.zeros(len(x), len(atoms), dtype=torch.bool, device=x.device)
    for _ in range(x.shape[1] if steps is None else steps):
        with torch.no_grad():
            running = running & (residual.norm(dim=1) >= threshold)
            if not bool(to_host(running.any())):
                break
            best, latent = (residual @ atoms.T).max(1)
            running = running & (best > 0)
        atom = atoms[latent]
        value = torch.where(running, (residual * atom).sum(1).relu(), 0.0)
        residual = residual - value[:, None] * atom
        selected.append(latent)
        values.append(value)
        running = running & ~was_selected.gather(1, latent[:, None]).squeeze(1)
        was_selected.scatter_(1, latent[:, None], True)
    return _to_codes(selected, values, len(x), len(atoms), x), residual


def _to_codes(
    selected: list[Int[Tensor, " N"]],
    values: list[Float[Tensor, " N"]],
    n_inputs: int,
    width: int,
    x: Tensor,
) -> Codes:
    """The steps as sparse codes; values of an atom selected in several steps are summed."""
    if not selected:
        empty = torch.zeros(0, dtype=torch.int64, device=x.device)
        return Codes(
            Pattern(torch.zeros(n_inputs + 1, dtype=torch.int64, device=x.device), empty),
            x.new_zeros(0),
            width,
        )
    latents, amounts = torch.stack(selected, 1), torch.stack(values, 1)
    used = amounts > 0
    rows = torch.arange(n_inputs, device=x.device)[:, None].expand_as(latents)[used]
    flat, inverse = (rows * width + latents[used]).unique(return_inverse=True)
    summed = amounts.new_zeros(len(flat)).index_add(0, inverse, amounts[used])
    starts = torch.zeros(n_inputs + 1, dtype=torch.int64, device=x.device)
    starts[1:] = torch.bincount(flat // width, minlength=n_inputs).cumsum(0)
    return Codes(Pattern(starts, flat % width), summed, width)
