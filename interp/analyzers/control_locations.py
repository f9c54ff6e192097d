"""``ControlLocations``: compare the set located in a fine-tuned model with those located in control
fine-tunes.

No model is run: the same method was run on each control's own pair, with the same prompts. Any
training changes units, and a method always ranks some first; so the set's scores are evidence only
where they exceed those of controls.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from interp.analyzers.base import Analyzer
from interp.claims import Claim, Draws, conclude, statistic
from interp.claims.control_fine_tunes import MIN_FOR_INTERVAL, MIN_FOR_RANK, too_few_controls
from interp.errors import OptionError
from interp.study import Study
from interp.table import Table, table

_EQUAL_OPTIONS = ("method", "positions", "top", "unit", "positive", "negative")
_OWN = "own"


@dataclass(frozen=True)
class ControlLocations(Analyzer):
    """Compare a locating run with runs of the same method on control fine-tunes; use ``of``.

    Returns a table of kind ``control-locations``, one row per control: units that both sets share,
    and the number expected by chance; the largest score and the total of the selected units; and
    ``own``, the same of the fine-tuned model. Raises OptionError for runs by another method or on
    other prompts.
    """

    name: ClassVar[str] = "control-locations"
    version: ClassVar[int] = 2
    takes: ClassVar[dict[str, str]] = {"located": "locate-neurons", "controls": "locate-neurons"}

    located: Table | None = field(default=None, compare=False)
    controls: tuple[Table, ...] = field(default=(), compare=False)

    @classmethod
    def of(cls, located: Table, *controls: Table) -> ControlLocations:
        """The analyzer for a locating run, and for those of the controls in order."""
        return cls(located, controls)

    def require(self) -> Table:
        """The locating run; OptionError without one, without controls, or where a control was
        located with other options.
        """
        if self.located is None or not self.controls:
            raise OptionError(
                "there is nothing to compare; give a locating run and one of each control"
            )
        for control in self.controls:
            for name in _EQUAL_OPTIONS:
                if (value := control.summary.get(name)) != (
                    expected := self.located.summary.get(name)
                ):
                    raise OptionError(
                        f"a control was located with {name} {value!r}, and the set with"
                        f" {expected!r}"
                    )
            if len(control) != len(self.located):
                raise OptionError(
                    f"a control has {len(control)} units and the fine-tuned model"
                    f" {len(self.located)}"
                )
        return self.located

    def __call__(self, study: Study) -> Table:
        """Compare the runs; the study gives the prompts that all of them used."""
        located = self.require()
        selected, unit = located["selected"], located.summary["unit"]
        run = table(
            self.name,
            _columns(located, self.controls),
            provenance=study.provenance(self),
            summary={
                "unit": unit,
                "n_selected": int(selected.sum()),
                "controls": [_name(control) for control in self.controls],
                "limits": [
                    (
                        "Units shared with a control are those that any training changes, or that"
                        " the method favours."
                    ),
                    (
                        "A control's own set is the best that the method finds there, like the"
                        " located set here. A total that is not beyond those means that any"
                        " training gives scores as large, not that the located units have no"
                        " effect: effects are measured by ablation and patching (verify-neurons)."
                    ),
                ],
                **{group: len(study.prompts(group)) for group in study.classes},
            },
            tables={
                _OWN: table(
                    "control-locations-own",
                    {
                        "n_selected": (
                            [int(selected.sum())],
                            "measure",
                            f"{unit}s selected in the fine-tuned model",
                        ),
                        **_scores([located]),
                    },
                )
            },
        )
        return conclude(run, [_claim(len(self.controls))])


def _name(run: Table) -> str:
    return str(run.provenance.context.get("tuned", "")) if run.provenance else ""


def _total(run: Table) -> float:
    return float(run["score"][run["selected"]].sum())


def _scores(runs: list[Table]) -> dict[str, tuple]:
    return {
        "largest_score": (
            [float(run["score"].max()) for run in runs],
            "measure",
            "largest score of a unit",
        ),
        "total_score": (
            [_total(run) for run in runs],
            "measure",
            "sum of the scores of its selected units",
        ),
    }


def _columns(located: Table, controls: tuple[Table, ...]) -> dict[str, tuple]:
    selected = located["selected"]
    control_selected = [control["selected"] for control in controls]
    shared = [int((selected & other).sum()) for other in control_selected]
    chance = [
        float(selected.sum()) * float(other.sum()) / len(selected) for other in control_selected
    ]
    return {
        "control": (np.arange(len(controls)), "key", "control fine-tune, in the order given"),
        "model": ([_name(control) for control in controls], "text", "its name"),
        "n_selected": (
            [int(other.sum()) for other in control_selected],
            "measure",
            "units selected in it",
        ),
        "shared": (shared, "measure", "number of these in the located set"),
        "chance": (
            chance,
            "measure",
            "expected overlap of two random sets of these sizes",
        ),
        **_scores(list(controls)),
        "score_of_set": (
            [float(control["score"][selected].sum()) for control in controls],
            "measure",
            "sum of its scores over the units of the located set",
        ),
    }


def _claim(count: int) -> Claim:
    """The set's total score exceeds that of a new control's own set; not tested with few
    controls.
    """
    mean_total, also = (
        statistic("mean", "total_score"),
        {
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
    )
    text = (
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
    options: dict[str, Any] = {"at_least": 0.0, "missing": too_few_controls(count)}
    if count >= MIN_FOR_RANK:
        options = {
            "at_least": 0.0,
            "null": Draws("", "total_score", min_draws=MIN_FOR_RANK),
            "beyond": [],
        }
    elif count >= MIN_FOR_INTERVAL:
        # one set has one total: its range is the number itself
        options = {
            "at_least": 0.0,
            "beyond": ["control"],
            "reference": replace(mean_total, spread="new-observation"),
        }
    if count >= MIN_FOR_INTERVAL:
        options["control"] = f"{count} control fine-tunes, each with the set located in it"
    return Claim(
        name="set-beyond-controls",
        text=text,
        also=also,
        **options,
        estimate=replace(statistic("sum", "total_score", table=_OWN), spread="range"),
    )
