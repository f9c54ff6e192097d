"""What probing and confirming found, and its tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from interp.analyzers.dictionary_probe.compute import ABLATE, GROUP, Firing
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
    """Probes by source and k; codes [N, F] of the dictionary for all prompts, their labels,
    clusters and half.
    """

    found: dict[tuple[str, int], Probed]
    codes: NDArray[np.float64]
    labels: NDArray[np.bool_]
    clusters: NDArray[np.int64]
    training: NDArray[np.bool_]
    l0: int

    @property
    def largest(self) -> Probed:
        """The dictionary's probe with most latents."""
        return self.found[OWN, max(k for name, k in self.found if name == OWN)]

    def difference(self, latents: NDArray[np.int64]) -> NDArray[np.float64]:
        """Mean code on positive less negative prompts of the half that chose."""
        mine = self.codes[:, latents]
        return mine[self.training & self.labels].mean(0) - mine[self.training & ~self.labels].mean(
            0
        )

    @property
    def chosen(self) -> NDArray[np.int64]:
        """The latents chosen at the largest k, but for any that positive prompts do not have more
        of.
        """
        latents = self.largest.latents
        return latents[self.difference(latents) > 0]


@dataclass
class InterventionResult:
    """One change of one set on some prompts (``rows`` of its class): what the metric and the
    answers did.

    ``moved``: the fall of the metric under ablation, its rise under steering; ``why`` says why
    nothing was tried.
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
        """``plain`` of a change that was tried."""
        return required(self.plain, "a change that was tried")

    @property
    def effects(self) -> NDArray[np.float64]:
        """``moved`` of a change that was tried."""
        return required(self.moved, "a change that was tried")

    @property
    def after(self) -> NDArray[np.float64]:
        """The metric under the change."""
        return self.before - self.effects if self.how == ABLATE else self.before + self.effects

    @property
    def changed(self) -> NDArray[np.bool_]:
        """Prompts whose answer shows the behaviour and is not the base's."""
        own = required(self.own, "the tuned model's answers")
        return own.exhibits & ~own.equal_base


@dataclass
class Evidence:
    """All that claims are made of; ``study`` has both halves' models, ``held`` the prompts that no
    probe saw.
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
        """What p of one probe may be, of as many as there are."""
        return ALPHA / len(self.k)


def tables(kind: str, found: Evidence, limits: list[str], provenance: Provenance) -> Table:
    """The table of probes with all others; claims are measured on these."""
    study, ran = found.study, [one for one in found.tried if one.moved is not None]
    effects = {f"{one.name} {one.how}": float(one.effects.mean()) for one in ran}
    summary = {
        "auc": {str(k): found.probes.found[OWN, k].auc for k in found.k},
        "latents": {name: latents for name, latents in found.sets.items() if name == PROBED},
        "sizes": {name: len(latents) for name, latents in found.sets.items()},
        "effects": effects,
        "size_of_random_sets": {one.name: one.size_ratio for one in ran if one.how == ABLATE},
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

    def of(name: str) -> np.ndarray:
        return np.array([getattr(one, name) for one in each], np.float64)

    return {
        "source": (
            [name for name, _ in keys],
            "key",
            "whose codes: the dictionary's, baselines', its own in the base",
        ),
        "k": (np.array([k for _, k in keys]), "key", "latents in the probe"),
        "auc": (of("auc"), "measure", "held-out area under the curve"),
        "low": (of("low"), "measure", "lower end of its interval over clusters"),
        "high": (of("high"), "measure", "upper end"),
        "null_mean": (
            np.array([one.null.mean() for one in each]),
            "measure",
            "mean under permuted labels",
        ),
        "null_most": (
            np.array([smallest_effect(one.null, found.level) for one in each]),
            "measure",
            "what it had to exceed for p of 0.05, divided by how many k were tried, or less",
        ),
        "p": (of("p"), "measure", "that permuted labels, choosing anew, give as much"),
    }


def _scores(found: Evidence) -> Table:
    """Held-out scores, a row per probe and prompt; of the largest probe also those that it gives in
    the base.
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
        "dictionary-probe-scores",
        {
            "source": (
                np.repeat(np.array([name for name, _ in keys], object), held.size),
                "key",
                "whose codes",
            ),
            "k": (np.repeat([k for _, k in keys], held.size), "key", "latents in the probe"),
            "group": (np.tile(groups, len(keys)), "key", "class of the held-out prompt"),
            "prompt_id": (
                np.tile([prompt.id for _, prompt in prompts], len(keys)),
                "key",
                "position in the file",
            ),
            "cluster": (
                np.tile(np.array([prompt.cluster for _, prompt in prompts], object), len(keys)),
                "key",
                "prompts that move together",
            ),
            "score": (
                np.concatenate([found.probes.found[key].scores[held] for key in keys]),
                "measure",
                "what the regression gives; higher for the positive class",
            ),
            "base_score": (
                np.concatenate(beside),
                "measure",
                "of the largest probe: the same latents, fitted anew, in the base; else NaN",
            ),
        },
    )


def _null(found: Evidence) -> Table:
    keys, each = list(found.probes.found), list(found.probes.found.values())
    sizes = [len(one.null) for one in each]
    return table(
        "dictionary-probe-null",
        {
            "source": (
                np.repeat(np.array([name for name, _ in keys], object), sizes),
                "key",
                "whose codes",
            ),
            "k": (np.repeat([k for _, k in keys], sizes), "key", "latents in the probe"),
            "draw": (
                np.concatenate([np.arange(size) for size in sizes]),
                "key",
                "permutation of labels",
            ),
            "auc": (
                np.concatenate([one.null for one in each]),
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
        "dictionary-probe-latents",
        {
            "set": ([name for name, _, _ in sets], "key", "chosen by the largest probe, or given"),
            "latent": (numbers, "key", "number of the latent"),
            "weight": (
                np.array([w for _, _, w in sets]),
                "measure",
                "in the regression, of codes by their spread",
            ),
            "difference": (
                probes.difference(numbers),
                "measure",
                "mean code on positive less negative prompts",
            ),
            "auc": (
                np.array(alone),
                "measure",
                "of this latent alone, held out, without a null: it was not chosen by it",
            ),
            "rate": (found.firing.rates[numbers], "measure", "share of tokens in which it fires"),
            "changed": (np.array(changed, bool), "flag", "ablated and steered with its set"),
        },
    )


def _effects(ran: list[InterventionResult]) -> Table:
    return table(
        "dictionary-probe-effects",
        {
            "set": ([one.name for one in ran], "key", "which latents"),
            "change": (
                [one.how for one in ran],
                "key",
                "ablated on positive prompts, or steered on negative ones",
            ),
            "latents": (
                np.array([len(one.sets[0]) for one in ran], np.int64),
                "measure",
                "how many",
            ),
            "amount": (
                np.array([one.amount for one in ran]),
                "measure",
                "of each latent that was added, in codes",
            ),
            "effect": (
                np.array([one.effects.mean() for one in ran]),
                "measure",
                "fall if ablated, rise if steered",
            ),
            "null_mean": (
                np.array([np.mean(one.null) for one in ran]),
                "measure",
                "the same of random sets",
            ),
            "null_most": (
                np.array([smallest_effect(one.null) for one in ran]),
                "measure",
                "bound for p of 0.05 or less",
            ),
            "p": (
                np.array([permutation_p(one.effects.mean(), one.null) for one in ran]),
                "measure",
                "beside random sets",
            ),
            "size_ratio": (
                np.array([one.size_ratio for one in ran]),
                "measure",
                "random sets' contributions by the set's own, mean",
            ),
        },
    )


def _sets(ran: list[InterventionResult]) -> Table:
    draws = [len(one.null) for one in ran]
    return table(
        "dictionary-probe-sets",
        {
            "set": (
                np.repeat(np.array([one.name for one in ran], object), draws),
                "key",
                "latents it is compared with",
            ),
            "change": (
                np.repeat(np.array([one.how for one in ran], object), draws),
                "key",
                "ablate or steer",
            ),
            "draw": (
                np.concatenate([np.arange(n) for n in draws] or [np.zeros(0, np.int64)]),
                "key",
                "random set",
            ),
            "effect": (
                np.array([x for one in ran for x in one.null]),
                "measure",
                "fall if ablated, rise if steered",
            ),
            "matches_base": (
                np.array([x for one in ran for x in one.null_back]),
                "measure",
                "share answered as the base answers",
            ),
        },
    )


def _numbers(found: Evidence, ran: list[InterventionResult]) -> Table:
    posed = {how: found.held.prompts(group).prompts for how, group in GROUP.items()}
    each = [(one, at, posed[one.how][row]) for one in ran for at, row in enumerate(one.rows)]
    unit = found.held.require_metric().words.unit_of_one
    back = [bool(one.back[at]) if one.back is not None else False for one, at, _ in each]
    return table(
        "dictionary-probe-numbers",
        {
            "set": ([one.name for one, _, _ in each], "key", "which latents"),
            "change": ([one.how for one, _, _ in each], "key", "ablate or steer"),
            "prompt_id": (
                np.array([prompt.id for _, _, prompt in each], np.int64),
                "key",
                "position in the file",
            ),
            "cluster": (
                [prompt.cluster for _, _, prompt in each],
                "key",
                "prompts that move together",
            ),
            "plain": (
                np.array([one.before[at] for one, at, _ in each]),
                "measure",
                "the metric as it is",
                unit,
            ),
            "after": (
                np.array([one.after[at] for one, at, _ in each]),
                "measure",
                "the metric under the change",
                unit,
            ),
            "effect": (
                np.array([one.effects[at] for one, at, _ in each]),
                "measure",
                "its fall or rise",
            ),
            "matches_base": (
                np.array(back, bool),
                "flag",
                "answered as the base answers, by one pass",
            ),
        },
    )


def _answers(found: Evidence, ran: list[InterventionResult]) -> Table:
    each = []
    for one in ran:
        if one.judged is not None:
            each += [(one.name, judged) for judged in (one.judged, one.harmless)]
    first = next((one for one in ran if one.own is not None), None)
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
        "dictionary-probe-answers",
        {
            "condition": (
                [name for name, _, _ in prompts],
                "key",
                "latents ablated, or a model as it is",
            ),
            "group": ([judged.group for _, judged, _ in prompts], "key", "class"),
            "prompt_id": (
                np.array([prompt.id for prompt in asked], np.int64),
                "key",
                "position in the file",
            ),
            "cluster": ([prompt.cluster for prompt in asked], "key", "prompts that move together"),
            "changed": (
                np.array(changed, bool),
                "flag",
                "tuned shows the behaviour and does not answer as the base",
            ),
            "exhibits_behaviour": (
                flag(lambda result: result.exhibits),
                "flag",
                "the answer shows the behaviour",
            ),
            "matches_base": (
                flag(lambda result: result.equal_base),
                "flag",
                "the base's answer, token for token",
            ),
            "matches_tuned": (
                flag(lambda result: result.equal_tuned),
                "flag",
                "the tuned model's, token for token",
            ),
            "malformed": (flag(lambda result: result.malformed), "flag", "a broken answer"),
            "lost": (
                flag(lambda result: ~(result.exhibits | result.malformed)),
                "flag",
                "neither: a whole answer without the behaviour",
            ),
        },
    )
