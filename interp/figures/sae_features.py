"""Accuracy of latents' labels by density, and shifts of concepts."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.figures.style import BLUE, GREY, ORANGE, escape_label, finish
from interp.table import Table


def sae_features_figure(table: Table) -> go.Figure:
    """One dot per scored latent, accuracy of its label against density; grey bars show both
    nulls.
    """
    figure = go.Figure()
    scored = table["scored"]
    density = table["density"][scored]
    null_high = np.fmax(table["others_high"], table["shuffled_high"])[scored]
    null_mean = np.fmax(table["others"], table["shuffled"])[scored]
    figure.add_trace(
        go.Scatter(
            x=density,
            y=null_mean,
            mode="markers",
            name="nulls: mean, and up to their 95 % quantile",
            marker={"color": GREY, "size": 4},
            error_y={
                "array": np.maximum(null_high - null_mean, 0),
                "symmetric": False,
                "color": GREY,
                "width": 0,
                "thickness": 4,
            },
            hovertemplate="nulls: %{y:.2f} on average<extra></extra>",
        )
    )
    for is_detected, colour, name in (
        (True, BLUE, "beyond both nulls"),
        (False, ORANGE, "not beyond them"),
    ):
        rows = np.flatnonzero(scored & (table["detected"] == is_detected))
        if len(rows):
            value = table["detection"][rows]
            hover_data = [
                [int(table["latent"][row]), escape_label(repr(table["label"][row])[1:-1])]
                for row in rows
            ]
            figure.add_trace(
                go.Scatter(
                    x=table["density"][rows],
                    y=value,
                    mode="markers",
                    name=name,
                    marker={"color": colour, "size": 8},
                    error_y={
                        "array": np.nan_to_num(table["detection_high"][rows] - value),
                        "arrayminus": np.nan_to_num(value - table["detection_low"][rows]),
                        "symmetric": False,
                        "color": colour,
                        "width": 0,
                        "thickness": 1,
                    },
                    customdata=np.array(hover_data, dtype=object),
                    hovertemplate=(
                        "latent %{customdata[0]}: %{y:.2f}<br>%{customdata[1]}<extra></extra>"
                    ),
                )
            )
    n_unscored = int((~scored).sum())
    caption = (
        "Each dot is a latent. x: share of tokens on which it is active. y: accuracy with"
        " which its list of tokens, made on half of the documents, predicts where it is"
        " active in the other half (0.5 is chance; bars are 95 % intervals over clusters"
        " of documents). Grey: other latents' labels or shuffled firing, whichever is"
        " higher."
    )
    title = "Labels of latents by density" + (
        f": {n_unscored} without a score are not drawn" if n_unscored else ""
    )
    finish(figure, title, caption, height=420)
    figure.update_xaxes(title_text="share of tokens", type="log")
    figure.update_yaxes(title_text="accuracy of the label", range=[0.3, 1.03])
    return figure


def concept_shift_figure(table: Table) -> go.Figure:
    """One dot per concept, distance gained against consistency of its shift; grey for the mean
    shift of all tokens.
    """
    figure = go.Figure()
    rows = np.flatnonzero(table["paired"])
    shared = {"x": table["aligned"][rows], "mode": "markers", "customdata": table["concept"][rows]}
    for column, name, marker in (
        (
            "gain_overall",
            "by the mean shift of all tokens",
            {"color": GREY, "size": 7, "symbol": "x"},
        ),
        ("gain", "by its own shift", {"color": BLUE, "size": 9}),
    ):
        hover = f"concept %{{customdata}}: %{{y:.3g}} closer<extra>{name}</extra>"
        figure.add_trace(
            go.Scatter(
                y=table[column][rows], name=name, marker=marker, hovertemplate=hover, **shared
            )
        )
    caption = (
        "Each concept is drawn twice. x: mean cosine of its tokens' shifts with their mean. y:"
        " how much closer to the tuned model's concept, on held-out documents, its own shift"
        f" (blue) and the mean shift of all tokens (grey) bring it. {int((~table['paired']).sum())}"
        f" of {len(table)} concepts have no shift or no match."
    )
    finish(figure, "Shifted concepts compared with the tuned model's", caption, height=400)
    figure.update_xaxes(title_text="cosine with the concept's shift")
    figure.update_yaxes(title_text="distance gained")
    return figure
