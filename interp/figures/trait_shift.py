"""Shift along the direction between two classes of prompts, by depth."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.figures.style import BLUE, GREY, ORANGE, escape_label, finish, with_opacity
from interp.table import Table


def trait_shift_figure(table: Table) -> go.Figure:
    """The shift by depth with its interval, the range of shuffled directions and of the controls."""
    figure, depth = go.Figure(), table["depth"]
    bands = [("shuffled labels, 95 %", "shuffled_low", "shuffled_high", GREY)]
    if "control_low" in table.data:
        bands.append(("range of the controls", "control_low", "control_high", ORANGE))
    for name, low, high, colour in bands:
        figure.add_trace(
            go.Scatter(
                x=np.concatenate([depth, depth[::-1]]),
                y=np.concatenate([table[high], table[low][::-1]]),
                fill="toself",
                mode="none",
                name=name,
                fillcolor=with_opacity(colour, 0.25),
                hoverinfo="skip",
            )
        )
    value, chosen = table["shift"], np.flatnonzero(table["chosen"])
    figure.add_trace(
        go.Scatter(
            x=depth,
            y=value,
            mode="lines+markers",
            name="fine-tuned model",
            line={"color": BLUE},
            error_y={
                "array": table["high"] - value,
                "arrayminus": value - table["low"],
                "thickness": 1,
            },
            customdata=table["separation"],
            hovertemplate=(
                "after %{x} blocks: %{y:.3g}<br>AUC of the classes in the base %{customdata:.2f}"
                "<extra></extra>"
            ),
        )
    )
    figure.add_trace(
        go.Scatter(
            x=depth[chosen],
            y=value[chosen],
            mode="markers",
            name="chosen on other prompts",
            marker={"color": BLUE, "size": 13, "symbol": "circle-open", "line": {"width": 2}},
            hoverinfo="skip",
        )
    )
    caption = (
        "y: how far the stream of held-out prompts moved along the base's direction from negative"
        " to positive prompts, where 1 is the distance between them. Only depths at which the base"
        " separates the classes can be chosen."
    )
    finish(figure, "Shift along the direction between the classes", caption, height=380)
    figure.update_xaxes(title_text="blocks passed")
    figure.update_yaxes(title_text="shift, distances between the classes")
    return figure


SHOWN, LONGEST = 25, 60


def trait_screening_figure(table: Table) -> go.Figure:
    """Bars of the scores of the first rows, the mean over all rows, and the largest score of a row
    along directions of shuffled labels.
    """
    rows = list(table.rows())[:SHOWN]
    labels = []
    for row in rows:
        answer = row["evidence"]
        short = answer if len(answer) <= LONGEST else answer[: LONGEST - 1] + "…"
        labels.append(escape_label(f"{row['place']}. {short}"))
    figure = go.Figure(
        go.Bar(
            x=[row["score"] for row in rows],
            y=labels,
            orientation="h",
            name="row",
            marker={"color": BLUE, "opacity": 0.85},
            customdata=[[row["p"], escape_label(row["own"])] for row in rows],
            hovertemplate="%{x:.3g}, p = %{customdata[0]:.2g}<br>base: %{customdata[1]}<extra></extra>",
        )
    )
    null = table.tables["null"]
    largest = null["largest"][null["kind"] == "shuffled"]
    lines = (
        ("mean of all rows", float(np.mean(table["score"])), BLUE),
        ("largest row, shuffled labels, 95 %", float(np.quantile(largest, 0.95)), GREY),
    )
    for name, value, colour in lines:
        figure.add_trace(
            go.Scatter(
                x=[value, value],
                y=[labels[0], labels[-1]],
                mode="lines",
                name=name,
                line={"color": colour, "dash": "dot"},
                hovertemplate="%{x:.3g}<extra>%{fullData.name}</extra>",
            )
        )
    caption = (
        "Rows whose answers lie furthest along the trait in the base, the base's own answers to the"
        " same prompts subtracted; 1 is the distance between the classes of prompts."
    )
    finish(figure, "Rows along the trait", caption, height=160 + 22 * len(rows))
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(title_text="score, distances between the classes")
    return figure
