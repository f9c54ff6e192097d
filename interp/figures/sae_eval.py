"""How well a dictionary reconstructs, compared with baselines: figures of ``interp sae eval``."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.figures.style import BLUE, GREY, ORANGE, PURPLE, SERIES, escape_label, finish
from interp.table import Table

COLOUR_OF = {"dictionary": BLUE, "pca": ORANGE, "random": GREY}


def sae_eval_figure(table: Table) -> go.Figure:
    """Explained variance of the dictionary and of the baselines, by part of the tokens."""
    parts, figure = list(dict.fromkeys(table["part"].tolist())), go.Figure()
    for name in dict.fromkeys(table["dictionary"].tolist()):
        rows = table["dictionary"] == name
        figure.add_trace(
            go.Bar(
                x=[escape_label(part) for part in table["part"][rows]],
                y=table["explained_variance"][rows],
                name=escape_label(name),
                marker={"color": COLOUR_OF.get(name, PURPLE)},
                customdata=np.stack([table["l0"][rows], table["tokens"][rows]], 1),
                hovertemplate=(
                    "%{x}: %{y:.3f} with %{customdata[0]:.1f} codes a token, of %{customdata[1]:,}"
                    " tokens<extra>%{fullData.name}</extra>"
                ),
            )
        )
    caption = (
        "Explained share of the variance, over all tokens or over a part around its own"
        " mean: by the dictionary, and by principal components and random rows with as"
        " many codes. Below 0 the mean alone is better."
    )
    finish(figure, f"Explained variance{' by part' if len(parts) > 1 else ''}", caption, height=380)
    low = float(np.nanmin(np.append(table["explained_variance"], 0.0)))
    figure.update_yaxes(title_text="explained variance", range=[max(-1.0, 1.05 * low), 1.02])
    return figure


def sae_eval_density_figure(table: Table) -> go.Figure:
    """Histogram of firing rates by powers of ten; latents that never fire have their own bar."""
    figure = go.Figure()
    for name in dict.fromkeys(table["dictionary"].tolist()):
        rows = np.flatnonzero(table["dictionary"] == name)
        labels = [_bin_label(table["low"][row], table["high"][row]) for row in rows]
        figure.add_trace(
            go.Bar(
                x=labels,
                y=table["latents"][rows],
                name=escape_label(name),
                marker={"color": COLOUR_OF.get(name, PURPLE)},
                hovertemplate="%{x}: %{y:,} latents<extra>%{fullData.name}</extra>",
            )
        )
    caption = (
        "Number of latents by the share of tokens on which they are active, in powers of"
        " ten; those never active on the left."
    )
    finish(figure, "Firing rates of latents", caption, height=380)
    figure.update_xaxes(title_text="log10 of the share of tokens", type="category")
    figure.update_yaxes(title_text="latents", rangemode="tozero")
    return figure


def _bin_label(low: float, high: float) -> str:
    if np.isneginf(high):
        return "never"
    return f"below {high:g}" if np.isneginf(low) else f"{low:g} to {high:g}"


def sae_eval_recovered_figure(table: Table) -> go.Figure:
    """Share of an ablation's cost that each reconstruction recovers; ablations without cost have no
    bar.
    """
    figure = go.Figure()
    cost_names = {"ce": "loss", "kl": "divergence"}
    # only a crosscoder's output is spliced into both models
    model_labels = (
        [f", in the {role} model" for role in table["model"]]
        if "model" in table.data
        else [""] * len(table)
    )
    for name, colour in zip(dict.fromkeys(table["dictionary"].tolist()), SERIES, strict=False):
        rows = np.flatnonzero((table["dictionary"] == name) & np.isfinite(table["recovered"]))
        figure.add_trace(
            go.Bar(
                x=[
                    escape_label(
                        f"{cost_names.get(table['cost'][r], table['cost'][r])}, over"
                        f" {table['ablation'][r]}{model_labels[r]}"
                    )
                    for r in rows
                ],
                y=table["recovered"][rows],
                name=escape_label(name),
                marker={"color": COLOUR_OF.get(name, colour)},
                hovertemplate="%{x}: %{y:.3f}<extra>%{fullData.name}</extra>",
            )
        )
    caption = (
        "Share of the cost of mean (or zero) ablation that is recovered if the"
        " reconstruction replaces the site's activation: 1 equals the unedited model. Zero"
        " ablation gives higher shares; an ablation without cost has no bar."
    )
    finish(figure, "Recovered share of an ablation's cost", caption, height=380)
    low = float(np.nanmin(np.append(table["recovered"], 0.0)))
    figure.update_yaxes(title_text="recovered", range=[max(-1.0, 1.05 * low), 1.02])
    return figure
