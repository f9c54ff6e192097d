"""The first lines of a discovery: what is beyond the controls, from its tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from interp.claims.control_fine_tunes import MIN_FOR_INTERVAL
from interp.table import Table

SENTENCES = 8
"""Items that the opening describes."""
OF_A_METHOD = 2
"""Of these at most for one method."""


def _share(value: float) -> str:
    # a rounded loss is no -0 %
    return f"{round(value, 2) + 0.0:.0%}"


def _token_sentence(row: Mapping[str, Any]) -> str:
    likelier = row["direction"] == "more"
    times = row["times"] if likelier else 1 / max(row["times"], 1e-300)
    likely = (
        f"{times:.3g} times as {'likely' if likelier else 'unlikely'} on average over positions"
    )
    return (
        f"the token {row['evidence']!r} "
        + (f"is {likely}, and " if times > 1 else "is one whose logit changes: ")
        + f"its logit is among those that {'rise' if likelier else 'fall'} most at"
        f" {_share(abs(row['score']))} of positions, those of the other direction subtracted"
        f"{_controls(row, _share)}"
    )


def _difference_sentence(row: Mapping[str, Any]) -> str:
    return (
        f"the mean activation difference reads as {row['evidence']!r} ({row['where']};"
        f" {row['score']:.3g} {row['unit']}{_controls(row, _number)})"
    )


def _phrase_sentence(row: Mapping[str, Any]) -> str:
    return (
        f"{'more' if row['direction'] == 'more' else 'fewer'} of the texts of contrastive generation"
        f" have {row['evidence']!r} (by {_share(abs(row['score']))}{_controls(row, _share)})"
    )


def _sample_sentence(row: Mapping[str, Any]) -> str:
    return (
        "it writes texts that the base finds less likely than it does, such as"
        f" {row['evidence'][:160]!r} (log ratio of losses"
        f" {row['score']:.3g}{_controls(row, _number)})"
    )


def _direction_sentence(row: Mapping[str, Any]) -> str:
    return (
        f"a direction of its update ({row['where']}; {row['score']:.2g} of the update lies along it"
        f" and outside of the other models' directions{_controls(row, _number)}) writes"
        f" {row['evidence'][:120]}"
    )


def _trigger_sentence(row: Mapping[str, Any]) -> str:
    return (
        f"with the token {row['evidence']!r} in a prompt ({row['where']}) it departs further from"
        f" the base than without, by {row['score']:.2g} nats{_controls(row, _number)}:"
        f" {row['example'][:160]!r}"
    )


_SENTENCES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "diff-mining": _token_sentence,
    "activation-difference": _difference_sentence,
    "contrastive-generation": _phrase_sentence,
    "perplexity-differencing": _sample_sentence,
    "update-directions": _direction_sentence,
    "trigger-scan": _trigger_sentence,
}


def _number(value: float) -> str:
    return f"{value:.3g}"


def _controls(row: Mapping[str, Any], written: Callable[[float], str]) -> str:
    low, high = row["control_low"], row["control_high"]
    if math.isnan(low):
        return ""
    # scores of controls carry their sign: a fall is compared as a fall
    sign = 1 if row["direction"] == "more" else -1
    ends = sorted((sign * low, sign * high))
    return f", in the controls {written(ends[0])} to {written(ends[1])}"


def discovery_lines(items: Table, methods: Table, n_controls: int) -> list[str]:
    """The result in a minute: how many items are beyond the controls, and the first of them; or
    that none is, and what would have been seen.
    """
    rows = list(items.rows())
    by_methods = methods_phrase(methods)
    if n_controls < 2:
        shown = [row for row in rows if not row["form"]][:SENTENCES]
        return [
            (
                "Compared with its base and with one control, too few to say which of the two is"
                " unusual: what follows describes how they differ and is not a finding."
                if n_controls
                else "Compared with its base alone, without a control fine-tune: what follows"
                " describes the change and is not a finding, since fine-tuning on nothing in"
                " particular gives such tables too."
            ),
            *(f"{_sentence(row)}." for row in shown),
        ]
    of_controls = f"{n_controls} controls"
    beyond = [row for row in rows if row["beyond"]]
    if beyond:
        few = n_controls < MIN_FOR_INTERVAL
        return [
            f"Compared with its base and with {of_controls}"
            + (" (too few for a test)" if few else "")
            + f", the fine-tuned model differs in {int(methods['beyond'].sum())} items that"
            f" {by_methods} list. The first:",
            *(f"{_sentence(row)}." for row in _first_of_each(_one_per_word(beyond))),
        ]
    seen = "; ".join(
        f"{row['method']}: {row['detectable']:.3g} {row['unit']}".strip()
        for row in methods.rows()
        if np.isfinite(row["detectable"])
    )
    return [
        f"Nothing beyond what {of_controls} do was found by {by_methods}.",
        *(
            [
                "The smallest score that would have been found (of tokens and phrases: beyond the"
                f" controls' mean): {seen}."
            ]
            if seen
            else []
        ),
    ]


def methods_phrase(methods: Table) -> str:
    """How many methods there are, in words."""
    return f"{len(methods)} method{'s' if len(methods) > 1 else ''}"


def _one_per_word(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The first row of every method and word: tokens that differ by case or space are one."""
    first: dict[tuple[str, str], Mapping[str, Any]] = {}
    for row in rows:
        first.setdefault((row["method"], str(row["evidence"]).strip().casefold()), row)
    return list(first.values())


def _first_of_each(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The first rows, of a method at most ``OF_A_METHOD``: one method can list a hundred tokens."""
    counts: dict[str, int] = {}
    first = []
    for row in rows:
        counts[row["method"]] = counts.get(row["method"], 0) + 1
        if counts[row["method"]] <= OF_A_METHOD:
            first.append(row)
    return first[:SENTENCES]


def _sentence(row: Mapping[str, Any]) -> str:
    return f"{row['method']}: {_SENTENCES[row['method']](row)}"
