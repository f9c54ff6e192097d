"""Effect of each intervention on the behaviour, compared with random sets."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.figures.style import BLUE, GREY, INK, ORANGE, finish, safe
from interp.table import Table

SAID = {"refused": "share of answers that refuse", "correct": "share of answers that are right"}
EQUALITIES = {"matches_base": "the base's", "matches_tuned": "the fine-tuned model's"}


def conditions_figure(table: Table) -> go.Figure:
    """Share of answers that exhibit the behaviour, with its interval, by condition and class of
    prompts.

    Diamonds give the mean and range of the same share under matched random sets, where they were
    drawn. The hover text counts answers that match one of the models token for token.
    """
    order = list(dict.fromkeys(table["condition"].tolist()))
    names = [column.name for column in table.columns]
    # the column of a behaviour is named by the user; its interval is in the columns after it
    shown = table.columns[names.index("low") - 1]
    figure, marks = go.Figure(), []
    groups = list(dict.fromkeys(table["group"].tolist()))
    width = 0.8 / len(groups)
    for number, (group, colour) in enumerate(
        zip(groups, (BLUE, ORANGE) * len(groups), strict=False)
    ):
        rows = np.flatnonzero(table["group"] == group)
        if np.isnan(table[shown.name][rows]).all():
            continue
        x = np.array([order.index(name) for name in table["condition"][rows]], dtype=np.float64)
        x += width * (number - (len(groups) - 1) / 2)
        figure.add_trace(_bars(table, rows, x, shown.name, f"{group} prompts", colour, width))
        drawn = (
            ~np.isnan(table["control"][rows])
            if "control" in table.data
            else np.zeros(len(rows), bool)
        )
        if drawn.any():
            marks.append(_marks(table, rows[drawn], x[drawn] + width / 4, show=not marks))
    figure.add_traces(marks)
    sampled = table.kind == "sampled"
    what = shown.meaning if sampled else SAID.get(shown.name, shown.meaning)
    interval = "its 95 %" if "95 %" in table.column("low").meaning else "its"
    caption = f"The {what}, by condition, with {interval} interval."
    if marks:
        caption += (
            " Diamonds: mean and range of matched random sets under the same intervention, on"
            " the control prompts."
        )
    if any(name in table.data for name in EQUALITIES):
        caption += " The hover text counts answers that match one model's token for token."
    caption += _agreement(table, groups[0])
    many = (table.summary.get("labels") or {}).get(
        "many", "sampled answers" if sampled else "answers"
    )
    title = f"{many[:1].upper()}{many[1:]} by condition"
    finish(figure, title, caption, height=400, barmode="overlay")
    ticks = {"tickvals": list(range(len(order))), "ticktext": [safe(name) for name in order]}
    figure.update_xaxes(**ticks, showgrid=False, range=[-0.5, len(order) - 0.5])
    figure.update_yaxes(range=[-0.03, 1.05], tickformat=".0%", title_text=safe(shown.meaning))
    return figure


def _agreement(table: Table, group: str) -> str:
    """How often the written answers agree with the log-odds at their beginning, as a sentence;
    empty where it was not measured.
    """
    if "agreement" not in table.data:
        return ""
    mine = table["group"] == group
    shares = zip(table["condition"][mine], table["agreement"][mine], strict=True)
    said = [f"{name} {share:.1%}" for name, share in shares if not np.isnan(share)]
    if not said:
        return ""
    return (
        f" Share of {group} prompts where the answer exhibits the behaviour exactly when the"
        f" log-odds at its beginning are above 0: {', '.join(said)}."
    )


def _bars(
    table: Table, rows: np.ndarray, x: np.ndarray, column: str, name: str, colour: str, width: float
) -> go.Bar:
    value, low, high = (table[name][rows] for name in (column, "low", "high"))
    ends = {"array": np.nan_to_num(high - value), "arrayminus": np.nan_to_num(value - low)}
    return go.Bar(
        x=x,
        y=value,
        width=0.92 * width,
        name=safe(name),
        marker={"color": colour, "opacity": 0.85},
        error_y={
            "type": "data",
            "symmetric": False,
            "color": GREY,
            "thickness": 1.5,
            "width": 4,
            **ends,
        },
        customdata=np.array([_hover(table, row) for row in rows.tolist()], dtype=object),
        hovertemplate="%{customdata}<extra>%{fullData.name}</extra>",
    )


def _hover(table: Table, row: int) -> str:
    names = [column.name for column in table.columns]
    share, low, high = (table[name][row] for name in (names[names.index("low") - 1], "low", "high"))
    lines = [
        f"{safe(table['condition'][row])}: {share:.1%} [{low:.1%}, {high:.1%}] of {table['n'][row]}"
    ]
    lines += [
        f"{table[name][row]:.1%} {model}, token for token"
        for name, model in EQUALITIES.items()
        if name in names
    ]
    return "<br>".join(lines)


def _marks(table: Table, rows: np.ndarray, x: np.ndarray, show: bool) -> go.Scatter:
    control, low, high = (table[name][rows] for name in ("control", "control_low", "control_high"))
    bars = {"array": np.nan_to_num(high - control), "arrayminus": np.nan_to_num(control - low)}
    return go.Scatter(
        x=x,
        y=control,
        mode="markers",
        name="random sets",
        showlegend=show,
        marker={
            "symbol": "diamond",
            "size": 9,
            "color": "#ffffff",
            "line": {"color": INK, "width": 1.5},
        },
        error_y={
            "type": "data",
            "symmetric": False,
            "color": GREY,
            "thickness": 1.5,
            "width": 4,
            **bars,
        },
        hovertemplate="random sets: %{y:.1%}<extra></extra>",
    )
