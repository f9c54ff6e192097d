"""Where methods put what tuning did, and how far they agree."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.figures.style import BLUE, GREY, INK, finish, safe
from interp.table import Table

SCALE = [[0, "#f4f6fa"], [1, BLUE]]


def places_figure(table: Table) -> go.Figure:
    """One map per method: blocks across, parts up, intensity as colour (each method by its own
    largest).
    """
    methods = list(dict.fromkeys(table["method"].tolist()))
    parts = [
        list(dict.fromkeys(table["part"][table["method"] == name].tolist()))[::-1]
        for name in methods
    ]
    heights = [max(1.0, len(part)) + 1.2 for part in parts]
    figure = make_subplots(
        rows=len(methods),
        cols=1,
        shared_xaxes=True,
        row_heights=heights,
        subplot_titles=[safe(name) for name in methods],
        vertical_spacing=min(0.06, 0.5 / len(methods)),
    )
    layers = np.unique(table["layer"])
    for row, (name, mine) in enumerate(zip(methods, parts, strict=True), 1):
        rows = table["method"] == name
        values = np.full((len(mine), len(layers)), np.nan)
        shares = values.copy()
        at = (
            [mine.index(part) for part in table["part"][rows]],
            np.searchsorted(layers, table["layer"][rows]),
        )
        values[at], shares[at] = table["intensity"][rows], table["share"][rows]
        largest = np.nanmax(values) or 1.0
        figure.add_trace(
            go.Heatmap(
                z=values / largest,
                x=layers,
                y=[safe(part) for part in mine],
                customdata=np.stack([values, shares], 2),
                colorscale=SCALE,
                zmin=0,
                zmax=1,
                showscale=row == 1,
                xgap=1,
                ygap=1,
                colorbar={"title": "of its largest", "tickformat": ".0%", "thickness": 12},
                hovertemplate=(
                    "block %{x}, %{y}<br>intensity %{customdata[0]:.3g},"
                    f" %{{customdata[1]:.1%}} of all<extra>{safe(name)}</extra>"
                ),
            ),
            row=row,
            col=1,
        )
    caption = (
        "One map per method: blocks across, parts of a block up. The darker, the more of what it"
        " measures lies there, by what could (scores per neuron, intruders per singular vector,"
        " grafted per weight, tuned per base part, movement per norm), by the method's own largest."
        " An empty map found nothing."
    )
    finish(
        figure,
        "Where methods put it",
        caption,
        height=int(110 + 22 * sum(heights) + 20 * len(methods)),
    )
    figure.update_xaxes(dtick=max(1, len(layers) // 16))
    figure.update_xaxes(title_text="block", row=len(methods), col=1)
    return figure


def agreement_figure(table: Table) -> go.Figure:
    """One row per pair of methods: its rank correlation, what is left beside movement, and chance."""
    rows = np.flatnonzero(np.isfinite(table["correlation"]))[::-1]
    labels = [safe(f"{table['first'][row]} and {table['second'][row]}") for row in rows]
    told = np.stack([table["places"][rows], table["adjusted_p"][rows]], 1)
    figure = go.Figure()
    for column, name, look in (
        ("chance", "permuted", {"color": GREY, "symbol": "line-ns-open", "size": 14}),
        (
            "beyond_movement",
            "beside movement",
            {"color": "#ffffff", "size": 11, "line": {"color": INK, "width": 1.5}},
        ),
        ("correlation", "rank correlation", {"color": BLUE, "size": 11}),
    ):
        figure.add_trace(
            go.Scatter(
                x=table[column][rows],
                y=labels,
                mode="markers",
                name=name,
                marker=look,
                customdata=told,
                hovertemplate=(
                    "%{x:.2f} over %{customdata[0]} places, p %{customdata[1]:.2g}"
                    f"<extra>{name}</extra>"
                ),
            )
        )
    silent = len(table) - len(rows)
    caption = (
        "Each row is a pair of methods: filled, the rank correlation of their intensities over the"
        " finest places that both know; open, the same with what both share with the movement of"
        " weights taken out; the tick, its mean when intensities are permuted among the blocks."
    )
    caption += (
        f" {silent} pairs are left out: one of the two is the same everywhere." if silent else ""
    )
    finish(figure, "How far they agree", caption, height=160 + 36 * max(1, len(rows)))
    figure.update_xaxes(title_text="rank correlation", range=[-1.05, 1.05])
    return figure
