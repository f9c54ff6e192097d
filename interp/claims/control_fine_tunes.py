"""A number of the fine-tuned model compared with the same number of control fine-tunes.

With five controls the 95 % interval of a new control can be stated; with nineteen the fine-tuned
model can be ranked among them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from interp.claims.claim import Claim, Draws
from interp.claims.estimates import Estimate, mean, statistic
from interp.rows import key, rows_table, text
from interp.table import Table

MIN_FOR_INTERVAL, MIN_FOR_RANK = 5, 19
TABLE = "controls"


class ControlRow:
    """A row per control fine-tune, with a number of each."""

    control: int = key("control fine-tune, in the given order")
    model: str = text("its name")


def controls_table(
    names: Sequence[str],
    extra: Mapping[str, tuple] | None = None,
    row: type[ControlRow] = ControlRow,
    numbers: Mapping[str, Any] | None = None,
) -> Table:
    """The controls by name. ``numbers``: one of each control, for each further column of ``row``;
    ``extra``: columns whose names depend on the run, as in ``interp.rows.rows_table``.
    """
    data = {"control": np.arange(len(names)), "model": names, **(numbers or {})}
    return rows_table(row, TABLE, data, extra=extra)


def control_range(column: str, table: str = TABLE) -> dict[str, Estimate]:
    """Minimum and maximum over the controls: the fields ``least_control`` and ``most_control``."""
    return {
        "least_control": statistic("minimum", column, table=table),
        "most_control": statistic("maximum", column, table=table),
    }


def controls_phrase(n_controls: int, number_format: str) -> str:
    """The end of a sentence: the controls from which a paired difference is taken."""
    if n_controls == 1:
        return f"of the control ({{control:{number_format}}})"
    return (
        f"of {n_controls} controls on average ({{control:{number_format}}}; from"
        f" {{least_control:{number_format}}} to {{most_control:{number_format}}})"
    )


def comparison_sentence(
    column: str, n_controls: int, number_format: str
) -> tuple[str, dict[str, Estimate]]:
    """An addition to the first sentence of a run, the mean of the controls, and its estimate.

    ``column`` of the run's primary table has the number of the control, or the mean over controls.
    """
    if not n_controls:
        return " No control fine-tune was given to compare it with (--control).", {}
    controls_text = (
        "the control fine-tune"
        if n_controls == 1
        else f"{n_controls} control fine-tunes on average"
    )
    return f" Compared with {controls_text}: {{of_controls:{number_format}}}.", {
        "of_controls": mean(column)
    }


def too_few_controls(n_controls: int) -> str:
    """Why so few controls are not a test."""
    return (
        f"{n_controls} control{'s were' if n_controls > 1 else ' was'} given, and"
        f" {MIN_FOR_INTERVAL} are needed for the interval of a new one, {MIN_FOR_RANK} for a rank"
        " test"
    )


def beyond_new_control(
    name: str,
    estimate: Estimate,
    column: str,
    n_controls: int,
    description: str,
    number_format: str,
    table: str = TABLE,
) -> Claim:
    """The claim that the estimate is larger than that of a new control fine-tune.

    ``column`` of the table of controls (``table``) has the same number of each control. With five
    controls or more, the interval of the estimate has to lie above the 95 % prediction interval of a new one,
    ``mean +- t sqrt(1 + 1/k) sd`` of k controls; with nineteen or more, p is the rank among them,
    (1 + b) / (1 + k). With fewer it is not tested. ``description``: the number in words;
    ``number_format``: its number format.
    """
    value_text, also = (
        f"{{value:{number_format}}} [{{low:{number_format}}}, {{high:{number_format}}}]",
        control_range(column, table),
    )
    if n_controls < MIN_FOR_INTERVAL:
        controls_text = "One control" if n_controls == 1 else f"{n_controls} controls"
        range_text = (
            f"gives {{least_control:{number_format}}}"
            if n_controls == 1
            else f"give {{least_control:{number_format}}} to {{most_control:{number_format}}}"
        )
        return Claim(
            name=name,
            estimate=estimate,
            at_least=0.0,
            also=also,
            text=(
                f"{controls_text} {range_text} where {description} is {value_text}; the range of a"
                " new one is not known."
            ),
            missing=too_few_controls(n_controls),
        )
    if n_controls < MIN_FOR_RANK:
        return Claim(
            name=name,
            estimate=estimate,
            at_least=0.0,
            beyond=["control"],
            reference=replace(statistic("mean", column, table=table), spread="new-observation"),
            control=(
                f"{n_controls} control fine-tunes, and the 95 % prediction interval of a new one"
            ),
            text=(
                f"The prediction interval of a new control is {{control_low:{number_format}}} to"
                f" {{control_high:{number_format}}} (95 %, from {n_controls} controls with"
                f" {{least_control:{number_format}}} to {{most_control:{number_format}}});"
                f" {description} is {value_text}."
            ),
            also=also,
        )
    return Claim(
        name=name,
        estimate=estimate,
        at_least=0.0,
        null=Draws(table, column, min_draws=MIN_FOR_RANK),
        beyond=[],
        control=f"{n_controls} control fine-tunes, by rank",
        text=(
            f"Of {n_controls} controls the largest gives {{most_control:{number_format}}};"
            f" {description} is {value_text}, p = {{p:.2g}} by rank."
        ),
        also=also,
    )
