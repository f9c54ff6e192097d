"""Tables of interventions: effects on the metric, of random sets and by prompt, and answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from interp.analyzers.sae_probe.compute import GROUP
from interp.analyzers.sae_probe.evidence import Evidence, InterventionResult
from interp.experiments.conditions import ConditionResult
from interp.maths.statistics import minimum_detectable_effect, permutation_p
from interp.rows import DrawRow, PromptRow, flag, key, measure, rows_table
from interp.table import Table

_EFFECT = "decrease of the metric if ablated, increase if steered"


class _OfSet:
    set: str = key("set of latents")
    change: str = key("ablate (on positive prompts) or steer (on negative ones)")


class _OfCondition:
    condition: str = key("set of ablated latents, or an unedited model")


class EffectRow(_OfSet):
    """A row per edit of a set."""

    latents: int = measure("number of latents")
    amount: float = measure("added to each latent, in units of codes")
    effect: float = measure(_EFFECT)
    null_mean: float = measure("mean of the same for random sets")
    null_most: float = measure("threshold for significance at 0.05")
    p: float = measure("p from random sets")
    size_ratio: float = measure("mean contribution of random sets divided by that of the set")


class RandomSetRow(DrawRow, _OfSet):
    """A row per random set, under the set that it is a control for."""

    effect: float = measure(_EFFECT)
    matches_base: float = measure("share of answers equal to the base's")


class NumberRow(_OfSet):
    """A row per edit of a set and prompt."""

    prompt_id: int = PromptRow.prompt_id
    cluster: str = PromptRow.cluster
    plain: float = measure("unedited metric")
    after: float = measure("metric under the edit")
    effect: float = measure(_EFFECT)
    matches_base: bool = flag("the answer equals the base's, by one pass")


class AnswerRow(PromptRow, _OfCondition):
    """A row per condition and prompt."""

    changed: bool = flag("the tuned model's answer shows the behaviour and differs from the base's")
    exhibits_behaviour: bool = flag("the answer shows the behaviour")
    matches_base: bool = flag("equal to the base's answer, token for token")
    matches_tuned: bool = flag("equal to the tuned model's answer, token for token")
    malformed: bool = flag("a malformed answer")
    lost: bool = flag("a well-formed answer without the behaviour")


def tables_of_interventions(evidence: Evidence) -> dict[str, Table]:
    """The sub-tables about interventions."""
    return {
        "effects": _effects(evidence.interventions),
        "sets": _sets(evidence.interventions),
        "numbers": _numbers(evidence),
        "answers": _answers(evidence),
    }


def _of_sets(results: Sequence[InterventionResult], rows: int | Sequence[int]) -> dict[str, Any]:
    """Set and change of the results, each for so many rows."""
    return {
        "set": np.repeat(np.array([result.name for result in results], object), rows),
        "change": np.repeat(np.array([result.change for result in results], object), rows),
    }


def _effects(results: Sequence[InterventionResult]) -> Table:
    return rows_table(
        EffectRow,
        "",
        {
            **_of_sets(results, 1),
            "latents": np.array([result.latents for result in results], np.int64),
            "amount": [result.amount for result in results],
            "effect": [result.effect.mean() for result in results],
            "null_mean": [np.mean(result.null) for result in results],
            "null_most": [minimum_detectable_effect(result.null) for result in results],
            "p": [permutation_p(result.effect.mean(), result.null) for result in results],
            "size_ratio": [result.size_ratio for result in results],
        },
    )


def _sets(results: Sequence[InterventionResult]) -> Table:
    return rows_table(
        RandomSetRow,
        "",
        {
            **_of_sets(results, [len(result.null) for result in results]),
            "draw": [draw for result in results for draw in range(len(result.null))],
            "effect": [effect for result in results for effect in result.null],
            "matches_base": [share for result in results for share in result.null_matches_base],
        },
    )


def _numbers(evidence: Evidence) -> Table:
    results = evidence.interventions
    prompts = [
        evidence.held.prompts(GROUP[result.change]).prompts[row]
        for result in results
        for row in result.rows
    ]

    def values(name: str) -> list:
        return [value for result in results for value in getattr(result, name)]

    unit = evidence.held.require_metric().labels.prompt_unit
    return rows_table(
        NumberRow,
        "",
        {
            **_of_sets(results, [len(result.rows) for result in results]),
            "prompt_id": [prompt.id for prompt in prompts],
            "cluster": np.array([prompt.cluster for prompt in prompts], object),
            "plain": values("unedited"),
            **{name: values(name) for name in ("after", "effect", "matches_base")},
        },
        units={"plain": unit, "after": unit},
    )


def _answers(evidence: Evidence) -> Table:
    conditions = [*evidence.ablated, *evidence.unedited.values()]
    rows = [
        (condition.condition, condition.group, prompt.id, prompt.cluster)
        for condition in conditions
        for prompt in evidence.held.prompts(condition.group)
    ]

    def flags(read: Callable[[ConditionResult], np.ndarray]) -> list[bool]:
        return [bool(value) for condition in conditions for value in read(condition)]

    return rows_table(
        AnswerRow,
        "",
        {
            **{
                name: [row[at] for row in rows]
                for at, name in enumerate(("condition", "group", "prompt_id", "cluster"))
            },
            "changed": flags(
                lambda one: (
                    evidence.changed
                    if one.group == "positive"
                    else np.zeros_like(one.exhibits, bool)
                )
            ),
            "exhibits_behaviour": flags(lambda one: one.exhibits),
            **{
                name: flags(lambda one, name=name: getattr(one, name))
                for name in ("matches_base", "matches_tuned", "malformed")
            },
            "lost": flags(lambda one: ~(one.exhibits | one.malformed)),
        },
    )
