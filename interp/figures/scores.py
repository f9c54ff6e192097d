"""Scores of all units by layer."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.figures.style import BLUE, GREY, escape_label, finish
from interp.table import Table

LIMIT = 5000


def rows_to_draw(score: np.ndarray, selected: np.ndarray, limit: int = LIMIT) -> np.ndarray:
    """Indices of at most ``limit`` rows: the largest |score| (four fifths of them), then an even
    sample of the rest.

    Selected rows come first, so all of them are kept unless they alone exceed the limit.
    """
    if score.size <= limit:
        return np.arange(score.size)
    order = np.lexsort((-np.abs(score), ~selected))
    head = max(4 * limit // 5, min(int(selected.sum()), limit))
    rest = np.sort(order[head:])
    sample = rest[np.linspace(0, rest.size - 1, limit - head).astype(int)]
    return np.sort(np.concatenate([order[:head], sample]))


def scores_figure(table: Table) -> go.Figure:
    """Score against layer, with the units of a layer side by side in index order; below, the number
    of selected units per layer.
    """
    unit_name = table.columns[1].name
    layer, index, score, selected = (
        table["layer"],
        table[unit_name],
        table["score"],
        table["selected"],
    )
    rows = rows_to_draw(score, selected)
    width = int(index.max()) + 1
    position = layer + 0.8 * ((index + 0.5) / width - 0.5)
    figure = make_subplots(
        rows=2, cols=1, shared_xaxes=True, row_heights=[0.78, 0.22], vertical_spacing=0.06
    )
    for name, colour, size, mask in (
        ("not selected", GREY, 4, ~selected),
        ("selected", BLUE, 7, selected),
    ):
        part = rows[mask[rows]]
        figure.add_trace(
            go.Scatter(
                x=position[part],
                y=score[part],
                mode="markers",
                name=f"{name} ({int(mask.sum()):,})",
                marker={
                    "color": colour,
                    "size": size,
                    "opacity": 0.55 if colour == GREY else 0.95,
                    "line": {"width": 0},
                },
                customdata=np.stack([layer[part], index[part], table["rank"][part]], axis=1),
                hovertemplate=(
                    f"layer %{{customdata[0]}}, {unit_name} %{{customdata[1]}}<br>"
                    "score %{y:.4g}, rank %{customdata[2]}<extra></extra>"
                ),
            ),
            row=1,
            col=1,
        )
    layers = np.arange(int(layer.max()) + 1)
    counts = np.bincount(layer[selected], minlength=layers.size)
    hover = "layer %{x}: %{y} selected<extra></extra>"
    bars = go.Bar(
        x=layers, y=counts, marker={"color": BLUE}, width=0.8, showlegend=False, hovertemplate=hover
    )
    figure.add_trace(bars, row=2, col=1)
    meaning, unit = table.column("score").meaning, table.column("score").unit
    title = f"Score of {score.size:,} {unit_name}s by layer"
    if rows.size < score.size:
        title = f"Score by layer: {rows.size:,} of {score.size:,} {unit_name}s shown"
    caption = (
        f"Each dot is a {unit_name}; its score: {meaning}{f' ({unit})' if unit else ''}."
        f" Within a layer, {unit_name}s are side by side in index order. The bars count the"
        f" selected {unit_name}s of each layer."
    )
    if rows.size < score.size:
        caption += f" Of the {unit_name}s with smaller scores only an even sample is drawn."
    finish(figure, title, caption, height=460)
    figure.update_yaxes(
        title_text=escape_label(f"score ({unit})" if unit else "score"), row=1, col=1
    )
    figure.update_yaxes(title_text="selected", row=2, col=1, rangemode="tozero", nticks=4)
    step = max(1, layers.size // 16)
    figure.update_xaxes(title_text="layer", row=2, col=1, tickvals=layers[::step])
    figure.update_xaxes(range=[-0.6, layers.size - 0.4], showgrid=False)
    return figure
