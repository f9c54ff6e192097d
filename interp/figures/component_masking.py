"""Component masking: the heads that masks select, and scores of sets of heads."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.figures.style import finish
from interp.table import Table

PANELS = (("base", "mask of the base"), ("tuned", "mask of the fine-tuned model"))


def component_masking_figure(table: Table) -> go.Figure:
    """Heatmaps of both masks, block by head; 0 takes the source's output, 1 keeps its own."""
    n_layers, n_heads = (int(table[name].max(initial=0)) + 1 for name in ("layer", "head"))
    figure = make_subplots(
        rows=1, cols=2, subplot_titles=[title for _, title in PANELS], shared_yaxes=True
    )
    for column, (found, _) in enumerate(PANELS, 1):
        masks, names = (
            np.full((n_layers, n_heads), np.nan),
            np.full((n_layers, n_heads), "", object),
        )
        for row in np.flatnonzero(table["found"] == found):
            place = table["layer"][row], table["head"][row]
            masks[place] = 1 - table["mask"][row]
            names[place] = "selected" if table["selected"][row] else "not selected"
        heatmap = go.Heatmap(
            z=masks,
            x=list(map(str, range(n_heads))),
            text=names,
            coloraxis="coloraxis",
            hoverongaps=False,
            hovertemplate="block %{y}, head %{x}: %{z:.2f}, %{text}<extra></extra>",
        )
        figure.add_trace(heatmap, row=1, col=column)
    counts = [
        f"{int((table['selected'] & (table['found'] == found)).sum())} in the {title}"
        for found, title in (("base", "base"), ("tuned", "fine-tuned model"))
    ]
    finish(
        figure,
        "Heads that masks select",
        "How far a head's output at the word is replaced by the source's (1 minus the mask), before"
        f" rounding. Selected heads: {' and '.join(counts)}.",
        height=250 + 26 * n_layers,
    )
    figure.update_layout(coloraxis={"colorscale": "Blues", "cmin": 0, "cmax": 1}, margin={"t": 100})
    figure.update_xaxes(title_text="head", type="category")
    figure.update_yaxes(title_text="block", dtick=1 if n_layers <= 24 else None, col=1)
    return figure
