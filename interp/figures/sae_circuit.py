"""Codes of heads that only positive runs show: a map of all heads."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.figures.style import INK, finish
from interp.table import Table

MARKS = (
    ("p at most 0.05", "square-open", lambda table: table["p"] <= 0.05),
    ("known circuit", "x-thin", lambda table: table["known"]),
)


def sae_circuit_figure(table: Table) -> go.Figure:
    """Scores by block and head, above their mean with labels permuted; heads beyond the largest of
    all and heads of the known circuit are marked.
    """
    layers, heads = (int(table[name].max(initial=0)) + 1 for name in ("layer", "head"))
    excess = np.full((layers, heads), np.nan)
    excess[table["layer"], table["head"]] = table["score"] - table["permuted"]
    reach = float(np.nanmax(np.abs(excess), initial=0.0)) or 1.0
    figure = go.Figure(
        go.Heatmap(
            z=excess,
            coloraxis="coloraxis",
            hovertemplate="head %{y}.%{x}: %{z:+.2f} codes<extra></extra>",
        )
    )
    for name, symbol, chosen in MARKS:
        rows = chosen(table)
        if rows.any():
            figure.add_trace(
                go.Scatter(
                    x=table["head"][rows],
                    y=table["layer"][rows],
                    name=name,
                    mode="markers",
                    marker={"symbol": symbol, "size": 11, "color": INK, "line": {"width": 2}},
                    hoverinfo="skip",
                )
            )
    caption = (
        "Codes of a head (its strongest latent) on positive runs that no negative run has, minus"
        " their number with labels permuted; mean of trials. Squares: heads above the largest of"
        " all heads in 95 % of the permutations."
    )
    scale = {"colorscale": "RdBu", "reversescale": True, "cmin": -reach, "cmax": reach}
    finish(figure, "Codes that only positive runs show", caption, height=230 + 22 * layers)
    figure.update_layout(coloraxis=scale)
    figure.update_xaxes(title_text="head", dtick=1 if heads <= 24 else None)
    figure.update_yaxes(title_text="block", dtick=1 if layers <= 24 else None)
    return figure
