"""Where each method places the change of fine-tuning, and how well methods agree."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.figures.style import BLUE, GREY, INK, escape_label, finish
from interp.table import Table

SCALE = [[0, "#f4f6fa"], [1, BLUE]]


def places_figure(table: Table) -> go.Figure:
    """One heatmap per method: blocks by parts, coloured by intensity relative to the method's own
    maximum.
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
        subplot_titles=[escape_label(name) for name in methods],
        vertical_spacing=min(0.06, 0.5 / len(methods)),
    )
    layers = np.unique(table["layer"])
    for row, (name, method_parts) in enumerate(zip(methods, parts, strict=True), 1):
        rows = table["method"] == name
        values = np.full((len(method_parts), len(layers)), np.nan)
        shares = values.copy()
        cells = (
            [method_parts.index(part) for part in table["part"][rows]],
            np.searchsorted(layers, table["layer"][rows]),
        )
        values[cells], shares[cells] = table["intensity"][rows], table["share"][rows]
        largest = np.nanmax(values) or 1.0
        figure.add_trace(
            go.Heatmap(
                z=values / largest,
                x=layers,
                y=[escape_label(part) for part in method_parts],
                customdata=np.stack([values, shares], 2),
                colorscale=SCALE,
                zmin=0,
                zmax=1,
                showscale=row == 1,
                xgap=1,
                ygap=1,
                colorbar={"title": "of the maximum", "tickformat": ".0%", "thickness": 12},
                hovertemplate=(
                    "block %{x}, %{y}<br>intensity %{customdata[0]:.3g},"
                    f" %{{customdata[1]:.1%}} of all<extra>{escape_label(name)}</extra>"
                ),
            ),
            row=row,
            col=1,
        )
    caption = (
        "One heatmap per method: blocks on x, parts of a block on y. The colour is the"
        " method's measure per unit that could carry it (scores per neuron, intruders per"
        " singular vector, grafted weights per weight, tuning per base contribution, movement"
        " per norm), relative to the method's maximum. An empty heatmap means that the method"
        " found nothing."
    )
    finish(
        figure,
        "Location of the change, by method",
        caption,
        height=int(110 + 22 * sum(heights) + 20 * len(methods)),
    )
    figure.update_xaxes(dtick=max(1, len(layers) // 16))
    figure.update_xaxes(title_text="block", row=len(methods), col=1)
    return figure


def agreement_figure(table: Table) -> go.Figure:
    """One row per pair of methods: rank correlation, partial correlation given weight movement, and
    the permutation mean.
    """
    rows = np.flatnonzero(np.isfinite(table["correlation"]))[::-1]
    labels = [escape_label(f"{table['first'][row]} and {table['second'][row]}") for row in rows]
    hover_data = np.stack([table["places"][rows], table["adjusted_p"][rows]], 1)
    figure = go.Figure()
    for column, name, marker in (
        ("chance", "permuted", {"color": GREY, "symbol": "line-ns-open", "size": 14}),
        (
            "beyond_movement",
            "given weight movement",
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
                marker=marker,
                customdata=hover_data,
                hovertemplate=(
                    "%{x:.2f} over %{customdata[0]} locations, p %{customdata[1]:.2g}"
                    f"<extra>{name}</extra>"
                ),
            )
        )
    n_constant = len(table) - len(rows)
    caption = (
        "Each row is a pair of methods. Filled: rank correlation of their intensities over the"
        " finest locations that both resolve; open: the partial rank correlation given the"
        " movement of weights; tick: mean correlation when intensities are permuted among"
        " blocks."
    )
    caption += (
        f" {n_constant} pairs are not drawn because one of the two methods is constant."
        if n_constant
        else ""
    )
    finish(figure, "Agreement of methods", caption, height=160 + 36 * max(1, len(rows)))
    figure.update_xaxes(title_text="rank correlation", range=[-1.05, 1.05])
    return figure
