"""One self-contained HTML page from stored runs, which loads no other file and needs no network.

Templates escape everything that comes from a table; ``html_document`` adds a content security
policy.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from interp.claims import to_table
from interp.figures import has_figure, plot
from interp.kinds import kinds
from interp.report import sections
from interp.report.evidence import evidence_table
from interp.report.facts import facts_html
from interp.report.features import features_list
from interp.report.html_document import render_document, write_text
from interp.report.rendering import Html, Section, render
from interp.report.text import json_text
from interp.table import Table

AUDIT = "audit"
"""The kind whose opening is a table, which says what its claims say."""


def write_page(path: str | os.PathLike, tables: Sequence[Table], title: str) -> Path:
    """Write the page for these runs (a locating run, its verifying run, or both) and return its
    path.

    The page is written atomically; raises ``StoreError`` if it cannot be written.
    """
    return write_text(Path(path), render_page(tables, title))


def render_page(tables: Sequence[Table], title: str) -> str:
    """The page as text."""
    # the sentence of a verifying run comes first, because it answers the question
    runs = sorted(tables, key=lambda table: "claims" not in table.tables)
    claims = sections.claims_of(runs)
    parts = [
        Section("Example answers", [sections.examples_table(part)]) for part in examples_of(runs)
    ]
    told_in_rows = all(run.kind == AUDIT for run in runs)
    claims_html = [sections.claims_table(claims), figure_of(to_table(claims))] if claims else []
    if claims and not told_in_rows:
        parts.append(Section("Claims and verdicts", claims_html))
    parts += sections_of(runs)
    if claims and told_in_rows:
        collapsed = render("collapsed.html", summary="The rows as claims", content=claims_html[0])
        parts.append(Section("Claims and verdicts", [collapsed]))
    limits = sections.bullets(
        sections.specific_limits(runs, ()) if told_in_rows else sections.limit_lines(runs, claims)
    )
    parts.append(Section("What these results do not show", [limits]))
    parts.append(Section("What was compared", [facts_html(runs)]))
    return render_document(
        "page.html",
        title,
        pair=_pair(runs),
        openings=[opening_of(run) for run in runs],
        sentences=[
            run.summary["sentence"]
            for run in runs
            if run.summary.get("sentence") and run.kind != AUDIT
        ],
        sections=parts,
    )


def opening_of(run: Table) -> Html:
    """The opening lines of a run as a list, of an audit its rows; empty for a run without them."""
    if run.kind == AUDIT:
        return sections.audit_table(run)
    lines = run.summary.get("opening")
    return sections.bullets(lines, "opening") if lines else Html()


def examples_of(runs: Sequence[Table]) -> list[Table]:
    """The non-empty tables of example answers of these runs."""
    return [run.tables["examples"] for run in runs if len(run.tables.get("examples", ()))]


def _pair(runs: Sequence[Table]) -> str:
    provenance = next((run.provenance for run in runs if run.provenance), None)
    names = [provenance.context.get(role) for role in ("base", "tuned")] if provenance else []
    return " → ".join(name for name in names if name)


def sections_of(runs: Sequence[Table], brief: bool = False) -> Iterator[Section]:
    """A section for every kind of table in these runs that has a figure.

    ``brief``: tables of tokens are collapsed, for pages with many runs.
    """
    all_tables = [part for run in runs for part in (run, *run.tables.values()) if len(part)]
    for name, kind in kinds().items():
        tables = [part for part in all_tables if part.kind == name]
        if tables and kind.heading:
            yield Section(
                kind.heading, [html for part in tables for html in _contents_of(part, brief)]
            )
    for table in all_tables:
        if has_figure(table.kind) and table.kind != "claims" and not kinds()[table.kind].heading:
            yield Section(table.kind, [figure_of(table)])


def _contents_of(table: Table, brief: bool) -> list[Html]:
    """A table's figure, and the table itself where it is meant to be read."""
    if table.kind == "neuron-tokens":
        return [sections.tokens_table(table, collapsed=brief)]
    if table.kind == "baselines":
        return [figure_of(table), sections.baselines_table(table)]
    if table.kind == "discover":
        return [figure_of(table), evidence_table(table)]
    if table.kind == "sae-features":
        return [figure_of(table), features_list(table)]
    return [figure_of(table)]


def figure_of(table: Table) -> Html:
    """A table's figure as HTML; the page's script draws it."""
    figure = plot(table)
    title, caption, height = (
        figure.layout.title.text,
        figure.layout.meta["caption"],
        figure.layout.height,
    )
    # the title is in the page's text, which wraps on narrow screens
    figure.update_layout(title=None, margin={"t": max(figure.layout.margin.t - 30, 0)})
    figure_json: Any = figure.to_json(
        engine="json"
    )  # the same text where a faster library is installed
    return render(
        "figure.html",
        # figures escape their titles, except for quotes, which must be escaped in an attribute
        title=Html(title),
        label=Html(title.replace('"', "&quot;")),
        caption=caption,
        height=height,
        figure=Html(json_text(figure_json)),
    )
