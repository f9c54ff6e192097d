"""LoFiT: how much offsets on a few heads recover, and in which blocks the heads are."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.figures.style import BLUE, GREEN, GREY, ORANGE, escape_label, finish
from interp.table import Table

SETS = ("located", "gradients", "probes", "all")
FLAGS = (("located", "selected", BLUE), ("gradients", "by_gradients", ORANGE))


def lofit_figure(table: Table) -> go.Figure:
    """Numbers of located heads by block, next to those by gradients and by probes."""
    n_layers = int(table["layer"].max(initial=-1)) + 1
    figure = go.Figure()
    for name, column, colour in (*FLAGS, ("probes", "by_probes", GREEN)):
        counts = np.bincount(table["layer"][table[column]], minlength=n_layers)
        figure.add_trace(
            go.Bar(
                x=np.arange(n_layers),
                y=counts,
                name=name,
                marker={"color": colour},
                hovertemplate="block %{x}: %{y} heads<extra>%{fullData.name}</extra>",
            )
        )
    caption = (
        "Heads of each block among the located ones (scales trained under L1), and among as many by"
        " integrated gradients and by linear probes."
    )
    finish(figure, "Heads by block", caption, height=320, barmode="group")
    figure.update_xaxes(title_text="block", dtick=1 if n_layers <= 24 else None)
    figure.update_yaxes(title_text="heads", rangemode="tozero")
    return figure


def lofit_sets_figure(table: Table) -> go.Figure:
    """Share of the difference in loss that offsets on each set of heads recover."""
    rows = [int(at) for name in SETS for at in np.flatnonzero(table["set"] == name)]
    value = table["recovered"][rows]
    figure = go.Figure(
        go.Scatter(
            x=value,
            y=[
                escape_label(f"{table['set'][at]} ({table['heads'][at]:,.0f} heads)") for at in rows
            ],
            mode="markers",
            marker={"color": BLUE, "size": 9},
            error_x={
                "array": np.nan_to_num(table["high"][rows] - value),
                "arrayminus": np.nan_to_num(value - table["low"][rows]),
                "thickness": 1,
            },
            hovertemplate="%{y}: %{x:.1%}<extra></extra>",
        )
    )
    caption = (
        "Share of the difference in held-out loss between base and fine-tuned model that trained"
        " offsets recover, 95 % intervals over clusters. 'all' has more parameters than the others."
        " Random sets of heads are in the table 'random'."
    )
    finish(figure, "Offsets on sets of heads", caption, height=260, showlegend=False)
    figure.add_vline(x=0, line={"color": GREY, "width": 1})
    figure.update_xaxes(title_text="share recovered", tickformat=".0%")
    figure.update_yaxes(autorange="reversed")
    return figure
