"""Evidence of discovery: items of one method, and of all methods beside the controls."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.figures.style import BLUE, GREY, SERIES, escape_label, finish
from interp.table import Table

SHOWN, LONGEST = 25, 60


def _label(row: dict, at: int) -> str:
    """A line that is different for every row: bars of one label would be drawn upon each other."""
    text = " ".join(repr(row["evidence"])[1:-1].split())
    short = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
    place = f" · {row['where']}" if row["where"] else ""
    return escape_label(f"{at + 1}. {short}{place}")


def evidence_figure(table: Table) -> go.Figure:
    """Bars of the scores of a method's first items, and the range of the controls' scores."""
    figure = go.Figure()
    rows = [row for row in table.rows() if not row["form"]][:SHOWN]
    labels = [_label(row, at) for at, row in enumerate(rows)]
    figure.add_trace(
        go.Bar(
            x=[row["score"] for row in rows],
            y=labels,
            orientation="h",
            name="fine-tuned model",
            marker={"color": BLUE, "opacity": 0.85},
            customdata=[[row["statistic"], escape_label(row["example"][:200])] for row in rows],
            hovertemplate="%{x:.3g}, statistic %{customdata[0]:.3g}<br>%{customdata[1]}<extra></extra>",
        )
    )
    if rows and "control_low" in table.data:
        ends = [[row[f"control_{end}"] for row in rows] for end in ("low", "high")]
        figure.add_trace(
            go.Scatter(
                x=[value for low, high in zip(*ends, strict=True) for value in (low, high, None)],
                y=[label for label in labels for _ in range(3)],
                mode="lines+markers",
                name="range of the controls",
                line={"color": GREY, "width": 3},
                marker={"size": 5},
                hoverinfo="skip",
            )
        )
    unit = table.columns[[column.name for column in table.columns].index("score")].unit
    caption = (
        "The method's items in order of evidence, with their scores against the base and the"
        " range of the scores of control fine-tunes. Items of form (punctuation, special tokens)"
        " are left out."
    )
    finish(figure, f"Evidence of {table.kind}", caption, height=160 + 22 * len(rows))
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(title_text=unit or "score")
    return figure


def discover_figure(table: Table) -> go.Figure:
    """Bars of the joint statistic of the first items, by method, and the controls' largest."""
    figure = go.Figure()
    rows = [row for row in table.rows() if not row["form"]][:SHOWN]
    labels = [_label(row, at) for at, row in enumerate(rows)]
    without_controls = not any(np.isfinite(row["joint"]) for row in rows)
    methods = list(dict.fromkeys(row["method"] for row in rows))
    for number, method in enumerate(methods):
        own = [
            (row, label) for row, label in zip(rows, labels, strict=True) if row["method"] == method
        ]
        figure.add_trace(
            go.Bar(
                x=[row["score"] if without_controls else row["joint"] for row, _ in own],
                y=[label for _, label in own],
                orientation="h",
                name=method,
                marker={"color": SERIES[number % len(SERIES)], "opacity": 0.85},
                customdata=[
                    [row["score"], escape_label(row["unit"]), escape_label(row["example"][:200])]
                    for row, _ in own
                ],
                hovertemplate=(
                    "%{x:.3g}; score %{customdata[0]:.3g} %{customdata[1]}<br>%{customdata[2]}"
                    "<extra>%{fullData.name}</extra>"
                ),
            )
        )
    models = table.tables.get("models")
    if models is not None and labels and models["control"].any() and not without_controls:
        largest = models["joint"][models["control"]]
        figure.add_trace(
            go.Scatter(
                x=largest,
                y=[labels[-1]] * len(largest),
                mode="markers",
                name="largest of each control",
                marker={"color": GREY, "size": 10, "symbol": "line-ns-open"},
                text=[escape_label(name) for name in models["model"][models["control"]].tolist()],
                hovertemplate="%{text}: %{x:.3g}<extra></extra>",
            )
        )
        figure.add_vline(x=float(largest.max()), line={"color": GREY, "dash": "dot"})
    caption = (
        "Items of all methods, strongest first. The joint statistic puts methods on one scale; the"
        " dotted line is the largest one of a control, each control held out in turn."
        if not without_controls
        else "Items of all methods with their scores against the base. No control was given, so"
        " that nothing here is a finding."
    )
    finish(figure, "What the fine-tuned model does more, or less", caption, 160 + 22 * len(rows))
    figure.update_layout(barmode="overlay")
    figure.update_yaxes(autorange="reversed", categoryorder="array", categoryarray=labels)
    figure.update_xaxes(title_text="score" if without_controls else "joint statistic")
    return figure
