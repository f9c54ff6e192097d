"""Effect of scaling intruder dimensions on the task and on plain text, compared with two controls."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.figures.style import BLUE, GREY, ORANGE, escape_label, finish
from interp.table import Table

_KINDS = {
    "intruder": ("intruders", BLUE, "solid"),
    "neighbour": ("neighbouring vectors", GREY, "dot"),
    "update": ("the whole update", ORANGE, "dash"),
}


def intruder_scaling_figure(table: Table) -> go.Figure:
    """Task metric against forgetting over the scales, one line per kind of scaled part; without a
    task, divergence from the base.
    """
    figure = go.Figure()
    y_column = "metric" if "metric" in table.data else "kl"
    for kind, (name, colour, dash) in _KINDS.items():
        rows = np.flatnonzero(table["kind"] == kind)
        rows = rows[np.argsort(table["scale"][rows], kind="stable")]
        if len(rows):
            figure.add_trace(
                go.Scatter(
                    x=table["forgetting"][rows],
                    y=table[y_column][rows],
                    mode="lines+markers+text",
                    name=name,
                    line={"color": colour, "dash": dash},
                    text=[f"{scale:g}" for scale in table["scale"][rows]],
                    textposition="top center",
                    textfont={"size": 10, "color": colour},
                    customdata=table["scale"][rows],
                    hovertemplate=(
                        "scaled by %{customdata:g}: %{y:.3g}, forgetting %{x:.3g}"
                        "<extra>%{fullData.name}</extra>"
                    ),
                )
            )
    y_caption = (
        "y: the task metric; further up and to the left is better. If scaling the whole update"
        " gives the same curve, scaling intruders has no advantage over reducing the size of"
        " the update."
        if y_column == "metric"
        else (
            "y: divergence from the base. Without a task, the loss of the fine-tuned model's"
            " ability is not measured."
        )
    )
    caption = (
        f"x: increase of the loss on plain text over the base's, in nats per token. {y_caption}"
        " Numbers are factors on the singular values; at 1 all lines meet at the fine-tuned"
        " model."
    )
    finish(
        figure,
        f"{'Task' if y_column == 'metric' else 'Divergence'} and forgetting as intruders are"
        " scaled",
        caption,
        height=440,
    )
    figure.update_xaxes(title_text="forgetting, nats per token")
    figure.update_yaxes(title_text=escape_label(table.column(y_column).meaning))
    return figure
