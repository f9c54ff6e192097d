"""Claims with their controls and thresholds: one row per claim, each in its own unit."""

from __future__ import annotations

import math

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.claims import Finding, from_table
from interp.claims.sentences import fill
from interp.figures.style import BLUE, GREY, ORANGE, PURPLE, escape_label, finish
from interp.table import Table

COLOURS = {"supported": BLUE, "not supported": ORANGE, "too few clusters": GREY, "not tested": GREY}


def claims_figure(table: Table) -> go.Figure:
    """Estimate with interval, control with range, and threshold of every claim, from top to bottom.

    Claims whose sentences give the value in the same format share a panel: shares are in per cent,
    everything else is a number.
    """
    panels: dict[str, list[Finding]] = {}
    for finding in from_table(table):
        panels.setdefault(finding.claim.number_format.lstrip("+,"), []).append(finding)
    height = 150 + 58 * len(table) + 46 * (len(panels) - 1)
    figure = make_subplots(
        rows=len(panels),
        cols=1,
        vertical_spacing=min(56 / height, 0.9 / len(panels)),
        row_heights=[len(findings) for findings in panels.values()],
    )
    seen: set[str] = set()
    for row, (form, findings) in enumerate(panels.items(), 1):
        for trace in _traces(findings):
            figure.add_trace(trace.update(showlegend=trace.name not in seen), row=row, col=1)
            seen.add(str(trace.name))
        figure.update_xaxes(tickformat=".2~%" if form.endswith("%") else None, row=row, col=1)
        ticks = {
            "tickvals": _row_positions(findings),
            "ticktext": [escape_label(finding.name) for finding in findings],
        }
        figure.update_yaxes(**ticks, range=[-0.6, len(findings) - 0.4], row=row, col=1)
    caption = (
        "Each row is a claim. Dot: estimate with its interval. Diamond: control with its range"
        " (at 0 where the value is a difference from the control). Vertical line: threshold of"
        " the claim; the table gives its direction."
    )
    if len(panels) > 1:
        caption += " Claims in different units have separate panels."
    finish(figure, "Claims and their controls", caption, height=height)
    figure.update_yaxes(showgrid=False, zeroline=False)
    figure.update_xaxes(zeroline=True)
    return figure


def _row_positions(findings: list[Finding]) -> np.ndarray:
    return np.arange(len(findings))[::-1]


def _traces(findings: list[Finding]) -> list[go.Scatter]:
    y, traces = _row_positions(findings), []
    for name, colour in COLOURS.items():
        rows = [row for row, finding in enumerate(findings) if finding.verdict == name]
        if rows:
            intervals = [
                (finding, finding.value, finding.low, finding.high)
                for finding in map(findings.__getitem__, rows)
            ]
            traces.append(_points(intervals, y[rows] + 0.12, name, {"color": colour, "size": 10}))
    rows = [row for row, finding in enumerate(findings) if not math.isnan(finding.control_value)]
    if rows:
        intervals = [_control(finding) for finding in map(findings.__getitem__, rows)]
        traces.append(
            _points(
                intervals,
                y[rows] - 0.16,
                "control",
                {"color": GREY, "size": 9, "symbol": "diamond"},
            )
        )
    marker = {"symbol": "line-ns", "size": 22, "line": {"width": 2, "color": PURPLE}}
    none = math.nan
    traces.append(
        _points(
            [(finding, finding.threshold, none, none) for finding in findings],
            y.astype(float),
            "threshold",
            marker,
        )
    )
    return traces


def _control(finding: Finding) -> tuple[Finding, float, float, float]:
    """Where the control is drawn: at 0 where the value is a difference from the control's level."""
    if finding.control_is_level:
        return finding, 0.0, math.nan, math.nan
    return finding, finding.control_value, finding.control_low, finding.control_high


def _points(
    rows: list[tuple[Finding, float, float, float]],
    y: np.ndarray,
    name: str,
    marker: dict[str, object],
) -> go.Scatter:
    value, low, high = np.array([numbers for _, *numbers in rows], np.float64).T
    bars = {"array": np.nan_to_num(high - value), "arrayminus": np.nan_to_num(value - low)}
    colour = marker.get("color", GREY)
    return go.Scatter(
        x=value,
        y=y,
        mode="markers",
        name=name,
        legendgroup=name,
        marker=marker,
        error_x={
            "type": "data",
            "symmetric": False,
            "thickness": 2,
            "width": 0,
            "color": colour,
            **bars,
        },
        customdata=np.array([_hover(*row) for row in rows], dtype=object),
        hovertemplate="%{customdata}<extra>%{fullData.name}</extra>",
    )


def _hover(finding: Finding, value: float, low: float, high: float) -> str:
    """The number in the format of the claim's sentence."""
    form = finding.claim.number_format or ".3g"
    numbers = {"value": value, "low": low, "high": high}
    ends = "" if math.isnan(low) or math.isnan(high) else f" [{{low:{form}}}, {{high:{form}}}]"
    return f"{escape_label(finding.name)}<br>" + fill(f"{{value:{form}}}{ends}", numbers)
