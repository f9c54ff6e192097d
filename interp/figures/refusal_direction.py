"""Effect and cost of ablating units and of removing a direction."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.figures.style import BLUE, ORANGE, finish
from interp.table import Table

_NAMES = {
    "units": ("located units, the first k", BLUE),
    "direction": ("a share of the direction", ORANGE),
}


def refusal_direction_figure(table: Table) -> go.Figure:
    """Share of the behaviour lost (solid) and replaced by the base's (dotted) against KL on
    negative prompts, on a logarithmic axis.
    """
    figure = go.Figure()
    positive = table["kl"][table["kl"] > 0]
    smallest = positive.min() / 3 if positive.size else 1e-9
    for kind, (name, colour) in _NAMES.items():
        rows = np.flatnonzero(table["kind"] == kind)
        rows = rows[np.argsort(table["dose"][rows], kind="stable")]
        for column, dash, label in (("lost", "solid", "lost"), ("as_base", "dot", "as the base")):
            if not len(rows) or np.isnan(table[column][rows]).all():
                continue
            figure.add_trace(
                go.Scatter(
                    x=np.maximum(table["kl"][rows], smallest),
                    y=table[column][rows],
                    mode="lines+markers",
                    name=f"{name}: {label}",
                    line={"color": colour, "dash": dash},
                    customdata=np.stack([table["dose"][rows], table["kl"][rows]], 1),
                    hovertemplate=(
                        "dose %{customdata[0]:.3g}: %{y:.1%} at KL %{customdata[1]:.2g}"
                        "<extra>%{fullData.name}</extra>"
                    ),
                )
            )
    caption = (
        "x: divergence on answers to negative prompts, in nats per token (a KL of 0 is drawn"
        " at the left edge). y: share of the behaviour that is lost (solid), and share of the"
        " prompts where the models differ on which the base's behaviour replaces it (dotted)."
        " Higher at equal KL is better."
    )
    finish(figure, "Effect and cost of located units and of one direction", caption, height=440)
    figure.update_layout(margin={"t": 96})
    figure.update_xaxes(type="log", title_text="mean KL per token on negative prompts, nats")
    figure.update_yaxes(range=[-0.03, 1.05], tickformat=".0%", title_text="share of the behaviour")
    return figure
