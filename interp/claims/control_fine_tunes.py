"""A number of the fine-tuned model compared with the same number of control fine-tunes.

With five controls the 95 % interval of a new control can be stated; with nineteen the fine-tuned
model can be ranked among them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from interp.claims.claim import Claim, Draws
from interp.claims.estimates import Estimate, mean, statistic
from interp.table import Table, table

FOR_INTERVAL, FOR_RANK = 5, 19
TABLE = "controls"


def controls_table(names: Sequence[str], columns: Mapping[str, tuple]) -> Table:
    """One row per control; ``columns`` hold a number of each."""
    return table(
        "controls",
        {
            "control": (np.arange(len(names)), "key", "control fine-tune, in the given order"),
            "model": (list(names), "text", "its name"),
            **columns,
        },
    )


def ends(column: str) -> dict[str, Estimate]:
    """Minimum and maximum over the controls: the fields ``least_control`` and ``most_control``."""
    return {
        "least_control": statistic("minimum", column, table=TABLE),
        "most_control": statistic("maximum", column, table=TABLE),
    }


def on_average(count: int, form: str) -> str:
    """The end of a sentence: the controls from which a paired difference is taken."""
    if count == 1:
        return f"of the control ({{control:{form}}})"
    return (
        f"of {count} controls on average ({{control:{form}}}; from {{least_control:{form}}} to"
        f" {{most_control:{form}}})"
    )


def opening(column: str, count: int, form: str) -> tuple[str, dict[str, Estimate]]:
    """An addition to the first sentence of a run, the mean of the controls, and its estimate.

    ``column`` of the run's primary table has the number of the control, or the mean over controls.
    """
    if not count:
        return " No control fine-tune was given to compare it with (--control).", {}
    of = "the control fine-tune" if count == 1 else f"{count} control fine-tunes on average"
    return f" Compared with {of}: {{of_controls:{form}}}.", {"of_controls": mean(column)}


def needed(count: int) -> str:
    """Why so few controls are not a test."""
    return (
        f"{count} control{'s were' if count > 1 else ' was'} given, and {FOR_INTERVAL} are needed"
        f" for the interval of a new one, {FOR_RANK} for a rank test"
    )


def beyond_new(
    name: str, estimate: Estimate, column: str, count: int, said: str, form: str
) -> Claim:
    """The claim that the estimate is larger than that of a new control fine-tune.

    ``column`` of the table of controls has the same number of each control. With five controls or
    more, the interval of the estimate has to lie above the 95 % prediction interval of a new one,
    ``mean +- t sqrt(1 + 1/k) sd`` of k controls; with nineteen or more, p is the rank among them,
    (1 + b) / (1 + k). With fewer it is not tested. ``said``: the number in words; ``form``: its
    number format.
    """
    shown, also = f"{{value:{form}}} [{{low:{form}}}, {{high:{form}}}]", ends(column)
    if count < FOR_INTERVAL:
        of = "One control" if count == 1 else f"{count} controls"
        gives = (
            f"gives {{least_control:{form}}}"
            if count == 1
            else f"give {{least_control:{form}}} to {{most_control:{form}}}"
        )
        return Claim(
            name=name,
            estimate=estimate,
            at_least=0.0,
            also=also,
            text=(f"{of} {gives} where {said} is {shown}; the range of a new one is not known."),
            missing=needed(count),
        )
    if count < FOR_RANK:
        return Claim(
            name=name,
            estimate=estimate,
            at_least=0.0,
            beyond=["control"],
            reference=replace(statistic("mean", column, table=TABLE), spread="new-observation"),
            control=f"{count} control fine-tunes, and the 95 % prediction interval of a new one",
            text=(
                f"The prediction interval of a new control is {{control_low:{form}}} to"
                f" {{control_high:{form}}} (95 %, from {count} controls with"
                f" {{least_control:{form}}} to {{most_control:{form}}}); {said} is {shown}."
            ),
            also=also,
        )
    return Claim(
        name=name,
        estimate=estimate,
        at_least=0.0,
        null=Draws(TABLE, column, fewest=FOR_RANK),
        beyond=[],
        control=f"{count} control fine-tunes, by rank",
        text=(
            f"Of {count} controls the largest gives {{most_control:{form}}}; {said} is {shown}, "
            "p = {p:.2g} by rank."
        ),
        also=also,
    )
