"""Features of a dictionary as a list to browse: one collapsed entry per latent with its label and
main numbers, and its contexts inside.

The list is readable without scripts; the page's script sorts it and filters it by text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from interp.report.rendering import Html, render
from interp.report.text import format_interval, format_number
from interp.table import Table

MAX_LOGIT_TOKENS = 8
_SORT_KEYS = {
    "order": ("original order", False),
    "density": ("density", True),
    "detection": ("accuracy of the label", True),
    "largest_logit": ("largest logit effect", True),
    "density_gain": ("density gain", True),
}
_LEVELS = {"top": "strongest", "middle": "middle", "low": "weakest"}


def features_list(table: Table) -> Html:
    """All features of a table of kind ``sae-features``, with their contexts and logits if
    the table has them.
    """
    contexts = _rows_by_latent(table.tables.get("contexts"))
    logits = _rows_by_latent(table.tables.get("logits"))
    return render(
        "features.html",
        orders=[
            (name, label, descending)
            for name, (label, descending) in _SORT_KEYS.items()
            if name == "order" or name in table.data
        ],
        features=[
            _feature_entry(
                row, index, contexts.get(row["latent"], []), logits.get(row["latent"], [])
            )
            for index, row in enumerate(table.rows())
        ],
    )


def _rows_by_latent(table: Table | None) -> dict[int, list[dict[str, Any]]]:
    groups: dict[int, list[dict[str, Any]]] = {}
    for row in table.rows() if table is not None else ():
        groups.setdefault(row["latent"], []).append(row)
    return groups


def _feature_entry(
    row: Mapping[str, Any], index: int, contexts: Sequence[dict], logits: Sequence[dict]
) -> dict[str, Any]:
    keys = {"order": index, **{name: row[name] for name in _SORT_KEYS if name in row}}
    nulls = max(_nan_to_minus_infinity(row["others"]), _nan_to_minus_infinity(row["shuffled"]))
    return {
        "latent": row["latent"],
        "label": row["label"],
        "density": format_number(100 * row["density"]),
        "score": f"{format_number(row['detection'])} (nulls {format_number(nulls)})"
        if row["scored"]
        else "",
        "order": [
            (name.replace("_", "-"), f"{value:.9g}")
            for name, value in keys.items()
            if not (isinstance(value, float) and math.isnan(value))
        ],
        "facts": _facts(row),
        "logits": _logits(logits),
        "contexts": _contexts(contexts),
    }


def _nan_to_minus_infinity(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _facts(row: Mapping[str, Any]) -> list[str]:
    lines = [
        (
            f"active on {format_number(100 * row['density_special'])} % of special tokens,"
            f" {format_number(100 * row['density_content'])} % of others; mean"
            f" {format_number(row['mean_activation'])}, largest {format_number(row['max_activation'])}"
        ),
    ]
    if "density_base" in row:
        gain = format_interval(*(100 * row[f"density_gain{end}"] for end in ("", "_low", "_high")))
        lines.append(
            f"active on {format_number(100 * row['density_base'])} % of tokens in the base's"
            f" activations; gain {gain} percentage points"
        )
    if row["scored"]:
        accuracy = format_interval(row["detection"], row["detection_low"], row["detection_high"])
        lines.append(
            f"its label predicts its firing on held-out documents with accuracy {accuracy}; labels"
            f" of other latents {format_number(row['others'])} (95 % quantile"
            f" {format_number(row['others_high'])}), shuffled firing {format_number(row['shuffled'])} (95 %"
            f" quantile {format_number(row['shuffled_high'])}); adjusted p"
            f" {format_number(row['p_adjusted'])}; {row['examples']} active and as many inactive"
            " tokens"
        )
    else:
        lines.append("not active often enough to be labelled and scored")
    if "largest_logit" in row:
        lines.append(
            f"largest logit effect {format_number(row['largest_logit'])}, random directions"
            f" {format_number(row['random_logit'])} (95 % quantile"
            f" {format_number(row['random_logit_high'])}); adjusted p"
            f" {format_number(row['logit_p_adjusted'])}"
        )
    return lines


def _logits(rows: Sequence[dict]) -> list[tuple[str, str, list[dict]]]:
    return [
        (
            side,
            model,
            [row for row in rows if (row["model"], row["side"]) == (model, side)][
                :MAX_LOGIT_TOKENS
            ],
        )
        for model in dict.fromkeys(row["model"] for row in rows)
        for side in ("promoted", "suppressed")
    ]


def _contexts(rows: Sequence[dict]) -> list[tuple[str, list[tuple[str, float, str]]]]:
    """The source of every context, and the text, activation and strength from 0 to 1 of its tokens.

    The strength is empty for a token on which the latent is not active.
    """
    by_context: dict[tuple, list[dict]] = {}
    for row in rows:
        by_context.setdefault((row["level"], row["context"]), []).append(row)
    scale = max((abs(row["activation"]) for row in rows), default=1.0) or 1.0
    entries = []
    for (level, _), tokens in by_context.items():
        value = next((row["activation"] for row in tokens if row["chosen"]), np.nan)
        source = (
            f"{_LEVELS.get(level, level)}, {format_number(value)}, prompt {tokens[0]['prompt_id']}"
        )
        entries.append((source, [_token_strength(row, scale) for row in tokens]))
    return entries


def _token_strength(row: Mapping[str, Any], scale: float) -> tuple[str, float, str]:
    strength = f"{min(abs(row['activation']) / scale, 1):.2f}" if row["activation"] else ""
    return row["token"], row["activation"], strength
