"""Accuracy on every task of a stitched model and the models it is compared with."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.figures.style import SERIES, finish
from interp.table import Table


def stitch_figure(table: Table) -> go.Figure:
    """One group of bars per model, one bar per task: accuracy on held-out questions."""
    figure, is_accuracy = go.Figure(), table["metric"] == "accuracy"
    for index, task in enumerate(np.unique(table["task"][is_accuracy])):
        rows = np.flatnonzero(is_accuracy & (table["task"] == task))
        figure.add_trace(
            go.Bar(
                x=table["kind"][rows].tolist(),
                y=table["value"][rows],
                name=f"task {task}",
                marker={"color": SERIES[index % len(SERIES)]},
                hovertemplate="%{x}<br>%{y:.1%} correct<extra>%{fullData.name}</extra>",
            )
        )
    caption = (
        "Task 1 is the task of the first fine-tuned model, and so on. A graft is the base with"
        " the weights of one mask; stitched has those of all masks, average is the mean of all"
        " fine-tuned models, random has random masks of equal size."
    )
    return finish(
        figure,
        "Accuracy by model and task",
        caption,
        height=420,
        barmode="group",
        yaxis={"tickformat": ".0%", "title": {"text": "accuracy"}},
    )
