"""One self-contained HTML page from stored runs: no network, no other file, and no text that
becomes markup.

Everything that comes from a table is escaped; ``html_document`` says what backs that up.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from interp.claims import to_table
from interp.figures import FIGURES, plot
from interp.report import sections
from interp.report.facts import facts
from interp.report.features import features_list
from interp.report.html_document import document, write_text
from interp.report.rendering import Html, Section, render
from interp.report.text import json_text
from interp.table import Table

HEADINGS = {
    "baselines": "What do other methods do?",
    "compare": "How far does it say something else?",
    "compare-layers": "Where do the streams part?",
    "compare-weights": "Which weights moved?",
    "compare-tokens": "After which tokens?",
    "tuco": "How much of each prompt is tuning?",
    "tuco-layers": "At which depth?",
    "tuco-tokens": "At which tokens?",
    "ftc-alpha": "What if tuning were weaker or stronger?",
    "intruder-scaling": "What scaling the intruders does",
    "intruders": "Which singular vectors the base does not have",
    "intruders-image": "Where they stand among the base's",
    "intruder-forgetting": "Do intruders go with forgetting?",
    "transfer": "Does it do the same in a further fine-tuned model?",
    "dissociation": "Does each set carry its own behaviour only?",
    "graft": "How few weights it takes",
    "graft-layers": "Where masks lie",
    "places": "Where do methods put it?",
    "places-agreement": "Do they agree?",
    "dictionary-classes": "What became of latents?",
    "dictionary-diff": "What has the other model of each latent?",
    "dictionary-scores": "How much does it explain?",
    "dictionary-recovered": "What does the model lose?",
    "dictionary-density": "How often do latents fire?",
    "stitch": "Do all tasks fit into one model?",
    "overlaps": "How far masks overlap",
    "dictionary-features": "What single latents fire on, and what they write",
    "concept-shift": "Where concepts move",
    "dictionary-probe": "Which latents tell it?",
    "dictionary-probe-effects": "Do they cause it?",
    "dictionary-probe-sets": "What random latents do",
    "dose": "How many it takes",
    "verify-neurons": "What each intervention does",
    "sampled": "How often sampled answers show it",
    "random-sets": "What random sets do",
    "patching-cells": "Activations, write weights, or both?",
    "locate-neurons": "Where the scores are",
    "neuron-tokens": "What the best ones read",
    "stability": "Is the same set found on other prompts?",
    "control-locations": "What is located in control fine-tunes?",
    "redundancy": "What is found when it is out of the way?",
    "coalitions": "Do the scores predict what halves of all units do?",
    "refusal-direction": "Does it do more than one direction?",
}


def write_page(path: str | os.PathLike, tables: Sequence[Table], title: str) -> Path:
    """Write the page for these runs (a locating run, its verifying run, or both) and return its
    path.

    The page appears whole or not at all; ``StoreError`` when it cannot be written there.
    """
    return write_text(Path(path), page(tables, title))


def page(tables: Sequence[Table], title: str) -> str:
    """The page as text."""
    # A verifying run answers the question, so its sentence comes first.
    runs = sorted(tables, key=lambda table: "claims" not in table.tables)
    claims = sections.claims_of(runs)
    parts = [
        Section("Example answers", [sections.examples_table(part)]) for part in examples_of(runs)
    ]
    if claims:
        drawn = [sections.claims_table(claims), figure_of(to_table(claims))]
        parts.append(Section("Claims and verdicts", drawn))
    parts += parts_of(runs)
    limits = sections.bullets(sections.limit_lines(runs, claims))
    parts.append(Section("What this does not show", [limits]))
    parts.append(Section("What was compared", [facts(runs)]))
    return document(
        "page.html",
        title,
        pair=_pair(runs),
        openings=[opening_of(run) for run in runs],
        sentences=[run.summary["sentence"] for run in runs if run.summary.get("sentence")],
        sections=parts,
    )


def opening_of(run: Table) -> Html:
    """What a reader of a run sees first, where the run has it."""
    lines = run.summary.get("opening")
    return sections.bullets(lines, "opening") if lines else Html()


def examples_of(runs: Sequence[Table]) -> list[Table]:
    """The tables of example answers that these runs have."""
    return [run.tables["examples"] for run in runs if len(run.tables.get("examples", ()))]


def _pair(runs: Sequence[Table]) -> str:
    made = next((run.provenance for run in runs if run.provenance), None)
    names = [made.context.get(role) for role in ("base", "tuned")] if made else []
    return " → ".join(name for name in names if name)


def parts_of(runs: Sequence[Table], brief: bool = False) -> Iterator[Section]:
    """A section for every kind of table that these runs have and that can be drawn.

    ``brief``: the best units' tokens are folded away, where a page holds many runs.
    """
    every = [part for run in runs for part in (run, *run.tables.values()) if len(part)]
    for kind, heading in HEADINGS.items():
        parts = [part for part in every if part.kind == kind]
        if parts:
            yield Section(heading, [html for part in parts for html in _drawn(part, brief)])
    for part in every:
        if part.kind in FIGURES and part.kind not in (*HEADINGS, "claims"):
            yield Section(part.kind, [figure_of(part)])


def _drawn(table: Table, brief: bool) -> list[Html]:
    """A table's figure, and the table itself where it is to be read."""
    if table.kind == "neuron-tokens":
        return [sections.tokens_table(table, folded=brief)]
    if table.kind == "baselines":
        return [figure_of(table), sections.baselines_table(table)]
    if table.kind == "dictionary-features":
        return [figure_of(table), features_list(table)]
    return [figure_of(table)]


def figure_of(table: Table) -> Html:
    """A table's figure as HTML, drawn by the page's script."""
    figure = plot(table)
    title, caption, height = (
        figure.layout.title.text,
        figure.layout.meta["caption"],
        figure.layout.height,
    )
    # The page has the title in its own text, which wraps on narrow screens.
    figure.update_layout(title=None, margin={"t": max(figure.layout.margin.t - 30, 0)})
    drawn: Any = figure.to_json(engine="json")  # the same text where a faster library is installed
    return render(
        "figure.html",
        # figures escape their titles, but for the quotes that an attribute needs escaped
        title=Html(title),
        label=Html(title.replace('"', "&quot;")),
        caption=caption,
        height=height,
        figure=Html(json_text(drawn)),
    )
