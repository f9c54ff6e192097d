"""Dose-response: what sets of growing size do, beside matched random sets of the same sizes."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.figures.style import BLUE, GREY, faint, finish, safe
from interp.table import Table

MEANINGS = {
    "necessity": "necessity: answers equal to the base's",
    "sufficiency": "sufficiency: answers equal to the tuned's",
}


def ticks(low: float, high: float) -> list[int]:
    """The numbers 1, 2, 5, 10, 20 ... within the range, thinned to powers of ten when there are many."""
    steps = [m * 10**e for e in range(8) for m in (1, 2, 5) if low <= m * 10**e <= high]
    return steps if len(steps) <= 10 else [step for step in steps if str(step)[0] == "1"]


def dose_figure(table: Table) -> go.Figure:
    """One panel per direction: the located sets as a line with their intervals, all random draws as a band."""
    directions = [name for name in MEANINGS if (table["direction"] == name).any()]
    directions += sorted(set(table["direction"]) - set(MEANINGS))
    titles = [safe(MEANINGS.get(name, name)) for name in directions]
    figure = make_subplots(rows=len(directions), cols=1, subplot_titles=titles, vertical_spacing=0.2)
    draws = int(table["draw"][table["source"] == "random"].max(initial=0))
    for row, direction in enumerate(directions, 1):
        part = table.select(table["direction"] == direction)
        for trace in (*_random(part, row == 1), *_located(part, row == 1)):
            figure.add_trace(trace, row=row, col=1)
    caption = "The k of best score are changed at once; the dashed line is 95 %. "
    caption += "Bars on the dots are intervals of the share. " if _with_intervals(table) else ""
    caption += (
        f"The grey band spans all {draws:,} matched random sets of each size, its line is their median."
        if draws
        else "No random sets were drawn."
    )
    finish(
        figure, "Dose-response beside random sets", caption, height=120 + 270 * len(directions), hovermode="x unified"
    )
    figure.update_annotations(x=0, xanchor="left", font={"size": 12.5})
    figure.add_hline(y=0.95, line={"color": GREY, "width": 1, "dash": "dash"})
    k = table["k"][table["k"] > 0]
    figure.update_xaxes(type="log", tickvals=ticks(float(k.min(initial=1)), float(k.max(initial=1))))
    figure.update_xaxes(title_text="changed at once (k)", row=len(directions), col=1)
    figure.update_yaxes(range=[-0.03, 1.03], tickformat=".0%", title_text="share of answers", dtick=0.25)
    # Room for a title above the legend, and for the legend above the first panel's name.
    figure.update_layout(margin={"t": 100}, legend={"y": 1.1 if len(directions) == 1 else 1.07})
    return figure


def _with_intervals(table: Table) -> bool:
    return {"low", "high"} <= set(table.data)


def _located(part: Table, legend: bool) -> list[go.Scatter]:
    rows = np.flatnonzero((part["source"] == "located") & (part["k"] > 0))
    rows = rows[np.argsort(part["k"][rows], kind="stable")]
    effect = part["effect"][rows]
    bars = {}
    if _with_intervals(part):
        low, high = np.nan_to_num(effect - part["low"][rows]), np.nan_to_num(part["high"][rows] - effect)
        ends = {"array": high, "arrayminus": low, "color": BLUE, "thickness": 1.2, "width": 3}
        bars = {"error_y": {"type": "data", "symmetric": False, **ends}}
    return [
        go.Scatter(
            x=part["k"][rows],
            y=effect,
            **bars,
            mode="lines+markers",
            name="located",
            line={"color": BLUE, "width": 2.5},
            marker={"size": 7},
            showlegend=legend,
            hovertemplate="%{y:.1%}",
        )
    ]


def _random(part: Table, legend: bool) -> list[go.Scatter]:
    mask = (part["source"] == "random") & (part["k"] > 0)
    doses = np.unique(part["k"][mask])
    if not doses.size:
        return []
    drawn = [part["effect"][mask & (part["k"] == k)] for k in doses]
    low, middle, high = ([float(of(values)) for values in drawn] for of in (np.min, np.median, np.max))
    edge = {"mode": "lines", "line": {"width": 0, "color": GREY}, "showlegend": False, "hoverinfo": "skip"}
    band = {"fill": "tonexty", "fillcolor": faint(GREY, 0.35)}
    return [
        go.Scatter(x=doses, y=low, **edge),
        go.Scatter(x=doses, y=high, **edge | band),
        go.Scatter(
            x=doses,
            y=middle,
            mode="lines+markers",
            name="random sets: median, all draws",
            line={"color": GREY, "width": 2, "dash": "dot"},
            marker={"size": 5},
            showlegend=legend,
            customdata=np.stack([low, high], axis=1),
            hovertemplate="%{y:.1%} (%{customdata[0]:.1%} to %{customdata[1]:.1%})",
        ),
    ]
