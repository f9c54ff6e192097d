"""Results of probes and interventions, and their tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from interp.analyzers.sae_probe.compute import ABLATE, GROUP, FiringSums
from interp.claims import ALPHA
from interp.display import as_sentence
from interp.errors import required
from interp.experiments.conditions import ConditionResult
from interp.maths.statistics import minimum_detectable_effect, permutation_p, roc_auc
from interp.provenance import Provenance
from interp.sae.analysis.probe import ProbeResult
from interp.study import Study
from interp.table import Table, table

PROBED, GIVEN = "probed", "given"
DICTIONARY, BASE = "dictionary", "base"
NAN = float("nan")


@dataclass
class Probes:
    """Probe results by source and k; codes [N, F] of the dictionary for all prompts, with labels,
    clusters and split.
    """

    results: dict[tuple[str, int], ProbeResult]
    codes: NDArray[np.float64]
    labels: NDArray[np.bool_]
    clusters: NDArray[np.int64]
    training: NDArray[np.bool_]
    l0: int

    @property
    def largest(self) -> ProbeResult:
        """The dictionary's probe with the most latents."""
        return self.results[DICTIONARY, max(k for name, k in self.results if name == DICTIONARY)]

    def difference(self, latents: NDArray[np.int64]) -> NDArray[np.float64]:
        """Mean code on positive minus negative prompts of the selection split."""
        codes = self.codes[:, latents]
        return codes[self.training & self.labels].mean(0) - codes[
            self.training & ~self.labels
        ].mean(0)

    @property
    def chosen(self) -> NDArray[np.int64]:
        """The latents selected at the largest k that have larger codes on positive prompts."""
        latents = self.largest.latents
        return latents[self.difference(latents) > 0]


@dataclass
class InterventionResult:
    """One edit of one set of latents on some prompts (``rows`` of its class): effects on the metric
    and the answers.

    ``effect``: decrease of the metric under ablation, increase under steering. ``reason``: reason
    if nothing was measured.
    """

    name: str
    change: str
    rows: list[int]
    reason: str = ""
    amount: float = 0.0
    sets: list[list[int]] = field(default_factory=list)
    size_ratio: float = NAN
    revert: bool = False
    unedited: NDArray[np.float64] | None = None
    effect: NDArray[np.float64] | None = None
    null: list[float] = field(default_factory=list)
    matches_base: NDArray[np.bool_] | None = None
    null_matches_base: list[float] = field(default_factory=list)
    tuned: ConditionResult | None = None
    base: ConditionResult | None = None
    ablated: ConditionResult | None = None
    ablated_harmless: ConditionResult | None = None

    @property
    def required_unedited(self) -> NDArray[np.float64]:
        """``unedited``, which must have been measured."""
        return required(self.unedited, "an intervention that was measured")

    @property
    def required_effect(self) -> NDArray[np.float64]:
        """``effect``, which must have been measured."""
        return required(self.effect, "an intervention that was measured")

    @property
    def after(self) -> NDArray[np.float64]:
        """The metric under the edit."""
        return (
            self.required_unedited - self.required_effect
            if self.change == ABLATE
            else self.required_unedited + self.required_effect
        )

    @property
    def changed(self) -> NDArray[np.bool_]:
        """Prompts whose answer shows the behaviour and differs from the base's."""
        tuned = required(self.tuned, "the tuned model's answers")
        return tuned.exhibits & ~tuned.matches_base


@dataclass
class Evidence:
    """Everything that claims are based on; ``selection`` is the selection split, ``held`` the
    held-out split.
    """

    study: Study
    selection: Study
    held: Study
    k: tuple[int, ...]
    probes: Probes
    firing: FiringSums
    sets: dict[str, list[int]]
    interventions: list[InterventionResult]
    norms: NDArray[np.float64]

    @property
    def level(self) -> float:
        """Significance level of one probe, corrected for their number."""
        return ALPHA / len(self.k)


def result_table(kind: str, evidence: Evidence, limits: list[str], provenance: Provenance) -> Table:
    """The table of probes with its sub-tables, on which claims are computed."""
    study, measured = (
        evidence.study,
        [result for result in evidence.interventions if result.effect is not None],
    )
    effects = {
        f"{result.name} {result.change}": float(result.required_effect.mean())
        for result in measured
    }
    summary = {
        "auc": {str(k): evidence.probes.results[DICTIONARY, k].auc for k in evidence.k},
        "latents": {name: latents for name, latents in evidence.sets.items() if name == PROBED},
        "sizes": {name: len(latents) for name, latents in evidence.sets.items()},
        "effects": effects,
        "size_of_random_sets": {
            result.name: result.size_ratio for result in measured if result.change == ABLATE
        },
        "baseline_codes": evidence.probes.l0,
        "held_positive": len(evidence.held.prompts("positive")),
        "held_negative": len(evidence.held.prompts("negative")),
        **{group: len(study.prompts(group)) for group in study.classes},
        "limits": [*limits, *map(as_sentence, evidence.held.notes)],
    }
    return table(
        kind,
        _probes(evidence),
        provenance=provenance,
        summary=summary,
        tables={
            "scores": _scores(evidence),
            "null": _null(evidence),
            "latents": _latents(evidence),
            "effects": _effects(measured),
            "sets": _sets(measured),
            "numbers": _numbers(evidence, measured),
            "answers": _answers(evidence, measured),
        },
    )


def _probes(evidence: Evidence) -> dict[str, tuple]:
    keys = list(evidence.probes.results)
    results = [evidence.probes.results[key] for key in keys]

    def values(name: str) -> np.ndarray:
        return np.array([getattr(result, name) for result in results], np.float64)

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
            np.array([result.null.mean() for result in results]),
            "measure",
            "mean under permuted labels",
        ),
        "null_most": (
            np.array(
                [minimum_detectable_effect(result.null, evidence.level) for result in results]
            ),
            "measure",
            "threshold for significance at 0.05, corrected for the number of k",
        ),
        "p": (values("p"), "measure", "p from permuted labels, with selection repeated"),
    }


def _scores(evidence: Evidence) -> Table:
    """Held-out scores, a row per probe and prompt; for the largest probe also the scores in the
    base.
    """
    held_out = np.flatnonzero(~evidence.probes.training)
    prompts = [
        (group, prompt)
        for group in evidence.held.classes
        for prompt in evidence.held.prompts(group).prompts
    ]
    keys, groups = list(evidence.probes.results), np.array([group for group, _ in prompts], object)
    base = evidence.probes.results.get((BASE, evidence.k[-1]))
    base_scores = [
        base.scores[held_out]
        if base is not None and key == (DICTIONARY, evidence.k[-1])
        else np.full(held_out.size, NAN)
        for key in keys
    ]
    return table(
        "sae-probe-scores",
        {
            "source": (
                np.repeat(np.array([name for name, _ in keys], object), held_out.size),
                "key",
                "source of codes",
            ),
            "k": (
                np.repeat([k for _, k in keys], held_out.size),
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
                np.concatenate([evidence.probes.results[key].scores[held_out] for key in keys]),
                "measure",
                "score of the regression; higher for the positive class",
            ),
            "base_score": (
                np.concatenate(base_scores),
                "measure",
                "for the largest probe, score with the same latents refitted in the base; else NaN",
            ),
        },
    )


def _null(evidence: Evidence) -> Table:
    keys, results = list(evidence.probes.results), list(evidence.probes.results.values())
    sizes = [len(result.null) for result in results]
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
                np.concatenate([result.null for result in results]),
                "measure",
                "held-out area under the curve",
            ),
        },
    )


def _latents(evidence: Evidence) -> Table:
    probes, largest = evidence.probes, evidence.probes.largest
    sets = [
        (PROBED, int(j), float(w)) for j, w in zip(largest.latents, largest.weights, strict=True)
    ]
    sets += [
        (name, j, NAN) for name, latents in evidence.sets.items() if name != PROBED for j in latents
    ]
    latent_ids = np.array([j for _, j, _ in sets], np.int64)
    held_out = ~probes.training
    single_auc = [roc_auc(probes.labels[held_out], probes.codes[held_out, j]) for j in latent_ids]
    changed = [j in evidence.sets[name] for name, j, _ in sets]
    return table(
        "sae-probe-latents",
        {
            "set": (
                [name for name, _, _ in sets],
                "key",
                "selected by the largest probe, or given",
            ),
            "latent": (latent_ids, "key", "number of the latent"),
            "weight": (
                np.array([w for _, _, w in sets]),
                "measure",
                "weight in the regression on standardised codes",
            ),
            "difference": (
                probes.difference(latent_ids),
                "measure",
                "mean code on positive minus negative prompts",
            ),
            "auc": (
                np.array(single_auc),
                "measure",
                "held-out AUC of this latent alone; it was not selected by this, so there is no"
                " null",
            ),
            "rate": (
                evidence.firing.rates[latent_ids],
                "measure",
                "share of tokens on which it fires",
            ),
            "changed": (np.array(changed, bool), "flag", "included in the ablated and steered set"),
        },
    )


def _effects(results: list[InterventionResult]) -> Table:
    return table(
        "sae-probe-effects",
        {
            "set": ([result.name for result in results], "key", "set of latents"),
            "change": (
                [result.change for result in results],
                "key",
                "ablate (on positive prompts) or steer (on negative ones)",
            ),
            "latents": (
                np.array([len(result.sets[0]) for result in results], np.int64),
                "measure",
                "number of latents",
            ),
            "amount": (
                np.array([result.amount for result in results]),
                "measure",
                "added to each latent, in units of codes",
            ),
            "effect": (
                np.array([result.required_effect.mean() for result in results]),
                "measure",
                "decrease of the metric if ablated, increase if steered",
            ),
            "null_mean": (
                np.array([np.mean(result.null) for result in results]),
                "measure",
                "mean of the same for random sets",
            ),
            "null_most": (
                np.array([minimum_detectable_effect(result.null) for result in results]),
                "measure",
                "threshold for significance at 0.05",
            ),
            "p": (
                np.array(
                    [
                        permutation_p(result.required_effect.mean(), result.null)
                        for result in results
                    ]
                ),
                "measure",
                "p from random sets",
            ),
            "size_ratio": (
                np.array([result.size_ratio for result in results]),
                "measure",
                "mean contribution of random sets divided by that of the set",
            ),
        },
    )


def _sets(results: list[InterventionResult]) -> Table:
    draws = [len(result.null) for result in results]
    return table(
        "sae-probe-sets",
        {
            "set": (
                np.repeat(np.array([result.name for result in results], object), draws),
                "key",
                "set that it is a control for",
            ),
            "change": (
                np.repeat(np.array([result.change for result in results], object), draws),
                "key",
                "ablate or steer",
            ),
            "draw": (
                np.concatenate([np.arange(n) for n in draws] or [np.zeros(0, np.int64)]),
                "key",
                "random set",
            ),
            "effect": (
                np.array([x for result in results for x in result.null]),
                "measure",
                "decrease of the metric if ablated, increase if steered",
            ),
            "matches_base": (
                np.array([x for result in results for x in result.null_matches_base]),
                "measure",
                "share of answers equal to the base's",
            ),
        },
    )


def _numbers(evidence: Evidence, results: list[InterventionResult]) -> Table:
    prompts_of = {how: evidence.held.prompts(group).prompts for how, group in GROUP.items()}
    rows = [
        (result, at, prompts_of[result.change][row])
        for result in results
        for at, row in enumerate(result.rows)
    ]
    unit = evidence.held.require_metric().labels.prompt_unit
    matches_base = [
        bool(result.matches_base[at]) if result.matches_base is not None else False
        for result, at, _ in rows
    ]
    return table(
        "sae-probe-numbers",
        {
            "set": ([result.name for result, _, _ in rows], "key", "set of latents"),
            "change": ([result.change for result, _, _ in rows], "key", "ablate or steer"),
            "prompt_id": (
                np.array([prompt.id for _, _, prompt in rows], np.int64),
                "key",
                "position in the file",
            ),
            "cluster": (
                [prompt.cluster for _, _, prompt in rows],
                "key",
                "cluster of prompts",
            ),
            "plain": (
                np.array([result.required_unedited[at] for result, at, _ in rows]),
                "measure",
                "unedited metric",
                unit,
            ),
            "after": (
                np.array([result.after[at] for result, at, _ in rows]),
                "measure",
                "metric under the edit",
                unit,
            ),
            "effect": (
                np.array([result.required_effect[at] for result, at, _ in rows]),
                "measure",
                "decrease (ablate) or increase (steer) of the metric",
            ),
            "matches_base": (
                np.array(matches_base, bool),
                "flag",
                "the answer equals the base's, by one pass",
            ),
        },
    )


def _answers(evidence: Evidence, results: list[InterventionResult]) -> Table:
    conditions = []
    for result in results:
        if result.ablated is not None:
            conditions += [
                (result.name, judged) for judged in (result.ablated, result.ablated_harmless)
            ]
    first = next((result for result in results if result.tuned is not None), None)
    if first is not None:
        conditions += [
            (judged.condition, judged) for judged in (first.tuned, first.base) if judged is not None
        ]
    rows = [(name, judged, at) for name, judged in conditions for at in range(len(judged.exhibits))]

    def flag(read: Callable[[ConditionResult], np.ndarray]) -> np.ndarray:
        return np.array([bool(read(judged)[at]) for _, judged, at in rows], bool)

    changed_by_tuning = [] if first is None else first.changed
    changed = [judged.group == "positive" and bool(changed_by_tuning[at]) for _, judged, at in rows]
    prompts = [evidence.held.prompts(judged.group).prompts[at] for _, judged, at in rows]
    return table(
        "sae-probe-answers",
        {
            "condition": (
                [name for name, _, _ in rows],
                "key",
                "set of ablated latents, or an unedited model",
            ),
            "group": ([judged.group for _, judged, _ in rows], "key", "class of the prompt"),
            "prompt_id": (
                np.array([prompt.id for prompt in prompts], np.int64),
                "key",
                "position in the file",
            ),
            "cluster": ([prompt.cluster for prompt in prompts], "key", "cluster of prompts"),
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
                flag(lambda result: result.matches_base),
                "flag",
                "equal to the base's answer, token for token",
            ),
            "matches_tuned": (
                flag(lambda result: result.matches_tuned),
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
