"""Scores of judged and of ordinary texts, and the threshold."""

from __future__ import annotations

import plotly.graph_objects as go

from interp.figures.style import GREY, INK, ORANGE, finish
from interp.table import Table


def monitor_figure(table: Table) -> go.Figure:
    """Histograms of the joint score of judged and of calibrating texts, with the threshold."""
    figure = go.Figure()
    parts = (
        ("ordinary texts", table.tables["calibration"]["score"], GREY),
        ("judged texts", table["score"], ORANGE),
    )
    for name, scores, colour in parts:
        figure.add_trace(
            go.Histogram(
                x=scores,
                name=name,
                histnorm="probability",
                nbinsx=40,
                marker={"color": colour, "opacity": 0.6},
                hovertemplate="%{x}: %{y:.1%}<extra>%{fullData.name}</extra>",
            )
        )
    if len(table):
        figure.add_vline(x=float(table["threshold"][0]), line={"color": INK, "dash": "dot"})
    caption = (
        "Score: the largest excursion of a cosine with an update direction, in standard deviations"
        " of ordinary texts. Texts beyond the dotted line are flagged."
    )
    finish(figure, "Texts that excite update directions", caption, height=360, barmode="overlay")
    figure.update_xaxes(title_text="joint score")
    figure.update_yaxes(title_text="share of texts", tickformat=".0%")
    return figure
