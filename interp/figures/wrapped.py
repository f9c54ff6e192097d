"""Do the base's answers return: after pruning, by probes, with training, in another register?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from interp.figures.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    escape_label,
    finish,
    with_opacity,
)
from interp.table import Table


def _line(
    table: Table,
    rows: np.ndarray,
    x: str,
    y: str,
    name: str,
    colour: str,
    hover: str,
    *,
    interval: bool = False,
    dash: str = "solid",
    shown: bool = True,
) -> go.Scatter:
    value = table[y][rows]
    bars = (
        {
            "array": np.nan_to_num(table["high"][rows] - value),
            "arrayminus": np.nan_to_num(value - table["low"][rows]),
            "thickness": 1,
        }
        if interval
        else None
    )
    return go.Scatter(
        x=table[x][rows],
        y=value,
        mode="lines+markers",
        name=escape_label(name),
        line={"color": colour, "dash": dash},
        error_y=bars,
        showlegend=shown,
        hovertemplate=f"%{{x}} {hover}: %{{y:.1%}}<extra>{escape_label(name)}</extra>",
    )


def _controls(table: Table, x: str, y: str, hover: str) -> list[go.Scatter]:
    """One line per control; the first stands for all in the legend."""
    return [
        _line(
            table,
            table["control"] == number,
            x,
            y,
            "control fine-tunes",
            with_opacity(ORANGE, 0.6),
            hover,
            shown=not number,
        )
        for number in range(int(table["control"].max()) + 1)
    ]


def _mark(figure: go.Figure, x: Sequence[int | float], y: Sequence[int | float]) -> None:
    figure.add_trace(
        go.Scatter(
            x=x,
            y=y,
            mode="markers",
            name="chosen on other prompts",
            marker={"color": BLUE, "size": 13, "symbol": "circle-open", "line": {"width": 2}},
            hoverinfo="skip",
        )
    )


def pruning_figure(table: Table) -> go.Figure:
    """Shares of held-out prompts with the base's answer by number of pruned neurons."""
    own, figure = table["role"] == "tuned", go.Figure()
    for y, name, colour, dash in (
        ("revived", "base's answer, where fine-tuning changed it", BLUE, "solid"),
        ("kept", "base's answer, where it did not", GREEN, "solid"),
        ("own", "fine-tuned model's own answer, where changed", GREY, "dot"),
    ):
        if not np.isnan(table[y][own]).all():
            figure.add_trace(_line(table, own, "size", y, name, colour, "neurons", dash=dash))
    figure.add_traces(_controls(table, "size", "writes", "neurons"))
    chosen = own & table["chosen"]
    y = "writes" if np.isnan(table["revived"][chosen]).any() else "revived"
    _mark(figure, table["size"][chosen].tolist(), table[y][chosen].tolist())
    caption = (
        "x: neurons set to zero at once, from the first of the order on. y: share of held-out"
        " prompts. Control fine-tunes are pruned by their own scores; theirs is the share of all"
        " prompts with the base's answer."
    )
    finish(figure, "Answers after pruning", caption, height=400)
    figure.update_xaxes(title_text="neurons set to zero")
    figure.update_yaxes(title_text="share of prompts", range=[-0.03, 1.03], tickformat=".0%")
    return figure


def probes_figure(table: Table) -> go.Figure:
    """Accuracy of probes for the base's answer by depth."""
    figure = go.Figure()
    for role, label, colour, interval in (
        ("base", "base", GREEN, False),
        ("tuned", "fine-tuned model", BLUE, True),
        ("random", "random start", PURPLE, False),
    ):
        figure.add_trace(
            _line(
                table,
                table["role"] == role,
                "depth",
                "accuracy",
                label,
                colour,
                "blocks",
                interval=interval,
            )
        )
    figure.add_traces(_controls(table, "depth", "accuracy", "blocks"))
    level = float(table["accuracy"][table["role"] == "words"][0])
    for y, name, dash in (
        (level, "words of the prompt", "dash"),
        (float(table["largest"][0]), "most frequent label", "dot"),
    ):
        figure.add_trace(
            go.Scatter(
                x=[0, int(table["depth"].max())],
                y=[y, y],
                mode="lines",
                name=name,
                line={"color": GREY, "dash": dash},
                hovertemplate=f"%{{y:.1%}}<extra>{name}</extra>",
            )
        )
    chosen = (table["role"] == "tuned") & table["chosen"]
    _mark(figure, table["depth"][chosen].tolist(), table["accuracy"][chosen].tolist())
    caption = (
        "y: share of held-out prompts for which a linear probe of the residual stream gives the"
        " base's answer token, cross-validated by cluster; x: blocks that the stream has passed."
    )
    finish(figure, "Linear probes of the base's answer", caption, height=400)
    figure.update_xaxes(title_text="blocks passed")
    figure.update_yaxes(title_text="accuracy", range=[-0.03, 1.03], tickformat=".0%")
    return figure


def reversal_figure(table: Table) -> go.Figure:
    """Share of held-out prompts with the base's answer by steps of reverse fine-tuning."""
    figure = go.Figure()
    changed = not np.isnan(table["returned"]).all()
    y = "returned" if changed else "writes"
    for role, label, colour in (
        ("tuned", "fine-tuned model", BLUE),
        ("random", "random start", PURPLE),
    ):
        figure.add_trace(_line(table, table["role"] == role, "step", y, label, colour, "steps"))
    figure.add_traces(_controls(table, "step", y, "steps"))
    chosen = (table["role"] == "tuned") & table["chosen"]
    _mark(figure, table["step"][chosen].tolist(), table[y][chosen].tolist())
    which = "whose answer fine-tuning changed" if changed else "(no answer changed)"
    caption = (
        f"y: share of held-out prompts {which} to which the model writes the base's answer, after x"
        " steps of training on the base's answers to other prompts, on equal batches."
    )
    finish(figure, "Reverse fine-tuning", caption, height=400)
    figure.update_xaxes(title_text="steps of training")
    figure.update_yaxes(title_text="share of prompts", range=[-0.03, 1.03], tickformat=".0%")
    return figure


def conjugate_figure(table: Table) -> go.Figure:
    """Share of changed held-out prompts with the base's answer in every register, by model."""
    figure = go.Figure()
    controls = range(int(table["control"].max()) + 1)
    shown = [("base", -1, "base", GREEN), ("tuned", -1, "fine-tuned model", BLUE)]
    shown += [
        ("control", number, f"control {number}", with_opacity(ORANGE, 0.7)) for number in controls
    ]
    for role, number, label, colour in shown:
        rows = (table["role"] == role) & (table["control"] == number)
        value = table["returned"][rows]
        figure.add_trace(
            go.Bar(
                x=[escape_label(register) for register in table["register"][rows]],
                y=value,
                name=escape_label(label),
                marker={"color": colour},
                error_y={
                    "array": np.nan_to_num(table["high"][rows] - value),
                    "arrayminus": np.nan_to_num(value - table["low"][rows]),
                    "thickness": 1,
                },
                customdata=np.stack([table["prompts"][rows], table["gained"][rows]], axis=1),
                hovertemplate=(
                    "%{x}: %{y:.1%}; over all %{customdata[0]} prompts %{customdata[1]:+.1%} more"
                    " than to plain ones<extra>%{fullData.name}</extra>"
                ),
            )
        )
    caption = (
        "y: share of held-out prompts whose answer fine-tuning changed to which each model gives"
        " the base's plain answer when asked in the register, the answer changed back. What is"
        " claimed is the gain over all prompts."
    )
    finish(figure, "Conjugate prompting", caption, height=380, barmode="group")
    figure.update_xaxes(title_text="register")
    figure.update_yaxes(title_text="share of prompts", range=[0, 1.03], tickformat=".0%")
    return figure
