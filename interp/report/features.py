"""Features of a dictionary as a list to browse: every latent folded, its label and figures first,
contexts inside.

It reads without scripts; with them the page's own sorts the list and filters it by text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from interp.report.rendering import Html, render
from interp.report.text import interval, number
from interp.table import Table

SHOWN = 8
_SORTS = {
    "order": ("as given", False),
    "density": ("density", True),
    "detection": ("accuracy of the label", True),
    "largest_logit": ("largest logit effect", True),
    "density_gain": ("density gained", True),
}
_LEVELS = {"top": "strongest", "middle": "middle", "low": "weakest"}


def features_list(table: Table) -> Html:
    """All features of a table of kind ``dictionary-features``, with its tables of contexts and
    logits where there.
    """
    contexts = _grouped(table.tables.get("contexts"))
    logits = _grouped(table.tables.get("logits"))
    return render(
        "features.html",
        orders=[
            (name, label, falls)
            for name, (label, falls) in _SORTS.items()
            if name == "order" or name in table.data
        ],
        features=[
            _item(row, at, contexts.get(row["latent"], []), logits.get(row["latent"], []))
            for at, row in enumerate(table.rows())
        ],
    )


def _grouped(table: Table | None) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {}
    for row in table.rows() if table is not None else ():
        found.setdefault(row["latent"], []).append(row)
    return found


def _item(
    row: Mapping[str, Any], at: int, contexts: Sequence[dict], logits: Sequence[dict]
) -> dict[str, Any]:
    keys = {"order": at, **{name: row[name] for name in _SORTS if name in row}}
    nulls = max(_or(row["others"]), _or(row["shuffled"]))
    return {
        "latent": row["latent"],
        "label": row["label"],
        "density": number(100 * row["density"]),
        "score": f"{number(row['detection'])} (nulls {number(nulls)})" if row["scored"] else "",
        "order": [
            (name.replace("_", "-"), f"{value:.9g}")
            for name, value in keys.items()
            if not (isinstance(value, float) and math.isnan(value))
        ],
        "facts": _facts(row),
        "logits": _logits(logits),
        "contexts": _contexts(contexts),
    }


def _or(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _facts(row: Mapping[str, Any]) -> list[str]:
    found = [
        (
            f"active on {number(100 * row['density_special'])} % of special tokens,"
            f" {number(100 * row['density_content'])} % of others; mean"
            f" {number(row['mean_activation'])}, largest {number(row['max_activation'])}"
        ),
    ]
    if "density_base" in row:
        gain = interval(*(100 * row[f"density_gain{end}"] for end in ("", "_low", "_high")))
        found.append(
            f"in the base's rows on {number(100 * row['density_base'])} %; gained {gain} percentage"
            " points"
        )
    if row["scored"]:
        own = interval(row["detection"], row["detection_low"], row["detection_high"])
        found.append(
            f"its label tells its firing on other documents with accuracy {own}; other latents'"
            f" labels {number(row['others'])} (95 %: {number(row['others_high'])}), shuffled firing"
            f" {number(row['shuffled'])} (95 %: {number(row['shuffled_high'])}); corrected p"
            f" {number(row['p_adjusted'])}; {row['examples']} active and as many quiet tokens"
        )
    else:
        found.append("active too seldom to be labelled and scored")
    if "largest_logit" in row:
        found.append(
            f"largest logit effect {number(row['largest_logit'])}, random rows"
            f" {number(row['random_logit'])} (95 %: {number(row['random_logit_high'])}); corrected"
            f" p {number(row['logit_p_adjusted'])}"
        )
    return found


def _logits(rows: Sequence[dict]) -> list[tuple[str, str, list[dict]]]:
    return [
        (
            side,
            model,
            [row for row in rows if (row["model"], row["side"]) == (model, side)][:SHOWN],
        )
        for model in dict.fromkeys(row["model"] for row in rows)
        for side in ("promoted", "suppressed")
    ]


def _contexts(rows: Sequence[dict]) -> list[tuple[str, list[tuple[str, float, str]]]]:
    """Per context where it is from, and of its tokens text, activation and strength from 0 to 1.

    The strength is "" for a token on which the latent is not active.
    """
    by_context: dict[tuple, list[dict]] = {}
    for row in rows:
        by_context.setdefault((row["level"], row["context"]), []).append(row)
    scale = max((abs(row["activation"]) for row in rows), default=1.0) or 1.0
    found = []
    for (level, _), tokens in by_context.items():
        value = next((row["activation"] for row in tokens if row["chosen"]), np.nan)
        place = f"{_LEVELS.get(level, level)}, {number(value)}, prompt {tokens[0]['prompt_id']}"
        found.append((place, [_strength(row, scale) for row in tokens]))
    return found


def _strength(row: Mapping[str, Any], scale: float) -> tuple[str, float, str]:
    strength = f"{min(abs(row['activation']) / scale, 1):.2f}" if row["activation"] else ""
    return row["token"], row["activation"], strength
