"""Tuning contribution (TuCo) by class, depth and token, and a metric at other strengths of
fine-tuning.
"""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.figures.style import BLUE, GREY, ORANGE, escape_label, finish, with_opacity
from interp.table import Table

LIMIT = 2000
COLOURS = (BLUE, ORANGE)


def tuco_figure(table: Table) -> go.Figure:
    """One dot per prompt: TuCo against number of tokens, by class."""
    figure = go.Figure()
    groups = list(dict.fromkeys(table["group"].tolist()))
    left_out = 0
    for group, colour in zip(groups, COLOURS, strict=False):
        rows = np.flatnonzero(table["group"] == group)
        left_out += max(0, len(rows) - LIMIT)
        rows = rows[:LIMIT]
        figure.add_trace(
            go.Scatter(
                x=table["tokens"][rows],
                y=table["tuco"][rows],
                mode="markers",
                name=escape_label(f"{group} prompts"),
                marker={"color": colour, "size": 7, "opacity": 0.65},
                customdata=list(
                    zip(
                        table["prompt_id"][rows].tolist(),
                        table["output_co"][rows].tolist(),
                        map(escape_label, table["prompt"][rows].tolist()),
                        strict=True,
                    )
                ),
                hovertemplate=(
                    "%{customdata[2]}<br>prompt %{customdata[0]}: TuCo %{y:.3f}, "
                    "OutputCo %{customdata[1]:.3f}, %{x} tokens<extra>%{fullData.name}</extra>"
                ),
            )
        )
    caption = (
        "Each dot is a prompt. x: its number of tokens; y: the tuning contribution as a share"
        " of what all blocks added. TuCo depends on length, so classes are compared at equal"
        " length."
    )
    title = "TuCo of every prompt" + (f": {left_out:,} prompts not drawn" if left_out else "")
    finish(figure, title, caption, height=420)
    figure.update_xaxes(title_text="tokens of the prompt")
    figure.update_yaxes(title_text="TuCo")
    return figure


def tuco_layers_figure(table: Table) -> go.Figure:
    """Mean beta after every block by class, with the interquartile range over prompts; at the last
    token on the fast path.
    """
    figure = go.Figure()
    column = "beta_last" if np.isnan(table["beta"]).all() else "beta"
    groups, layers = list(dict.fromkeys(table["group"].tolist())), np.unique(table["layer"])
    for group, colour in zip(groups, COLOURS, strict=False):
        in_group = table["group"] == group
        values_by_layer = [table[column][in_group & (table["layer"] == layer)] for layer in layers]
        low, high = (
            np.array([np.quantile(part, q) for part in values_by_layer]) for q in (0.25, 0.75)
        )
        band = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
        figure.add_trace(go.Scatter(x=layers, y=high, **band))
        figure.add_trace(
            go.Scatter(
                x=layers, y=low, fill="tonexty", fillcolor=with_opacity(colour, 0.18), **band
            )
        )
        figure.add_trace(
            go.Scatter(
                x=layers,
                y=[part.mean() for part in values_by_layer],
                mode="lines+markers",
                name=escape_label(f"{group} prompts"),
                line={"color": colour},
                hovertemplate="up to block %{x}: %{y:.3f}<extra>%{fullData.name}</extra>",
            )
        )
    caption = (
        "Tuning contribution as a share of what all blocks up to and including this one added,"
        f" {'over all tokens' if column == 'beta' else 'at the last token'}: mean and"
        " interquartile range over prompts."
    )
    finish(figure, "Tuning contribution by depth", caption, height=380)
    figure.update_xaxes(title_text="block")
    figure.update_yaxes(title_text="beta", rangemode="tozero")
    return figure


def tuco_tokens_figure(table: Table) -> go.Figure:
    """The first prompt of every class as a heatmap: tokens by blocks, coloured by the tuning
    contribution.
    """
    keys = list(
        dict.fromkeys(zip(table["group"].tolist(), table["prompt_id"].tolist(), strict=True))
    )
    first_prompts = [
        next(key for key in keys if key[0] == group)
        for group in dict.fromkeys(key[0] for key in keys)
    ]
    names = [escape_label(f"{group} prompt {number}") for group, number in first_prompts]
    figure = make_subplots(
        rows=len(first_prompts), cols=1, subplot_titles=names, vertical_spacing=0.28
    )
    for subplot, (group, prompt_id) in enumerate(first_prompts, 1):
        rows = (table["group"] == group) & (table["prompt_id"] == prompt_id)
        layers, positions = table["layer"][rows], table["position"][rows]
        values = np.zeros((layers.max() + 1, positions.max() + 1))
        values[layers, positions] = table["beta"][rows]
        token_labels = [
            escape_label(repr(token)[1:-1]) for token in table["token"][rows][layers == 0]
        ]
        figure.add_trace(
            go.Heatmap(
                z=values,
                zmin=0,
                zmax=float(table["beta"].max()) or 1.0,
                colorscale="Blues",
                showscale=subplot == 1,
                hovertemplate="token %{x}, up to block %{y}: %{z:.3f}<extra></extra>",
            ),
            row=subplot,
            col=1,
        )
        figure.update_xaxes(
            tickvals=list(range(len(token_labels))),
            ticktext=token_labels,
            tickangle=-60,
            row=subplot,
            col=1,
        )
        figure.update_yaxes(title_text="block", row=subplot, col=1)
    caption = (
        "Tuning contribution as a share of what the blocks up to and including each row added"
        f" at each token, for the first prompt of each class (the table has {len(keys)}"
        " prompts)."
    )
    finish(
        figure,
        "Tuning contribution by token and block",
        caption,
        height=160 + 230 * len(first_prompts),
    )
    figure.update_layout(margin={"t": 90})
    return figure


def ftc_alpha_figure(table: Table) -> go.Figure:
    """The metric at every strength of fine-tuning, by class: scaled block contributions solid,
    scaled weight change dotted.
    """
    figure = make_subplots(
        rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08, row_heights=[0.65, 0.35]
    )
    for group, colour in zip(dict.fromkeys(table["group"].tolist()), COLOURS, strict=False):
        for scaled, dash in (("blocks", "solid"), ("weights", "dot")):
            rows = (table["group"] == group) & (table["way"] == scaled)
            if not rows.any():
                continue
            value = table["number"][rows]
            bars = {
                "array": np.nan_to_num(table["high"][rows] - value),
                "color": with_opacity(colour, 0.6),
            }
            bars["arrayminus"] = np.nan_to_num(value - table["low"][rows])
            line = {"color": colour, "dash": dash}
            shared = {
                "x": table["alpha"][rows],
                "mode": "lines+markers",
                "line": line,
                "name": escape_label(f"{group}, {scaled}"),
            }
            hover = "strength %{x}: %{y:.3g}<extra>%{fullData.name}</extra>"
            error = {"type": "data", "symmetric": False, **bars}
            figure.add_trace(
                go.Scatter(y=value, error_y=error, hovertemplate=hover, **shared), row=1, col=1
            )
            flips = go.Scatter(
                y=table["flips"][rows], showlegend=False, hovertemplate=hover, **shared
            )
            figure.add_trace(flips, row=2, col=1)
    caption = (
        "Top: the metric when the contribution of fine-tuning to every block (solid) or the"
        " whole weight change (dotted) is scaled by this strength: 0 is the base, 1 the"
        " fine-tuned model. Bottom: share of prompts whose next token differs from the"
        " fine-tuned model's."
    )
    finish(figure, "Metric at other strengths of fine-tuning", caption, height=520)
    for axis in ("xaxis", "xaxis2"):
        figure.layout.shapes += (
            go.layout.Shape(
                type="line",
                xref=axis.replace("axis", ""),
                yref="paper",
                x0=1,
                x1=1,
                y0=0,
                y1=1,
                line={"color": GREY, "width": 1, "dash": "dash"},
            ),
        )
    figure.update_yaxes(title_text=escape_label(table.column("number").meaning), row=1, col=1)
    figure.update_yaxes(
        title_text="different token", range=[-0.03, 1.05], tickformat=".0%", row=2, col=1
    )
    figure.update_xaxes(title_text="strength", row=2, col=1)
    return figure
