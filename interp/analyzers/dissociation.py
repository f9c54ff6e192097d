"""``Dissociation``: does each of two sets carry its own behaviour and not the other?

Each set is given its base contributions inside the fine-tuned model, and both behaviours are
measured: a double dissociation (Teuber 1955) is supported where each set returns the base's
behaviour on its own prompts and keeps the fine-tuned model's on the other's. Both are measured on
the prompts where the two models differ in the behaviour, the metric's yes or no. A malformed answer
counts against the set in both: it is neither the base's behaviour nor the fine-tuned model's.
Random sets of equal size are measured in all four cells.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from interp.analyzers.base import Analyzer
from interp.claims import Claim, Draws, conclude, evaluate, mean, statistic
from interp.display import as_sentence
from interp.errors import OptionError
from interp.experiments.conditions import ConditionResult, PatchSource, evaluate_condition
from interp.experiments.contributions import contribution_norms
from interp.experiments.dose import dose_effect
from interp.experiments.outcomes import Outcomes
from interp.experiments.ranking_sets import jaccard, selected_of, unit_of
from interp.experiments.row_selection import sample_rows
from interp.interventions.random_sets import equally_large, matched_sets
from interp.study import Study
from interp.table import Table, table

MIN_OWN_EFFECT, MAX_OTHER_EFFECT, MAX_UPPER_END = 0.5, 0.1, 0.25
NAMES = ("first", "second")
NAN = float("nan")


@dataclass(frozen=True)
class Dissociation(Analyzer):
    """Two located sets on two behaviours: the study's (``first``), and that of ``other``, a study
    of the same pair.

    ``random_sets`` matched random sets of each set's size are measured on ``control_prompts``
    prompts of each behaviour. Needs a base. Returns a table of kind ``dissociation``, one row per
    set and behaviour.
    """

    name: ClassVar[str] = "dissociation"
    version: ClassVar[int] = 4
    takes: ClassVar[dict[str, str]] = {"first": "locate-neurons", "second": "locate-neurons"}

    first: Table | None = field(default=None, metadata={"from_parent": True})
    second: Table | None = None
    other: Study | None = None
    random_sets: int = 200
    control_prompts: int = 48

    @classmethod
    def of(cls, first: Table, second: Table, other: Study, **options) -> "Dissociation":
        """The analyzer for two locating runs' tables and the second behaviour's study."""
        return cls(
            first=first,
            second=second,
            other=other,
            parent=first.require_provenance().key,
            **options,
        )

    def __call__(self, study: Study) -> Table:
        """Measure all four cells, for the sets and for random sets."""
        if self.first is None or self.second is None or self.other is None:
            raise OptionError(
                "a dissociation needs two locating runs and a study of the second behaviour"
            )
        if self.other.pair is not study.pair:
            raise OptionError(
                "the two studies are of different pairs; study both behaviours in one pair"
            )
        study.pair.require_base("a dissociation")
        unit, second = unit_of(self.first), unit_of(self.second)
        if unit is not second:
            raise OptionError(
                f"sets of {unit.plural} and of {second.plural} cannot be compared; locate one kind"
            )
        studies: dict[str, Study] = dict(zip(NAMES, (study, self.other), strict=True))
        sets = {
            name: selected_of(run)
            for name, run in zip(NAMES, (self.first, self.second), strict=True)
        }
        donors = PatchSource.from_study(study, unit)
        unedited, cells, changed = {}, {}, {}
        for behaviour, behaviour_study in studies.items():
            for role in ("base", "tuned"):
                unedited[role, behaviour] = evaluate_condition(
                    behaviour_study, role, "positive", donors.condition(role, [])
                )
            changed[behaviour] = unedited["tuned", behaviour].flipped(unedited["base", behaviour])
            for name, chosen in sets.items():
                if chosen:
                    receiver = PatchSource(behaviour_study, donors.write, donors.unit).condition(
                        "ablate-base", chosen
                    )
                    cells[name, behaviour] = evaluate_condition(
                        behaviour_study, f"ablate-{name}", "positive", receiver
                    )
        random = self._random(studies, sets, donors, changed)
        answers = _answers(studies, unedited, cells, changed)
        measured = len(cells) == 4 and all(rows.any() for rows in changed.values())
        claims = _claims(sets, random) if measured else []
        run = table(
            self.name,
            _rows(sets, cells, unedited, changed, random),
            provenance=study.provenance(self),
            summary={
                "jaccard": jaccard(*sets.values()),
                "limits": [as_sentence(note) for note in self.other.notes],
                "positive": len(study.contrast.positive),
                "negative": len(study.contrast.negative),
            },
            tables={"answers": answers, "random": random},
        )
        supported = bool(claims) and all(one.supported for one in evaluate(claims, run))
        lead = (
            "Each of the two sets carries its own behaviour and not the other: a double"
            " dissociation."
        )
        if not supported:
            lead = "A double dissociation is not supported."
        if not measured:
            lead = (
                "A dissociation was not tested: a set is empty, or a behaviour is the same in both"
                " models."
            )
        return conclude(run, claims, lead=lead, supported=supported)

    def _random(
        self, studies: dict[str, Study], sets: dict, donors: PatchSource, changed: dict
    ) -> Table:
        """Effects of matched random sets in all four cells."""
        rows = []
        for behaviour, behaviour_study in studies.items():
            differ = np.flatnonzero(changed[behaviour]).tolist()
            prompt_rows = sample_rows(
                behaviour_study.prompts("positive"),
                differ,
                self.control_prompts,
                behaviour_study.seed,
            )
            if not prompt_rows:
                continue
            source = PatchSource(behaviour_study, donors.write, donors.unit)
            norms, nulls = contribution_norms(behaviour_study, source), {}
            for name, chosen in sets.items():
                drawn = (
                    matched_sets(chosen, norms, self.random_sets, behaviour_study.seed)
                    if chosen
                    else []
                )
                nulls[name] = equally_large(drawn, chosen)
            units = {unit for null in nulls.values() for draw in null for unit in draw}
            if not units:
                continue
            outcomes = Outcomes(behaviour_study, source, "necessity", prompt_rows, units=units)
            for name, null in nulls.items():
                for number, draw in enumerate(
                    behaviour_study.progress(null, f"random for {name}, {behaviour} behaviour")
                ):
                    effects = dose_effect(outcomes, draw)
                    rows.append((name, behaviour, number, effects["effect"], effects["recovery"]))
        columns = list(zip(*rows, strict=True)) if rows else [[]] * 5
        return table(
            "dissociation-random",
            {
                "set": (list(columns[0]), "key", "the set that the random sets are matched to"),
                "behaviour": (list(columns[1]), "key", "whose prompts"),
                "draw": (np.array(columns[2], np.int64), "key", "number of the random set"),
                "effect": (
                    np.array(columns[3], np.float64),
                    "measure",
                    "share of prompts with the base's behaviour",
                ),
                "recovery": (
                    np.array(columns[4], np.float64),
                    "measure",
                    "share of the gap between both models' mean numbers that is closed",
                ),
            },
        )


def _rows(
    sets: dict, cells: dict, unedited: dict, changed: dict, random: Table
) -> dict[str, tuple]:
    columns: dict[str, list] = {name: [] for name in _COLUMNS}
    for (name, behaviour), result in cells.items():
        rows, tuned, base = (
            changed[behaviour],
            unedited["tuned", behaviour],
            unedited["base", behaviour],
        )
        null = random["effect"][(random["set"] == name) & (random["behaviour"] == behaviour)]
        values = (
            name,
            behaviour,
            len(sets[name]),
            int(rows.sum()),
            _has_behaviour_of(base, result)[rows].mean() if rows.any() else NAN,
            (
                _recovery(result.number[rows], tuned.number[rows], base.number[rows])
                if rows.any()
                else NAN
            ),
            result.matches_base[rows].mean() if rows.any() else NAN,
            result.matches_tuned[rows].mean() if rows.any() else NAN,
            result.exhibits.mean(),
            tuned.exhibits.mean(),
            base.exhibits.mean(),
            result.malformed.mean(),
            null.mean() if len(null) else NAN,
            *(np.quantile(null, [0.025, 0.975]) if len(null) else (NAN, NAN)),
        )
        for column, value in zip(columns, values, strict=True):
            columns[column].append(value)
    types = {"key": object, "measure": np.float64}
    return {
        name: (
            np.array(columns[name], np.int64 if name in ("k", "prompts") else types[described[0]]),
            *described,
        )
        for name, described in _COLUMNS.items()
    }


def _has_behaviour_of(model: ConditionResult, result: ConditionResult) -> np.ndarray:
    """Prompts whose behaviour is the model's, without answers that are malformed where the model's
    are not.
    """
    return ~result.flipped(model) & ~(result.malformed & ~model.malformed)


def _recovery(numbers: np.ndarray, tuned: np.ndarray, base: np.ndarray) -> float:
    """Share of the gap between both models' mean numbers that is closed, NaN where there is
    none.
    """
    gap = base.mean() - tuned.mean()
    return float((numbers.mean() - tuned.mean()) / gap) if gap else NAN


_COLUMNS = {
    "set": ("key", "the set that is at its base contributions"),
    "behaviour": ("key", "whose prompts are answered"),
    "k": ("measure", "units in the set"),
    "prompts": ("measure", "prompts where base and fine-tuned model differ in the behaviour"),
    "as_base": (
        "measure",
        "share of these whose behaviour became the base's, no answer being malformed where the base's is not",
    ),
    "recovery": (
        "measure",
        "share of the gap between both models' mean numbers that is closed on these",
    ),
    "matches_base": ("measure", "share of these answered as the base answers"),
    "matches_tuned": ("measure", "share of these still answered as the fine-tuned model answers"),
    "exhibits_behaviour": ("measure", "share of all prompts whose answer shows the behaviour"),
    "exhibits_behaviour_tuned": ("measure", "the same of the fine-tuned model"),
    "exhibits_behaviour_base": ("measure", "the same of the base"),
    "malformed": ("measure", "share of malformed answers"),
    "control": (
        "measure",
        "share whose behaviour became the base's under matched random sets, mean",
    ),
    "control_low": ("measure", "their 2.5 % quantile"),
    "control_high": ("measure", "their 97.5 % quantile"),
}


def _answers(studies: dict[str, Study], unedited: dict, cells: dict, changed: dict) -> Table:
    blocks: list[tuple[str, str, ConditionResult]] = [
        *((role, behaviour, judged) for (role, behaviour), judged in unedited.items()),
        *((name, behaviour, judged) for (name, behaviour), judged in cells.items()),
    ]
    sizes = [len(judged.exhibits) for _, _, judged in blocks]
    prompts = [
        prompt for _, behaviour, _ in blocks for prompt in studies[behaviour].prompts("positive")
    ]

    def joined(field_of) -> np.ndarray:
        return np.concatenate([field_of(behaviour, judged) for _, behaviour, judged in blocks])

    return table(
        "dissociation-answers",
        {
            "set": (
                np.repeat(np.array([b[0] for b in blocks], object), sizes),
                "key",
                "base, tuned, or the set ablated",
            ),
            "behaviour": (
                np.repeat(np.array([b[1] for b in blocks], object), sizes),
                "key",
                "whose prompt",
            ),
            "prompt_id": (
                np.array([prompt.id for prompt in prompts]),
                "key",
                "position in the prompt file",
            ),
            "cluster": (
                [prompt.cluster for prompt in prompts],
                "key",
                "prompts that depend on each other",
            ),
            "changed": (
                joined(lambda behaviour, _: changed[behaviour]),
                "flag",
                "base and tuned differ in the behaviour",
            ),
            "exhibits_behaviour": (
                joined(lambda _, judged: judged.exhibits),
                "flag",
                "the answer shows the behaviour",
            ),
            "matches_base": (
                joined(lambda _, judged: judged.matches_base),
                "flag",
                "the base's answer, token for token",
            ),
            "matches_tuned": (
                joined(lambda _, judged: judged.matches_tuned),
                "flag",
                "the fine-tuned model's, token for token",
            ),
            "as_base": (
                joined(
                    lambda behaviour, judged: _has_behaviour_of(unedited["base", behaviour], judged)
                ),
                "flag",
                (
                    "has the base's behaviour, and is not malformed where the base's answer is"
                    " well-formed"
                ),
            ),
            "altered": (
                joined(
                    lambda behaviour, judged: (
                        ~_has_behaviour_of(unedited["tuned", behaviour], judged)
                    )
                ),
                "flag",
                "shows the behaviour where the fine-tuned model does not or the reverse, or is malformed",
            ),
        },
    )


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
