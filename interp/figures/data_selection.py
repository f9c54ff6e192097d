"""Figure of data selection: marked rows found by rows taken, or the scores in order."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.figures.style import GREY, SERIES, finish
from interp.table import Table

METHODS = {"got_d": "GOT-D", "mona": "MONA", "bm25": "BM25"}


def data_selection_figure(table: Table) -> go.Figure:
    """With marks, the share of marked rows among those taken, for every number of rows; otherwise
    how far every row's score is from the median, in interquartile ranges.
    """
    has_marks = "marked" in table.data
    figure, rows = go.Figure(), len(table)
    taken = np.arange(1, rows + 1) / rows
    for (column, name), colour in zip(METHODS.items(), SERIES, strict=False):
        if column not in table.data:
            continue
        order = np.argsort(table[f"rank_{column}"])
        if has_marks:
            marked = table["marked"][order]
            values = np.cumsum(marked) / marked.sum()
        else:
            scores = table[column][order] * (-1 if column == "got_d" else 1)
            low, middle, high = np.quantile(scores, [0.25, 0.5, 0.75])
            values = (scores - middle) / (high - low if high > low else 1.0)
        figure.add_trace(go.Scatter(x=taken, y=values, name=name, line={"color": colour}))
    if has_marks:
        figure.add_trace(
            go.Scatter(x=[0, 1], y=[0, 1], name="random", line={"color": GREY, "dash": "dot"})
        )
        figure.update_yaxes(title_text="share of marked rows", tickformat=".0%")
        caption = "Share of the marked rows among the rows that come first."
    else:
        figure.update_yaxes(title_text="score, interquartile ranges from the median")
        caption = (
            "Scores in order; those of GOT-D with the opposite sign, so that high comes first."
        )
    figure.update_xaxes(title_text="share of the pool taken", tickformat=".0%")
    finish(figure, "Rows by their resemblance to the target", caption, height=400)
    return figure
