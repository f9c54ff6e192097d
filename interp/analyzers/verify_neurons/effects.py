"""Effects of sets of units: judged on every control prompt, by the metric's number alone, or
bounded.

Of the random sets of the located size the first are judged on every prompt, the others until it is
certain whether their effect reaches the located set's.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from interp.analyzers.verify_neurons.evidence import Effects, Evidence
from interp.experiments.ablated_metric import Numbers
from interp.experiments.bounded_outcomes import Bounded
from interp.experiments.conditions import (
    DIRECTIONS,
    ConditionResult,
    PatchSource,
    answer_as_it_is,
    evaluate_condition,
    evaluate_condition_by_class,
)
from interp.experiments.divergence import divergences
from interp.experiments.outcomes import Outcome, Outcomes, Set
from interp.experiments.resumable import parts
from interp.experiments.subsample import few_of
from interp.interventions.random_sets import set_name
from interp.study import Study

NAN = float("nan")
# sets whose answers are generated together; a run that is stopped repeats at most as many
SETS_AT_ONCE = 10
Each = Callable[[Sequence[Set], str], list[Effects]]


def judged_conditions(
    study: Study, donors: PatchSource, located: Set, roles: Sequence[str], names: Sequence[str]
) -> list[ConditionResult]:
    """Answers to both classes by each model and under each intervention on the located set."""
    for role in roles:
        answer_as_it_is(study, role)
    receivers = {name: donors.condition(name, located) for name in (*roles, *names)}
    telling = ("base", "ablate-base" if "base" in roles else "ablate-mean")
    told = {name: receiver for name, receiver in receivers.items() if name in telling}
    apart = divergences(study, "negative", told)
    return [
        one
        for name, receiver in study.progress([*receivers.items()], "conditions")
        for one in evaluate_condition_by_class(
            study, name, receiver, {"negative": apart[name]} if name in apart else {}
        )
    ]


def changed_answers(judged: list[ConditionResult], has_base: bool) -> np.ndarray:
    """Positive prompts that base and fine-tuned model answer differently (without a base: that show
    the behaviour).
    """
    tuned = next(item for item in judged if item.condition == "tuned" and item.group == "positive")
    return ~tuned.equal_base if has_base else tuned.exhibits


def judged_whole(study: Study, direction: str, outcomes: Outcomes) -> Each:
    """Function for the effects of sets on all control prompts, saved so that a stopped run can
    continue.
    """
    return lambda sets, what: parts(
        study,
        [f"{direction} {set_name(chosen)}" for chosen in sets],
        lambda some: [outcomes.effects(one) for one in outcomes.of_each(sets[at] for at in some)],
        f"{direction}, {what}",
        SETS_AT_ONCE,
    )


def judged_set(direction: str, outcomes: Outcomes, judged: Sequence[ConditionResult]) -> Effects:
    """Effects of the located set on the control prompts, from the answers of its condition."""
    under = next(
        one for one in judged if (one.condition, one.group) == (DIRECTIONS[direction], "positive")
    )
    return outcomes.effects(Outcome(under.number[outcomes.rows], under.exhibits[outcomes.rows]))


def numbers_alone(
    study: Study, direction: str, outcomes: Outcomes, numbers: Numbers
) -> Callable[[Set], Effects]:
    """Function for the effects of a set by the metric's number alone: the behaviour is NaN."""

    def effects(chosen: Set) -> Effects:
        found = outcomes.effects(Outcome(numbers.of(chosen), outcomes.receiver.exhibits))
        return {**found, "behaviour": NAN, "rate": NAN, "difference": NAN, "judged": 0}

    return lambda chosen: study.part(
        f"{direction} number {set_name(chosen)}", lambda: effects(chosen)
    )


def random_effects(
    study: Study,
    donors: PatchSource,
    direction: str,
    sets: Sequence[Set],
    outcomes: Outcomes,
    numbers: Numbers,
    located: Effects,
    judged: int,
    units: Iterable[tuple[int, int]],
    whole: Each,
) -> list[Effects]:
    """Effects of every set, in order; the first ``judged`` are evaluated by ``whole``, on every
    prompt.
    """
    first, others = [*sets[:judged]], [*sets[judged:]]
    found = whole(first, "random sets")
    if not others:
        return found
    bounded = Bounded(study, donors, direction, outcomes, numbers, located["rate"], units)
    bounds = parts(
        study,
        [f"{direction} below {located['rate']:.6f} {set_name(chosen)}" for chosen in others],
        lambda some: bounded.of_each([others[at] for at in some]),
        f"{direction}, further random sets",
        SETS_AT_ONCE,
    )
    left = iter(
        whole(
            [chosen for chosen, bound in zip(others, bounds, strict=True) if bound is None],
            "random sets",
        )
    )
    return [*found, *(next(left) if bound is None else bound for bound in bounds)]


def harmless_effects(
    study: Study, donors: PatchSource, evidence: Evidence, prompts: int, draws: int
) -> list[tuple[float, float, float]]:
    """Share harmed, share flipped and divergence of answers to negative prompts, for each of the
    first random sets ablated.
    """
    few, name = few_of(study, prompts), evidence.ablation
    own = evaluate_condition(few, "tuned", "negative", donors.condition("tuned", ()))
    base = (
        evaluate_condition(few, "base", "negative", donors.condition("base", ()))
        if evidence.has_base
        else None
    )
    flips = study.require_metric().applies("negative")
    agreeing = (
        own.exhibits == base.exhibits
        if flips and base is not None
        else np.ones(len(own.exhibits), bool)
    )

    def effects_of(draw: Sequence[tuple[int, int]]) -> list[float]:
        receiver = donors.condition(name, draw)
        judged = evaluate_condition(
            few, name, "negative", receiver, divergences(few, "negative", {name: receiver})[name]
        )
        harmed, flipped = judged.harmed(own, base, flips), judged.flipped(own)
        lost = float(harmed[agreeing].mean()) if agreeing.any() else NAN
        return [lost, float(flipped.mean()), float(judged.divergence.mean())]

    return [
        tuple(study.part(f"harmless {set_name(draw)}", lambda draw=draw: effects_of(draw)))
        for draw in study.progress(evidence.sets[:draws], "harmless, random sets")
    ]
