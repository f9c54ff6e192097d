"""The retrieval circuit that the base of the family ``entities`` starts from, by hand.

At this size training does not find one within minutes, so it is written into the initial weights,
weakly, and all weights are then trained. The chain is that of arXiv 2402.14811, one head each:

=====  =====  ====  ===========================================================================
group  block  head  what it does
=====  =====  ====  ===========================================================================
D      0      0     at every token reads the object four tokens before (at a label: what its box has)
C      1      1     at the query's label finds the same label in the context, reads what D wrote
B      2      2     at the last token reads what C wrote two tokens before
A      3      3     at the last token finds the object that B names, and writes it to the logits
=====  =====  ====  ===========================================================================

The residual stream has 32 columns each for objects, for all other tokens, for what D and A write,
and for what C and B write; the last column is constant.
"""

from __future__ import annotations

import torch
from torch import Tensor

OBJECT, OTHER, BOUND, POINTER = (slice(start, start + 32) for start in (0, 32, 64, 96))
CONSTANT = 127
HEADS = {"A": (3, 3), "B": (2, 2), "C": (1, 1), "D": (0, 0)}
"""Group -> block and head."""
OFFSETS = {"D": 4, "B": 2}
COPIES = {
    "D": (OBJECT, BOUND, 0.2),  # little: the norm would weaken the label's own code
    "C": (BOUND, POINTER, 1.0),
    "B": (POINTER, POINTER, 1.5),
    "A": (OBJECT, BOUND, 2.0),
}
"""What each head reads, where it writes it, and how strongly."""
WIDTH, KEY_HEADS = 32, 2
ROTARY_BASE = 1e6
"""Larger than usual for this size: half of the rotary pairs then turn little over 60 tokens."""


@torch.no_grad()
def plant(model, objects: list[int], *, match: float, seed: int) -> None:
    """Write the circuit into a fresh model. ``match``: strength with which C and A tell one code
    from another; ``objects``: ids of the objects' tokens.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = model.get_input_embeddings().weight
    codes = torch.randn(len(rows), WIDTH, generator=generator)
    codes = codes / codes.norm(dim=1, keepdim=True) * WIDTH**0.5
    rows.mul_(0.1)
    is_object = torch.zeros(len(rows), dtype=torch.bool)
    is_object[objects] = True
    rows[is_object, OBJECT] += codes[is_object]
    rows[~is_object, OTHER] += codes[~is_object]
    rows[:, CONSTANT] = 4.0
    model.get_output_embeddings().weight[is_object, BOUND] += 0.15 * codes[is_object]
    for group in HEADS:
        _clear(model, group)
    for group, offset in OFFSETS.items():
        _attend_back(model, group, offset)
    mix = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator)).Q
    _attend_same(model, "C", OTHER, OTHER, mix, match)
    _attend_same(model, "A", POINTER, OBJECT, mix, match)
    for group, (source, target, gain) in COPIES.items():
        _copy(model, group, source, target, gain)


def _parts(model, group: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Views of the query, key, value rows and output columns of a group's head."""
    layer, head = HEADS[group]
    attention = model.model.layers[layer].self_attn
    query = slice(head * WIDTH, (head + 1) * WIDTH)
    shared = head // (attention.q_proj.weight.shape[0] // WIDTH // KEY_HEADS)
    key = slice(shared * WIDTH, (shared + 1) * WIDTH)
    return (
        attention.q_proj.weight[query],
        attention.k_proj.weight[key],
        attention.v_proj.weight[key],
        attention.o_proj.weight[:, query],
    )


def _clear(model, group: str) -> None:
    for part in _parts(model, group):
        part.mul_(0.1)


def _frequencies() -> Tensor:
    """Rotary angles per position, in the order of a head's first 16 columns."""
    return ROTARY_BASE ** (-torch.arange(0, WIDTH, 2) / WIDTH)


def _attend_back(model, group: str, offset: int) -> None:
    """Attend to the token ``offset`` before, whatever it is: by the rotation of a constant."""
    query, key, _, _ = _parts(model, group)
    angle, half = offset * _frequencies(), WIDTH // 2
    key[:half, CONSTANT] += 1.5
    query[:half, CONSTANT] += 1.5 * torch.cos(angle)
    query[half:, CONSTANT] += -1.5 * torch.sin(angle)


def _attend_same(
    model, group: str, asked: slice, sought: slice, mix: Tensor, strength: float
) -> None:
    """Attend to tokens whose columns ``sought`` are one's own columns ``asked``.

    Only slow rotary pairs are used, in which 60 tokens of distance turn little.
    """
    query, key, _, _ = _parts(model, group)
    half = WIDTH // 2
    slow = torch.arange(half)[_frequencies() < 0.003]
    channels = torch.cat([slow, slow + half])
    wide = torch.zeros(WIDTH, WIDTH)
    wide[channels] = mix[: len(channels)]
    query[:, asked] += strength * wide
    key[:, sought] += strength * wide


def _copy(model, group: str, source: slice, target: slice, gain: float) -> None:
    """Write the columns ``source`` of the attended token to ``target``, but for the constant."""
    _, _, value, output = _parts(model, group)
    value[:, source] += gain * torch.eye(WIDTH)
    output[target] += torch.eye(WIDTH)
    output[CONSTANT] = 0.0
