"""A first comparison: divergence by prompt and token, residual streams and logit lens by depth, and
weight change by tensor.
"""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.figures.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    escape_label,
    finish,
    with_opacity,
)
from interp.table import Table

LIMIT = 2000
COLOURS = (BLUE, ORANGE)


def compare_figure(table: Table) -> go.Figure:
    """One dot per prompt: divergence against number of tokens; the control in grey."""
    figure = go.Figure()
    groups = list(dict.fromkeys(table["group"].tolist()))
    columns = [("kl", "", None)] + (
        [("control_kl", ", control", GREY)] if "control_kl" in table.data else []
    )
    left_out = 0
    for group, group_colour in zip(groups, COLOURS, strict=False):
        rows = np.flatnonzero(table["group"] == group)
        left_out += max(0, len(rows) - LIMIT)
        rows = rows[:LIMIT]
        for column, suffix, colour in columns:
            figure.add_trace(
                go.Scatter(
                    x=table["tokens"][rows],
                    y=table[column][rows],
                    mode="markers",
                    name=escape_label(f"{group} prompts{suffix}"),
                    marker={
                        "color": colour or group_colour,
                        "size": 7,
                        "opacity": 0.6,
                        "symbol": "x" if suffix else "circle",
                    },
                    customdata=table["prompt_id"][rows],
                    hovertemplate=(
                        "prompt %{customdata}: %{y:.3g} nats a token<extra>%{fullData.name}</extra>"
                    ),
                )
            )
    caption = (
        "Each dot is a prompt. x: its number of tokens; y: KL divergence of the fine-tuned"
        " model's next-token distribution from the base's, averaged over its tokens."
    )
    title = "Divergence of every prompt" + (f": {left_out:,} prompts not drawn" if left_out else "")
    finish(figure, title, caption, height=400)
    figure.update_xaxes(title_text="tokens of the prompt")
    figure.update_yaxes(title_text="KL, nats a token", rangemode="tozero")
    return figure


def compare_layers_figure(table: Table) -> go.Figure:
    """Cosine and CKA, ratio of norms, and logit-lens divergence by depth; the control dotted."""
    figure = make_subplots(rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.06)
    lines = (
        ("cosine", "cosine", BLUE, 1),
        ("cka", "linear CKA", GREEN, 1),
        ("norm_ratio", "norm over the base's", PURPLE, 2),
        ("lens_kl", "logit lens, fine-tuned || base", ORANGE, 3),
    )
    for column, name, colour, row in lines:
        x = table["depth"]
        band = {
            "mode": "lines",
            "line": {"width": 0},
            "hoverinfo": "skip",
            "showlegend": False,
            "x": x,
        }
        figure.add_trace(go.Scatter(y=table[f"{column}_high"], **band), row=row, col=1)
        fill = {"fill": "tonexty", "fillcolor": with_opacity(colour, 0.2)}
        figure.add_trace(go.Scatter(y=table[f"{column}_low"], **fill, **band), row=row, col=1)
        shared = {
            "mode": "lines+markers",
            "hovertemplate": "depth %{x}: %{y:.3g}<extra>%{fullData.name}</extra>",
            "x": x,
        }
        figure.add_trace(
            go.Scatter(y=table[column], name=name, line={"color": colour}, **shared), row=row, col=1
        )
        if f"control_{column}" in table.data:
            dashed = {"color": colour, "dash": "dot"}
            figure.add_trace(
                go.Scatter(
                    y=table[f"control_{column}"], name=f"{name}, control", line=dashed, **shared
                ),
                row=row,
                col=1,
            )
    caption = (
        "By number of blocks passed. Top: similarity of directions (1 is identical). Middle:"
        " ratio of norms. Bottom: divergence of the logit-lens predictions, each model with"
        " its own final norm and unembedding. Bands are 95 % intervals over clusters of"
        " prompts; dotted lines are the control fine-tune."
    )
    finish(figure, "Residual streams of base and fine-tuned model by depth", caption, height=640)
    for row, text in enumerate(("similarity", "ratio", "KL, nats"), 1):
        figure.update_yaxes(title_text=text, row=row, col=1)
    figure.update_xaxes(title_text="blocks passed", row=3, col=1)
    return figure


def compare_weights_figure(table: Table) -> go.Figure:
    """Relative change of every matrix in the blocks as a heatmap; tensors outside the blocks are in
    the table only.
    """
    inside = table["layer"] >= 0
    parts = list(dict.fromkeys(table["part"][inside].tolist()))
    n_layers = int(table["layer"].max(initial=-1)) + 1
    values = np.full((max(n_layers, 1), max(len(parts), 1)), np.nan)
    for row in np.flatnonzero(inside):
        values[table["layer"][row], parts.index(table["part"][row])] = table["relative"][row]
    figure = go.Figure(
        go.Heatmap(
            z=values,
            x=[escape_label(part) for part in parts],
            colorscale="Blues",
            zmin=0,
            hovertemplate="block %{y}, %{x}: %{z:.3g} of its norm<extra></extra>",
        )
    )
    caption = (
        f"Norm of each tensor's change divided by its norm in the base. {int((~inside).sum())}"
        " tensors outside the blocks are listed in the table."
    )
    finish(figure, "Relative weight change by block", caption, height=200 + 26 * n_layers)
    figure.update_yaxes(title_text="block", dtick=1 if n_layers <= 24 else None)
    return figure


def compare_tokens_figure(table: Table) -> go.Figure:
    """Divergence after every token of the first prompt of each class; orange where the most likely
    next token differs.
    """
    keys = list(
        dict.fromkeys(zip(table["group"].tolist(), table["prompt_id"].tolist(), strict=True))
    )
    first_prompts = [
        next(key for key in keys if key[0] == group)
        for group in dict.fromkeys(key[0] for key in keys)
    ]
    titles = [escape_label(f"{group} prompt {number}") for group, number in first_prompts]
    figure = make_subplots(
        rows=len(first_prompts), cols=1, subplot_titles=titles, vertical_spacing=0.3
    )
    for subplot, (group, prompt_id) in enumerate(first_prompts, 1):
        rows = np.flatnonzero((table["group"] == group) & (table["prompt_id"] == prompt_id))
        token_labels = [escape_label(repr(token)[1:-1]) for token in table["token"][rows]]
        next_tokens = [
            [escape_label(repr(table[name][row])) for name in ("base_next", "tuned_next")]
            for row in rows
        ]
        figure.add_trace(
            go.Bar(
                x=table["position"][rows],
                y=table["kl"][rows],
                showlegend=False,
                marker={"color": [ORANGE if flip else BLUE for flip in table["flip"][rows]]},
                customdata=np.array(next_tokens, dtype=object),
                hovertemplate=(
                    "%{y:.3g} nats; base: %{customdata[0]}, fine-tuned:"
                    " %{customdata[1]}<extra></extra>"
                ),
            ),
            row=subplot,
            col=1,
        )
        ticks = {"tickvals": table["position"][rows], "ticktext": token_labels, "tickangle": -60}
        figure.update_xaxes(**ticks, row=subplot, col=1)
        figure.update_yaxes(title_text="KL, nats", row=subplot, col=1)
    caption = (
        "Next-token divergence after each token of the first prompt of each class (the table"
        f" has {len(keys)} prompts); orange where the fine-tuned model ranks another token"
        " first."
    )
    finish(figure, "Divergence by token", caption, height=150 + 220 * len(first_prompts))
    figure.update_layout(margin={"t": 90})
    return figure
