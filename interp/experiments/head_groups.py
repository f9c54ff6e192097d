"""Groups of attention heads at named positions of a prompt, wired to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from interp.errors import OptionError
from interp.prompts import LAST

LOGITS = "logits"
VIAS = ("q", "k", "v")
Node = tuple[int, int]
"""A head: its block and its number there."""


@dataclass(frozen=True)
class HeadGroup:
    """Heads at one position, and what they act on: the logits, or a group through its heads'
    queries, keys or values (``via``).

    ``size``: heads of the group; 0 for the default size.
    """

    name: str
    position: str
    receiver: str = LOGITS
    via: str = ""
    size: int = 0


DEFAULT_GROUPS = (
    HeadGroup("A", LAST),
    HeadGroup("B", LAST, "A", "q"),
    HeadGroup("C", "label", "B", "v"),
    HeadGroup("D", "mention", "C", "v"),
)
"""The groups of arXiv 2402.14811: value fetchers, position transmitters, position detectors and
structure readers.
"""


def parse_group(text: str) -> HeadGroup:
    """``NAME:POSITION:RECEIVER:VIA[:SIZE]``, or ``NAME:POSITION:logits[::SIZE]``; OptionError for
    anything else.
    """
    parts = text.split(":")
    try:
        name, position, receiver, via, size = [*parts, *["", "0"][len(parts) - 3 :]][:5]
        group = HeadGroup(name, position, receiver, via, int(size or 0))
        if len(parts) > 5 or group.size < 0 or not (name and position and receiver):
            raise ValueError
    except ValueError:
        raise OptionError(
            f"{text!r} is not a group; write NAME:POSITION:RECEIVER:VIA[:SIZE], for example"
            " B:last:A:q:5, or A:last:logits"
        ) from None
    return group


def require_chain(groups: Sequence[HeadGroup]) -> None:
    """Raise OptionError unless every group acts on the logits or, at a position where it can, on a
    group before it.
    """
    known: dict[str, HeadGroup] = {}
    for group in groups:
        if group.name in known or group.name == LOGITS:
            raise OptionError(f"two groups have the name {group.name!r}; give each its own")
        if group.receiver == LOGITS:
            if group.via:
                raise OptionError(
                    f"group {group.name} acts on the logits through {group.via!r}; leave it empty"
                )
            if group.position != LAST:
                raise OptionError(
                    f"group {group.name} acts on the logits at {group.position!r}; only heads at"
                    f" {LAST!r} do so directly"
                )
        elif group.receiver not in known:
            raise OptionError(
                f"group {group.name} acts on {group.receiver!r}, which is not a group before it"
                f" ({', '.join(known) or 'none'})"
            )
        elif group.via not in VIAS:
            raise OptionError(
                f"group {group.name} acts on {group.receiver} through {group.via!r}; use q, k or v"
            )
        elif group.via == "q" and group.position != known[group.receiver].position:
            raise OptionError(
                f"group {group.name} is at {group.position!r} and acts through the queries of"
                f" {group.receiver} at {known[group.receiver].position!r}: the positions must be"
                " the same"
            )
        known[group.name] = group
    if not groups:
        raise OptionError("no group was given; at least one has to act on the logits")


def group_size(group: HeadGroup, n_heads: int) -> int:
    """Heads of a group: as given, else 2 % of all heads of the model, at least 3."""
    return min(group.size or max(3, round(0.02 * n_heads)), n_heads)


def top_heads(scores: Float[np.ndarray, "L H"], count: int, min_share: float = 0.0) -> list[Node]:
    """The ``count`` heads with the lowest scores, lowest first; those with less than ``min_share``
    of the effect of the first, or with none (a score of at least 0), are not among them.
    """
    order = np.argsort(scores, axis=None, kind="stable")[:count]
    nodes = [(int(at) // scores.shape[1], int(at) % scores.shape[1]) for at in order]
    return [node for node in nodes if scores[node] < 0 and scores[node] <= min_share * scores.min()]


Circuit = Mapping[str, tuple[Node, ...]]
"""Heads by group."""


def without_repeats(circuit: Mapping[str, Sequence[Node]], groups: Sequence[HeadGroup]) -> Circuit:
    """A circuit in which a head that two groups at one position have is in the later one only."""
    result: dict[str, tuple[Node, ...]] = {}
    for at, group in enumerate(groups):
        later = {
            node
            for other in groups[at + 1 :]
            if other.position == group.position
            for node in circuit[other.name]
        }
        result[group.name] = tuple(node for node in circuit[group.name] if node not in later)
    return result


def heads_at(
    circuit: Circuit, groups: Sequence[HeadGroup], shape: tuple[int, int]
) -> dict[str, Bool[np.ndarray, "L H"]]:
    """The heads of a circuit by position, as masks over all heads."""
    masks = {group.position: np.zeros(shape, bool) for group in groups}
    for group in groups:
        for node in circuit[group.name]:
            masks[group.position][node] = True
    return masks


def random_circuit(
    circuit: Circuit,
    groups: Sequence[HeadGroup],
    shape: tuple[int, int],
    rng: np.random.Generator,
    bands: int,
) -> Circuit:
    """Heads drawn without replacement: in every group as many of each band of blocks as the circuit
    has there. ``bands``: equal parts of the depth. A head is in one group of a position only.
    """
    n_layers, n_heads = shape
    taken: dict[str, set[Node]] = {group.position: set() for group in groups}
    result: dict[str, tuple[Node, ...]] = {}
    for group in groups:
        chosen: list[Node] = []
        wanted = np.bincount(
            [layer * bands // n_layers for layer, _ in circuit[group.name]], minlength=bands
        )
        for band, count in enumerate(wanted):
            free = [
                (layer, head)
                for layer in range(n_layers)
                for head in range(n_heads)
                if layer * bands // n_layers == band and (layer, head) not in taken[group.position]
            ]
            picked = rng.choice(len(free), size=int(count), replace=False)
            chosen += [free[int(at)] for at in picked]
            taken[group.position] |= {free[int(at)] for at in picked}
        result[group.name] = tuple(sorted(chosen))
    return result
