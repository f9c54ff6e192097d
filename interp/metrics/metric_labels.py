"""Names and phrases for a behaviour that the user defines."""

from __future__ import annotations

import re
from dataclasses import replace

from interp.errors import MetricError
from interp.metrics.base import MetricLabels
from interp.metrics.refusal import REFUSAL_LABELS

REFUSAL = "refusal"
_RESERVED = """
activation activation_from agreeing agreement alpha altered answer back base base_loss before
chance changed cluster condition control control_high control_low correct direction divergence
donor dose draw effect flip flipped flips fluency_ratio greedy group harmed held high k kind kl
latent layer loss lost low malformed mixed n neuron number p prompt_id random random_high
random_low receiver refused repeats sample sampled samples score set text tokens true tuned
value way weights weights_from
"""
RESERVED_COLUMNS = frozenset(_RESERVED.split())
"""Names of other columns in tables with a behaviour's column; a behaviour cannot use them."""


def behaviour_column(name: str) -> str:
    """The column name for a behaviour's name; raises MetricError for a name that cannot be one."""
    column = re.sub(r"[ -]+", "_", name.strip().casefold())
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", column):
        raise MetricError(
            f"the behaviour's name {name!r} cannot name a column; use a to z, digits, spaces,"
            " hyphens"
        )
    if column in RESERVED_COLUMNS or column.startswith(("log_odds", "matches_")):
        raise MetricError(
            f"the behaviour's name {name!r} is the name of another column; use another, such as"
            f" {name} answers"
        )
    return column


def behaviour_labels(name: str, flag: str, has_number: bool = True) -> MetricLabels:
    """Names and phrases for a behaviour; ``flag`` describes its column's values. Raises
    MetricError.

    Only the behaviour named refusal is described as "refused".
    """
    if name == REFUSAL:
        return REFUSAL_LABELS if flag == REFUSAL_LABELS.flag else replace(REFUSAL_LABELS, flag=flag)
    number = (
        f"log-odds of {name}" if has_number else f"log-odds of {name} (no continuations are given)"
    )
    return MetricLabels(
        number,
        "nats",
        "log_odds",
        behaviour_column(name),
        f"shows {name} on {{share}} of positive prompts",
        f"answers that show {name}",
        f"share that show {name}",
        flag,
        (f"show {name}", "do not"),
    )
