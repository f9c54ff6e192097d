"""``ControlLocations``: compare the set located in a fine-tuned model with those located in control
fine-tunes.

No model is run: the same method was run on each control's own pair, with the same prompts. Any
training changes units, and a method always ranks some first; so the set's scores are evidence only
where they exceed those of controls.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from interp.analyzers.framework import Analyzer, Known, Result, option
from interp.claims import Claim, Draws, statistic
from interp.claims.control_fine_tunes import MIN_FOR_INTERVAL, MIN_FOR_RANK, too_few_controls
from interp.errors import OptionError, required
from interp.experiments.records import records_table
from interp.rows import key, measure, text
from interp.study import Study
from interp.table import Table

_EQUAL_OPTIONS = ("method", "positions", "top", "unit", "positive", "negative")
_OWN = "own"


class OwnScoresRow:
    """One row: the scores of the fine-tuned model."""

    n_selected: int = measure("number of selected units")
    largest_score: float = measure("largest score of a unit")
    total_score: float = measure("sum of the scores of its selected units")


class ControlRow:
    """A row per control fine-tune."""

    control: int = key("control fine-tune, from 0, in the order given")
    model: str = text("its name")
    n_selected: int = OwnScoresRow.n_selected
    shared: int = measure("number of these in the located set")
    chance: float = measure("expected overlap of two random sets of these sizes")
    largest_score: float = OwnScoresRow.largest_score
    total_score: float = OwnScoresRow.total_score
    score_of_set: float = measure("sum of its scores over the units of the located set")


@dataclass(frozen=True)
class ControlLocations(Analyzer):
    """Compare a locating run with runs of the same method on control fine-tunes.

    The table has one row per control: units that both sets share, and the number expected by
    chance; the largest score and the total of the selected units; the sub-table ``own`` has the
    same of the fine-tuned model. The study gives the prompts that all runs used. Raises OptionError
    for runs by another method or on other prompts.
    """

    name: ClassVar[str] = "control-locations"
    version: ClassVar[int] = 2

    located: Table | None = option(
        None, "The locating run of the fine-tuned model.", kind="locate-neurons", compare=False
    )
    controls: tuple[Table, ...] = option(
        (), "The locating runs of the controls, in order.", kind="locate-neurons", compare=False
    )

    def check(self, known: Known) -> None:
        """Raise OptionError without runs, or where a control was located with other options."""
        if self.located is None or not self.controls:
            raise OptionError(
                "there is nothing to compare; give a locating run and one of each control"
            )
        for control in self.controls:
            for name in _EQUAL_OPTIONS:
                value, expected = control.summary.get(name), self.located.summary.get(name)
                if value != expected:
                    raise OptionError(
                        f"a control was located with {name} {value!r}, and the set with"
                        f" {expected!r}"
                    )
            if len(control) != len(self.located):
                raise OptionError(
                    f"a control has {len(control)} units and the fine-tuned model"
                    f" {len(self.located)}"
                )

    def run(self, study: Study) -> Result:
        """Compare the runs."""
        located, controls = required(self.located, "the locating run"), self.controls
        own, selected = _scores(located), located["selected"]
        names = [
            str(each.provenance.context.get("tuned", "")) if each.provenance else ""
            for each in controls
        ]
        rows = [
            {
                **_scores(each),
                "control": at,
                "model": names[at],
                "shared": (selected & each["selected"]).sum(),
                "chance": float(selected.sum()) * float(each["selected"].sum()) / len(selected),
                "score_of_set": each["score"][selected].sum(),
            }
            for at, each in enumerate(controls)
        ]
        return Result(
            records_table(ControlRow, self.name, rows),
            {_OWN: records_table(OwnScoresRow, "", [own])},
            [_claim(len(controls))],
            {
                "unit": located.summary["unit"],
                "n_selected": own["n_selected"],
                "controls": names,
            },
            [
                "Units shared with a control are those that any training changes, or that the"
                " method favours.",
                "A control's own set is the best that the method finds there, like the located set"
                " here. A total that is not beyond those means that any training gives scores as"
                " large, not that the located units have no effect: effects are measured by"
                " ablation and patching (verify-neurons).",
            ],
        )


def _scores(run: Table) -> dict[str, Any]:
    """The columns of ``OwnScoresRow``."""
    return {
        "n_selected": int(run["selected"].sum()),
        "largest_score": run["score"].max(),
        "total_score": run["score"][run["selected"]].sum(),
    }


def _claim(count: int) -> Claim:
    """The set's total score exceeds that of a new control's own set; not tested with few
    controls.
    """
    sentence = (
        "The scores of the {selected:d} located units add up to {value:.3g}, those of a control's"
        " own set to "
        + (
            "{least_control:.3g}"
            if count == 1
            else f"{{least_control:.3g}} to {{most_control:.3g}} ({count} controls)"
        )
        + "; the same {selected:d} units of the controls add up to "
        + ("{least_same:.3g}" if count == 1 else "{least_same:.3g} to {most_same:.3g}")
        + "; the largest score is {largest:.3g}, in a control {largest_control:.3g}. A control's"
        " set shares {shared:.3g} units with it on average, and by chance {chance:.3g}."
    )
    options: dict[str, Any] = {"missing": too_few_controls(count)}
    if count >= MIN_FOR_RANK:
        options = {"null": Draws("", "total_score", min_draws=MIN_FOR_RANK), "beyond": []}
    elif count >= MIN_FOR_INTERVAL:
        # one set has one total: its range is the number itself
        options = {
            "beyond": ["control"],
            "reference": replace(statistic("mean", "total_score"), spread="new-observation"),
        }
    if count >= MIN_FOR_INTERVAL:
        options["control"] = f"{count} control fine-tunes, each with the set located in it"
    return Claim(
        name="set-beyond-controls",
        estimate=replace(statistic("sum", "total_score", table=_OWN), spread="range"),
        at_least=0.0,
        text=sentence,
        also={
            "least_control": statistic("minimum", "total_score"),
            "most_control": statistic("maximum", "total_score"),
            "least_same": statistic("minimum", "score_of_set"),
            "most_same": statistic("maximum", "score_of_set"),
            "shared": statistic("mean", "shared"),
            "chance": statistic("mean", "chance"),
            "largest": statistic("maximum", "largest_score", table=_OWN),
            "largest_control": statistic("maximum", "largest_score"),
            "selected": statistic("sum", "n_selected", table=_OWN),
        },
        **options,
    )
