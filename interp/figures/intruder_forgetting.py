"""Number of intruder dimensions and forgetting, by checkpoint."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.figures.style import BLUE, GREY, escape_label, finish, with_opacity
from interp.table import Table


def intruder_forgetting_figure(table: Table) -> go.Figure:
    """One dot per checkpoint: forgetting with its interval against its number of intruder
    dimensions.
    """
    value = table["forgetting"]
    bars = {
        "array": np.nan_to_num(table["high"] - value),
        "arrayminus": np.nan_to_num(value - table["low"]),
    }
    figure = go.Figure(
        go.Scatter(
            x=table["intruders"],
            y=value,
            mode="lines+markers+text",
            line={"color": with_opacity(GREY, 0.5), "width": 1},
            marker={"color": BLUE, "size": 9},
            error_y={"type": "data", "symmetric": False, "color": with_opacity(BLUE, 0.5), **bars},
            text=[str(place) for place in table["place"]],
            textposition="top center",
            customdata=np.stack(
                [[escape_label(name) for name in table["checkpoint"]], table["relative_norm"]], 1
            ),
            hovertemplate=(
                "%{customdata[0]}: %{x} intruders, forgetting %{y:.3g} nats per token, relative"
                " norm %{customdata[1]:.3g}<extra></extra>"
            ),
        )
    )
    caption = (
        "Each dot is a checkpoint, numbered in the order given. x: number of leading singular"
        " vectors that are intruders; y: increase of the loss on plain text over the base's,"
        " with a 95 % interval over texts. Both can grow with training without one causing the"
        " other."
    )
    finish(figure, "Intruders and forgetting over checkpoints", caption, height=420)
    figure.update_xaxes(title_text="intruders")
    figure.update_yaxes(title_text="forgetting, nats per token")
    return figure
