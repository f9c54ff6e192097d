"""Effect of each intervention on the behaviour, compared with random sets."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.figures.style import BLUE, GREY, INK, ORANGE, escape_label, finish
from interp.table import Table

RATE_LABELS = {
    "refused": "share of answers that refuse",
    "correct": "share of answers that are right",
}
MATCHED_MODELS = {"matches_base": "the base's", "matches_tuned": "the fine-tuned model's"}


def conditions_figure(table: Table) -> go.Figure:
    """Share of answers that exhibit the behaviour, with its interval, by condition and class of
    prompts.

    Diamonds give the mean and range of the same share under matched random sets, where they were
    drawn. The hover text counts answers that match one of the models token for token.
    """
    order = list(dict.fromkeys(table["condition"].tolist()))
    names = [column.name for column in table.columns]
    # the column of a behaviour is named by the user; its interval is in the columns after it
    rate_column = table.columns[names.index("low") - 1]
    figure, random_set_traces = go.Figure(), []
    groups = list(dict.fromkeys(table["group"].tolist()))
    width = 0.8 / len(groups)
    for number, (group, colour) in enumerate(
        zip(groups, (BLUE, ORANGE) * len(groups), strict=False)
    ):
        rows = np.flatnonzero(table["group"] == group)
        if np.isnan(table[rate_column.name][rows]).all():
            continue
        x = np.array([order.index(name) for name in table["condition"][rows]], dtype=np.float64)
        x += width * (number - (len(groups) - 1) / 2)
        figure.add_trace(_bars(table, rows, x, rate_column.name, f"{group} prompts", colour, width))
        has_control = (
            ~np.isnan(table["control"][rows])
            if "control" in table.data
            else np.zeros(len(rows), bool)
        )
        if has_control.any():
            random_set_traces.append(
                _random_sets(
                    table,
                    rows[has_control],
                    x[has_control] + width / 4,
                    show_legend=not random_set_traces,
                )
            )
    figure.add_traces(random_set_traces)
    is_sampled = table.kind == "sampled"
    meaning = (
        rate_column.meaning
        if is_sampled
        else RATE_LABELS.get(rate_column.name, rate_column.meaning)
    )
    interval = "its 95 %" if "95 %" in table.column("low").meaning else "its"
    caption = f"The {meaning}, by condition, with {interval} interval."
    if random_set_traces:
        caption += (
            " Diamonds: mean and range of matched random sets under the same intervention, on"
            " the control prompts."
        )
    if any(name in table.data for name in MATCHED_MODELS):
        caption += " The hover text counts answers that match one model's token for token."
    caption += _agreement_sentence(table, groups[0])
    answers_label = (table.summary.get("labels") or {}).get(
        "many", "sampled answers" if is_sampled else "answers"
    )
    title = f"{answers_label[:1].upper()}{answers_label[1:]} by condition"
    finish(figure, title, caption, height=400, barmode="overlay")
    ticks = {
        "tickvals": list(range(len(order))),
        "ticktext": [escape_label(name) for name in order],
    }
    figure.update_xaxes(**ticks, showgrid=False, range=[-0.5, len(order) - 0.5])
    figure.update_yaxes(
        range=[-0.03, 1.05], tickformat=".0%", title_text=escape_label(rate_column.meaning)
    )
    return figure


def _agreement_sentence(table: Table, group: str) -> str:
    """How often the written answers agree with the log-odds at their beginning, as a sentence;
    empty where it was not measured.
    """
    if "agreement" not in table.data:
        return ""
    in_group = table["group"] == group
    shares = zip(table["condition"][in_group], table["agreement"][in_group], strict=True)
    share_texts = [f"{name} {share:.1%}" for name, share in shares if not np.isnan(share)]
    if not share_texts:
        return ""
    return (
        f" Share of {group} prompts where the answer exhibits the behaviour exactly when the"
        f" log-odds at its beginning are above 0: {', '.join(share_texts)}."
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
        name=escape_label(name),
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
        f"{escape_label(table['condition'][row])}: {share:.1%} [{low:.1%}, {high:.1%}] of"
        f" {table['n'][row]}"
    ]
    lines += [
        f"{table[name][row]:.1%} {model}, token for token"
        for name, model in MATCHED_MODELS.items()
        if name in names
    ]
    return "<br>".join(lines)


def _random_sets(table: Table, rows: np.ndarray, x: np.ndarray, show_legend: bool) -> go.Scatter:
    control, low, high = (table[name][rows] for name in ("control", "control_low", "control_high"))
    bars = {"array": np.nan_to_num(high - control), "arrayminus": np.nan_to_num(control - low)}
    return go.Scatter(
        x=x,
        y=control,
        mode="markers",
        name="random sets",
        showlegend=show_legend,
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
