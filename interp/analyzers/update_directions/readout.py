"""When a direction is written: the text that excites it most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.engines import Batch
from interp.maths.host import to_host
from interp.maths.precision import widen
from interp.prompts import Encoded
from interp.sites import Site, Weight
from interp.study import Study

INPUTS = {"attn.o": "attn.hook_z", "mlp.out": "mlp.hook_post"}
"""The site that a matrix reads."""


@dataclass(frozen=True)
class Excitation:
    """Where a direction is written most: ``size`` [n], signed, the input times the right singular
    vector; ``text`` and ``position`` [n], -1 where nothing is known.
    """

    size: Float[np.ndarray, " n"]
    text: np.ndarray
    position: np.ndarray


@torch.no_grad()
def excitations(
    study: Study,
    texts: Sequence[Encoded],
    keys: Sequence[Weight],
    rights: Sequence[Float[np.ndarray, " _"]],
) -> Excitation:
    """The position of the texts at which every direction is written with the largest weight.

    ``keys`` [n]: its matrix; ``rights`` [n]: its right singular vector. A text's first position is
    left out: it is an attention sink, or a token that all texts begin with.
    """
    model = study.pair.tuned
    n = len(keys)
    found = Excitation(np.zeros(n), np.full(n, -1), np.full(n, -1))
    rows_of: dict[Site, list[int]] = {}
    for row, weight in enumerate(keys):
        if INPUTS[weight.matrix] in model.anatomy.targets:
            rows_of.setdefault(Site(weight.layer, INPUTS[weight.matrix]), []).append(row)
    if not rows_of:
        return found
    vectors = {
        site: torch.from_numpy(np.stack([rights[row] for row in rows])).float().to(model.device)
        for site, rows in rows_of.items()
    }
    width = sum(part.shape[1] for part in vectors.values())
    groups = study.batches(texts, model, 8 * width)
    for numbers in study.progress(groups, "what excites directions"):
        batch = Batch.pad([texts[at].ids for at in numbers], study.pad_id, "right", model.device)
        values = study.engine.run(model, batch, reads=list(vectors), keep=0).values
        counted = batch.mask.clone()
        counted[:, 0] = False
        for site, rows in rows_of.items():
            inputs = widen(values[site])
            written = (inputs @ vectors[site].to(inputs).T).masked_fill(
                ~counted.to(inputs.device)[..., None], 0.0
            )
            _remember(found, rows, written, numbers)
    return found


def _remember(
    excitation: Excitation, rows: list[int], written: Float[Tensor, "B T n"], numbers: Sequence[int]
) -> None:
    size = written.abs()
    largest, position = size.max(1)
    signed = written.gather(1, position[:, None])[:, 0]
    sizes, positions, values = map(to_host, (largest, position, signed))
    # in the order of the texts, so that batches do not decide a tie
    for at in sorted(range(len(numbers)), key=numbers.__getitem__):
        for column, row in enumerate(rows):
            old, new = abs(excitation.size[row]), sizes[at, column]
            if new > old or (new == old > 0 and numbers[at] < excitation.text[row]):
                excitation.size[row] = values[at, column]
                excitation.text[row], excitation.position[row] = numbers[at], positions[at, column]
