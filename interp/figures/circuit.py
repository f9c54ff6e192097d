"""Circuits: scores of heads by group in both models, and faithfulness next to random circuits."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.figures.style import BLUE, GREY, ORANGE, finish
from interp.table import Table

ROLES = (("base", "base"), ("tuned", "fine-tuned model"))


def circuit_figure(table: Table) -> go.Figure:
    """A map of scores (block by head) per group and model; heads of the circuit are marked."""
    groups = list(dict.fromkeys(table["group"].tolist()))
    n_layers, n_heads = int(table["layer"].max()) + 1, int(table["head"].max()) + 1
    positions = {group: table["position"][table["group"] == group][0] for group in groups}
    figure = make_subplots(
        len(ROLES),
        len(groups),
        subplot_titles=[
            f"{group} ({positions[group]}), {label}" for _, label in ROLES for group in groups
        ],
        vertical_spacing=0.15,
    )
    scores = np.concatenate([table[f"score_{role}"] for role, _ in ROLES])
    largest = float(np.nanmax(np.abs(scores))) if np.isfinite(scores).any() else 1.0
    for row, (role, _) in enumerate(ROLES, 1):
        for column, group in enumerate(groups, 1):
            own = table["group"] == group
            grid = np.full((n_layers, n_heads), np.nan)
            grid[table["layer"][own], table["head"][own]] = table[f"score_{role}"][own]
            figure.add_trace(
                go.Heatmap(
                    z=grid,
                    zmid=0,
                    zmin=-largest,
                    zmax=largest,
                    colorscale="RdBu",
                    showscale=row == 1 and column == len(groups),
                    hovertemplate="block %{y}, head %{x}: %{z:.3f}<extra></extra>",
                ),
                row,
                column,
            )
            chosen = own & table[f"in_{role}"]
            figure.add_trace(
                go.Scatter(
                    x=table["head"][chosen],
                    y=table["layer"][chosen],
                    mode="markers",
                    marker={"symbol": "circle-open", "size": 10, "color": "black"},
                    hoverinfo="skip",
                    showlegend=False,
                ),
                row,
                column,
            )
    caption = (
        "Mean change of the right answer when one head's output, on the path of its group alone, is"
        " that of the corrupted prompt. x: head, y: block. Circles: heads of the circuit."
    )
    finish(figure, "Heads by path patching", caption, height=560)
    return figure


def faithfulness_figure(table: Table) -> go.Figure:
    """Faithfulness of either circuit in either model, with the mean and the largest of random
    circuits of its sizes.
    """
    names = [
        f"{circuit}'s circuit in the {model}".replace("tuned", "fine-tuned")
        for model, circuit in zip(table["model"], table["circuit"], strict=True)
    ]
    value = table["faithfulness"]
    figure = go.Figure(
        go.Scatter(
            x=value,
            y=names,
            mode="markers",
            name="circuit",
            marker={"color": BLUE, "size": 10},
            error_x={
                "symmetric": False,
                "array": table["faithfulness_high"] - value,
                "arrayminus": value - table["faithfulness_low"],
            },
        )
    )
    for column, label, colour in (
        ("random_mean", "random circuits, mean", GREY),
        ("random_max", "random circuits, largest", ORANGE),
    ):
        figure.add_trace(
            go.Scatter(
                x=table[column], y=names, mode="markers", name=label, marker={"color": colour}
            )
        )
    caption = (
        "Accuracy with the circuit's heads alone (all other head outputs at their means) over the"
        " accuracy of the whole model, on held-out prompts; 95 % intervals over clusters."
    )
    finish(figure, "Faithfulness of circuits", caption, height=360)
    figure.update_xaxes(title_text="faithfulness", tickformat=".0%")
    return figure
