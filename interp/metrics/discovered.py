"""A behaviour that discovery found: writing the token or phrase of one row of its table."""

from __future__ import annotations

import re

from interp.errors import MetricError, OptionError
from interp.metrics.phrases import Phrases
from interp.metrics.specification import BehaviourSpecification
from interp.store import Store
from interp.table import Table

PREFIX = "discovered:"
_METHODS = ("diff-mining", "activation-difference", "contrastive-generation")


def is_discovered(source: object) -> bool:
    """Whether a behaviour is named as ``discovered:RUN#PLACE``."""
    return isinstance(source, str) and source.startswith(PREFIX)


def read_discovered(source: str, store: Store) -> BehaviourSpecification:
    """The behaviour of ``discovered:RUN#PLACE``: a run of ``interp discover`` and a place in its
    table.

    Raises OptionError for another form, StoreError for a run that is not there, MetricError for a
    row that is no behaviour of its own.
    """
    match = re.fullmatch(rf"{PREFIX}([0-9a-f]+)#([1-9]\d*)", source)
    if match is None:
        raise OptionError(
            f"--behaviour {source!r} names no row of a discovery; write {PREFIX}RUN#PLACE, such as"
            f" {PREFIX}1facf37b#3"
        )
    return discovered_behaviour(store.get(store.find(match[1])), int(match[2]))


def discovered_behaviour(table: Table, place: int) -> BehaviourSpecification:
    """The behaviour of writing what stands at this place of a discovery's table, anywhere in an
    answer and in whatever case; its number is the log-odds of its first tokens.

    Raises MetricError for a table of another kind, a place that it does not have, texts and
    directions, and what the fine-tuned model does less.
    """
    if table.kind != "discover":
        raise MetricError(
            f"a table of kind {table.kind!r} holds no discovery; give a run of interp discover"
        )
    rows = [row for row in table.rows() if row["place"] == place]
    if not rows:
        raise MetricError(f"the discovery has places 1 to {len(table)}, not {place}")
    row = rows[0]
    phrase = row["evidence"].strip()
    if row["method"] not in _METHODS or row["form"] or not any(map(str.isalnum, phrase)):
        raise MetricError(
            f"place {place} is {row['evidence'][:40]!r} of {row['method']}, which is not a phrase"
            " that answers can hold; choose a token or a phrase"
        )
    if row["direction"] != "more":
        raise MetricError(
            f"place {place}, {row['evidence']!r}, is what the fine-tuned model does less, and is"
            " not a behaviour that it shows; choose one that it does more"
        )
    word = re.sub(r"[^a-z0-9]+", " ", phrase.casefold()).strip()[:20].strip() or f"row {place}"
    return BehaviourSpecification(f"discovered {word}", Phrases((phrase,)), (phrase,))
