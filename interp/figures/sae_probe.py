"""Which behaviour latents predict, and effects of editing them, with the nulls of both."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.figures.style import BLUE, GREY, ORANGE, SERIES, escape_label, finish
from interp.table import Table


def sae_probe_figure(table: Table) -> go.Figure:
    """Held-out AUC by number of latents and source, with intervals; a tick marks the limit of the
    null.
    """
    figure = go.Figure()
    sources, ks = list(dict.fromkeys(table["source"].tolist())), sorted(set(table["k"].tolist()))
    for number, (source, colour) in enumerate(zip(sources, SERIES * len(sources), strict=False)):
        rows = np.flatnonzero(table["source"] == source)
        # side by side, so that intervals do not overlap
        x = np.array([ks.index(k) for k in table["k"][rows]]) + 0.12 * (
            number - (len(sources) - 1) / 2
        )
        value = table["auc"][rows]
        figure.add_trace(
            go.Scatter(
                x=x,
                y=value,
                mode="markers",
                name=escape_label(source),
                marker={"color": colour, "size": 9},
                error_y={
                    "array": table["high"][rows] - value,
                    "arrayminus": value - table["low"][rows],
                },
                customdata=np.stack([table["p"][rows], table["null_mean"][rows]], 1),
                hovertemplate=(
                    "AUC %{y:.3f}, p %{customdata[0]:.3g}, permuted labels %{customdata[1]:.3f}"
                    "<extra>%{fullData.name}</extra>"
                ),
            )
        )
        figure.add_trace(
            go.Scatter(
                x=x,
                y=table["null_most"][rows],
                mode="markers",
                showlegend=False,
                name=f"{escape_label(source)}: chance",
                marker={"color": colour, "symbol": "line-ew-open", "size": 14},
                hovertemplate=(
                    "p is at most 0.05 for an AUC above %{y:.3f}<extra>%{fullData.name}</extra>"
                ),
            )
        )
    caption = (
        "AUC of a probe with this many latents on held-out prompts; bars are intervals"
        " over clusters. The flat mark is reached by permuted labels, with selection"
        " repeated, in one of twenty draws."
    )
    finish(figure, "Held-out AUC by number of latents", caption, height=420)
    figure.update_xaxes(
        tickvals=list(range(len(ks))),
        ticktext=[str(k) for k in ks],
        title_text="latents in the probe",
    )
    figure.update_yaxes(title_text="held-out AUC")
    return figure


def sae_probe_sets_figure(table: Table) -> go.Figure:
    """Effect of each random set, by set and edit."""
    figure = go.Figure()
    pairs = list(dict.fromkeys(zip(table["set"].tolist(), table["change"].tolist(), strict=True)))
    for number, (name, change) in enumerate(pairs):
        effect = table["effect"][(table["set"] == name) & (table["change"] == change)]
        jitter = 0.6 * ((np.arange(effect.size) * 0.6180339887) % 1 - 0.5)
        figure.add_trace(
            go.Scatter(
                x=effect,
                y=len(pairs) - 1 - number + jitter,
                mode="markers",
                name=escape_label(f"{name}, {change}"),
                showlegend=False,
                marker={"color": GREY, "size": 6, "opacity": 0.6},
                hovertemplate="%{x:.3g}<extra>random set for %{fullData.name}</extra>",
            )
        )
    caption = (
        "Each dot is a random set of other latents with similar firing rates, edited in"
        " the same way. x: decrease of the metric under ablation, or increase under"
        " steering."
    )
    finish(
        figure,
        f"Effects of {len(table):,} matched random sets",
        caption,
        height=150 + 70 * len(pairs),
    )
    names = [escape_label(f"{name}, {change}") for name, change in pairs[::-1]]
    figure.update_yaxes(
        tickvals=list(range(len(pairs))), ticktext=names, showgrid=False, zeroline=False
    )
    figure.update_xaxes(title_text="decrease or increase of the metric")
    return figure


def sae_probe_effects_figure(table: Table) -> go.Figure:
    """Effect of each set, the mean of its random sets, and the significance threshold."""
    names = [
        escape_label(f"{name}, {change}")
        for name, change in zip(table["set"], table["change"], strict=True)
    ]
    figure = go.Figure()
    for column, label, colour, symbol in (
        ("effect", "these latents", BLUE, "circle"),
        ("null_mean", "random sets, mean", GREY, "circle-open"),
        ("null_most", "threshold for p of 0.05", ORANGE, "line-ns-open"),
    ):
        # with fewer than 19 random sets there is no threshold
        value = np.where(np.isfinite(table[column]), table[column], np.nan)
        figure.add_trace(
            go.Scatter(
                x=value,
                y=names,
                mode="markers",
                name=label,
                marker={"color": colour, "symbol": symbol, "size": 13},
                hovertemplate="%{x:.3g}<extra>%{fullData.name}</extra>",
            )
        )
    caption = (
        "x: decrease of the metric when latents are ablated on positive prompts, or"
        " increase when they are steered on negative ones; the dictionary's error is kept."
    )
    finish(figure, "Effects of editing latents", caption, height=180 + 60 * len(names))
    figure.update_xaxes(title_text="decrease or increase of the metric")
    figure.update_yaxes(autorange="reversed")
    return figure
