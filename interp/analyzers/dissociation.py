"""``Dissociation``: does each of two sets carry its own behaviour and not the other?

Each set is given its base contributions inside the fine-tuned model, and both behaviours are
measured: a double dissociation (Teuber 1955) is supported where each set returns the base's
behaviour on its own prompts and keeps the fine-tuned model's on the other's. Both are measured on
the prompts where the two models differ in the behaviour, the metric's yes or no. A malformed answer
counts against the set in both: it is neither the base's behaviour nor the fine-tuned model's.
Random sets of equal size are measured in all four cells.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from interp.analyzers.framework import Analyzer, Known, Needs, Result, option
from interp.claims import Claim, Draws, evaluate, mean, statistic
from interp.display import as_sentence
from interp.errors import OptionError, required
from interp.experiments.base_behaviour import (
    NAN,
    PositivePromptRow,
    RandomSetRow,
    has_behaviour_of,
    mean_or_nan,
    prompt_columns,
    recovery,
)
from interp.experiments.conditions import PatchSource, PatchTarget, evaluate_condition
from interp.experiments.contributions import contribution_norms
from interp.experiments.dose import dose_effect
from interp.experiments.outcomes import Outcomes
from interp.experiments.ranking_sets import jaccard, selected_of, unit_of
from interp.experiments.records import records_table
from interp.experiments.row_selection import sample_rows
from interp.interventions.random_sets import equally_large, matched_sets
from interp.rows import flag, key, measure, rows_table
from interp.study import Study
from interp.table import Table

MIN_OWN_EFFECT, MAX_OTHER_EFFECT, MAX_UPPER_END = 0.5, 0.1, 0.25
NAMES = ("first", "second")


class CellRow:
    """A row per set and behaviour, or several."""

    set: str = key("the set that is at its base contributions")
    behaviour: str = key("whose prompts are answered")


class DissociationRow(CellRow):
    """A row per set and behaviour."""

    k: int = measure("units in the set")
    prompts: int = measure("prompts where base and fine-tuned model differ in the behaviour")
    as_base: float = measure(
        "share of these whose behaviour became the base's, no answer being malformed where the"
        " base's is not"
    )
    recovery: float = measure(
        "share of the gap between both models' mean numbers that is closed on these"
    )
    matches_base: float = measure("share of these answered as the base answers")
    matches_tuned: float = measure("share of these still answered as the fine-tuned model answers")
    exhibits_behaviour: float = measure("share of all prompts whose answer shows the behaviour")
    exhibits_behaviour_tuned: float = measure("the same of the fine-tuned model")
    exhibits_behaviour_base: float = measure("the same of the base")
    malformed: float = measure("share of malformed answers")
    control: float = measure(
        "share whose behaviour became the base's under matched random sets, mean"
    )
    control_low: float = measure("their 2.5 % quantile")
    control_high: float = measure("their 97.5 % quantile")


class DissociationRandomRow(RandomSetRow, CellRow):
    """A row per set, behaviour and random set."""

    set: str = key("the set that the random sets are matched to")


class DissociationAnswerRow(PositivePromptRow, CellRow):
    """A row per condition and positive prompt of a behaviour."""

    set: str = key("base, tuned, or the set that is at its base contributions")
    changed: bool = flag("base and fine-tuned model differ in the behaviour")
    exhibits_behaviour: bool = flag("the answer shows the behaviour")
    matches_base: bool = flag("the base's answer, token for token")
    matches_tuned: bool = flag("the fine-tuned model's, token for token")
    as_base: bool = flag(
        "has the base's behaviour, and is not malformed where the base's answer is well-formed"
    )
    altered: bool = flag(
        "shows the behaviour where the fine-tuned model does not or the reverse, or is malformed"
    )


@dataclass(frozen=True)
class Dissociation(Analyzer):
    """Two located sets on two behaviours: the study's (``first``), and that of ``other``, a study
    of the same pair.

    Matched random sets of each set's size are measured on some prompts of each behaviour. The table
    has one row per set and behaviour.
    """

    name: ClassVar[str] = "dissociation"
    version: ClassVar[int] = 4
    needs: ClassVar[Needs] = Needs(base=True, metric=True)

    first: Table | None = option(
        None, "The locating run of the study's behaviour.", kind="locate-neurons", from_parent=True
    )
    second: Table | None = option(
        None, "The locating run of the second behaviour.", kind="locate-neurons"
    )
    other: Study | None = option(None, "The study of the second behaviour.")
    random_sets: int = option(40, "Matched random sets of each size.", ge=1)
    control_prompts: int = option(48, "Prompts for random sets.", ge=1)

    def check(self, known: Known) -> None:
        """Raise OptionError without two runs of one kind of unit and a second study."""
        if self.first is None or self.second is None or self.other is None:
            raise OptionError(
                "a dissociation needs two locating runs and a study of the second behaviour"
            )
        unit, second = unit_of(self.first), unit_of(self.second)
        if unit is not second:
            raise OptionError(
                f"sets of {unit.plural} and of {second.plural} cannot be compared; locate one kind"
            )

    def require(self, study: Study) -> None:
        """As ``Analyzer``; the second study must be of the same pair."""
        super().require(study)
        if required(self.other, "a second study").pair is not study.pair:
            raise OptionError(
                "the two studies are of different pairs; study both behaviours in one pair"
            )

    def run(self, study: Study) -> Result:
        """Measure all four cells, for the sets and for random sets."""
        other = required(self.other, "a second study")
        runs = [required(run, "a locating run") for run in (self.first, self.second)]
        sets = dict(zip(NAMES, map(selected_of, runs), strict=True))
        donors = PatchSource.from_study(study, unit_of(runs[0]))
        sources = {
            behaviour: replace(donors, study=each)
            for behaviour, each in zip(NAMES, (study, other), strict=True)
        }
        unedited, cells, changed = {}, {}, {}
        for behaviour, source in sources.items():
            for role in ("base", "tuned"):
                unedited[role, behaviour] = evaluate_condition(
                    source.study, role, "positive", PatchTarget(role)
                )
            changed[behaviour] = unedited["tuned", behaviour].flipped(unedited["base", behaviour])
            for name, chosen in sets.items():
                if chosen:
                    cells[name, behaviour] = evaluate_condition(
                        source.study,
                        f"ablate-{name}",
                        "positive",
                        source.condition("ablate-base", chosen),
                    )
        random = self._random(sources, sets, changed)
        tables = {"answers": _answers(sources, unedited, cells, changed), "random": random}
        rows = records_table(
            DissociationRow, self.name, _rows(sets, cells, unedited, changed, random), tables=tables
        )
        measured = len(cells) == 4 and all(differ.any() for differ in changed.values())
        claims = _claims(sets, random) if measured else []
        supported = measured and all(finding.supported for finding in evaluate(claims, rows))
        lead = "A double dissociation is not supported."
        if supported:
            lead = (
                "Each of the two sets carries its own behaviour and not the other: a double"
                " dissociation."
            )
        elif not measured:
            lead = (
                "A dissociation was not tested: a set is empty, or a behaviour is the same in both"
                " models."
            )
        limits = [as_sentence(note) for note in other.notes]
        summary = {"jaccard": jaccard(*sets.values())}
        return Result(rows, tables, claims, summary, limits, lead, supported)

    def _random(self, sources: dict[str, PatchSource], sets: dict, changed: dict) -> Table:
        """Effects of matched random sets in all four cells."""
        rows = []
        for behaviour, source in sources.items():
            study, differ = source.study, np.flatnonzero(changed[behaviour]).tolist()
            prompts = sample_rows(
                study.prompts("positive"), differ, self.control_prompts, study.seed
            )
            if not prompts:
                continue
            norms = contribution_norms(study, source)
            nulls = {
                name: equally_large(
                    matched_sets(chosen, norms, self.random_sets, study.seed), chosen
                )
                for name, chosen in sets.items()
                if chosen
            }
            units = {unit for null in nulls.values() for draw in null for unit in draw}
            if not units:
                continue
            outcomes = Outcomes(study, source, "necessity", prompts, units=units)
            for name, null in nulls.items():
                draws = study.progress(null, f"random for {name}, {behaviour} behaviour")
                rows += [
                    {"set": name, "behaviour": behaviour, "draw": number}
                    | dose_effect(outcomes, draw)
                    for number, draw in enumerate(draws)
                ]
        return records_table(DissociationRandomRow, "dissociation-random", rows)


def _rows(
    sets: dict, cells: dict, unedited: dict, changed: dict, random: Table
) -> list[dict[str, Any]]:
    """The columns of ``DissociationRow`` of every cell."""
    rows = []
    for (name, behaviour), result in cells.items():
        differ = changed[behaviour]
        tuned, base = unedited["tuned", behaviour], unedited["base", behaviour]
        null = random["effect"][(random["set"] == name) & (random["behaviour"] == behaviour)]
        low, high = np.quantile(null, [0.025, 0.975]) if len(null) else (NAN, NAN)
        rows.append(
            {
                "set": name,
                "behaviour": behaviour,
                "k": len(sets[name]),
                "prompts": differ.sum(),
                "as_base": mean_or_nan(has_behaviour_of(base, result)[differ]),
                "recovery": recovery(
                    result.number[differ], tuned.number[differ], base.number[differ]
                ),
                "matches_base": mean_or_nan(result.matches_base[differ]),
                "matches_tuned": mean_or_nan(result.matches_tuned[differ]),
                "exhibits_behaviour": result.exhibits.mean(),
                "exhibits_behaviour_tuned": tuned.exhibits.mean(),
                "exhibits_behaviour_base": base.exhibits.mean(),
                "malformed": result.malformed.mean(),
                "control": mean_or_nan(null),
                "control_low": low,
                "control_high": high,
            }
        )
    return rows


def _answers(sources: dict[str, PatchSource], unedited: dict, cells: dict, changed: dict) -> Table:
    parts = [
        {
            "set": np.full(len(result.exhibits), name, object),
            "behaviour": np.full(len(result.exhibits), behaviour, object),
            **prompt_columns(sources[behaviour].study.prompts("positive")),
            "changed": changed[behaviour],
            "exhibits_behaviour": result.exhibits,
            "matches_base": result.matches_base,
            "matches_tuned": result.matches_tuned,
            "as_base": has_behaviour_of(unedited["base", behaviour], result),
            "altered": ~has_behaviour_of(unedited["tuned", behaviour], result),
        }
        for (name, behaviour), result in (unedited | cells).items()
    ]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return rows_table(DissociationAnswerRow, "dissociation-answers", columns)


def _claims(sets: dict, random: Table) -> list[Claim]:
    claims = []
    for name, other in (NAMES, NAMES[::-1]):
        claims += [_own_claim(name, len(sets[name])), _other_claim(name, other, random)]
    return claims


def _own_claim(name: str, size: int) -> Claim:
    rows = {"set": name, "behaviour": name}
    return Claim(
        name=f"{name}-own",
        estimate=mean("as_base", table="answers", where=rows | {"changed": True}),
        at_least=MIN_OWN_EFFECT,
        beyond=["control"],
        null=Draws("random", "effect", rows),
        control="matched random sets",
        text=(
            f"The {name} set ({size} units) returns the base's behaviour on {{value:.1%}} of the"
            " prompts where the models differ in its own ({draws:d} matched random sets: at most"
            " {control_max:.1%})."
        ),
    )


def _other_claim(name: str, other: str, random: Table) -> Claim:
    rows = {"set": name, "behaviour": other}
    has_random = bool(((random["set"] == name) & (random["behaviour"] == other)).any())
    return Claim(
        name=f"{name}-other",
        estimate=mean("altered", table="answers", where=rows | {"changed": True}),
        at_most=MAX_OTHER_EFFECT,
        beyond=[MAX_UPPER_END],
        reference=statistic("mean", "effect", table="random", where=rows) if has_random else None,
        control="matched random sets, prompts with the base's behaviour" if has_random else "",
        text=(
            f"The {name} set changes the other behaviour on {{value:.1%}} of the prompts where the"
            " models differ in it (at most {high:.1%})."
        ),
    )
