"""Agreement of sets located on different prompts, compared with chance."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.figures.style import BLUE, GREY, ORANGE, escape_label, finish
from interp.table import Table


def stability_figure(table: Table) -> go.Figure:
    """One dot per comparison at its Jaccard index; the grey bar is the 97.5 % quantile of random
    sets.
    """
    figure = go.Figure()
    y = np.arange(len(table))[::-1]
    names = [
        f"{first} · {second}" for first, second in zip(table["first"], table["second"], strict=True)
    ]
    figure.add_trace(
        go.Bar(
            x=table["chance_high"],
            y=y,
            orientation="h",
            name="random sets, up to their 97.5 % quantile",
            marker={"color": GREY, "opacity": 0.5},
            hovertemplate="random sets: 97.5 % quantile %{x:.2f}<extra></extra>",
        )
    )
    for basis, colour in (("halves", BLUE), ("templates", ORANGE)):
        rows = table["basis"] == basis
        if rows.any():
            figure.add_trace(
                go.Scatter(
                    x=table["jaccard"][rows],
                    y=y[rows],
                    mode="markers",
                    name=escape_label(basis),
                    marker={"color": colour, "size": 10},
                    customdata=np.stack(
                        [table["n_first"][rows], table["n_second"][rows], table["spearman"][rows]],
                        1,
                    ),
                    hovertemplate=(
                        "Jaccard %{x:.2f} of %{customdata[0]} and %{customdata[1]} units<br>rank"
                        " correlation of all scores"
                        " %{customdata[2]:.2f}<extra>%{fullData.name}</extra>"
                    ),
                )
            )
    caption = (
        "Each row compares two sets located on different prompts: disjoint halves, or one"
        " template each. 1 is the same set, 0 means no unit in common; grey is the 97.5 %"
        " quantile of random sets in the same layers."
    )
    finish(
        figure,
        "Agreement of sets located on different prompts",
        caption,
        height=130 + 26 * len(table),
    )
    figure.update_yaxes(tickvals=y, ticktext=[escape_label(name) for name in names], showgrid=False)
    figure.update_xaxes(range=[-0.02, 1.02], title_text="Jaccard index")
    return figure
