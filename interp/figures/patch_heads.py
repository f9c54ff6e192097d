"""Patched heads: shares of the metric's change by block and head, and of all heads."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.figures.style import finish
from interp.table import Table

PANELS = (("inserted", "put into the base (R)"), ("removed", "taken out (N)"))


def patch_heads_figure(table: Table) -> go.Figure:
    """Heatmaps of both shares, block by head; the last column has all heads of a block."""
    single, layers = table["kind"] == "head", table["kind"] == "layer"
    n_layers, n_heads = (int(table[name].max(initial=0)) + 1 for name in ("layer", "head"))
    figure = make_subplots(
        rows=1, cols=2, subplot_titles=[title for _, title in PANELS], shared_yaxes=True
    )
    grids = []
    for name, _ in PANELS:
        shares = np.full((n_layers, n_heads + 1), np.nan)
        for row in np.flatnonzero(single | layers):
            head = table["head"][row] if single[row] else n_heads
            shares[table["layer"][row], head] = table[name][row]
        grids.append(shares)
    known = np.abs(np.concatenate(grids))
    reach = float(known[~np.isnan(known)].max(initial=0)) or 1.0
    for column, shares in enumerate(grids, 1):
        heatmap = go.Heatmap(
            z=shares,
            x=[*map(str, range(n_heads)), "all"],
            coloraxis="coloraxis",
            hoverongaps=False,
            hovertemplate="block %{y}, head %{x}: %{z:.1%}<extra></extra>",
        )
        figure.add_trace(heatmap, row=1, col=column)
    scale = {"colorscale": "RdBu", "reversescale": True, "cmin": -reach, "cmax": reach}
    finish(
        figure,
        "Heads patched between the models",
        f"Share of the change of the mean metric: {_whole(table)}. Cells are single heads, and all"
        " heads of a block. Empty cells were not measured, or there is no change to share.",
        height=250 + 26 * n_layers,
    )
    figure.update_layout(coloraxis={**scale, "colorbar": {"tickformat": ".0%"}}, margin={"t": 100})
    figure.update_xaxes(title_text="head", type="category")
    figure.update_yaxes(title_text="block", dtick=1 if n_layers <= 24 else None, col=1)
    return figure


def _whole(table: Table) -> str:
    """What all heads together give and take, in words."""
    parts = []
    for row in np.flatnonzero(table["kind"] == "all"):
        shares = " and ".join(
            f"{verb} {table[name][row]:.1%}"
            for name, verb in (("inserted", "give"), ("removed", "take"))
            if not np.isnan(table[name][row])
        )
        projection = "the receiver's" if table["what"][row] == "z" else "the donor's"
        if shares:
            parts.append(f"all heads through {projection} output projection {shares}")
    return "; ".join(parts) or "not stated, since there is no change beyond its interval"
