"""Units in a source and in a target fine-tuned model."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.figures.style import BLUE, GREEN, GREY, ORANGE, finish
from interp.table import Table

LIMIT = 5000


def transfer_figure(table: Table) -> go.Figure:
    """Scores in the target against scores in the source; without target scores, the cosine of each
    unit by layer.
    """
    unit = table.columns[1].name
    has_target_scores = "score_recomputed" in table.data
    in_source = table["selected"]
    in_target = table["selected_recomputed"] if has_target_scores else np.zeros(len(table), bool)
    x, y = (
        (table["score"], table["score_recomputed"])
        if has_target_scores
        else (table["layer"], table["cosine"])
    )
    in_neither = np.flatnonzero(~in_source & ~in_target)
    if len(in_neither) > LIMIT:
        in_neither = in_neither[np.linspace(0, len(in_neither) - 1, LIMIT).round().astype(int)]
    groups = (
        (f"selected in neither ({int((~in_source & ~in_target).sum()):,})", in_neither, GREY),
        (
            f"in the source only ({int((in_source & ~in_target).sum()):,})",
            np.flatnonzero(in_source & ~in_target),
            BLUE,
        ),
        (
            f"in the target only ({int((~in_source & in_target).sum()):,})",
            np.flatnonzero(~in_source & in_target),
            ORANGE,
        ),
        (
            f"in both ({int((in_source & in_target).sum()):,})",
            np.flatnonzero(in_source & in_target),
            GREEN,
        ),
    )
    figure = go.Figure()
    for name, rows, colour in groups:
        if len(rows):
            figure.add_trace(
                go.Scatter(
                    x=x[rows],
                    y=y[rows],
                    mode="markers",
                    name=name,
                    marker={
                        "color": colour,
                        "size": 5 if colour == GREY else 8,
                        "opacity": 0.5 if colour == GREY else 0.9,
                    },
                    customdata=np.stack(
                        [table["layer"][rows], table[unit][rows], table["cosine"][rows]], 1
                    ),
                    hovertemplate=(
                        f"layer %{{customdata[0]}}, {unit} %{{customdata[1]}}<br>%{{x:.3g}},"
                        " %{y:.3g}<br>cosine"
                        " %{customdata[2]:.2f}<extra>%{fullData.name}</extra>"
                    ),
                )
            )
    n_not_drawn = int((~in_source & ~in_target).sum()) - len(in_neither)
    caption = (
        f"Each dot is one {unit}. x: its score in the source; y: its score in the target."
        if has_target_scores
        else (
            f"Each dot is one {unit}: cosine between its write weights in source and target, by"
            " layer."
        )
    )
    caption += (
        f" {n_not_drawn:,} that are selected in neither are not drawn." if n_not_drawn else ""
    )
    title = (
        "Scores in source and target"
        if has_target_scores
        else f"The same {unit}s in source and target"
    )
    finish(figure, title, caption, height=440)
    figure.update_xaxes(title_text="score in the source" if has_target_scores else "layer")
    figure.update_yaxes(
        title_text="score in the target" if has_target_scores else "cosine of write weights"
    )
    return figure
