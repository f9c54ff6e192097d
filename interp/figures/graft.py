"""Accuracy of grafts by number of weights kept, and distribution of masks over blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from interp.figures.style import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, escape_label, finish
from interp.table import Table

KIND_STYLES = {
    "learned": ("learned mask", BLUE, "circle"),
    "relaxed": ("relaxed mask (the paper's method)", PURPLE, "diamond"),
    "movement": ("largest movement", ORANGE, "square"),
    "first-order": ("first-order score", GREEN, "triangle-up"),
    "random": ("random", GREY, "x"),
    "matched": ("random, matched counts", GREY, "cross"),
    "shuffled": ("learned on shuffled movement", INK, "star"),
}


def graft_figure(table: Table) -> go.Figure:
    """One line per kind of mask: accuracy on held-out questions against the share of weights kept."""
    figure, is_accuracy = go.Figure(), table["metric"] == "accuracy"
    for kind, (name, colour, symbol) in KIND_STYLES.items():
        rows = np.flatnonzero(is_accuracy & (table["kind"] == kind))
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
                        "%{customdata:,} weights<br>%{y:.1%} correct<extra>%{fullData.name}</extra>"
                    ),
                )
            )
    for kind, name in (("base", "base"), ("tuned", "fine-tuned")):
        for value in table["value"][is_accuracy & (table["kind"] == kind)]:
            figure.add_hline(
                y=float(value), line={"color": GREY, "dash": "dash"}, annotation_text=name
            )
    caption = (
        "Each point is the base with some weights of the fine-tuned model. x: share of the"
        " weights in scope that are grafted (logarithmic); y: accuracy on held-out questions."
        " Masks at the same x have equal size."
    )
    finish(figure, "Accuracy by weights grafted", caption, height=440)
    traces: Any = figure.data  # plotly annotates it wrongly
    shares = sorted({float(share) for trace in traces for share in trace.x})
    # plotly's own ticks overlap in a range that begins just below 1 %
    figure.update_xaxes(
        title_text="share of weights grafted",
        type="log",
        tickformat=".3~%",
        tickvals=shares if len(shares) <= 12 else None,
    )
    figure.update_yaxes(title_text="accuracy", tickformat=".0%")
    return figure


def graft_layers_figure(table: Table) -> go.Figure:
    """One line per kind of mask: its share of the weights of each block."""
    figure, inside = go.Figure(), table["layer"] >= 0
    for kind, (name, colour, _) in KIND_STYLES.items():
        if kind == "matched":  # as many weights as learned in every parameter: the same line
            continue
        rows = inside & (table["kind"] == kind)
        layers = np.unique(table["layer"][rows])
        if layers.size:
            layer_masks = [rows & (table["layer"] == layer) for layer in layers]
            totals = [
                (table["kept"][part].sum(), table["size"][part].sum()) for part in layer_masks
            ]
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
    outside = np.unique(table["parameter"][~inside].astype(str))
    caption = (
        "Share of each block's weights in a mask; random masks give the level expected by chance."
    )
    caption += (
        f" {len(outside)} parameters outside the blocks are not drawn." if len(outside) else ""
    )
    finish(figure, "Masks by block", escape_label(caption), height=360)
    figure.update_xaxes(title_text="block", dtick=1)
    figure.update_yaxes(title_text="share of the block's weights", tickformat=".2~%")
    return figure
