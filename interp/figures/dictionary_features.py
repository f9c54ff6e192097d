"""How well labels of latents predict their firing, by density; and how far concepts shift."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.figures.style import BLUE, GREY, ORANGE, finish, safe
from interp.table import Table


def dictionary_features_figure(table: Table) -> go.Figure:
    """One dot per scored latent: accuracy of its label against its density; grey bars are the range
    of both nulls.
    """
    figure = go.Figure()
    scored = table["scored"]
    density = table["density"][scored]
    reach = np.fmax(table["others_high"], table["shuffled_high"])[scored]
    mean = np.fmax(table["others"], table["shuffled"])[scored]
    figure.add_trace(
        go.Scatter(
            x=density,
            y=mean,
            mode="markers",
            name="nulls: mean, and up to their 95 % quantile",
            marker={"color": GREY, "size": 4},
            error_y={
                "array": np.maximum(reach - mean, 0),
                "symmetric": False,
                "color": GREY,
                "width": 0,
                "thickness": 4,
            },
            hovertemplate="nulls: %{y:.2f} on average<extra></extra>",
        )
    )
    for wanted, colour, name in (
        (True, BLUE, "beyond both nulls"),
        (False, ORANGE, "not beyond both"),
    ):
        rows = np.flatnonzero(scored & (table["detected"] == wanted))
        if len(rows):
            value = table["detection"][rows]
            said = [
                [int(table["latent"][row]), safe(repr(table["label"][row])[1:-1])] for row in rows
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
                    customdata=np.array(said, dtype=object),
                    hovertemplate=(
                        "latent %{customdata[0]}: %{y:.2f}<br>%{customdata[1]}<extra></extra>"
                    ),
                )
            )
    left = int((~scored).sum())
    caption = (
        "Each dot is a latent. x: the share of tokens on which it is active; y: the accuracy"
        " with which a list of tokens made on half of the documents predicts its firing in the"
        " other half (0.5 is chance; bars are 95 % intervals over clusters of documents)."
        " Grey: labels of other latents or shuffled firing, whichever is more accurate."
    )
    title = "Labels of latents by density" + (f": {left} without a score not drawn" if left else "")
    finish(figure, title, caption, height=420)
    figure.update_xaxes(title_text="share of tokens", type="log")
    figure.update_yaxes(title_text="accuracy of the label", range=[0.3, 1.03])
    return figure


def concept_shift_figure(table: Table) -> go.Figure:
    """One dot per concept: distance gained against the consistency of its shift; grey with the mean
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
        said = f"concept %{{customdata}}: %{{y:.3g}} closer<extra>{name}</extra>"
        figure.add_trace(
            go.Scatter(
                y=table[column][rows], name=name, marker=marker, hovertemplate=said, **shared
            )
        )
    caption = (
        "Each concept is drawn twice. x: the mean cosine between its tokens' shifts and their"
        " mean; y: how much closer it gets to the matching concept of the fine-tuned model, on"
        " held-out documents, with its own shift (blue) and with the mean shift of all tokens"
        f" (grey). {int((~table['paired']).sum())} of {len(table)} concepts have no shift or no"
        " match."
    )
    finish(figure, "Shifted concepts compared with the fine-tuned model's", caption, height=400)
    figure.update_xaxes(title_text="cosine with the concept's shift")
    figure.update_yaxes(title_text="distance gained")
    return figure
