"""Figures of an audit: differences within their margins, and what its runs measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.figures.style import BLUE, GREY, escape_label, finish
from interp.table import Table


def audit_figure(table: Table) -> go.Figure:
    """Every row that is compared with the base: its difference in margins, with the 90 % interval;
    and those that are compared with controls: their value in half-widths of a new control's
    interval.
    """
    of_base = table["compared_with"] == "base"
    sides = [(of_base, "difference / margin"), (~of_base, "distance from controls")]
    figure = make_subplots(
        rows=1, cols=2, subplot_titles=[title for _, title in sides], horizontal_spacing=0.25
    )
    bands: Any = figure  # plotly annotates the column wrongly
    centre = (table["control_low"] + table["control_high"]) / 2
    half = (table["control_high"] - table["control_low"]) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled = np.where(
            of_base, table["difference"] / table["margin"], (table["tuned"] - centre) / half
        )
        low, high = (
            np.where(of_base, table[end] / table["margin"], scaled) for end in ("low", "high")
        )
    for column, (rows, _) in enumerate(sides, 1):
        names = [escape_label(name) for name in table["row"][rows]]
        figure.add_trace(
            go.Scatter(
                x=scaled[rows],
                y=names,
                mode="markers",
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": (high - scaled)[rows],
                    "arrayminus": (scaled - low)[rows],
                },
                marker={"size": 9, "color": BLUE},
                customdata=table["verdict"][rows],
                hovertemplate="%{y}: %{customdata}<extra></extra>",
                showlegend=False,
            ),
            row=1,
            col=column,
        )
        bands.add_vrect(x0=-1, x1=1, fillcolor=GREY, opacity=0.15, line_width=0, col=column)
    caption = (
        "Left: fine-tuned minus base, in margins that were fixed before, with 90 % intervals; inside"
        " the band is not changed. Right: distance from the mean of the control fine-tunes, in"
        " half-widths of the 95 % interval of a new one; rows without five controls have no point."
    )
    finish(figure, "Audit", caption, height=230 + 30 * int(max(of_base.sum(), (~of_base).sum())))
    figure.update_yaxes(autorange="reversed")
    return figure


def behaviour_figure(table: Table) -> go.Figure:
    """Share of prompts on which each model shows the behaviour, by class."""
    groups = list(dict.fromkeys(table["group"].tolist()))
    figure = go.Figure()
    for role, name in (("base", "base"), ("tuned", "fine-tuned")):
        shares = [float(table[role][table["group"] == group].mean()) for group in groups]
        colour = GREY if role == "base" else BLUE
        figure.add_trace(go.Bar(x=groups, y=shares, name=name, marker={"color": colour}))
    figure.update_yaxes(tickformat=".0%", range=[0, 1])
    caption = "Share of prompts whose greedy answer shows the behaviour."
    finish(figure, "Behaviour before and after", caption, height=360)
    return figure


def loss_figure(table: Table) -> go.Figure:
    """Distribution of the change of every text's loss."""
    change = table["tuned"] - table["base"]
    figure = go.Figure(go.Histogram(x=change, nbinsx=40, marker={"color": BLUE}))
    figure.update_xaxes(title_text="loss, fine-tuned minus base, nats per token")
    figure.update_yaxes(title_text="texts")
    caption = "Right of 0 the fine-tuned model predicts a text worse than its base."
    finish(figure, "Change of the loss of texts", caption, height=360)
    return figure


def direction_figure(table: Table) -> go.Figure:
    """Cosine of both models' directions by depth, and of the controls'."""
    figure = go.Figure()
    names = {"cosine": "fine-tuned model", "control_cosine": "controls, mean"}
    for (column, name), colour in zip(names.items(), (BLUE, GREY), strict=True):
        if column in table.data:
            figure.add_trace(
                go.Scatter(x=table["depth"], y=table[column], name=name, line={"color": colour})
            )
    figure.update_xaxes(title_text="blocks passed")
    figure.update_yaxes(title_text="cosine with the base's direction")
    caption = "Direction between the classes' mean streams at the last token."
    finish(figure, "Direction between the classes", caption, height=360)
    return figure


def scores_figure(table: Table) -> go.Figure:
    """Mean score of each model by task and metric."""
    names = list(zip(table["task"].tolist(), table["metric"].tolist(), strict=True))
    tasks = list(dict.fromkeys(names))
    rows = [np.array([name == task for name in names]) for task in tasks]
    figure = go.Figure()
    for role, name, colour in (("base", "base", GREY), ("tuned", "fine-tuned", BLUE)):
        figure.add_trace(
            go.Bar(
                x=[float(table[role][of_task].mean()) for of_task in rows],
                y=[escape_label(" ".join(task)) for task in tasks],
                name=name,
                orientation="h",
                marker={"color": colour},
            )
        )
    caption = "Mean over the documents that both models were scored on."
    finish(figure, "Scores by task", caption, height=200 + 40 * len(tasks))
    figure.update_yaxes(autorange="reversed")
    return figure
