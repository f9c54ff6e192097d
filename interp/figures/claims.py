"""Claims with their controls and thresholds, one row each."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.figures.style import BLUE, GREY, ORANGE, PURPLE, finish, safe
from interp.table import Table


def claims_figure(table: Table) -> go.Figure:
    """Estimate with its interval, control with its range and threshold of every claim, the first on top."""
    y = np.arange(len(table))[::-1]
    figure = go.Figure()
    for name, colour in (
        ("supported", BLUE),
        ("not supported", ORANGE),
        ("too few clusters", GREY),
        ("not tested", GREY),
    ):
        mask = table["verdict"] == name
        if mask.any():
            figure.add_trace(_points(table, mask, y + 0.12, "", name, {"color": colour, "size": 10}))
    drawn = ~np.isnan(table["control_value"])
    if drawn.any():
        marker = {"color": GREY, "size": 9, "symbol": "diamond"}
        figure.add_trace(_points(table, drawn, y - 0.16, "control_", "control", marker))
    hover = {"customdata": _named(table), "hovertemplate": "%{customdata}<br>%{x:.3g}<extra>threshold</extra>"}
    marker = {"symbol": "line-ns", "size": 22, "line": {"width": 2, "color": PURPLE}}
    figure.add_trace(go.Scatter(x=table["threshold"], y=y, mode="markers", name="threshold", marker=marker, **hover))
    caption = (
        "Each row is a claim: the dot is what was measured with its interval, the diamond below it the control with "
        "its range, the upright line the threshold that the claim has to reach, on the side that the table says."
    )
    finish(figure, "Claims and their controls", caption, height=150 + 58 * len(table))
    names = [safe(name) for name in table["name"]]
    figure.update_yaxes(tickvals=y, ticktext=names, range=[-0.6, len(table) - 0.4], showgrid=False, zeroline=False)
    numbers = np.concatenate([table[name] for name in ("value", "low", "high", "threshold")])
    shares = np.nanmax(np.abs(numbers), initial=0) <= 1
    figure.update_xaxes(tickformat=".0%" if shares else None, zeroline=True)
    return figure


def _named(table: Table) -> list[str]:
    return [safe(name) for name in table["name"]]


def _points(table: Table, mask: np.ndarray, y: np.ndarray, prefix: str, name: str, marker: dict) -> go.Scatter:
    value = table[f"{prefix}value" if prefix else "value"][mask]
    low, high = table[f"{prefix}low"][mask], table[f"{prefix}high"][mask]
    bars = {"array": np.nan_to_num(high - value), "arrayminus": np.nan_to_num(value - low), "color": marker["color"]}
    return go.Scatter(
        x=value,
        y=y[mask],
        mode="markers",
        name=name,
        marker=marker,
        error_x={"type": "data", "symmetric": False, "thickness": 2, "width": 0, **bars},
        customdata=np.array(_named(table), dtype=object)[mask],
        hovertemplate="%{customdata}<br>%{x:.3g}<extra>%{fullData.name}</extra>",
    )
