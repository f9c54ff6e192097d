"""Intruder dimensions by layer and kind of matrix, and the cosines of singular vectors as an image."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.figures.style import BLUE, GREY, ORANGE, escape_label, finish
from interp.table import Table


def intruders_figure(table: Table) -> go.Figure:
    """Largest cosine of every leading singular vector, by layer; intruders are coloured."""
    parts = list(dict.fromkeys(table["part"]))
    part_index = np.array([parts.index(part) for part in table["part"]])
    width = 0.7 / max(len(parts), 1)
    x = table["layer"] + (part_index - (len(parts) - 1) / 2) * width
    x = x + (table["rank"] / (table["rank"].max() + 1) - 0.5) * width * 0.8
    figure = go.Figure()
    by_subspace, by_vector_only = (
        table["subspace_intruder"],
        table["is_intruder"] & ~table["subspace_intruder"],
    )
    groups = (
        (f"not an intruder ({int((~table['is_intruder']).sum()):,})", ~table["is_intruder"], GREY),
        (f"intruder by single vectors only ({int(by_vector_only.sum()):,})", by_vector_only, BLUE),
        (f"intruder, also by subspace ({int(by_subspace.sum()):,})", by_subspace, ORANGE),
    )
    for name, mask, colour in groups:
        rows = np.flatnonzero(mask)
        if len(rows):
            labels = [
                f"layer {table['layer'][row]}, {escape_label(table['part'][row])}, vector"
                f" {table['rank'][row]}"
                for row in rows
            ]
            figure.add_trace(
                go.Scatter(
                    x=x[rows],
                    y=table["max_cosine"][rows],
                    mode="markers",
                    name=name,
                    marker={"color": colour, "size": 4 if colour == GREY else 8, "opacity": 0.75},
                    text=labels,
                    customdata=np.stack([table["sigma"][rows], table["p"][rows]], 1),
                    hovertemplate=(
                        "%{text}<br>cosine %{y:.3f}, singular value %{customdata[0]:.3g}, "
                        "p %{customdata[1]:.2g}<extra></extra>"
                    ),
                )
            )
    caption = (
        "Each dot is one leading singular vector of the fine-tuned matrix and its cosine with"
        " the most similar one of the base. Within a layer, from left to right:"
        f" {', '.join(parts)}. The claim and the column p compare them with random updates of"
        " equal singular values."
    )
    finish(
        figure,
        f"Leading singular vectors of {len(set(zip(x.round(), part_index, strict=True))):,}"
        " matrices, compared with the base's",
        caption,
        height=440,
    )
    figure.update_xaxes(title_text="layer", dtick=max(1, round((table["layer"].max() + 1) / 16)))
    figure.update_yaxes(title_text="largest |cosine| with any base vector", range=[-0.02, 1.04])
    return figure


def intruders_image_figure(table: Table) -> go.Figure:
    """Cosines of one matrix's leading singular vectors with the base's, as in the paper."""
    rows, columns = int(table["rank"].max()), int(table["base_rank"].max())
    cosines = np.zeros((rows, columns))
    cosines[table["rank"] - 1, table["base_rank"] - 1] = table["cosine"]
    figure = go.Figure(
        go.Heatmap(
            z=cosines,
            x=np.arange(1, columns + 1),
            y=np.arange(1, rows + 1),
            zmin=0,
            zmax=1,
            colorscale=[[0, "#ffffff"], [1, BLUE]],
            colorbar={"title": {"text": "|cosine|"}},
            hovertemplate="fine-tuned vector %{y}, base vector %{x}: %{z:.3f}<extra></extra>",
        )
    )
    name = f"layer {table['layer'][0]}, {table['part'][0]}"
    caption = (
        "The matrix with the most intruders. Rows: singular vectors of the fine-tuned matrix;"
        " columns: the base's; both in order of decreasing singular value. A row without a"
        f" dark cell is a vector that is not similar to any of the base's first {columns}."
    )
    finish(figure, f"Cosines of singular vectors, {name}", caption, height=180 + 24 * rows)
    figure.update_xaxes(title_text="singular vector of the base", showgrid=False)
    figure.update_yaxes(
        title_text="of the fine-tuned matrix", autorange="reversed", showgrid=False, dtick=1
    )
    return figure
