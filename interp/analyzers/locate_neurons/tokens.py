"""The tokens on which located neurons are most active in the fine-tuned model, with their context.

Most active by magnitude: a gated neuron can be strongly negative where it matters and near zero
where it is positive. A head's activation is the norm of its output vector.
"""

from collections.abc import Sequence

import numpy as np
import torch

from interp.capture import capture
from interp.maths.host import to_host
from interp.maths.moments import TopK
from interp.models.units import NEURON, Unit
from interp.prompts import Encoded
from interp.rows import UnitRow, columns_of, key, measure, rows_table, text
from interp.study import GROUPS, Study
from interp.table import Table

_CONTEXT = 12


class TokenRow(UnitRow):
    """A token on which a located unit is among its most active."""

    rank: int = key("rank among the located units")
    order: int = key("0 is the token with the largest activation by magnitude")
    prompt_id: int = key("position in the prompt file, from 0")
    group: str = key("class of the prompt")
    position: int = key("token position in the prompt, from 0")
    token: str = text("the token")
    before: str = text("text before it")
    after: str = text("text after it")
    value: float = measure("activation in the fine-tuned model")


def active_tokens(
    study: Study, located: Sequence[tuple[int, int]], unit: Unit = NEURON, per_unit: int = 6
) -> Table:
    """For each (layer, unit), in order, its most activating prompt tokens over both classes.

    A prefix that several prompts share counts once: the activations are the same in all of them.
    """
    model = study.pair.tuned
    layers = sorted({layer for layer, _ in located})
    sites = [unit.site(layer) for layer in layers]
    index = {
        layer: torch.tensor([n for at, n in located if at == layer], device=model.device)
        for layer in layers
    }
    tails = {
        (layer, sign): TopK.empty(len(index[layer]), per_unit, model.device)
        for layer in layers
        for sign in (1, -1)
    }
    width, groups = model.context_length, GROUPS if located else ()
    prefix_lengths = _shared_prefix_lengths([study.encoded(group) for group in groups])
    for side, group in enumerate(groups):
        encoded = study.encoded(group)
        rows = study.progress(study.groups(group, model), f"tokens, {group}")
        for captured in capture(
            study.engine, {"tuned": model}, encoded, rows, sites, pad_id=study.pad_id
        ):
            real = captured.roles >= 0
            position = real.cumsum(1) - 1
            shared = torch.tensor(prefix_lengths[side])[captured.rows].to(real.device)[:, None]
            is_new = real & (position >= shared)
            # class, prompt and position encoded as one number, so that memory does not grow with
            # prompts
            cells = (
                len(GROUPS) * captured.rows.to(model.device)[:, None] + side
            ) * width + position
            for layer, site in zip(layers, sites, strict=True):
                values = unit.gather(model.anatomy, captured.values["tuned", site][is_new], "norm")[
                    :, index[layer]
                ]
                for sign in (1, -1):
                    tails[layer, sign].update(sign * values, cells[is_new])
    return _table(study, located, unit, index, tails, width)


def _shared_prefix_lengths(classes: Sequence[Sequence[Encoded]]) -> list[list[int]]:
    """Length in tokens of the prefix that each prompt shares with an earlier one, by class."""
    nodes: dict[tuple[int, int], int] = {}
    lengths = []
    for encoded in classes:
        lengths.append([])
        for prompt in encoded:
            node = shared = 0
            for token in prompt.ids:
                shared += (node, token) in nodes
                node = nodes.setdefault((node, token), len(nodes) + 1)
            lengths[-1].append(shared)
    return lengths


def _largest(high: TopK, low: TopK, slot: int) -> tuple[np.ndarray, np.ndarray]:
    """Values of one neuron, largest magnitude first, and their cells; each cell occurs once."""
    values = np.concatenate([to_host(high.values[slot]), -to_host(low.values[slot])])
    cells = np.concatenate([to_host(high.rows[slot]), to_host(low.rows[slot])])
    order = np.argsort(-np.abs(values), kind="stable")
    order = order[np.sort(np.unique(cells[order], return_index=True)[1])]
    order = order[cells[order] >= 0][: len(to_host(high.rows[slot]))]
    return values[order], cells[order]


def _table(study: Study, located, unit: Unit, index, tails, width: int) -> Table:
    rows, decode = [], study.pair.tokenizer.decode
    for number, (layer, neuron) in enumerate(located):
        slot = to_host(index[layer]).tolist().index(neuron)
        values, cells = _largest(tails[layer, 1], tails[layer, -1], slot)
        for order, (value, cell) in enumerate(zip(values, cells, strict=True)):
            (row, side), position = divmod(int(cell) // width, len(GROUPS)), int(cell) % width
            group = GROUPS[side]
            ids = study.encoded(group)[row].ids
            rows.append(
                (
                    layer,
                    neuron,
                    number + 1,
                    order,
                    study.prompts(group).prompts[row].id,
                    group,
                    position,
                    decode(list(ids[position : position + 1])),
                    decode(list(ids[max(0, position - _CONTEXT) : position])),
                    decode(list(ids[position + 1 : position + 1 + _CONTEXT])),
                    float(value),
                )
            )
    data = {name: [row[at] for row in rows] for at, name in enumerate(columns_of(TokenRow))}
    # the type of an empty key cannot be inferred
    groups = {"group": np.array(data["group"], object)}
    return rows_table(TokenRow, "neuron-tokens", data | groups, rename={"unit": unit.name})
