"""What was compared, as a table of facts from the provenance of the runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from interp.provenance import Provenance
from interp.report.rendering import Html, render
from interp.report.text import format_number
from interp.table import Table

HEADLINES = {"base": "Base model", "tuned": "Fine-tuned model"}
SOFTWARE = ("interp", "commit", "python", "torch", "transformers", "peft", "numpy")
DETAILS = {
    "seed": "Seed",
    "dtype": "Number format",
    "attention": "Attention",
    "device": "Device",
    "engine": "Engine",
}


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings flattened to one, with names joined by dots."""
    flattened: dict[str, Any] = {}
    for name, value in values.items():
        flattened.update(
            flatten(value, f"{prefix}{name}.")
            if isinstance(value, Mapping)
            else {prefix + name: value}
        )
    return flattened


def format_value(value: Any) -> str:
    """A recorded value as text; integers in lists are often ids, so their digits are not grouped."""
    if isinstance(value, (list, tuple)):
        return (
            ", ".join(str(item) if type(item) is int else format_value(item) for item in value)
            or "none"
        )
    return (
        format_number(value)
        if isinstance(value, (int, float)) or value is None
        else str(value) or "none"
    )


def facts_html(tables: Sequence[Table]) -> Html:
    """The most important facts as a table, followed by everything that was recorded in a collapsed
    table per run.
    """
    runs = [table.provenance for table in tables if table.provenance]
    rows: list[tuple[str, str]] = []
    for name, label in HEADLINES.items():
        rows.append(
            (label, " / ".join(_unique_texts(run.context.get(name) or "none" for run in runs)))
        )
    rows.append(("Digests of weights", " / ".join(_unique_texts(_digests(run) for run in runs))))
    for run in runs:
        rows.append((f"Prompts, {run.analyzer}", _prompts(run)))
    for run in runs:
        options = ", ".join(
            f"{name} {format_value(value)}" for name, value in flatten(run.options).items()
        )
        rows.append((f"Options, {run.analyzer}", options or "none"))
    metrics = [
        ", ".join(
            f"{name}: {format_value(v)}"
            for name, v in flatten(_mapping(run.inputs, "metric")).items()
        )
        for run in runs
    ]
    rows.append(("Metric", " / ".join(_unique_texts(metrics))))
    for name, label in DETAILS.items():
        recorded = [
            format_value(values[name])
            for run in runs
            for values in (run.inputs, run.context)
            if name in values
        ]
        rows.append((label, " / ".join(_unique_texts(recorded))))
    rows.append(("Software", " / ".join(_unique_texts(_software(run) for run in runs))))
    has_several_models = len({run.context.get("tuned") for run in runs}) > 1
    rows += [
        (
            f"Run, {run.analyzer}",
            (
                f"{run.key} {run.context.get('tuned') or ''}".strip()
                if has_several_models
                else run.key
            ),
        )
        for run in runs
    ]
    # runs of several models with the same prompts and options share a row
    rows = list(dict.fromkeys(rows))
    return render(
        "facts.html",
        rows=[(label, value) for label, value in rows if value],
        records=[_record(table.provenance, table.summary) for table in tables if table.provenance],
    )


def _mapping(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = values.get(name, {})
    return value if isinstance(value, Mapping) else {name: value}


def _digests(run: Provenance) -> str:
    digests = {role: run.inputs.get(role) for role in ("base", "tuned", "adapter")}
    return ", ".join(f"{role} {str(value)[:16]}" for role, value in digests.items() if value)


def _software(run: Provenance) -> str:
    versions = _mapping(run.context, "environment")
    return ", ".join(f"{name} {versions[name]}" for name in SOFTWARE if name in versions)


def _prompts(run: Provenance) -> str:
    sides = []
    for side in ("positive", "negative"):
        if side in run.context:
            count = run.context.get(f"n_{side}")
            texts, clusters = (
                run.context.get(f"{quantity}_{side}") for quantity in ("texts", "clusters")
            )
            parts = [format_number(count)] if count is not None else []
            if texts is not None and clusters is not None:
                parts = [
                    f"{format_number(count)} prompts",
                    f"{format_number(texts)} distinct texts",
                    f"{format_number(clusters)} clusters",
                ]
            sides.append(
                f"{side}: {run.context[side]}" + (f" ({', '.join(parts)})" if parts else "")
            )
    return "; ".join(sides)


def _unique_texts(values: Iterable[object]) -> list[str]:
    return list(dict.fromkeys(str(value) for value in values if value))


SHOWN_ELSEWHERE = {"sentence", "opening", "findings", "limits"}
"""Entries of a summary that the page gives elsewhere, as text or in the table of claims."""


def _record(run: Provenance, summary: Mapping[str, Any]) -> tuple[str, str, list[tuple[str, str]]]:
    """A run's key, its analyzer, and everything that was recorded about it as rows of text."""
    rest = {name: value for name, value in summary.items() if name not in SHOWN_ELSEWHERE}
    record = flatten(
        {"inputs": run.inputs, "options": run.options, "context": run.context, "summary": rest}
    )
    rows = {
        "analyzer": run.analyzer,
        "version": run.version,
        "parent": run.parent or "none",
        **record,
    }
    return run.key, run.analyzer, [(name, format_value(value)) for name, value in rows.items()]
