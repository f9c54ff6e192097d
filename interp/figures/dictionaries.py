"""Dictionaries: reconstruction compared with baselines, and classes of latents between two models."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.figures.style import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, SERIES, faint, finish, safe
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
LIMIT = 5000
ESTIMATES = {"base_part": "base's slope over the difference", "kept": "share in the other model"}
NAMES = {"dictionary": BLUE, "pca": ORANGE, "random": GREY}


def dictionary_diff_figure(table: Table) -> go.Figure:
    """For a crosscoder both nu of every live latent; otherwise its estimate with interval, in
    order.
    """
    return _crosscoder(table) if "nu_error" in table.data else _ranked(table)


def _chosen(table: Table, drawn: np.ndarray) -> np.ndarray:
    """Rows to draw, at most ``LIMIT``: significant model-specific ones first, then an even sample
    of the rest.
    """
    rows = np.flatnonzero(drawn)
    if rows.size <= LIMIT:
        return rows
    own = np.isin(table["class"][rows], ("tuned-only", "base-only")) & table["claimed"][rows]
    first, rest = rows[own][:LIMIT], rows[~own]
    sample = rest[np.linspace(0, rest.size - 1, LIMIT - first.size).astype(int)]
    return np.sort(np.concatenate([first, sample]))


def _title(what: str, shown: int, all_of: int) -> str:
    return (
        f"{what} of {all_of:,} latents"
        if shown == all_of
        else f"{what}: {shown:,} of {all_of:,} latents shown"
    )


def _crosscoder(table: Table) -> go.Figure:
    limits = table.summary.get("thresholds", {})
    x, y = table["nu_error"], table["nu_reconstruction"]
    drawn = (table["class"] != "silent") & np.isfinite(x) & np.isfinite(y)
    rows, figure = _chosen(table, drawn), go.Figure()
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
                    "latent %{customdata[0]}, active on %{customdata[1]:.2%}<br>nu of the"
                    " error %{x:.3f}, of the reconstruction %{y:.3f}<br>fine-tuned over base"
                    " %{customdata[2]:.3g}<extra>%{fullData.name}</extra>"
                ),
            )
        )
    error, reconstruction = limits.get("error", np.nan), limits.get("reconstruction", np.nan)
    if np.isfinite(error) and np.isfinite(reconstruction):
        box = {"x0": -error, "x1": error, "y0": -reconstruction, "y1": reconstruction}
        figure.add_shape(type="rect", **box, line={"color": INK, "width": 1, "dash": "dash"})
    low, high = -0.5, 2.0
    outside = int(((x[rows] < low) | (x[rows] > high) | (y[rows] < low) | (y[rows] > high)).sum())
    caption = (
        "Each dot is a latent that is active often enough: the base's share of it divided by"
        " the fine-tuned model's, measured in the reconstruction error with its contribution"
        " added back (x) and in the reconstruction (y). At 1 both models have it equally;"
        " latents of the fine-tuned model only have their whole intervals in the dashed box."
        " Latents of the base only are measured along the base's direction, which is not"
        " drawn."
    )
    caption += f" {outside} lie outside of the drawn range." if outside else ""
    finish(figure, _title("Share in the base", rows.size, len(table)), caption, height=520)
    figure.update_xaxes(title_text="nu of the error", range=[low, high])
    figure.update_yaxes(title_text="nu of the reconstruction", range=[low, high])
    return figure


def _ranked(table: Table) -> go.Figure:
    name = next(name for name in ESTIMATES if name in table.data)
    value = table[name]
    rows = _chosen(table, (table["class"] != "silent") & np.isfinite(value))
    rows = rows[np.argsort(value[rows], kind="stable")]
    place, figure = np.arange(rows.size), go.Figure()
    for kind, colour in COLOURS.items():
        at = table["class"][rows] == kind
        part = rows[at]
        if not part.size:
            continue
        bars = {"array": np.nan_to_num(table[f"{name}_high"][part] - value[part])}
        bars["arrayminus"] = np.nan_to_num(value[part] - table[f"{name}_low"][part])
        figure.add_trace(
            go.Scatter(
                x=place[at],
                y=value[part],
                mode="markers",
                name=f"{kind} ({int((table['class'] == kind).sum()):,})",
                marker={"color": colour, "size": 5},
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "color": faint(colour, 0.4),
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
    for end in [
        centre + sign * error for centre in centres for sign in (-1, 1) if np.isfinite(error)
    ]:
        figure.add_hline(y=end, line={"color": INK, "width": 1, "dash": "dash"})
    read = {
        "base_part": (
            "the base's slope divided by the difference of the two slopes: 0 is fine-tuned"
            " model only, -1 is base only"
        ),
        "kept": (
            "the other model's slope on its activations divided by its own model's: 0 is its"
            " own model only, 1 is both equally"
        ),
    }[name]
    caption = (
        "Each dot is a latent that is active often enough, with its interval over documents:"
        f" {read}."
    )
    low, high = (-2.0, 1.5) if name == "base_part" else (-0.5, 2.0)
    outside = int(((value[rows] < low) | (value[rows] > high)).sum())
    caption += f" {outside} lie outside of the drawn range." if outside else ""
    finish(figure, _title("Latents in both models", rows.size, len(table)), caption, height=460)
    figure.update_xaxes(title_text="latents, in order", showgrid=False)
    figure.update_yaxes(title_text=safe(ESTIMATES[name]), range=[low, high])
    return figure


def dictionary_classes_figure(table: Table) -> go.Figure:
    """Share of live latents in each class, compared with the control."""
    pairs = list(dict.fromkeys(table["pair"].tolist()))
    kinds = [
        k
        for k in dict.fromkeys(table["class"].tolist())
        if k not in ("unclear", "silent", "opposed")
    ]
    figure = go.Figure()
    for pair, colour in zip(pairs, [BLUE, *[GREY] * len(pairs)], strict=False):
        row = {
            kind: np.flatnonzero((table["pair"] == pair) & (table["class"] == kind))[0]
            for kind in kinds
        }
        at = np.array([row[kind] for kind in kinds])
        live = np.maximum(table["live"][at], 1)
        figure.add_trace(
            go.Bar(
                x=kinds,
                y=table["claimed"][at] / live,
                name=safe(pair),
                marker={"color": colour},
                customdata=np.stack([table["claimed"][at], table["live"][at]], 1),
                text=[f"{count:,}" for count in table["claimed"][at]],
                hovertemplate=(
                    "%{x}: %{customdata[0]} of %{customdata[1]}<extra>%{fullData.name}</extra>"
                ),
            )
        )
    caption = (
        "Share of the latents that are active often enough in each class; the number above the"
        " bar is their count."
    )
    caption += (
        ""
        if len(pairs) > 1
        else " No control fine-tune was given, so these numbers have no reference."
    )
    finish(figure, "Classes of latents", caption, height=380)
    figure.update_yaxes(title_text="of live latents", tickformat=".0%", rangemode="tozero")
    return figure


def dictionary_scores_figure(table: Table) -> go.Figure:
    """Explained variance of the dictionary and of the baselines, by group of tokens."""
    parts, figure = list(dict.fromkeys(table["part"].tolist())), go.Figure()
    for name in dict.fromkeys(table["dictionary"].tolist()):
        rows = table["dictionary"] == name
        figure.add_trace(
            go.Bar(
                x=[safe(part) for part in table["part"][rows]],
                y=table["explained_variance"][rows],
                name=safe(name),
                marker={"color": NAMES.get(name, PURPLE)},
                customdata=np.stack([table["l0"][rows], table["tokens"][rows]], 1),
                hovertemplate=(
                    "%{x}: %{y:.3f} at an L0 of %{customdata[0]:.1f}, over %{customdata[1]:,}"
                    " tokens<extra>%{fullData.name}</extra>"
                ),
            )
        )
    caption = (
        "Explained variance on all tokens, or within a group of tokens around its own mean: of"
        " the dictionary, and of principal components and random directions with the same L0."
        " Below 0 the mean alone would be a better reconstruction."
    )
    finish(
        figure,
        f"Explained variance{' by group of tokens' if len(parts) > 1 else ''}",
        caption,
        height=380,
    )
    low = float(np.nanmin(np.append(table["explained_variance"], 0.0)))
    figure.update_yaxes(title_text="explained variance", range=[max(-1.0, 1.05 * low), 1.02])
    return figure


def dictionary_density_figure(table: Table) -> go.Figure:
    """Number of latents by firing frequency in powers of ten, with a separate bar for dead latents."""
    figure = go.Figure()
    for name in dict.fromkeys(table["dictionary"].tolist()):
        rows = np.flatnonzero(table["dictionary"] == name)
        labels = [_between(table["low"][row], table["high"][row]) for row in rows]
        figure.add_trace(
            go.Bar(
                x=labels,
                y=table["latents"][rows],
                name=safe(name),
                marker={"color": NAMES.get(name, PURPLE)},
                hovertemplate="%{x}: %{y:,} latents<extra>%{fullData.name}</extra>",
            )
        )
    caption = (
        "Number of latents by the share of tokens on which they are active, in powers of ten;"
        " dead latents on the left."
    )
    finish(figure, "Firing frequency of latents", caption, height=380)
    figure.update_xaxes(title_text="log10 of the share of tokens", type="category")
    figure.update_yaxes(title_text="latents", rangemode="tozero")
    return figure


def _between(low: float, high: float) -> str:
    if np.isneginf(high):
        return "never"
    return f"below {high:g}" if np.isneginf(low) else f"{low:g} to {high:g}"


def dictionary_recovered_figure(table: Table) -> go.Figure:
    """Share of the ablation's cost that each reconstruction recovers; no bar where the ablation
    costs nothing.
    """
    figure = go.Figure()
    said = {"ce": "loss", "kl": "divergence"}
    # only a crosscoder is evaluated in both models
    where = (
        [f", in the {role} model" for role in table["model"]]
        if "model" in table.data
        else [""] * len(table)
    )
    for name, colour in zip(dict.fromkeys(table["dictionary"].tolist()), SERIES, strict=False):
        rows = np.flatnonzero((table["dictionary"] == name) & np.isfinite(table["recovered"]))
        figure.add_trace(
            go.Bar(
                x=[
                    safe(
                        f"{said.get(table['cost'][r], table['cost'][r])}, over"
                        f" {table['ablation'][r]}{where[r]}"
                    )
                    for r in rows
                ],
                y=table["recovered"][rows],
                name=safe(name),
                marker={"color": NAMES.get(name, colour)},
                hovertemplate="%{x}: %{y:.3f}<extra>%{fullData.name}</extra>",
            )
        )
    caption = (
        "Share of the loss (or divergence) of a mean or zero ablation that is recovered when"
        " the activation is replaced by its reconstruction: 1 is the unmodified model. Zero"
        " ablation gives higher values; there is no bar where an ablation costs nothing."
    )
    finish(figure, "Loss recovered by reconstructions", caption, height=380)
    low = float(np.nanmin(np.append(table["recovered"], 0.0)))
    figure.update_yaxes(title_text="recovered", range=[max(-1.0, 1.05 * low), 1.02])
    return figure
