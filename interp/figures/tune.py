"""Selective tuning: what every arm learned, and what it forgot."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.figures.style import BLUE, GREEN, GREY, ORANGE, escape_label, finish
from interp.table import Table

COLOURS = {"located": BLUE, "random": GREY, "lora": ORANGE, "full": GREEN}
SYMBOLS = (
    "circle",
    "square",
    "diamond",
    "cross",
    "x",
    "triangle-up",
    "star",
    "hexagon",
    "pentagon",
)


def tune_figure(table: Table) -> go.Figure:
    """Decrease of the loss of held-out answers against forgetting, one point for every training at
    its arm's chosen rate.
    """
    figure = go.Figure()
    for number, arm in enumerate(dict.fromkeys(table["arm"].tolist())):
        rows = np.flatnonzero((table["arm"] == arm) & table["chosen"])
        texts = [
            f"{table['parameters'][at]:,} parameters, rate {table['rate'][at]:g}; refuses"
            f" {table['refused'][at]:.0%} of harmful and {table['over_refused'][at]:.0%} of ordinary"
            " prompts"
            for at in rows.tolist()
        ]
        figure.add_trace(
            go.Scatter(
                x=table["forgetting"][rows],
                y=table["target_gain"][rows],
                mode="markers",
                name=escape_label(arm),
                marker={
                    "color": COLOURS.get(arm, GREY),
                    "symbol": SYMBOLS[number % len(SYMBOLS)],
                    "size": 10,
                },
                text=texts,
                hovertemplate="%{y:+.3f}, forgets %{x:+.3f}<br>%{text}<extra>%{fullData.name}</extra>",
            )
        )
    caption = (
        "One point for every draw and seed at the learning rate chosen for its arm on the selection"
        " split. All arms have equal steps; full, and clusters that share updates, have other"
        " numbers of parameters."
    )
    finish(figure, "What was learned, and what was forgotten", caption, height=380)
    figure.update_xaxes(title_text="forgetting (nats per token of the untrained model's answers)")
    figure.update_yaxes(title_text="decrease of the loss of held-out answers (nats per token)")
    return figure
