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
    again = "score_recomputed" in table.data
    mine = table["selected"]
    theirs = table["selected_recomputed"] if again else np.zeros(len(table), bool)
    x, y = (
        (table["score"], table["score_recomputed"]) if again else (table["layer"], table["cosine"])
    )
    rest = np.flatnonzero(~mine & ~theirs)
    if len(rest) > LIMIT:
        rest = rest[np.linspace(0, len(rest) - 1, LIMIT).round().astype(int)]
    groups = (
        (f"selected in neither ({int((~mine & ~theirs).sum()):,})", rest, GREY),
        (
            f"in the source only ({int((mine & ~theirs).sum()):,})",
            np.flatnonzero(mine & ~theirs),
            BLUE,
        ),
        (
            f"in the target only ({int((~mine & theirs).sum()):,})",
            np.flatnonzero(~mine & theirs),
            ORANGE,
        ),
        (f"in both ({int((mine & theirs).sum()):,})", np.flatnonzero(mine & theirs), GREEN),
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
    left = int((~mine & ~theirs).sum()) - len(rest)
    caption = (
        f"Each dot is one {unit}. x: its score in the source; y: its score in the target."
        if again
        else (
            f"Each dot is one {unit}: cosine between its write weights in source and target, by"
            " layer."
        )
    )
    caption += f" {left:,} that are selected in neither are not drawn." if left else ""
    title = "Scores in source and target" if again else f"The same {unit}s in source and target"
    finish(figure, title, caption, height=440)
    figure.update_xaxes(title_text="score in the source" if again else "layer")
    figure.update_yaxes(title_text="score in the target" if again else "cosine of write weights")
    return figure
