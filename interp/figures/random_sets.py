"""The null distribution: effect of every matched random set."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.figures.style import SERIES, escape_label, finish
from interp.table import Table


def random_sets_figure(table: Table) -> go.Figure:
    """One dot per random set and direction at its recovery (or, without one, its effect on the
    behaviour).

    Dots are spread vertically so that they do not overlap.
    """
    figure, n_bounds = go.Figure(), 0
    order = list(dict.fromkeys(table["direction"].tolist()))
    for number, (direction, colour) in enumerate(zip(order, SERIES * len(order), strict=False)):
        effect = table["recovery"][table["direction"] == direction]
        if not np.isfinite(effect).any():
            effect = table["behaviour"][table["direction"] == direction]
            n_bounds += int(np.isnan(table["rate"][table["direction"] == direction]).sum())
        # The golden ratio spreads any number of draws evenly, and the same way every time.
        jitter = 0.6 * ((np.arange(effect.size) * 0.6180339887) % 1 - 0.5)
        figure.add_trace(
            go.Scatter(
                x=effect,
                y=len(order) - 1 - number + jitter,
                mode="markers",
                name=escape_label(direction),
                showlegend=False,
                marker={"color": colour, "size": 6, "opacity": 0.6},
                hovertemplate="%{x:.1%}<extra>%{fullData.name}</extra>",
            )
        )
    sets = np.unique(table["draw"]).size
    caption = (
        f"Each dot is one of {sets:,} random sets matched to the located set, under the same"
        " intervention."
    )
    if n_bounds:
        caption += f" {n_bounds:,} were evaluated on fewer prompts; their dots are upper bounds."
    finish(figure, f"Effect of {sets:,} matched random sets", caption, height=150 + 70 * len(order))
    names = [escape_label(name) for name in order[::-1]]
    figure.update_yaxes(
        tickvals=list(range(len(order))), ticktext=names, showgrid=False, zeroline=False
    )
    figure.update_xaxes(
        title_text="share of the gap between both models that is closed", tickformat=".0%"
    )
    return figure
