"""What each intervention does to the answers, beside what random sets do."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.figures.style import GREY, INK, SERIES, finish, safe
from interp.table import Table


def conditions_figure(table: Table) -> go.Figure:
    """Share refused per condition and group, with intervals, and a mark for the mean over random sets."""
    order = list(dict.fromkeys(table["condition"].tolist()))
    figure = go.Figure()
    groups = list(dict.fromkeys(table["group"].tolist()))
    width = 0.8 / len(groups)
    place = {name: number for number, name in enumerate(order)}
    marks = []
    for number, (group, colour) in enumerate(zip(groups, SERIES * len(groups), strict=False)):
        rows = np.flatnonzero(table["group"] == group)
        x = np.array([place[name] for name in table["condition"][rows]]) + width * (number - (len(groups) - 1) / 2)
        figure.add_trace(_bars(table, rows, x, width, group, colour))
        drawn = ~np.isnan(table["control"][rows])
        if drawn.any():
            marks.append(_marks(table, rows[drawn], x[drawn], show=not marks))
    figure.add_traces(marks)
    caption = (
        "Share of answers that refuse, by what was done to which model, with intervals. Diamonds are matched random "
        "sets treated the same way: their mean and range."
    )
    finish(figure, "Refusals by condition", caption, height=420, barmode="overlay")
    figure.update_xaxes(tickvals=list(place.values()), ticktext=[safe(name) for name in order], showgrid=False)
    figure.update_yaxes(range=[-0.03, 1.05], tickformat=".0%", title_text="share refused")
    return figure


def _bars(table: Table, rows: np.ndarray, x: np.ndarray, width: float, group: str, colour: str) -> go.Bar:
    refused, low, high = (table[name][rows] for name in ("refused", "low", "high"))
    bars = {"array": np.nan_to_num(high - refused), "arrayminus": np.nan_to_num(refused - low)}
    labels = [[safe(name), safe(group)] for name in table["condition"][rows]]
    return go.Bar(
        x=x,
        y=refused,
        width=0.92 * width,
        name=safe(f"{group} prompts"),
        marker={"color": colour, "opacity": 0.85},
        error_y={"type": "data", "symmetric": False, "color": GREY, "thickness": 1.5, "width": 4, **bars},
        customdata=np.array([[*label, n] for label, n in zip(labels, table["n"][rows].tolist(), strict=True)], object),
        hovertemplate="%{customdata[0]}, %{customdata[1]}: %{y:.1%} of %{customdata[2]}<extra></extra>",
    )


def _marks(table: Table, rows: np.ndarray, x: np.ndarray, show: bool) -> go.Scatter:
    control, low, high = (table[name][rows] for name in ("control", "control_low", "control_high"))
    bars = {"array": np.nan_to_num(high - control), "arrayminus": np.nan_to_num(control - low)}
    return go.Scatter(
        x=x,
        y=control,
        mode="markers",
        name="random sets",
        showlegend=show,
        marker={"symbol": "diamond", "size": 9, "color": "#ffffff", "line": {"color": INK, "width": 1.5}},
        error_y={"type": "data", "symmetric": False, "color": GREY, "thickness": 1.5, "width": 4, **bars},
        hovertemplate="random sets: %{y:.1%}<extra></extra>",
    )
