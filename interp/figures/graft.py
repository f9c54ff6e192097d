"""Right answers of grafts by how many weights they keep, and where masks lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from interp.figures.style import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, finish, safe
from interp.table import Table

LOOKS = {
    "learned": ("learned mask", BLUE, "circle"),
    "relaxed": ("the paper's descent", PURPLE, "diamond"),
    "movement": ("greatest movement", ORANGE, "square"),
    "first-order": ("first order", GREEN, "triangle-up"),
    "random": ("random", GREY, "x"),
    "matched": ("random, equal counts", GREY, "cross"),
    "shuffled": ("learned on shuffled movement", INK, "star"),
}


def graft_figure(table: Table) -> go.Figure:
    """One line per kind of mask: share of held-out questions answered rightly by share of weights
    kept.
    """
    figure, wanted = go.Figure(), table["metric"] == "accuracy"
    for kind, (name, colour, symbol) in LOOKS.items():
        rows = np.flatnonzero(wanted & (table["kind"] == kind))
        rows = rows[np.argsort(table["kept"][rows])]
        if len(rows):
            figure.add_trace(
                go.Scatter(
                    x=table["sparsity"][rows],
                    y=table["value"][rows],
                    mode="lines+markers",
                    name=name,
                    line={
                        "color": colour,
                        "dash": "dot" if kind in ("random", "matched") else "solid",
                    },
                    marker={"color": colour, "symbol": symbol, "size": 9},
                    customdata=table["kept"][rows],
                    hovertemplate=(
                        "%{customdata:,} weights<br>%{y:.1%} right<extra>%{fullData.name}</extra>"
                    ),
                )
            )
    for kind, name in (("base", "base"), ("tuned", "tune")):
        for value in table["value"][wanted & (table["kind"] == kind)]:
            figure.add_hline(
                y=float(value), line={"color": GREY, "dash": "dash"}, annotation_text=name
            )
    caption = (
        "Each point is the base with some of the tune's weights: across, the share of the scope's"
        " weights that are the tune's (logarithmic); up, held-out questions answered rightly. Masks"
        " at one place are of equal size."
    )
    finish(figure, "Right answers by weights grafted", caption, height=440)
    traces: Any = figure.data  # plotly annotates it wrongly
    shares = sorted({float(share) for trace in traces for share in trace.x})
    # plotly's own ticks of a range that begins just below 1 % run into each other
    figure.update_xaxes(
        title_text="share of weights that are the tune's",
        type="log",
        tickformat=".3~%",
        tickvals=shares if len(shares) <= 12 else None,
    )
    figure.update_yaxes(title_text="questions answered rightly", tickformat=".0%")
    return figure


def graft_layers_figure(table: Table) -> go.Figure:
    """One line per kind of mask: its share of the weights of each block."""
    figure, inside = go.Figure(), table["layer"] >= 0
    for kind, (name, colour, _) in LOOKS.items():
        if kind == "matched":  # as many as learned in every parameter: the same line
            continue
        rows = inside & (table["kind"] == kind)
        layers = np.unique(table["layer"][rows])
        if layers.size:
            at = [rows & (table["layer"] == layer) for layer in layers]
            totals = [(table["kept"][part].sum(), table["size"][part].sum()) for part in at]
            figure.add_trace(
                go.Scatter(
                    x=layers,
                    y=[kept / size for kept, size in totals],
                    mode="lines+markers",
                    name=name,
                    line={"color": colour},
                    customdata=[kept for kept, _ in totals],
                    hovertemplate=(
                        "block %{x}<br>%{customdata:,} weights,"
                        " %{y:.2%}<extra>%{fullData.name}</extra>"
                    ),
                )
            )
    left = np.unique(table["parameter"][~inside].astype(str))
    caption = (
        "Share of each block's weights that a mask grafts; the line of random masks is what chance"
        " gives."
    )
    caption += f" {len(left)} parameters outside of the blocks are left out." if len(left) else ""
    finish(figure, "Where masks lie", safe(caption), height=360)
    figure.update_xaxes(title_text="block", dtick=1)
    figure.update_yaxes(title_text="share of the block's weights", tickformat=".2~%")
    return figure
