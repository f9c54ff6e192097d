"""How many ranks of the update are needed."""

from __future__ import annotations

import plotly.graph_objects as go

from interp.figures.style import BLUE, GREY, finish
from interp.table import Table

_LINES = (("fine-tuned", "the update", BLUE), ("random", "random, same singular values", GREY))


def truncation_figure(table: Table) -> go.Figure:
    """KL to the fine-tuned model by the number of ranks kept, with 95 % intervals."""
    figure = go.Figure()
    for update, name, colour in _LINES:
        rows = [row for row in table.rows() if row["update"] == update and row["draw"] == 0]
        figure.add_trace(
            go.Scatter(
                x=["all" if row["ranks"] < 0 else str(row["ranks"]) for row in rows],
                y=[row["kl"] for row in rows],
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [row["high"] - row["kl"] for row in rows],
                    "arrayminus": [row["kl"] - row["low"] for row in rows],
                },
                name=name,
                mode="lines+markers",
                line={"color": colour},
                hovertemplate="%{x} ranks: %{y:.3g} nats<extra>%{fullData.name}</extra>",
            )
        )
    caption = (
        "The base with the first ranks of every parameter's change, compared with the fine-tuned"
        " model over ordinary texts; 0 is the base. Grey: random updates of equal singular values."
    )
    finish(figure, "Ranks of the update", caption, height=360)
    # the order of the numbers, whichever line has them
    figure.update_xaxes(title_text="ranks kept", type="category")
    figure.update_yaxes(title_text="KL to the fine-tuned model, nats per token", rangemode="tozero")
    return figure
