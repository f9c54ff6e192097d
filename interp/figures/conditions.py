"""What each intervention does to the answers, beside what random sets do."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.figures.style import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, finish, safe
from interp.table import Table

# Which equality an intervention aims at, and so beside which bar the effect of the random sets belongs.
AIMS = {"ablate-base": "equal_base", "patch-tuned": "equal_tuned"}
SAID = {"refused": "share of answers that refuse", "correct": "share of answers that are right"}
EQUALITIES = {"equal_base": ("equal to the base's", GREEN), "equal_tuned": ("equal to the tuned model's", PURPLE)}


def conditions_figure(table: Table) -> go.Figure:
    """Above, the share that show the behaviour per condition and group, with intervals; below, whose answers they are.

    The lower panel is of positive prompts, with the mean and range of matched random sets where they were drawn.
    """
    order = list(dict.fromkeys(table["condition"].tolist()))
    names = [column.name for column in table.columns]
    # a behaviour has the name its user gave it: it is the column whose interval follows
    shown = table.columns[names.index("low") - 1]
    equal = [name for name in EQUALITIES if name in table.data and np.nanmax(table[name]) > 0]
    figure = make_subplots(rows=2 if equal else 1, cols=1, shared_xaxes=True, vertical_spacing=0.09)
    groups = list(dict.fromkeys(table["group"].tolist()))
    for number, (group, colour) in enumerate(zip(groups, (BLUE, ORANGE) * len(groups), strict=False)):
        rows = np.flatnonzero(table["group"] == group)
        if np.isnan(table[shown.name][rows]).all():
            continue
        x = _places(table, rows, order, number, len(groups))
        figure.add_trace(
            _bars(table, rows, x, shown.name, f"{group} prompts", colour, 0.8 / len(groups), True), row=1, col=1
        )
    marks = []
    for number, name in enumerate(equal):
        rows = np.flatnonzero(table["group"] == groups[0])
        x = _places(table, rows, order, number, len(equal))
        label, colour = EQUALITIES[name]
        figure.add_trace(_bars(table, rows, x, name, label, colour, 0.8 / len(equal)), row=2, col=1)
        aims = np.array([AIMS.get(condition) == name for condition in table["condition"][rows]])
        drawn = aims & ~np.isnan(table["control"][rows])
        if drawn.any():
            marks.append(_marks(table, rows[drawn], x[drawn], show=not marks))
    for mark in marks:
        figure.add_trace(mark, row=2, col=1)
    what = SAID.get(shown.name, shown.meaning)
    caption = f"Above: {what}, by what was done to which model, with {_percent(table)} intervals."
    if equal:
        caption += f" Below, {groups[0]} prompts: answers that are one model's, token for token."
    if marks:
        caption += " Diamonds: matched random sets treated the same way, their mean and range."
    finish(figure, "Answers by condition", caption, height=590 if equal else 380, barmode="overlay")
    ticks = {"tickvals": list(range(len(order))), "ticktext": [safe(name) for name in order]}
    figure.update_xaxes(**ticks, showgrid=False, range=[-0.5, len(order) - 0.5])
    figure.update_yaxes(range=[-0.03, 1.05], tickformat=".0%", title_text=safe(shown.meaning), row=1, col=1)
    if equal:
        figure.update_yaxes(range=[-0.03, 1.05], tickformat=".0%", title_text="share equal", row=2, col=1)
        figure.update_layout(margin={"t": 84})
    return figure


def _percent(table: Table) -> str:
    return "95 %" if "95 %" in table.column("low").meaning else "their"


def _places(table: Table, rows: np.ndarray, order: list[str], number: int, of: int) -> np.ndarray:
    at = np.array([order.index(name) for name in table["condition"][rows]], dtype=np.float64)
    return at + 0.8 / of * (number - (of - 1) / 2)


def _bars(
    table: Table, rows: np.ndarray, x: np.ndarray, column: str, name: str, colour: str, width: float,
    with_interval: bool = False,
) -> go.Bar:  # fmt: skip
    value = table[column][rows]
    error = {}
    if with_interval:
        low, high = np.nan_to_num(value - table["low"][rows]), np.nan_to_num(table["high"][rows] - value)
        bars = {"array": high, "arrayminus": low, "color": GREY, "thickness": 1.5, "width": 4}
        error = {"error_y": {"type": "data", "symmetric": False, **bars}}
    labels = zip(table["condition"][rows].tolist(), table["n"][rows].tolist(), strict=True)
    return go.Bar(
        x=x,
        y=value,
        width=0.92 * width,
        name=safe(name),
        marker={"color": colour, "opacity": 0.85},
        customdata=np.array([[safe(condition), n] for condition, n in labels], dtype=object),
        hovertemplate="%{customdata[0]}: %{y:.1%} of %{customdata[1]}<extra>%{fullData.name}</extra>",
        **error,
    )


def _marks(table: Table, rows: np.ndarray, x: np.ndarray, show: bool) -> go.Scatter:
    control, low, high = (table[name][rows] for name in ("control", "control_low", "control_high"))
    bars = {"array": np.nan_to_num(high - control), "arrayminus": np.nan_to_num(control - low)}
    return go.Scatter(
        x=x,
        y=control,
        mode="markers",
        name="random sets",
        showlegend=show,
        marker={"symbol": "diamond", "size": 9, "color": "#ffffff", "line": {"color": INK, "width": 1.5}},
        error_y={"type": "data", "symmetric": False, "color": GREY, "thickness": 1.5, "width": 4, **bars},
        hovertemplate="random sets: %{y:.1%}<extra></extra>",
    )
