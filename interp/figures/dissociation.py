"""Double dissociation: two sets, two behaviours."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.figures.style import BLUE, GREY, INK, ORANGE, escape_label, finish
from interp.table import Table


def dissociation_figure(table: Table) -> go.Figure:
    """Bars for both sets per behaviour: share of prompts with the base's behaviour; diamonds:
    matched random sets.
    """
    figure = go.Figure()
    behaviours = list(dict.fromkeys(table["behaviour"].tolist()))
    for number, (name, colour) in enumerate(
        zip(dict.fromkeys(table["set"].tolist()), (BLUE, ORANGE), strict=False)
    ):
        rows = [
            int(np.flatnonzero((table["set"] == name) & (table["behaviour"] == behaviour))[0])
            for behaviour in behaviours
        ]
        x = np.arange(len(rows)) + 0.38 * (number - 0.5)
        figure.add_trace(
            go.Bar(
                x=x,
                y=table["as_base"][rows],
                width=0.34,
                name=f"{escape_label(name)} set ablated",
                marker={"color": colour, "opacity": 0.85},
                customdata=np.stack(
                    [table["k"][rows], table["recovery"][rows], table["prompts"][rows]], 1
                ),
                hovertemplate=(
                    "%{customdata[0]} units: the base's behaviour on %{y:.1%} of %{customdata[2]}"
                    " prompts, recovery %{customdata[1]:.2f}<extra>%{fullData.name}</extra>"
                ),
            )
        )
        control, low, high = (
            table[column][rows] for column in ("control", "control_low", "control_high")
        )
        bars = {"array": np.nan_to_num(high - control), "arrayminus": np.nan_to_num(control - low)}
        figure.add_trace(
            go.Scatter(
                x=x,
                y=control,
                mode="markers",
                name="random sets",
                showlegend=number == 0,
                marker={
                    "symbol": "diamond",
                    "size": 9,
                    "color": "#ffffff",
                    "line": {"color": INK, "width": 1.5},
                },
                error_y={"type": "data", "symmetric": False, "color": GREY, **bars},
                hovertemplate="random sets: %{y:.1%}<extra></extra>",
            )
        )
    caption = (
        "Of the prompts where the models differ in a behaviour, the share with the base's"
        " behaviour when one or the other set is patched with the base's contributions. In a"
        " double dissociation each set changes its own behaviour and not the other."
    )
    finish(figure, "Two sets, two behaviours", caption, height=400, barmode="overlay")
    ticks = [f"{escape_label(behaviour)} behaviour" for behaviour in behaviours]
    figure.update_xaxes(tickvals=list(range(len(behaviours))), ticktext=ticks, showgrid=False)
    figure.update_yaxes(
        range=[-0.03, 1.05], tickformat=".0%", title_text="share with the base's behaviour"
    )
    return figure
