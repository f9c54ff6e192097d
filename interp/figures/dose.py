"""Dose-response: effect of sets of increasing size, compared with matched random sets of the same
sizes.
"""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.figures.style import BLUE, GREY, escape_label, finish, with_opacity
from interp.table import Table

DIRECTION_TITLES = {
    "necessity": "necessity: fine-tuned model patched from the base",
    "sufficiency": "sufficiency: base patched from the fine-tuned model",
}
MEASURES = {"behaviour": "behaviour", "recovery": "recovery of the metric"}


def ticks(low: float, high: float) -> list[int]:
    """The numbers 1, 2, 5, 10, 20 ... within the range; powers of ten only when there would be more
    than ten.
    """
    steps = [m * 10**e for e in range(8) for m in (1, 2, 5) if low <= m * 10**e <= high]
    return steps if len(steps) <= 10 else [step for step in steps if str(step)[0] == "1"]


def dose_figure(table: Table) -> go.Figure:
    """One row per direction, behaviour on the left and recovery on the right: located sets as a
    line, all random sets as a band.
    """
    directions = [name for name in DIRECTION_TITLES if (table["direction"] == name).any()]
    directions += sorted(set(table["direction"]) - set(DIRECTION_TITLES))
    titles = [
        f"{escape_label(DIRECTION_TITLES.get(name, name))}, {measure}"
        for name in directions
        for measure in MEASURES.values()
    ]
    figure = make_subplots(
        rows=len(directions),
        cols=2,
        subplot_titles=titles,
        vertical_spacing=0.2,
        horizontal_spacing=0.09,
    )
    draws = int(table["draw"][table["source"] == "random"].max(initial=0))
    for row, direction in enumerate(directions, 1):
        part = table.select(table["direction"] == direction)
        for column, name in enumerate(MEASURES, 1):
            legend = row == column == 1
            for trace in (*_random(part, name, legend), *_located(part, name, legend)):
                figure.add_trace(trace, row=row, col=column)
    caption = (
        "The k units of highest score are patched together. Left: share of the gap between the"
        " two models' rates of the behaviour that is closed; right: share of the gap between"
        " their mean metric at the beginning of the answer. The dashed line is 95 %. "
    )
    caption += (
        f"The grey band is the range of all {draws:,} matched random sets of each size, the"
        " line is their median."
        if draws > 1
        else (
            "The grey line is one matched random set of each size."
            if draws
            else "No random sets were drawn."
        )
    )
    finish(
        figure,
        "Dose-response and random sets",
        caption,
        height=120 + 270 * len(directions),
        hovermode="x unified",
    )
    figure.update_annotations(font={"size": 12})
    figure.add_hline(y=0.95, line={"color": GREY, "width": 1, "dash": "dash"})
    k = table["k"][table["k"] > 0]
    figure.update_xaxes(
        type="log", tickvals=ticks(float(k.min(initial=1)), float(k.max(initial=1)))
    )
    figure.update_xaxes(title_text="units patched (k)", row=len(directions))
    figure.update_yaxes(tickformat=".0%")
    figure.update_yaxes(title_text="share of the gap closed", col=1)
    # Room for a title above the legend, and for the legend above the first panel's name.
    figure.update_layout(margin={"t": 100}, legend={"y": 1.1 if len(directions) == 1 else 1.07})
    return figure


def _located(part: Table, name: str, legend: bool) -> list[go.Scatter]:
    rows = np.flatnonzero((part["source"] == "located") & (part["k"] > 0) & ~np.isnan(part[name]))
    rows = rows[np.argsort(part["k"][rows], kind="stable")]
    return [
        go.Scatter(
            x=part["k"][rows],
            y=part[name][rows],
            mode="lines+markers",
            name="located",
            line={"color": BLUE, "width": 2.5},
            marker={"size": 7},
            showlegend=legend,
            hovertemplate="%{y:.1%}",
        )
    ]


def _random(part: Table, name: str, legend: bool) -> list[go.Scatter]:
    mask = (part["source"] == "random") & (part["k"] > 0) & ~np.isnan(part[name])
    doses = np.unique(part["k"][mask])
    if not doses.size:
        return []
    drawn = [part[name][mask & (part["k"] == k)] for k in doses]
    low, middle, high = (
        [float(statistic(values)) for values in drawn] for statistic in (np.min, np.median, np.max)
    )
    edge = {
        "mode": "lines",
        "line": {"width": 0, "color": GREY},
        "showlegend": False,
        "hoverinfo": "skip",
    }
    band = {"fill": "tonexty", "fillcolor": with_opacity(GREY, 0.35)}
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
