"""Which sets ``benchmarks.false_support`` judges, and how: one null for all, the claims of a
verifying run.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from interp.analyzers.locate_neurons.methods import METHODS
from interp.analyzers.locate_neurons.scores import MethodOptions
from interp.analyzers.locate_neurons.selection import Top, select
from interp.analyzers.verify_neurons.behaviour import behaviour_claim
from interp.analyzers.verify_neurons.evidence import Effects, Evidence
from interp.analyzers.verify_neurons.findings import direction_claim, recovery_claim
from interp.analyzers.verify_neurons.sets import dose_table, random_table
from interp.analyzers.verify_neurons.tables import answers_table, recovery_table
from interp.claims import Finding, evaluate
from interp.experiments.conditions import (
    ConditionResult,
    PatchSource,
    PatchTarget,
    evaluate_condition,
)
from interp.experiments.contributions import contribution_changes, contribution_norms
from interp.experiments.outcomes import Outcome, Outcomes
from interp.experiments.resumable import resumable_parts
from interp.experiments.row_selection import sample_rows
from interp.interventions.random_sets import matched_sets, matched_share, norm_ratio, set_name
from interp.prompts import OneClass
from interp.study import GROUPS, Study
from interp.table import table

Set = Sequence[tuple[int, int]]
CONTROL_PROMPTS = 48
SETS_AT_ONCE = 10


@dataclass(frozen=True)
class Verdict:
    """What a verifying run would say of a set: necessary or not; its recovery, and how often it
    leaves the behaviour.

    ``rate`` is of all positive prompts, ``recovery`` of the control prompts, as the null's is.
    """

    chosen: Set
    necessary: bool
    recovery: float
    rate: float


@dataclass(frozen=True)
class Judging:
    """Judges sets by the claims ``necessity`` and ``necessity-recovery``, on one null that is drawn
    once.

    ``study``: one with a journal, so that nothing is measured twice. The null is ``random_sets``
    random sets matched to ``located``, as a verifying run draws them; ``excluded`` neurons are in
    none of them.
    """

    study: Study
    located: Set
    excluded: Set
    random_sets: int

    @cached_property
    def unedited_results(self) -> list[ConditionResult]:
        """What both models answer to both classes, without the texts."""

        def make() -> list[dict]:
            found = []
            for role in ("base", "tuned"):
                for group in GROUPS:
                    one = asdict(evaluate_condition(self.study, role, group, PatchTarget(role)))
                    found.append(
                        {name: _plain(value) for name, value in one.items() if name != "texts"}
                    )
            return found

        return [_judged(one) for one in self.study.part("both models", make)]

    @cached_property
    def changed(self) -> np.ndarray:
        """Positive prompts that the two models answer differently."""
        return ~next(
            one
            for one in self.unedited_results
            if (one.condition, one.group) == ("tuned", "positive")
        ).matches_base

    @cached_property
    def rows(self) -> list[int]:
        """The control prompts, drawn as a verifying run draws them."""
        prompts, among = self.study.prompts("positive"), np.flatnonzero(self.changed).tolist()
        if not among:
            raise SystemExit(
                "both models answer every positive prompt alike: there is nothing to judge"
            )
        return sample_rows(prompts, among, CONTROL_PROMPTS, self.study.seed)

    @cached_property
    def _donors(self) -> PatchSource:
        return PatchSource.from_study(self.study)

    @cached_property
    def _outcomes(self) -> tuple[Outcomes, Outcomes]:
        """On all positive prompts, and on the control prompts."""
        everything = list(range(len(self.study.prompts("positive"))))
        whole = Outcomes(self.study, self._donors, "necessity", everything)
        alike = self.rows == everything
        return whole, whole if alike else Outcomes(self.study, self._donors, "necessity", self.rows)

    @cached_property
    def _sizes(self) -> tuple[np.ndarray, np.ndarray]:
        return contribution_norms(self.study, self._donors), contribution_changes(
            self.study, self._donors
        )

    def drawn(self, count: int, seed: int) -> dict[str, list]:
        """Random sets matched to the located one, and how well they match it."""

        def make() -> dict[str, list]:
            norms, changes = self._sizes
            sets = matched_sets(
                self.located, norms, count, seed, exclude=self.excluded, changes=changes
            )
            sets = [one for one in sets if len(one) == len(self.located)]
            return {
                "sets": [[list(map(int, pair)) for pair in one] for one in sets],
                "ratios": [norm_ratio(one, self.located, norms) for one in sets],
                "change_ratios": [norm_ratio(one, self.located, changes) for one in sets],
                "matched": [matched_share(one, self.located, changes) for one in sets],
            }

        name = (
            f"drawn {count}, seed {seed}, for {set_name(self.located)} without"
            f" {set_name(self.excluded)}"
        )
        found = self.study.part(name, make)
        return found | {
            "sets": [[(layer, neuron) for layer, neuron in one] for one in found["sets"]]
        }

    def measured(self, chosen: Set) -> dict[str, Any]:
        """Of a set: ``number`` and ``shown`` of every positive prompt, and its ``effects`` on the
        control prompts.
        """
        return self.measured_each([chosen])[0]

    def measured_each(self, sets: Sequence[Set], what: str = "sets") -> list[dict[str, Any]]:
        """The same of every set, some at a time."""

        def make(some: Iterable[int]) -> list[dict[str, Any]]:
            whole, control = self._outcomes
            return [
                {
                    "number": found.number.tolist(),
                    "exhibits": found.exhibits.tolist(),
                    "effects": control.effects(
                        Outcome(found.number[self.rows], found.exhibits[self.rows])
                    ),
                }
                for found in whole.of_each(sets[at] for at in some)
            ]

        return resumable_parts(
            self.study, [f"set {set_name(chosen)}" for chosen in sets], make, what, SETS_AT_ONCE
        )

    @cached_property
    def null(self) -> dict[str, list]:
        """The random sets that every set is compared with, and their effects."""
        drawn = self.drawn(self.random_sets, self.study.seed)
        return drawn | {
            "effects": [one["effects"] for one in self.measured_each(drawn["sets"], "null")]
        }

    def evidence(self, chosen: Set) -> Evidence:
        """What a verifying run of this set would hand to its claims on necessity."""
        found, null = self.measured(chosen), self.null
        tuned = next(
            one
            for one in self.unedited_results
            if (one.condition, one.group) == ("tuned", "positive")
        )
        number, shown = np.array(found["number"]), np.array(found["exhibits"])
        effects: dict[int, Effects] = {len(chosen): found["effects"]}
        return Evidence(
            results=[
                *self.unedited_results,
                replace(tuned, condition="ablate-base", number=number, exhibits=shown),
            ],
            changed=self.changed,
            rows=self.rows,
            has_base=True,
            selected=len(chosen),
            sets=null["sets"],
            ratios=null["ratios"],
            change_ratios=null["change_ratios"],
            matched=null["matched"],
            dose={"necessity": effects},
            random={"necessity": null["effects"]},
        )

    def findings(self, chosen: Set) -> dict[str, Finding]:
        """The claims of a verifying run on necessity, and that there is a behaviour, measured by
        its tables.
        """
        study, evidence = self.study, self.evidence(chosen)
        claims = [
            maker(study, evidence, "necessity") for maker in (direction_claim, recovery_claim)
        ]
        run = table(
            "verify-neurons",
            {},
            tables={
                "answers": answers_table(study, evidence),
                "recovery": recovery_table(study, evidence),
                "dose": dose_table(evidence),
                "random": random_table(evidence),
            },
        )
        return {one.name: one for one in evaluate([behaviour_claim(study, evidence), *claims], run)}

    def verdict(self, chosen: Set) -> Verdict:
        """Whether both claims are supported."""
        findings, found = self.findings(chosen), self.measured(chosen)
        necessary = findings["necessity"].supported and findings["necessity-recovery"].supported
        return Verdict(
            chosen, necessary, found["effects"]["recovery"], float(np.mean(found["exhibits"]))
        )


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _judged(kept: dict[str, Any]) -> ConditionResult:
    values: dict[str, Any] = {
        name: np.array(one) if isinstance(one, list) else one for name, one in kept.items()
    }
    return ConditionResult(**values)


def attributions(
    study: Study, steps: int, folder: Path, groups: Sequence[str] = GROUPS, each: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Of every prompt of some classes, in order: what ``integrated`` scores on it alone, and its
    rounding error.

    ``[prompts, L, N]`` each, of every ``each``-th prompt of a class. The method's score on many
    prompts is the mean of these. A harmless prompt is scored as a harmful one is: its own log-odds
    of refusal. Each has a file in ``folder``.
    """
    found = []
    for group in groups:
        for row in study.progress(
            range(0, len(study.prompts(group)), each), f"attributions, {group}"
        ):
            path = folder / f"{group}-{row}.npy"
            if not path.exists():
                alone = study.with_prompts(OneClass(study.prompts(group).keep([row])))
                scores = METHODS["integrated"].score(
                    alone, MethodOptions(METHODS["integrated"].positions, steps)
                )
                folder.mkdir(parents=True, exist_ok=True)
                begun = folder / f"{group}-{row}.{os.getpid()}.npy"
                np.save(begun, np.stack([scores.score, scores.floor]).astype(np.float32))
                os.replace(begun, path)
            found.append(np.load(path))
    scores, floors = np.stack(found, 1)
    return scores, floors


def permuted(counts: tuple[int, int], draws: int, seed: int, balanced: bool) -> np.ndarray:
    """Which prompts are labelled positive in each draw, ``bool[draws, prompts]``, as many as there
    are.

    ``balanced``: with as many truly positive ones among those labelled positive as among the
    others, so that the labels say nothing of the true classes.
    """
    positive, negative = counts
    generator, found = np.random.default_rng(seed), np.zeros((draws, positive + negative), bool)
    for row in found:
        if balanced:
            row[generator.permutation(positive)[: positive // 2]] = True
            row[positive + generator.permutation(negative)[: negative // 2]] = True
        else:
            row[generator.permutation(positive + negative)[:positive]] = True
    return found


def selected(
    scores: np.ndarray,
    floors: np.ndarray,
    labels: np.ndarray,
    top: int,
    minus: bool = False,
    without: Set = (),
) -> Set:
    """The neurons that the locating analyzer would select of the prompts labelled positive, the
    first ones first.

    ``minus``: of the mean over those labelled positive less the mean over the others. ``without``:
    never these.
    """
    score, floor = scores[labels].mean(0), floors[labels].mean(0)
    if minus:
        score, floor = score - scores[~labels].mean(0), floor + floors[~labels].mean(0)
    for unit in without:
        score[unit] = -np.inf
    found = np.argwhere(select(score, floor, Top.parse(str(top))))
    return [
        (int(layer), int(neuron))
        for layer, neuron in found[np.argsort(-score[tuple(found.T)], kind="stable")]
    ]


def halfway(
    order: Set, verdict: Callable[[Set], Verdict], low: float, high: float
) -> Verdict | None:
    """Bisect for a beginning of the order whose recovery lies between the two; None where no size
    met has one.
    """
    least, most = 0, len(order)
    while most - least > 1:
        size = (least + most) // 2
        found = verdict(order[:size])
        if low <= found.recovery <= high:
            return found
        least, most = (size, most) if found.recovery < low else (least, size)
    return None
