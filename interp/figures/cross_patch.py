"""Cross-patching at first divergences: terms of the two by two by depth."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.figures.style import BLUE, GREEN, GREY, ORANGE, finish, with_opacity
from interp.table import Table

LINES = (
    ("late_on_base", "late blocks on the base's stream", BLUE),
    ("late_on_tuned", "late blocks on their own stream", ORANGE),
    ("interaction", "interaction", GREEN),
)


def cross_patch_layers_figure(table: Table) -> go.Figure:
    """Both late terms and their interaction by depth, as shares of the native shift, by the
    fine-tuned model's readout and over all divergences; the controls' interaction in grey.
    """
    rows = (table["readout"] == "tuned") & (table["place"] == "all")
    depth = table["depth"][rows]
    figure = go.Figure()
    for name, label, colour in LINES:
        band = {
            "mode": "lines",
            "line": {"width": 0},
            "hoverinfo": "skip",
            "showlegend": False,
            "x": depth,
        }
        figure.add_trace(go.Scatter(y=table[f"{name}_high"][rows], **band))
        fill = {"fill": "tonexty", "fillcolor": with_opacity(colour, 0.2)}
        figure.add_trace(go.Scatter(y=table[f"{name}_low"][rows], **fill, **band))
        figure.add_trace(_line(depth, table[name][rows], label, {"color": colour}))
    controls = table["control_interaction"][rows]
    if not np.isnan(controls).all():
        style = {"color": GREY, "dash": "dot"}
        figure.add_trace(_line(depth, controls, "interaction, controls", style))
    divergences = f"{int(table['divergences'][rows][0]):,}"
    caption = (
        f"Where the greedy answers diverge ({divergences} prompts). x: blocks of one model, after which the"
        " fine-tuned model's blocks are exchanged for the base's. y: what they add to the logit of"
        " the fine-tuned model's token minus that of the base's, over the native difference of"
        " both models. Bands are 95 % intervals over clusters of prompts."
    )
    finish(figure, "What late blocks add where answers diverge", caption, height=420)
    figure.update_xaxes(title_text="blocks below the exchange")
    figure.update_yaxes(title_text="share of the native shift", tickformat=".0%")
    return figure


def _line(x: np.ndarray, y: np.ndarray, name: str, line: dict) -> go.Scatter:
    return go.Scatter(
        x=x,
        y=y,
        name=name,
        line=line,
        mode="lines+markers",
        hovertemplate="%{x} blocks: %{y:.1%}<extra>%{fullData.name}</extra>",
    )
