"""Shift along the direction between two classes of prompts, by depth."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.figures.style import BLUE, GREY, ORANGE, finish, with_opacity
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
