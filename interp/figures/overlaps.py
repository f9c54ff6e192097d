"""Overlap of masks: one matrix of observed shares, one of the shares expected by chance."""

from __future__ import annotations

import numpy as np
from plotly.graph_objects import Figure, Heatmap
from plotly.subplots import make_subplots

from interp.figures.style import BLUE, PAPER, escape_label, finish
from interp.table import Table

_MAX_LABEL_LENGTH = 14


def overlaps_figure(table: Table) -> Figure:
    """For each kind of mask two matrices: the share of the row's mask that is in the column's, and
    the same under the null.
    """
    kinds = list(dict.fromkeys(table["kind"].tolist()))
    titles = [f"{kind}: {source}" for kind in kinds for source in ("observed", "by chance")]
    figure = make_subplots(
        rows=len(kinds), cols=2, subplot_titles=[escape_label(title) for title in titles]
    )
    largest = float(max(table["share"].max(), table["chance"].max()))
    for row, kind in enumerate(kinds, 1):
        chosen = np.flatnonzero(table["kind"] == kind)
        names = list(
            dict.fromkeys([*table["mask"][chosen].tolist(), *table["other"][chosen].tolist()])
        )
        position = {name: index for index, name in enumerate(names)}
        for column, measure in enumerate(("share", "chance"), 1):
            values = np.full((len(names), len(names)), np.nan)
            for row_index in chosen:
                values[position[table["mask"][row_index]], position[table["other"][row_index]]] = (
                    table[measure][row_index]
                )
            labels = [
                escape_label(
                    name if len(name) <= _MAX_LABEL_LENGTH else f"{name[: _MAX_LABEL_LENGTH - 1]}…"
                )
                for name in names
            ]
            cell_texts = [
                ["" if np.isnan(value) else f"{value:.2%}" for value in line] for line in values
            ]
            heat = Heatmap(
                z=values,
                x=labels,
                y=labels,
                text=cell_texts,
                texttemplate="%{text}",
                zmin=0,
                zmax=largest or 1.0,
                colorscale=[[0, PAPER], [1, BLUE]],
                showscale=False,
                hovertemplate="%{text} of %{y} is in %{x}<extra></extra>",
            )
            figure.add_trace(heat, row=row, col=column)
    caption = (
        "Left: share of the row's mask that is in the column's; not symmetric where masks"
        " differ in size. Right: the same for a random mask of the column's size. A mask is"
        " not compared with itself."
    )
    finish(figure, "Overlap of masks", caption, height=140 + 240 * len(kinds))
    figure.update_yaxes(autorange="reversed")
    return figure
