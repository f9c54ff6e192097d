"""Predicted against measured effect of random halves of all units."""

from __future__ import annotations

import plotly.graph_objects as go

from interp.figures.style import BLUE, escape_label, finish
from interp.table import Table


def coalitions_figure(table: Table) -> go.Figure:
    """One dot per random half: the sum of its scores against the drop of the metric when its units
    get the base's contributions.
    """
    figure = go.Figure(
        go.Scatter(
            x=table["predicted"],
            y=table["exact"],
            mode="markers",
            name="random halves",
            showlegend=False,
            marker={"color": BLUE, "size": 8, "opacity": 0.75},
            customdata=table["coalition"],
            hovertemplate=(
                "half %{customdata}<br>predicted %{x:.3g}<br>exact %{y:.3g}<extra></extra>"
            ),
        )
    )
    caption = (
        f"Each dot is one of {len(table):,} random halves of all units, patched with the base's"
        " contributions. x: the sum of its scores, which is the predicted effect; y: the"
        " measured drop of the metric. If the scores predict the effects of sets, the dots lie"
        " on a line."
    )
    finish(
        figure,
        "Measured effect of random halves against the sum of their scores",
        caption,
        height=420,
    )
    figure.update_xaxes(title_text="sum of scores")
    exact = table.column("exact")
    figure.update_yaxes(title_text=escape_label(f"{exact.meaning} ({exact.unit})"))
    return figure
