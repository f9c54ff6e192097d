"""What every attention head adds to the residual stream, one vector per prompt.

The output projection is linear, so that the mean over positions of a head's contribution is its
slice of the projection times the mean of its activations ``z``. Only that mean is kept, and
contributions are formed block by block. The projection's bias belongs to no head and is left out.
In families with a norm after attention, contributions are those before the norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.capture import capture
from interp.maths.host import to_host
from interp.maths.precision import widen
from interp.models.model import Model
from interp.models.units import HEAD
from interp.prompts import Encoded
from interp.study import Study

REDUCTIONS = ("mean", "last")


@dataclass(frozen=True, eq=False)
class HeadOutputs:
    """Head activations of prompts, averaged over a prompt's tokens or at its last one.

    ``z[prompt, layer, channel]``: the inputs of the output projections. ``tokens``: length of each
    prompt.
    """

    model: Model
    z: Float[Tensor, "N L C"]
    tokens: Int[np.ndarray, " N"]

    def layer(
        self, layer: int, rows: Int[np.ndarray, " n"] | None = None
    ) -> Float[Tensor, "n H D"]:
        """Contributions of a block's heads on some prompts, by default all; adapters applied."""
        chosen = (
            self.z[:, layer]
            if rows is None
            else self.z[torch.from_numpy(rows).to(self.z.device), layer]
        )
        heads = self.model.anatomy.n_heads
        write = HEAD.write_weights(self.model, layer).to(chosen).unflatten(1, (heads, -1))
        # [H, n, w] @ [H, w, D]: one product per head, the same for every prompt
        by_head = chosen.unflatten(1, (heads, -1)).transpose(0, 1) @ write.permute(1, 2, 0)
        return by_head.transpose(0, 1)


def head_outputs(
    study: Study, model: Model, encoded: Sequence[Encoded], reduce: str, title: str
) -> HeadOutputs:
    """Read all heads of a model on prompts. ``reduce``: mean over a prompt's tokens, or last."""
    anatomy, layers = model.anatomy, range(model.anatomy.n_layers)
    sites = [HEAD.site(layer) for layer in layers]
    per_token = 3 * anatomy.n_layers * HEAD.n_channels(anatomy) * 4
    order: list[int] = []
    parts: list[Tensor] = []
    groups = study.batches(encoded, model, per_token)
    for captured in capture(
        study.engine,
        {"model": model},
        encoded,
        study.progress(groups, f"heads, {title}"),
        sites,
        pad_id=study.pad_id,
    ):
        values = [widen(captured.values["model", site]) for site in sites]
        parts.append(
            torch.stack([_reduced(value, captured.roles >= 0, reduce) for value in values], 1)
        )
        order += to_host(captured.rows).tolist()
    z = torch.cat(parts)[torch.tensor(np.argsort(order), device=parts[0].device)]
    return HeadOutputs(model, z, np.array([len(coded.ids) for coded in encoded]))


def _reduced(value: Float[Tensor, "B T C"], real: Tensor, reduce: str) -> Float[Tensor, "B C"]:
    if reduce == "last":
        return value[:, -1]
    real = real.to(value.device)
    kept = torch.where(real[..., None], value, 0.0)
    return kept.sum(1) / real.sum(1, keepdim=True)
