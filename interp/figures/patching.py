"""Whose activations and whose write weights close the gap between two models."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.figures.style import BLUE, GREY, INK, ORANGE, escape_label, finish
from interp.table import Table

NAMES = {
    ("donor", "donor"): "activations and<br>write weights",
    ("donor", "receiver"): "activations<br>alone",
    ("receiver", "donor"): "write weights<br>alone",
    ("receiver", "receiver"): "neither",
}


def patching_figure(table: Table) -> go.Figure:
    """Share of the gap between the two models' metric that each cell of the two by two design
    closes, with random sets.
    """
    figure, cells = go.Figure(), list(NAMES)
    order = list(dict.fromkeys(table["direction"].tolist()))
    for number, (direction, colour) in enumerate(zip(order, (BLUE, ORANGE), strict=False)):
        rows = np.flatnonzero(table["direction"] == direction)
        keys = zip(
            table["activation_from"][rows].tolist(),
            table["weights_from"][rows].tolist(),
            strict=True,
        )
        x = np.array([cells.index(key) for key in keys]) + 0.4 * (number - (len(order) - 1) / 2)
        effect = table["effect"][rows]
        figure.add_trace(
            go.Bar(
                x=x,
                y=effect,
                width=0.37,
                name=escape_label(direction),
                marker={"color": colour, "opacity": 0.85},
                error_y=_bars(effect, table["low"][rows], table["high"][rows]),
                hovertemplate="%{y:.1%} of the gap<extra>%{fullData.name}</extra>",
            )
        )
        figure.add_trace(
            go.Scatter(
                x=x,
                y=table["random"][rows],
                mode="markers",
                name="random sets",
                showlegend=number == 0,
                marker={
                    "symbol": "diamond",
                    "size": 9,
                    "color": "#ffffff",
                    "line": {"color": INK, "width": 1.5},
                },
                error_y=_bars(
                    table["random"][rows], table["random_low"][rows], table["random_high"][rows]
                ),
                hovertemplate="random sets: %{y:.1%}<extra></extra>",
            )
        )
    caption = (
        "What the located units take from the other model, and the share of the gap between"
        " the two models' metric that this closes, with 95 % intervals. Diamonds: matched"
        " random sets, mean and central 95 %."
    )
    if np.isnan(table["effect"]).any():
        caption += " There is no bar where the two models' metric does not clearly differ."
    finish(figure, "Activations or write weights", caption, height=380, barmode="overlay")
    figure.update_xaxes(
        tickvals=list(range(len(cells))), ticktext=list(NAMES.values()), showgrid=False
    )
    figure.update_yaxes(tickformat=".0%", title_text="share of the gap closed")
    return figure


def _bars(value: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict:
    ends = {"array": np.nan_to_num(high - value), "arrayminus": np.nan_to_num(value - low)}
    return {"type": "data", "symmetric": False, "color": GREY, "thickness": 1.5, "width": 4, **ends}
