"""Other methods compared with the located set: effect on the behaviour and cost on other prompts."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.figures.style import BLUE, GREY, INK, ORANGE, escape_label, finish
from interp.table import Table


def baselines_figure(table: Table) -> go.Figure:
    """Share of answers that exhibit the behaviour against divergence on negative prompts, one point
    per method.
    """
    figure, answers_label = go.Figure(), (table.summary.get("labels") or {}).get("many", "answers")
    for row, method in enumerate(table["method"].tolist()):
        value, low, high, divergence = (
            float(table[name][row]) for name in ("exhibits_behaviour", "low", "high", "divergence")
        )
        is_random = method == "random"
        figure.add_trace(
            go.Scatter(
                x=[divergence],
                y=[value],
                mode="markers+text",
                text=[escape_label(method)],
                textposition="middle right",
                name=escape_label(str(table["what"][row])),
                marker={
                    "symbol": "diamond" if is_random else "circle",
                    "size": 11,
                    "color": "#ffffff" if is_random else BLUE if method == "located" else ORANGE,
                    "line": {"color": INK, "width": 1.5},
                },
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [np.nan_to_num(high - value)],
                    "arrayminus": [np.nan_to_num(value - low)],
                    "color": GREY,
                    "thickness": 1.5,
                    "width": 4,
                },
                customdata=[[float(table["recovery"][row]), float(table["flipped"][row])]],
                hovertemplate=(
                    "%{y:.1%} at %{x:.3g} nats a token<br>recovery"
                    " %{customdata[0]:.2f}<br>%{customdata[1]:.1%} of the negative prompts"
                    " flip<extra>%{fullData.name}</extra>"
                ),
            )
        )
    caption = (
        "Share of answers to positive prompts that exhibit the behaviour, with a 95 % interval"
        " (for random sets: mean and range), against the divergence from the fine-tuned model"
        " on its answers to negative prompts. Lower and further left is better: the behaviour"
        " is removed and little else has changed."
    )
    finish(
        figure,
        f"{answers_label[:1].upper()}{answers_label[1:]} under other methods",
        caption,
        height=420,
    )
    figure.update_xaxes(
        title_text="KL divergence on negative prompts, nats a token", rangemode="tozero"
    )
    figure.update_yaxes(
        title_text=escape_label(table.column("exhibits_behaviour").meaning),
        tickformat=".0%",
        range=[-0.03, 1.05],
    )
    return figure
