"""The path of a behaviour during training, as a page of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import plotly.graph_objects as go

from interp.figures.style import BLUE, ORANGE, finish


def path_figure(behaviour: str, rows: Sequence[Mapping[str, float]]) -> go.Figure:
    """Share of each class that shows the behaviour, by step."""
    figure = go.Figure()
    for name, colour in (("harmful", BLUE), ("harmless", ORANGE)):
        figure.add_trace(
            go.Scatter(
                x=[row["step"] for row in rows],
                y=[row[name] for row in rows],
                name=f"{name} prompts",
                mode="lines+markers",
                line={"color": colour},
            )
        )
    figure.update_xaxes(title_text="step")
    figure.update_yaxes(title_text="share of answers", tickformat=".0%", range=[-0.02, 1.02])
    caption = "Drawn, not judged: many checkpoints are many tests."
    return finish(figure, f"{behaviour} during training", caption, height=420)


def write_path(path: Path, behaviour: str, rows: Sequence[Mapping[str, float]]) -> Path:
    """Write the figure as HTML that needs no network."""
    path_figure(behaviour, rows).write_html(path, include_plotlyjs=True)
    return path
