"""What each round of locating after ablation adds."""

from __future__ import annotations

import plotly.graph_objects as go

from interp.figures.style import BLUE, GREEN, GREY, ORANGE, finish
from interp.table import Table

_BARS = (
    ("returned_by_this_set", "this round's set alone", BLUE),
    ("returned_by_sets_so_far", "with all before it", GREEN),
    ("random", "the first set with random ones (round 1: random ones)", GREY),
    ("remaining_after_previous_sets", "part of the rise that remains to locate", ORANGE),
)


def redundancy_figure(table: Table) -> go.Figure:
    """Bars per round: what its set returns alone, with those before, with random ones, and what was
    left to locate.
    """
    figure = go.Figure()
    x = [f"round {turn}" for turn in table["round"].tolist()]
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
        "Each round locates with everything found before at its base contributions. Blue, green and"
        " grey: share of prompts given the base's behaviour. Where green rises above the first"
        " blue, others carried the rest."
    )
    finish(figure, "Located again after ablation", caption, height=400, barmode="group")
    figure.update_yaxes(tickformat=".0%", title_text="share")
    return figure
