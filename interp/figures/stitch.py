"""Right answers to every task of a stitched model and of those it is compared with."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.figures.style import SERIES, finish
from interp.table import Table


def stitch_figure(table: Table) -> go.Figure:
    """One group of bars per model, one bar per task: share of held-out questions answered rightly."""
    figure, wanted = go.Figure(), table["metric"] == "accuracy"
    for at, task in enumerate(np.unique(table["task"][wanted])):
        rows = np.flatnonzero(wanted & (table["task"] == task))
        figure.add_trace(
            go.Bar(
                x=table["kind"][rows].tolist(),
                y=table["value"][rows],
                name=f"task {task}",
                marker={"color": SERIES[at % len(SERIES)]},
                hovertemplate="%{x}<br>%{y:.1%} right<extra>%{fullData.name}</extra>",
            )
        )
    caption = (
        "Task 1 is what tune 1 was tuned for, and so on. A graft is the base with one mask's"
        " weights; stitched has those of all masks, average is the mean of all tunes, random has"
        " masks of equal size elsewhere."
    )
    return finish(
        figure,
        "Right answers by model and task",
        caption,
        height=420,
        barmode="group",
        yaxis={"tickformat": ".0%", "title": {"text": "questions answered rightly"}},
    )
