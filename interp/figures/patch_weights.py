"""Weight patching: shares of the metric's change by block and part."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.figures.style import escape_label, finish
from interp.table import Table

PANELS = (("inserted", "inserted in the base (R)"), ("removed", "taken out (N)"))


def patch_weights_figure(table: Table) -> go.Figure:
    """Heatmaps of both shares, block by part; modules outside the blocks are in the table only."""
    inside = table["layer"] >= 0
    parts = list(dict.fromkeys(sorted(table["part"][inside].tolist()))) or ["none"]
    n_layers = max(int(table["layer"].max(initial=-1)) + 1, 1)
    reach = max(
        (float(np.nanmax(np.abs(values))) for values in _shown(table, inside) if len(values)),
        default=1.0,
    )
    figure = make_subplots(
        rows=1, cols=2, subplot_titles=[title for _, title in PANELS], shared_yaxes=True
    )
    for column, (name, _) in enumerate(PANELS, 1):
        shares = np.full((n_layers, len(parts)), np.nan)
        for row in np.flatnonzero(inside):
            shares[table["layer"][row], parts.index(table["part"][row])] = table[name][row]
        heatmap = go.Heatmap(
            z=shares,
            x=[escape_label(part) for part in parts],
            coloraxis="coloraxis",
            hoverongaps=False,
            hovertemplate="block %{y}, %{x}: %{z:.1%}<extra></extra>",
        )
        figure.add_trace(heatmap, row=1, col=column)
    outside = int((~inside).sum())
    caption = (
        "Share of the change of the mean metric that one module gives, inserted in the base, or"
        " takes, replaced by the base's in the fine-tuned model. Empty cells were not changed, or"
        " not measured exactly."
    )
    caption += f" {outside} rows of the table are outside the blocks." if outside else ""
    scale = {"colorscale": "RdBu", "reversescale": True, "cmin": -reach, "cmax": reach}
    finish(figure, "Modules exchanged one at a time", caption, height=230 + 26 * n_layers)
    figure.update_layout(coloraxis={**scale, "colorbar": {"tickformat": ".0%"}}, margin={"t": 100})
    figure.update_yaxes(title_text="block", dtick=1 if n_layers <= 24 else None, col=1)
    return figure


def _shown(table: Table, inside: np.ndarray) -> list[np.ndarray]:
    return [table[name][inside & ~np.isnan(table[name])] for name, _ in PANELS]
