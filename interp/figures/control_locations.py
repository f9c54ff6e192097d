"""Units that a method locates in control fine-tunes, compared with the located set."""

from __future__ import annotations

import plotly.graph_objects as go

from interp.figures.style import BLUE, GREY, escape_label, finish
from interp.table import Table

_BARS = (
    ("total_score", "its own set", GREY),
    ("score_of_set", "the located set, scored in the control", BLUE),
)


def control_locations_figure(table: Table) -> go.Figure:
    """Bars per control: the total score of its own set, and of the located set in it."""
    figure = go.Figure()
    x = [f"control {number}" for number in table["control"].tolist()]
    for column, name, colour in _BARS:
        figure.add_trace(
            go.Bar(
                x=x,
                y=table[column],
                name=name,
                marker={"color": colour, "opacity": 0.85},
                customdata=[escape_label(model) for model in table["model"].tolist()],
                hovertemplate="%{customdata}: %{y:.3g}<extra>%{fullData.name}</extra>",
            )
        )
    caption = (
        "The same method applied to each control fine-tune and its base, with the same"
        " prompts: the sum of the scores of the units selected there, and of the units located"
        " in the fine-tuned model."
    )
    finish(figure, "Scores in control fine-tunes", caption, height=380, barmode="group")
    figure.update_yaxes(title_text="sum of scores")
    return figure
