"""Effects of sets of units: judged on every control prompt, by the metric's number alone, or
bounded.

Of the random sets of the located size the first are judged on every prompt, the others until it is
certain whether their effect reaches the located set's.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from interp.analyzers.verify_neurons.evidence import Effects, Evidence
from interp.experiments.ablated_metric import AblatedMetric
from interp.experiments.bounded_outcomes import BoundedEffects
from interp.experiments.conditions import (
    DIRECTIONS,
    ConditionResult,
    PatchSource,
    answer_unedited,
    evaluate_condition,
    evaluate_condition_by_class,
)
from interp.experiments.divergence import divergences
from interp.experiments.outcomes import Outcome, Outcomes, UnitSet
from interp.experiments.resumable import resumable_parts
from interp.experiments.subsample import subsample_study
from interp.interventions.random_sets import set_name
from interp.study import Study

NAN = float("nan")
# sets whose answers are generated together; a run that is stopped repeats at most as many
SETS_AT_ONCE = 10
MeasureSets = Callable[[Sequence[UnitSet], str], list[Effects]]


def evaluate_conditions(
    study: Study, donors: PatchSource, located: UnitSet, roles: Sequence[str], names: Sequence[str]
) -> list[ConditionResult]:
    """Answers to both classes by each model and under each intervention on the located set."""
    for role in roles:
        answer_unedited(study, role)
    receivers = {name: donors.condition(name, located) for name in (*roles, *names)}
    names_with_divergence = ("base", "ablate-base" if "base" in roles else "ablate-mean")
    with_divergence = {
        name: receiver for name, receiver in receivers.items() if name in names_with_divergence
    }
    divergence_by_name = divergences(study, "negative", with_divergence)
    return [
        one
        for name, receiver in study.progress([*receivers.items()], "conditions")
        for one in evaluate_condition_by_class(
            study,
            name,
            receiver,
            {"negative": divergence_by_name[name]} if name in divergence_by_name else {},
        )
    ]


def changed_answers(results: list[ConditionResult], has_base: bool) -> np.ndarray:
    """Positive prompts that base and fine-tuned model answer differently (without a base: that show
    the behaviour).
    """
    tuned = next(item for item in results if item.condition == "tuned" and item.group == "positive")
    return ~tuned.matches_base if has_base else tuned.exhibits


def fully_judged_effects(study: Study, direction: str, outcomes: Outcomes) -> MeasureSets:
    """Function for the effects of sets on all control prompts, saved so that a stopped run can
    continue.
    """
    return lambda sets, what: resumable_parts(
        study,
        [f"{direction} {set_name(chosen)}" for chosen in sets],
        lambda some: [outcomes.effects(one) for one in outcomes.of_each(sets[at] for at in some)],
        f"{direction}, {what}",
        SETS_AT_ONCE,
    )


def located_effects(
    direction: str, outcomes: Outcomes, results: Sequence[ConditionResult]
) -> Effects:
    """Effects of the located set on the control prompts, from the answers of its condition."""
    result = next(
        one for one in results if (one.condition, one.group) == (DIRECTIONS[direction], "positive")
    )
    return outcomes.effects(Outcome(result.number[outcomes.rows], result.exhibits[outcomes.rows]))


def number_effects(
    study: Study, direction: str, outcomes: Outcomes, numbers: AblatedMetric
) -> Callable[[UnitSet], Effects]:
    """Function for the effects of a set by the metric's number alone: the behaviour is NaN."""

    def effects(chosen: UnitSet) -> Effects:
        values = outcomes.effects(Outcome(numbers.of(chosen), outcomes.receiver.exhibits))
        return {**values, "behaviour": NAN, "rate": NAN, "difference": NAN, "judged": 0}

    return lambda chosen: study.part(
        f"{direction} number {set_name(chosen)}", lambda: effects(chosen)
    )


def random_effects(
    study: Study,
    donors: PatchSource,
    direction: str,
    sets: Sequence[UnitSet],
    outcomes: Outcomes,
    numbers: AblatedMetric,
    located: Effects,
    n_judged: int,
    units: Iterable[tuple[int, int]],
    measure_sets: MeasureSets,
) -> list[Effects]:
    """Effects of every set, in order; the first ``n_judged`` are evaluated by ``measure_sets``, on
    every prompt.
    """
    judged_sets, bounded_sets = [*sets[:n_judged]], [*sets[n_judged:]]
    effects = measure_sets(judged_sets, "random sets")
    if not bounded_sets:
        return effects
    bounded = BoundedEffects(study, donors, direction, outcomes, numbers, located["rate"], units)
    bounds = resumable_parts(
        study,
        [f"{direction} below {located['rate']:.6f} {set_name(chosen)}" for chosen in bounded_sets],
        lambda some: bounded.of_each([bounded_sets[at] for at in some]),
        f"{direction}, further random sets",
        SETS_AT_ONCE,
    )
    remaining = iter(
        measure_sets(
            [chosen for chosen, bound in zip(bounded_sets, bounds, strict=True) if bound is None],
            "random sets",
        )
    )
    return [*effects, *(next(remaining) if bound is None else bound for bound in bounds)]


def harmless_effects(
    study: Study, donors: PatchSource, evidence: Evidence, n_prompts: int, n_sets: int
) -> list[tuple[float, float, float]]:
    """Share harmed, share flipped and divergence of answers to negative prompts, for each of the
    first random sets ablated.
    """
    subset, name = subsample_study(study, n_prompts), evidence.ablation
    unedited = evaluate_condition(subset, "tuned", "negative", donors.condition("tuned", ()))
    base = (
        evaluate_condition(subset, "base", "negative", donors.condition("base", ()))
        if evidence.has_base
        else None
    )
    flips = study.require_metric().applies("negative")
    agreeing = (
        unedited.exhibits == base.exhibits
        if flips and base is not None
        else np.ones(len(unedited.exhibits), bool)
    )

    def effects_of(draw: Sequence[tuple[int, int]]) -> list[float]:
        receiver = donors.condition(name, draw)
        result = evaluate_condition(
            subset,
            name,
            "negative",
            receiver,
            divergences(subset, "negative", {name: receiver})[name],
        )
        harmed, flipped = result.harmed(unedited, base, flips), result.flipped(unedited)
        lost = float(harmed[agreeing].mean()) if agreeing.any() else NAN
        return [lost, float(flipped.mean()), float(result.divergence.mean())]

    return [
        tuple(study.part(f"harmless {set_name(draw)}", lambda draw=draw: effects_of(draw)))
        for draw in study.progress(evidence.sets[:n_sets], "harmless, random sets")
    ]
