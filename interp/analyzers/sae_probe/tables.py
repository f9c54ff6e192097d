"""Results of probes and interventions, and their tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from interp.analyzers.sae_probe.compute import ABLATE, GROUP, Firing
from interp.claims import ALPHA
from interp.display import as_sentence
from interp.errors import required
from interp.experiments.conditions import ConditionResult
from interp.maths.statistics import permutation_p, roc_auc, smallest_effect
from interp.provenance import Provenance
from interp.sae.analysis.probe import Probed
from interp.study import Study
from interp.table import Table, table

PROBED, GIVEN = "probed", "given"
OWN, BASE = "dictionary", "base"
NAN = float("nan")


@dataclass
class Probes:
    """Probe results by source and k; codes [N, F] of the dictionary for all prompts, with labels,
    clusters and split.
    """

    found: dict[tuple[str, int], Probed]
    codes: NDArray[np.float64]
    labels: NDArray[np.bool_]
    clusters: NDArray[np.int64]
    training: NDArray[np.bool_]
    l0: int

    @property
    def largest(self) -> Probed:
        """The dictionary's probe with the most latents."""
        return self.found[OWN, max(k for name, k in self.found if name == OWN)]

    def difference(self, latents: NDArray[np.int64]) -> NDArray[np.float64]:
        """Mean code on positive minus negative prompts of the selection split."""
        mine = self.codes[:, latents]
        return mine[self.training & self.labels].mean(0) - mine[self.training & ~self.labels].mean(
            0
        )

    @property
    def chosen(self) -> NDArray[np.int64]:
        """The latents selected at the largest k that have larger codes on positive prompts."""
        latents = self.largest.latents
        return latents[self.difference(latents) > 0]


@dataclass
class InterventionResult:
    """One edit of one set of latents on some prompts (``rows`` of its class): effects on the metric
    and the answers.

    ``moved``: decrease of the metric under ablation, increase under steering. ``why``: reason if
    nothing was measured.
    """

    name: str
    how: str
    rows: list[int]
    why: str = ""
    amount: float = 0.0
    sets: list[list[int]] = field(default_factory=list)
    size_ratio: float = NAN
    revert: bool = False
    plain: NDArray[np.float64] | None = None
    moved: NDArray[np.float64] | None = None
    null: list[float] = field(default_factory=list)
    back: NDArray[np.bool_] | None = None
    null_back: list[float] = field(default_factory=list)
    own: ConditionResult | None = None
    base: ConditionResult | None = None
    judged: ConditionResult | None = None
    harmless: ConditionResult | None = None

    @property
    def before(self) -> NDArray[np.float64]:
        """``plain``, which must have been measured."""
        return required(self.plain, "an intervention that was measured")

    @property
    def effects(self) -> NDArray[np.float64]:
        """``moved``, which must have been measured."""
        return required(self.moved, "an intervention that was measured")

    @property
    def after(self) -> NDArray[np.float64]:
        """The metric under the edit."""
        return self.before - self.effects if self.how == ABLATE else self.before + self.effects

    @property
    def changed(self) -> NDArray[np.bool_]:
        """Prompts whose answer shows the behaviour and differs from the base's."""
        own = required(self.own, "the tuned model's answers")
        return own.exhibits & ~own.equal_base


@dataclass
class Evidence:
    """Everything that claims are based on; ``choosing`` is the selection split, ``held`` the
    held-out split.
    """

    study: Study
    choosing: Study
    held: Study
    k: tuple[int, ...]
    probes: Probes
    firing: Firing
    sets: dict[str, list[int]]
    tried: list[InterventionResult]
    norms: NDArray[np.float64]

    @property
    def level(self) -> float:
        """Significance level of one probe, corrected for their number."""
        return ALPHA / len(self.k)


def tables(kind: str, found: Evidence, limits: list[str], provenance: Provenance) -> Table:
    """The table of probes with its sub-tables, on which claims are computed."""
    study, ran = found.study, [result for result in found.tried if result.moved is not None]
    effects = {f"{result.name} {result.how}": float(result.effects.mean()) for result in ran}
    summary = {
        "auc": {str(k): found.probes.found[OWN, k].auc for k in found.k},
        "latents": {name: latents for name, latents in found.sets.items() if name == PROBED},
        "sizes": {name: len(latents) for name, latents in found.sets.items()},
        "effects": effects,
        "size_of_random_sets": {
            result.name: result.size_ratio for result in ran if result.how == ABLATE
        },
        "baseline_codes": found.probes.l0,
        "held_positive": len(found.held.prompts("positive")),
        "held_negative": len(found.held.prompts("negative")),
        **{group: len(study.prompts(group)) for group in study.classes},
        "limits": [*limits, *map(as_sentence, found.held.notes)],
    }
    return table(
        kind,
        _probes(found),
        provenance=provenance,
        summary=summary,
        tables={
            "scores": _scores(found),
            "null": _null(found),
            "latents": _latents(found),
            "effects": _effects(ran),
            "sets": _sets(ran),
            "numbers": _numbers(found, ran),
            "answers": _answers(found, ran),
        },
    )


def _probes(found: Evidence) -> dict[str, tuple]:
    keys = list(found.probes.found)
    each = [found.probes.found[key] for key in keys]

    def values(name: str) -> np.ndarray:
        return np.array([getattr(result, name) for result in each], np.float64)

    return {
        "source": (
            [name for name, _ in keys],
            "key",
            "source of codes: the dictionary, a baseline, or the dictionary in the base",
        ),
        "k": (np.array([k for _, k in keys]), "key", "number of latents in the probe"),
        "auc": (values("auc"), "measure", "held-out area under the curve"),
        "low": (values("low"), "measure", "lower end of its interval over clusters"),
        "high": (values("high"), "measure", "upper end"),
        "null_mean": (
            np.array([result.null.mean() for result in each]),
            "measure",
            "mean under permuted labels",
        ),
        "null_most": (
            np.array([smallest_effect(result.null, found.level) for result in each]),
            "measure",
            "threshold for significance at 0.05, corrected for the number of k",
        ),
        "p": (values("p"), "measure", "p from permuted labels, with selection repeated"),
    }


def _scores(found: Evidence) -> Table:
    """Held-out scores, a row per probe and prompt; for the largest probe also the scores in the
    base.
    """
    held = np.flatnonzero(~found.probes.training)
    prompts = [
        (group, prompt)
        for group in found.held.classes
        for prompt in found.held.prompts(group).prompts
    ]
    keys, groups = list(found.probes.found), np.array([group for group, _ in prompts], object)
    base = found.probes.found.get((BASE, found.k[-1]))
    beside = [
        base.scores[held]
        if base is not None and key == (OWN, found.k[-1])
        else np.full(held.size, NAN)
        for key in keys
    ]
    return table(
        "sae-probe-scores",
        {
            "source": (
                np.repeat(np.array([name for name, _ in keys], object), held.size),
                "key",
                "source of codes",
            ),
            "k": (
                np.repeat([k for _, k in keys], held.size),
                "key",
                "number of latents in the probe",
            ),
            "group": (np.tile(groups, len(keys)), "key", "class of the held-out prompt"),
            "prompt_id": (
                np.tile([prompt.id for _, prompt in prompts], len(keys)),
                "key",
                "position in the file",
            ),
            "cluster": (
                np.tile(np.array([prompt.cluster for _, prompt in prompts], object), len(keys)),
                "key",
                "cluster of prompts",
            ),
            "score": (
                np.concatenate([found.probes.found[key].scores[held] for key in keys]),
                "measure",
                "score of the regression; higher for the positive class",
            ),
            "base_score": (
                np.concatenate(beside),
                "measure",
                "for the largest probe, score with the same latents refitted in the base; else NaN",
            ),
        },
    )


def _null(found: Evidence) -> Table:
    keys, each = list(found.probes.found), list(found.probes.found.values())
    sizes = [len(result.null) for result in each]
    return table(
        "sae-probe-null",
        {
            "source": (
                np.repeat(np.array([name for name, _ in keys], object), sizes),
                "key",
                "source of codes",
            ),
            "k": (np.repeat([k for _, k in keys], sizes), "key", "number of latents in the probe"),
            "draw": (
                np.concatenate([np.arange(size) for size in sizes]),
                "key",
                "permutation of labels",
            ),
            "auc": (
                np.concatenate([result.null for result in each]),
                "measure",
                "held-out area under the curve",
            ),
        },
    )


def _latents(found: Evidence) -> Table:
    probes, largest = found.probes, found.probes.largest
    sets = [
        (PROBED, int(j), float(w)) for j, w in zip(largest.latents, largest.weights, strict=True)
    ]
    sets += [
        (name, j, NAN) for name, latents in found.sets.items() if name != PROBED for j in latents
    ]
    numbers = np.array([j for _, j, _ in sets], np.int64)
    held = ~probes.training
    alone = [roc_auc(probes.labels[held], probes.codes[held, j]) for j in numbers]
    changed = [j in found.sets[name] for name, j, _ in sets]
    return table(
        "sae-probe-latents",
        {
            "set": (
                [name for name, _, _ in sets],
                "key",
                "selected by the largest probe, or given",
            ),
            "latent": (numbers, "key", "number of the latent"),
            "weight": (
                np.array([w for _, _, w in sets]),
                "measure",
                "weight in the regression on standardised codes",
            ),
            "difference": (
                probes.difference(numbers),
                "measure",
                "mean code on positive minus negative prompts",
            ),
            "auc": (
                np.array(alone),
                "measure",
                "held-out AUC of this latent alone; it was not selected by this, so there is no"
                " null",
            ),
            "rate": (found.firing.rates[numbers], "measure", "share of tokens on which it fires"),
            "changed": (np.array(changed, bool), "flag", "included in the ablated and steered set"),
        },
    )


def _effects(ran: list[InterventionResult]) -> Table:
    return table(
        "sae-probe-effects",
        {
            "set": ([result.name for result in ran], "key", "set of latents"),
            "change": (
                [result.how for result in ran],
                "key",
                "ablate (on positive prompts) or steer (on negative ones)",
            ),
            "latents": (
                np.array([len(result.sets[0]) for result in ran], np.int64),
                "measure",
                "number of latents",
            ),
            "amount": (
                np.array([result.amount for result in ran]),
                "measure",
                "added to each latent, in units of codes",
            ),
            "effect": (
                np.array([result.effects.mean() for result in ran]),
                "measure",
                "decrease of the metric if ablated, increase if steered",
            ),
            "null_mean": (
                np.array([np.mean(result.null) for result in ran]),
                "measure",
                "mean of the same for random sets",
            ),
            "null_most": (
                np.array([smallest_effect(result.null) for result in ran]),
                "measure",
                "threshold for significance at 0.05",
            ),
            "p": (
                np.array([permutation_p(result.effects.mean(), result.null) for result in ran]),
                "measure",
                "p from random sets",
            ),
            "size_ratio": (
                np.array([result.size_ratio for result in ran]),
                "measure",
                "mean contribution of random sets divided by that of the set",
            ),
        },
    )


def _sets(ran: list[InterventionResult]) -> Table:
    draws = [len(result.null) for result in ran]
    return table(
        "sae-probe-sets",
        {
            "set": (
                np.repeat(np.array([result.name for result in ran], object), draws),
                "key",
                "set that it is a control for",
            ),
            "change": (
                np.repeat(np.array([result.how for result in ran], object), draws),
                "key",
                "ablate or steer",
            ),
            "draw": (
                np.concatenate([np.arange(n) for n in draws] or [np.zeros(0, np.int64)]),
                "key",
                "random set",
            ),
            "effect": (
                np.array([x for result in ran for x in result.null]),
                "measure",
                "decrease of the metric if ablated, increase if steered",
            ),
            "matches_base": (
                np.array([x for result in ran for x in result.null_back]),
                "measure",
                "share of answers equal to the base's",
            ),
        },
    )


def _numbers(found: Evidence, ran: list[InterventionResult]) -> Table:
    posed = {how: found.held.prompts(group).prompts for how, group in GROUP.items()}
    each = [
        (result, at, posed[result.how][row]) for result in ran for at, row in enumerate(result.rows)
    ]
    unit = found.held.require_metric().words.unit_of_one
    back = [bool(result.back[at]) if result.back is not None else False for result, at, _ in each]
    return table(
        "sae-probe-numbers",
        {
            "set": ([result.name for result, _, _ in each], "key", "set of latents"),
            "change": ([result.how for result, _, _ in each], "key", "ablate or steer"),
            "prompt_id": (
                np.array([prompt.id for _, _, prompt in each], np.int64),
                "key",
                "position in the file",
            ),
            "cluster": (
                [prompt.cluster for _, _, prompt in each],
                "key",
                "cluster of prompts",
            ),
            "plain": (
                np.array([result.before[at] for result, at, _ in each]),
                "measure",
                "unedited metric",
                unit,
            ),
            "after": (
                np.array([result.after[at] for result, at, _ in each]),
                "measure",
                "metric under the edit",
                unit,
            ),
            "effect": (
                np.array([result.effects[at] for result, at, _ in each]),
                "measure",
                "decrease (ablate) or increase (steer) of the metric",
            ),
            "matches_base": (
                np.array(back, bool),
                "flag",
                "the answer equals the base's, by one pass",
            ),
        },
    )


def _answers(found: Evidence, ran: list[InterventionResult]) -> Table:
    each = []
    for result in ran:
        if result.judged is not None:
            each += [(result.name, judged) for judged in (result.judged, result.harmless)]
    first = next((result for result in ran if result.own is not None), None)
    if first is not None:
        each += [
            (judged.condition, judged) for judged in (first.own, first.base) if judged is not None
        ]
    prompts = [(name, judged, at) for name, judged in each for at in range(len(judged.exhibits))]

    def flag(read: Callable[[ConditionResult], np.ndarray]) -> np.ndarray:
        return np.array([bool(read(judged)[at]) for _, judged, at in prompts], bool)

    turned = [] if first is None else first.changed
    changed = [judged.group == "positive" and bool(turned[at]) for _, judged, at in prompts]
    asked = [found.held.prompts(judged.group).prompts[at] for _, judged, at in prompts]
    return table(
        "sae-probe-answers",
        {
            "condition": (
                [name for name, _, _ in prompts],
                "key",
                "set of ablated latents, or an unedited model",
            ),
            "group": ([judged.group for _, judged, _ in prompts], "key", "class of the prompt"),
            "prompt_id": (
                np.array([prompt.id for prompt in asked], np.int64),
                "key",
                "position in the file",
            ),
            "cluster": ([prompt.cluster for prompt in asked], "key", "cluster of prompts"),
            "changed": (
                np.array(changed, bool),
                "flag",
                "the tuned model's answer shows the behaviour and differs from the base's",
            ),
            "exhibits_behaviour": (
                flag(lambda result: result.exhibits),
                "flag",
                "the answer shows the behaviour",
            ),
            "matches_base": (
                flag(lambda result: result.equal_base),
                "flag",
                "equal to the base's answer, token for token",
            ),
            "matches_tuned": (
                flag(lambda result: result.equal_tuned),
                "flag",
                "equal to the tuned model's answer, token for token",
            ),
            "malformed": (flag(lambda result: result.malformed), "flag", "a malformed answer"),
            "lost": (
                flag(lambda result: ~(result.exhibits | result.malformed)),
                "flag",
                "a well-formed answer without the behaviour",
            ),
        },
    )
