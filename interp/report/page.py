"""One self-contained HTML page from stored runs: no network, no other file, and no text that
becomes markup.

Everything that comes from a table is escaped; ``shell`` says what backs that up.
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
from interp.report.html_document import document, footer, write_text
from interp.report.text import escaped, json_text
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
    "sae-diff-classes": "What became of latents?",
    "sae-diff": "What has the other model of each latent?",
    "sae-eval": "How much does it explain?",
    "sae-eval-recovered": "What does the model lose?",
    "sae-eval-density": "How often do latents fire?",
    "stitch": "Do all tasks fit into one model?",
    "overlaps": "How far masks overlap",
    "sae-features": "What single latents fire on, and what they write",
    "concept-shift": "Where concepts move",
    "sae-probe": "Which latents tell it?",
    "sae-probe-effects": "Do they cause it?",
    "sae-probe-sets": "What random latents do",
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
    found = sections.claims_of(runs)
    sentences = "".join(map(opening_of, runs)) + "".join(
        f'<p class="sentence">{escaped(t.summary["sentence"])}</p>'
        for t in runs
        if t.summary.get("sentence")
    )
    body = [f"<header><h1>{escaped(title)}</h1>{_pair(runs)}{sentences}</header>"]
    body += [
        section("Example answers", sections.examples_table(part)) for part in examples_of(runs)
    ]
    if found:
        drawn = figure_of(to_table(found))
        body.append(section("Claims and verdicts", sections.claims_table(found) + drawn))
    body += [section(heading, content) for heading, content in parts_of(runs)]
    body.append(section("What this does not show", sections.limits(runs, found)))
    body.append(section("What was compared", facts(runs)))
    body.append(f"<footer>{footer()}</footer>")
    return document(title, "\n".join(body))


def opening_of(run: Table) -> str:
    """What a reader of a run sees first, where the run has it."""
    lines = "".join(f"<li>{escaped(line)}</li>" for line in run.summary.get("opening") or ())
    return f'<ul class="opening">{lines}</ul>' if lines else ""


def examples_of(runs: Sequence[Table]) -> list[Table]:
    """The tables of example answers that these runs have."""
    return [run.tables["examples"] for run in runs if len(run.tables.get("examples", ()))]


def _pair(runs: Sequence[Table]) -> str:
    made = next((run.provenance for run in runs if run.provenance), None)
    names = [made.context.get(role) for role in ("base", "tuned")] if made else []
    return (
        f'<p class="pair">{escaped(" → ".join(name for name in names if name))}</p>'
        if any(names)
        else ""
    )


def section(heading: str, content: str, anchor: str = "") -> str:
    """A section of a page; ``content`` is HTML, and so is ``anchor``, its id."""
    mark = f' id="{anchor}"' if anchor else ""
    return f"<section{mark}><h2>{escaped(heading)}</h2>\n{content}</section>"


def parts_of(runs: Sequence[Table], brief: bool = False) -> Iterator[tuple[str, str]]:
    """Heading and HTML of every kind of table that these runs have and that can be drawn.

    ``brief``: the best units' tokens are folded away, where a page holds many runs.
    """
    every = [part for run in runs for part in (run, *run.tables.values()) if len(part)]
    for kind, heading in HEADINGS.items():
        parts = [part for part in every if part.kind == kind]
        if parts:
            draw = (_BRIEF if brief else _DRAWN).get(kind, figure_of)
            yield heading, "\n".join(draw(part) for part in parts)
    for part in every:
        if part.kind in FIGURES and part.kind not in (*HEADINGS, "claims"):
            yield part.kind, figure_of(part)


def _features(table: Table) -> str:
    return figure_of(table) + features_list(table)


def _baselines(table: Table) -> str:
    return figure_of(table) + sections.baselines_table(table)


def figure_of(table: Table) -> str:
    """A table's figure as HTML, drawn by the page's script."""
    figure = plot(table)
    title, caption, height = (
        figure.layout.title.text,
        figure.layout.meta["caption"],
        figure.layout.height,
    )
    # The page has the title in its own text, which wraps on narrow screens; plotly has unescaped
    # neither.
    quoted = title.replace('"', "&quot;")
    figure.update_layout(title=None, margin={"t": max(figure.layout.margin.t - 30, 0)})
    drawn: Any = figure.to_json(engine="json")  # the same text where a faster library is installed
    return (
        f"<figure><figcaption><strong>{title}.</strong> {escaped(caption)}</figcaption>\n<div"
        f' class="plot" role="img" aria-label="{quoted}" style="height:{height}px"></div>\n<script'
        f' type="application/json">{json_text(drawn)}</script></figure>'
    )


_DRAWN = {
    "baselines": _baselines,
    "neuron-tokens": sections.tokens_table,
    "sae-features": _features,
}
"""What draws kinds that are not figures alone."""


def _folded_tokens(table: Table) -> str:
    return (
        "<details><summary>Tokens of the best"
        f" units</summary>{sections.tokens_table(table)}</details>"
    )


_BRIEF = _DRAWN | {"neuron-tokens": _folded_tokens}
