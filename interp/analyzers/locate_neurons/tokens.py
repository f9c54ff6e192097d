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
from interp.study import GROUPS, Study
from interp.table import Table, table

_CONTEXT = 12


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
    width = study.pair.tuned.context_length
    prefix_lengths = _shared_prefix_lengths(
        [study.encoded(group) for group in GROUPS] if located else []
    )
    for side, group in enumerate(GROUPS if located else ()):
        encoded = study.encoded(group)
        rows = study.progress(study.groups(group, model), f"tokens, {group}")
        for captured in capture(
            study.engine, {"tuned": model}, encoded, rows, sites, pad_id=study.pad_id
        ):
            real = captured.roles >= 0
            is_new = real & (
                real.cumsum(1)
                > torch.tensor(prefix_lengths[side])[captured.rows].to(real.device)[:, None]
            )
            # class, prompt and position encoded as one number, so that memory does not grow with
            # prompts
            position = real.cumsum(1) - 1
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
    rows = []
    for number, (layer, neuron) in enumerate(located):
        slot = to_host(index[layer]).tolist().index(neuron)
        values, cells = _largest(tails[layer, 1], tails[layer, -1], slot)
        for order, (value, cell) in enumerate(zip(values, cells, strict=True)):
            (row, side), position = divmod(int(cell) // width, len(GROUPS)), int(cell) % width
            group = GROUPS[side]
            ids = study.encoded(group)[row].ids
            decode = study.pair.tokenizer.decode
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
    columns = list(zip(*rows, strict=True)) if rows else [[] for _ in range(11)]
    integer, text = np.int64, object
    return table(
        "neuron-tokens",
        {
            "layer": (np.array(columns[0], integer), "key", "block"),
            unit.name: (np.array(columns[1], integer), "key", f"one of the block's {unit.plural}"),
            "rank": (np.array(columns[2], integer), "key", "rank among the located units"),
            "order": (
                np.array(columns[3], integer),
                "key",
                "0 is the token with the largest activation by magnitude",
            ),
            "prompt_id": (np.array(columns[4], integer), "key", "position in the prompt file"),
            "group": (np.array(columns[5], text), "key", "class of the prompt"),
            "position": (np.array(columns[6], integer), "key", "token position in the prompt"),
            "token": (np.array(columns[7], text), "text", "the token"),
            "before": (np.array(columns[8], text), "text", "text before it"),
            "after": (np.array(columns[9], text), "text", "text after it"),
            "value": (
                np.array(columns[10], np.float64),
                "measure",
                "activation in the fine-tuned model",
            ),
        },
    )
