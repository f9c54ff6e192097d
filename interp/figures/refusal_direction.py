"""What ablating units and taking a direction away do, against what they cost."""

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
    """Share lost (lines), share become the base's (dotted) against the KL on negative prompts,
    logarithmic.
    """
    figure = go.Figure()
    positive = table["kl"][table["kl"] > 0]
    least = positive.min() / 3 if positive.size else 1e-9
    for kind, (name, colour) in _NAMES.items():
        rows = np.flatnonzero(table["kind"] == kind)
        rows = rows[np.argsort(table["dose"][rows], kind="stable")]
        for column, dash, said in (("lost", "solid", "lost"), ("as_base", "dot", "as the base")):
            if not len(rows) or np.isnan(table[column][rows]).all():
                continue
            figure.add_trace(
                go.Scatter(
                    x=np.maximum(table["kl"][rows], least),
                    y=table[column][rows],
                    mode="lines+markers",
                    name=f"{name}: {said}",
                    line={"color": colour, "dash": dash},
                    customdata=np.stack([table["dose"][rows], table["kl"][rows]], 1),
                    hovertemplate=(
                        "dose %{customdata[0]:.3g}: %{y:.1%} at KL %{customdata[1]:.2g}"
                        "<extra>%{fullData.name}</extra>"
                    ),
                )
            )
    caption = (
        "Across: how far answers to negative prompts move, in nats per token (a KL of 0 is drawn at"
        " the left edge). Up: how much of the behaviour is lost, and dotted on how many of the"
        " prompts where the models differ in it the base's behaviour takes its place. Higher at"
        " equal KL is better."
    )
    finish(figure, "Located units and one direction, at what cost", caption, height=440)
    figure.update_layout(margin={"t": 96})
    figure.update_xaxes(type="log", title_text="mean KL per token on negative prompts, nats")
    figure.update_yaxes(range=[-0.03, 1.05], tickformat=".0%", title_text="share of the behaviour")
    return figure
