"""What changed in a dictionary's latents between two models: figures of ``interp sae diff``."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.figures.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    escape_label,
    finish,
    with_opacity,
)
from interp.table import Table

COLOURS = {
    "tuned-only": BLUE,
    "base-only": ORANGE,
    "rotated": PURPLE,
    "rescaled": GREEN,
    "shared": "#5f6b7a",
    "opposed": "#c2607a",
    "unclear": "#c3c9d4",
    "silent": "#e3e6ec",
}
MAX_DRAWN = 5000
ESTIMATES = {
    "base_part": "base's slope / difference of slopes",
    "kept": "other model's slope / own slope",
}


def sae_diff_figure(table: Table) -> go.Figure:
    """For a crosscoder both nu of each live latent; otherwise the estimate with its interval,
    sorted.
    """
    return _crosscoder_figure(table) if "nu_error" in table.data else _ranked_figure(table)


def _rows_to_draw(table: Table, is_drawn: np.ndarray) -> np.ndarray:
    """Rows to draw, at most ``MAX_DRAWN``: latents claimed for one model first, then an even
    sample.
    """
    rows = np.flatnonzero(is_drawn)
    if rows.size <= MAX_DRAWN:
        return rows
    is_one_sided = (
        np.isin(table["class"][rows], ("tuned-only", "base-only")) & table["claimed"][rows]
    )
    first, others = rows[is_one_sided][:MAX_DRAWN], rows[~is_one_sided]
    sample = others[np.linspace(0, others.size - 1, MAX_DRAWN - first.size).astype(int)]
    return np.sort(np.concatenate([first, sample]))


def _title(subject: str, n_drawn: int, n_latents: int) -> str:
    return (
        f"{subject} of {n_latents:,} latents"
        if n_drawn == n_latents
        else f"{subject}: {n_drawn:,} of {n_latents:,} latents shown"
    )


def _crosscoder_figure(table: Table) -> go.Figure:
    thresholds = table.summary.get("thresholds", {})
    x, y = table["nu_error"], table["nu_reconstruction"]
    is_drawn = (table["class"] != "silent") & np.isfinite(x) & np.isfinite(y)
    rows, figure = _rows_to_draw(table, is_drawn), go.Figure()
    for kind, colour in COLOURS.items():
        part = rows[table["class"][rows] == kind]
        if not part.size:
            continue
        figure.add_trace(
            go.Scatter(
                x=x[part],
                y=y[part],
                mode="markers",
                name=f"{kind} ({int((table['class'] == kind).sum()):,})",
                marker={
                    "color": colour,
                    "size": 6 if kind in ("shared", "unclear") else 9,
                    "line": {"width": 0},
                },
                customdata=np.stack(
                    [table["latent"][part], table["rate"][part], table["ratio"][part]], 1
                ),
                hovertemplate=(
                    "latent %{customdata[0]}, active on %{customdata[1]:.2%}<br>nu of the error"
                    " %{x:.3f}, of the reconstruction %{y:.3f}<br>tuned / base"
                    " %{customdata[2]:.3g}<extra>%{fullData.name}</extra>"
                ),
            )
        )
    error, reconstruction = (
        thresholds.get("error", np.nan),
        thresholds.get("reconstruction", np.nan),
    )
    if np.isfinite(error) and np.isfinite(reconstruction):
        box = {"x0": -error, "x1": error, "y0": -reconstruction, "y1": reconstruction}
        figure.add_shape(type="rect", **box, line={"color": INK, "width": 1, "dash": "dash"})
    low, high = -0.5, 2.0
    outside = int(((x[rows] < low) | (x[rows] > high) | (y[rows] < low) | (y[rows] > high)).sum())
    caption = (
        "Each dot is a latent that is active often enough: the base's part divided by the"
        " tuned model's, in the error plus its contribution (x) and in the reconstruction"
        " (y). At 1 both models have as much of it; tuned-only latents lie in the dashed"
        " box with their entire intervals. Base-only latents are decided along the base's"
        " direction, which is not drawn."
    )
    caption += f" {outside} are outside the plotted range." if outside else ""
    finish(figure, _title("Presence in the base", rows.size, len(table)), caption, height=520)
    figure.update_xaxes(title_text="nu of the error", range=[low, high])
    figure.update_yaxes(title_text="nu of the reconstruction", range=[low, high])
    return figure


def _ranked_figure(table: Table) -> go.Figure:
    name = next(name for name in ESTIMATES if name in table.data)
    value = table[name]
    rows = _rows_to_draw(table, (table["class"] != "silent") & np.isfinite(value))
    rows = rows[np.argsort(value[rows], kind="stable")]
    rank, figure = np.arange(rows.size), go.Figure()
    for kind, colour in COLOURS.items():
        in_class = table["class"][rows] == kind
        part = rows[in_class]
        if not part.size:
            continue
        bars = {"array": np.nan_to_num(table[f"{name}_high"][part] - value[part])}
        bars["arrayminus"] = np.nan_to_num(value[part] - table[f"{name}_low"][part])
        figure.add_trace(
            go.Scatter(
                x=rank[in_class],
                y=value[part],
                mode="markers",
                name=f"{kind} ({int((table['class'] == kind).sum()):,})",
                marker={"color": colour, "size": 5},
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "color": with_opacity(colour, 0.4),
                    "width": 0,
                    **bars,
                },
                customdata=np.stack([table["latent"][part], table["rate"][part]], 1),
                hovertemplate=(
                    "latent %{customdata[0]}, active on %{customdata[1]:.2%}<br>%{y:.3f}"
                    "<extra>%{fullData.name}</extra>"
                ),
            )
        )
    error = table.summary.get("thresholds", {}).get("error", np.nan)
    centres = (0.0, -1.0) if name == "base_part" else (0.0,)
    for boundary in [
        centre + sign * error for centre in centres for sign in (-1, 1) if np.isfinite(error)
    ]:
        figure.add_hline(y=boundary, line={"color": INK, "width": 1, "dash": "dash"})
    explanation = {
        "base_part": (
            "the base's slope on it divided by the difference of the models' slopes: 0 is tuned"
            " only, -1 is base only"
        ),
        "kept": (
            "the slope of the other model's activations on its codes divided by its own model's:"
            " 0 is its own model only, 1 is equal in both"
        ),
    }[name]
    caption = (
        "Each dot is a latent that is active often enough, with its interval over documents:"
        f" {explanation}."
    )
    low, high = (-2.0, 1.5) if name == "base_part" else (-0.5, 2.0)
    outside = int(((value[rows] < low) | (value[rows] > high)).sum())
    caption += f" {outside} are outside the plotted range." if outside else ""
    finish(figure, _title("Presence in both models", rows.size, len(table)), caption, height=460)
    figure.update_xaxes(title_text="latents, sorted", showgrid=False)
    figure.update_yaxes(title_text=escape_label(ESTIMATES[name]), range=[low, high])
    return figure


def sae_diff_classes_figure(table: Table) -> go.Figure:
    """Share of live latents claimed to be of each class, compared with the controls."""
    pairs = list(dict.fromkeys(table["pair"].tolist()))
    kinds = [
        k
        for k in dict.fromkeys(table["class"].tolist())
        if k not in ("unclear", "silent", "opposed")
    ]
    figure = go.Figure()
    for pair, colour in zip(pairs, [BLUE, *[GREY] * len(pairs)], strict=False):
        row_of_class = {
            kind: np.flatnonzero((table["pair"] == pair) & (table["class"] == kind))[0]
            for kind in kinds
        }
        rows = np.array([row_of_class[kind] for kind in kinds])
        live = np.maximum(table["live"][rows], 1)
        figure.add_trace(
            go.Bar(
                x=kinds,
                y=table["claimed"][rows] / live,
                name=escape_label(pair),
                marker={"color": colour},
                customdata=np.stack([table["claimed"][rows], table["live"][rows]], 1),
                text=[f"{count:,}" for count in table["claimed"][rows]],
                hovertemplate=(
                    "%{x}: %{customdata[0]} of %{customdata[1]}<extra>%{fullData.name}</extra>"
                ),
            )
        )
    caption = (
        "Share of the latents that are active often enough claimed to be of each class;"
        " numbers above bars are counts."
    )
    caption += "" if len(pairs) > 1 else " There is no control to compare with."
    finish(figure, "Classes of latents", caption, height=380)
    figure.update_yaxes(title_text="share of live latents", tickformat=".0%", rangemode="tozero")
    return figure
