"""Ranked evidence of a method, each item with its score in every control fine-tune."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from interp.maths.between_models import between_models, rank_p
from interp.rows import flag, key, measure, rows_table, text
from interp.table import Table

CONTROLS = "controls"
"""The sub-table of a run with the largest statistic of every model."""
MORE, LESS = "more", "less"
NAN = float("nan")


class EvidenceRow:
    """A row per item, strongest first; items of form come after all others."""

    place: int = key("place in the ranking, from 1")
    evidence: str = text("the token, phrase, text or direction")
    where: str = key("block, position, prompts or matrix that it is of; empty where it is of all")
    direction: str = key("whether the fine-tuned model does it more or less than the base")
    score: float = measure("the method's score of the fine-tuned model against the base")
    control_mean: float = measure("mean score of the controls", optional=True)
    control_low: float = measure("smallest score of a control", optional=True)
    control_high: float = measure("largest score of a control", optional=True)
    statistic: float = measure(
        "score minus the controls' mean, over their spread: compared with the largest statistic of"
        " every control, held out in turn"
    )
    p: float = measure(
        "(1 + controls whose largest statistic is as large) / (1 + controls), of this method alone"
    )
    form: bool = flag("what any chat-like fine-tuning changes; not tested")
    example: str = text("a text where it is seen, marked by « and »")


class MaximumRow:
    """A row per model: the fine-tuned model, then its controls."""

    model_number: int = key("0 for the fine-tuned model, then the controls in the given order")
    model: str = text("its name")
    maximum: float = measure("its largest statistic over all items, held out from the others")
    evidence: str = text("the item where it is")


@dataclass(frozen=True)
class Evidence:
    """Items of a method in order of evidence, and the largest statistic of every model.

    ``rows`` [n]: which items, strongest first. ``score`` [n] and ``statistic`` [n] (signed, NaN
    without controls); ``controls`` [K, n]: their scores of the same items. ``maxima`` [M] and
    ``largest`` [M] (an item of that model's own, -1 where it has none): see
    ``interp.maths.between_models``. ``form`` [n]. ``detectable``: the smallest score beyond the
    controls' mean that would exceed all of them, in the unit of the score.
    """

    rows: Int[np.ndarray, " n"]
    score: Float[np.ndarray, " n"]
    controls: Float[np.ndarray, "K n"]
    statistic: Float[np.ndarray, " n"]
    maxima: Float[np.ndarray, " M"]
    largest: Int[np.ndarray, " M"]
    form: Bool[np.ndarray, " n"]
    detectable: float


def of_shared_items(
    scores: Float[np.ndarray, "M V"],
    spread: float,
    *,
    limit: int = 100,
    form: Bool[np.ndarray, " V"] | None = None,
) -> Evidence:
    """Evidence of items that all models share, such as tokens: the fine-tuned model's scores first.

    A score is 0 where nothing changed. Items of ``form`` are listed last and count for no maximum.
    Items in which the fine-tuned model did not change, or changed less than the controls' mean, are
    left out: of the identical pair nothing is listed. ``spread``: the
    standard deviation between models that all items share, in the unit of the score. At most
    ``limit`` items of each kind are listed.
    """
    scores = np.asarray(scores, np.float64)
    form = np.zeros(scores.shape[1], bool) if form is None else form
    content = np.flatnonzero(~form)
    result = between_models(scores[:, content], spread, "away-from-zero")
    statistic = between_models(scores, spread, "away-from-zero").statistic
    order = np.abs(scores[0] if len(scores) == 1 else statistic)
    listed = []
    for wanted in (~form, form):
        items = np.flatnonzero(wanted & (scores[0] != 0) & (order > 0))
        # ties in a stable order: by item
        listed.append(items[np.argsort(-order[items], kind="stable")][:limit])
    rows = np.concatenate(listed)
    # a model without any statistic above 0 has no largest item
    largest = np.full(len(scores), -1)
    if content.size:
        largest = np.where(result.maxima > 0, content[result.largest], -1)
    return Evidence(
        rows,
        scores[0, rows],
        scores[1:, rows],
        statistic[rows],
        result.maxima,
        largest,
        form[rows],
        result.detectable,
    )


def of_own_items(
    score: Float[np.ndarray, " n"],
    controls: Float[np.ndarray, "K n"],
    control_maxima: Float[np.ndarray, " K"],
    *,
    limit: int = 100,
) -> Evidence:
    """Evidence of items that each model has of its own, such as samples or directions.

    ``score`` compares each model's own items with the base, or with all other models, in the same
    way for every model, so that it is its own statistic. Where controls are alike, a comparison
    with the others makes any model of another recipe stand out. ``control_maxima``: the largest
    such score of each control over its own items. ``controls``: what the controls give for the
    fine-tuned model's items. Scores of 0 or below are not evidence.
    """
    score = np.asarray(score, np.float64)
    items = np.flatnonzero(score > 0)
    rows = items[np.argsort(-score[items], kind="stable")][:limit]
    n_controls = len(control_maxima)
    maximum = float(score[rows[0]]) if rows.size else 0.0
    return Evidence(
        rows,
        score[rows],
        np.asarray(controls, np.float64).reshape(n_controls, len(score))[:, rows],
        score[rows] if n_controls else np.full(len(rows), NAN),
        np.array([maximum if n_controls else NAN, *control_maxima], np.float64),
        np.array([rows[0] if rows.size else -1, *[-1] * n_controls]),
        np.zeros(len(rows), bool),
        float(np.max(control_maxima)) if n_controls > 1 else NAN,
    )


def evidence_tables(
    kind: str,
    evidence: Evidence,
    names: Sequence[str],
    labels: Sequence[str],
    *,
    unit: str = "",
    meaning: str = "",
    where: Sequence[str] | str = "",
    examples: Sequence[str] | None = None,
    largest_labels: Sequence[str] | None = None,
    extra: Mapping[str, tuple] | None = None,
) -> tuple[Table, dict[str, Table], dict[str, Any]]:
    """The ranked table, the table of maxima by model, and the summary of a method.

    ``names`` [M]: of the models, the fine-tuned one first. ``labels`` [n], ``where`` [n] and
    ``examples`` [n]: of the listed items. ``unit`` and ``meaning``: of the score.
    ``largest_labels`` [M]: the item of each model's maximum. ``extra``: further columns, as in
    ``interp.rows.rows_table``.
    """
    count, n_controls = len(evidence.rows), len(names) - 1
    p = rank_p(np.abs(evidence.statistic), evidence.maxima[1:])
    p[evidence.form] = NAN
    of_controls: dict[str, Any] = {}
    if n_controls:
        of_controls = {
            f"control_{name}": over(evidence.controls, axis=0) if count else np.zeros(0)
            for name, over in (("mean", np.mean), ("low", np.min), ("high", np.max))
        }
    rows = rows_table(
        EvidenceRow,
        kind,
        {
            "place": np.arange(1, count + 1),
            "evidence": list(labels),
            "where": [where] * count if isinstance(where, str) else list(where),
            "direction": [MORE if value > 0 else LESS for value in evidence.score],
            "score": evidence.score,
            **of_controls,
            "statistic": evidence.statistic,
            "p": p,
            "form": evidence.form,
            "example": [""] * count if examples is None else list(examples),
        },
        units={"score": unit, **{name: unit for name in of_controls}},
        meanings={"score": meaning} if meaning else {},
        extra=extra,
    )
    maxima = rows_table(
        MaximumRow,
        f"{kind}-{CONTROLS}",
        {
            "model_number": np.arange(len(names)),
            "model": list(names),
            "maximum": evidence.maxima,
            "evidence": [""] * len(names) if largest_labels is None else list(largest_labels),
        },
    )
    summary = {
        "listed": int((~evidence.form).sum()),
        "form": int(evidence.form.sum()),
        "controls": list(names[1:]),
        "largest": finite_number(evidence.maxima[0]),
        "largest_of_controls": finite_number(evidence.maxima[1:].max() if n_controls else NAN),
        "detectable": finite_number(evidence.detectable),
        "unit": unit,
    }
    return rows, {CONTROLS: maxima}, summary


def finite_number(value: float) -> float | None:
    """A number of a summary; None in place of NaN and infinity, which JSON does not have."""
    return float(value) if np.isfinite(value) else None
