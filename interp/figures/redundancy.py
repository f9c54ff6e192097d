"""What each round of locating after ablation adds."""

from __future__ import annotations

import plotly.graph_objects as go

from interp.figures.style import BLUE, GREEN, GREY, ORANGE, finish
from interp.table import Table

_BARS = (
    ("returned_by_this_set", "this round's set alone", BLUE),
    ("returned_by_sets_so_far", "with all earlier sets", GREEN),
    ("random", "the first set with random sets (round 1: random sets alone)", GREY),
    ("remaining_after_previous_sets", "share of the metric's rise left to locate", ORANGE),
)


def redundancy_figure(table: Table) -> go.Figure:
    """Bars per round: recovery by its set alone, with earlier sets, with random sets, and the share
    left to locate.
    """
    figure = go.Figure()
    x = [f"round {number}" for number in table["round"].tolist()]
    for column, name, colour in _BARS:
        figure.add_trace(
            go.Bar(
                x=x,
                y=table[column],
                name=name,
                marker={"color": colour, "opacity": 0.85},
                hovertemplate="%{x}: %{y:.1%}<extra>%{fullData.name}</extra>",
            )
        )
    caption = (
        "Each round locates units while all units of earlier rounds are patched with the"
        " base's contributions. Blue, green and grey: share of prompts with the base's"
        " behaviour. If green exceeds the first blue bar, units of later rounds also carried"
        " the behaviour."
    )
    finish(figure, "Located again after ablation", caption, height=400, barmode="group")
    figure.update_yaxes(tickformat=".0%", title_text="share")
    return figure
