"""Columns of the table, and claims: TuCo beyond rounding and a control, and the AUC between two
classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from interp.analyzers.tuco.compute import Measured, TucoOptions
from interp.analyzers.tuco.label_permutations import Shuffles, too_few
from interp.claims import Claim, Draws, auc, literal, mean
from interp.claims.control_fine_tunes import beyond_new, ends, on_average, opening
from interp.display import shortened
from interp.maths.auc import pairwise_order
from interp.table import Table, table

POSITIVE, NEGATIVE = {"group": "positive"}, {"group": "negative"}
MOST_WAYS = 2**53


def prompt_columns(
    asked: TucoOptions,
    found: Sequence[Measured],
    controls: Sequence[Sequence[Measured]],
    names: tuple[str, str],
) -> dict[str, tuple]:
    """One row per prompt; ``names`` of the two classes."""

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in found])

    tuco = joined("tuco")
    columns = {
        "group": (
            [part.group for part in found for _ in part.prompts],
            "key",
            f"class of the prompt: {names[0]} prompts are positive",
        ),
        "prompt_id": (
            [p.id for part in found for p in part.prompts],
            "key",
            "position in the prompt file, from 0",
        ),
        "cluster": (
            [p.cluster for part in found for p in part.prompts],
            "key",
            "prompts that depend on each other",
        ),
        "prompt": (
            [shortened(p.text) for part in found for p in part.prompts],
            "text",
            "its text, shortened",
        ),
        "tokens": (joined("lengths"), "measure", "tokens of the prompt"),
        "tuco": (
            tuco,
            "measure",
            f"share due to fine-tuning in what all blocks add {tokens_of(asked)}",
        ),
        "pre_co": (1 - tuco, "measure", "share due to the base's blocks"),
        "output_co": (
            joined("output_co"),
            "measure",
            (
                "the same share for the last streams of the two models' own passes; NaN where not"
                " measured"
            ),
        ),
        "base_own": (
            joined("base_own"),
            "measure",
            (
                "norm of what the base's blocks add on its own stream; NaN where OutputCo was not"
                " measured"
            ),
        ),
        "beta": (
            joined("betas").max(1),
            "measure",
            "largest share after any block, over all tokens, as in the paper; NaN on the fast path",
        ),
        "beta_last": (
            joined("betas_last").max(1),
            "measure",
            "largest share after any block, at the last token",
        ),
    }
    if controls:
        of = "of the control" if len(controls) == 1 else f"mean of {len(controls)} controls"
        columns["control_tuco"] = (
            np.mean([_tuco(control) for control in controls], 0),
            "measure",
            f"TuCo {of}",
        )
    return columns


def _tuco(parts: Sequence[Measured]) -> np.ndarray:
    return np.concatenate([part.tuco for part in parts])


def control_columns(
    asked: TucoOptions, controls: Sequence[Sequence[Measured]], columns: dict[str, tuple]
) -> dict[str, tuple]:
    """Mean TuCo of each control; with two classes also its AUC over length-matched pairs."""
    values = [_tuco(control) for control in controls]
    found = {"tuco": ([value.mean() for value in values], "measure", "mean TuCo over all prompts")}
    positive = np.array([group == "positive" for group in columns["group"][0]])
    if positive.all():
        return found
    lengths = np.asarray(columns["tokens"][0])
    near = np.abs(lengths[positive][:, None] - lengths[~positive][None]) <= asked.caliper
    orders = [pairwise_order(value[positive], value[~positive]) for value in values]
    aucs = [float(order[near].mean()) if near.any() else float("nan") for order in orders]
    return found | {
        "auc_near": (
            aucs,
            "measure",
            "its AUC over length-matched pairs; NaN where there are none",
        )
    }


def tokens_of(asked: TucoOptions) -> str:
    """The tokens that TuCo is measured on, in words."""
    return "at the last token" if asked.positions == "last" else "over all tokens"


def permuted(shuffles: Shuffles, asked: TucoOptions, tuco: np.ndarray, seed: int) -> Table:
    """AUCs of ``tuco`` (positive, then negative prompts) under permuted labels: over all and over
    length-matched pairs.
    """
    near = shuffles.near_auc(tuco, asked.caliper, asked.permutations, seed)
    return table(
        "tuco-permuted",
        {
            "draw": (np.arange(asked.permutations), "key", "number of the permutation"),
            "auc": (
                shuffles.auc(tuco, asked.permutations, seed),
                "measure",
                "AUC with labels of whole clusters permuted",
            ),
            "auc_near": (
                near,
                "measure",
                (
                    "AUC over length-matched pairs, labels permuted among clusters of equal mean"
                    " length"
                ),
            ),
        },
    )


def claims_of(
    asked: TucoOptions,
    floor: float,
    count: int,
    names: tuple[str, str],
    controls: int,
    shuffles: Shuffles | None,
) -> list[Claim]:
    """Claims about ``count`` prompts, with two classes where there are ``shuffles`` of their
    labels.

    ``floor``: the largest share due to rounding alone.
    """
    compared, theirs = opening("control_tuco", controls, ".3g")
    made = [
        Claim(
            name="beyond-rounding",
            estimate=mean("tuco"),
            at_least=floor,
            reference=floor,
            control="the fine-tuned model against itself with other padding",
            text=(
                "Fine-tuning makes up {value:.3g} [{low:.3g}, {high:.3g}] of what the blocks add"
                f" {tokens_of(asked)} (TuCo, mean of {count} prompts; rounding alone gives about"
                f" {{control:.2g}}).{compared}"
            ),
            also=theirs,
        )
    ]
    if controls:
        made += [
            Claim(
                name="beyond-control",
                estimate=mean("tuco", minus={"column": "control_tuco"}),
                at_least=0.0,
                reference=mean("control_tuco"),
                control=(
                    "the control fine-tune on the same prompts"
                    if controls == 1
                    else (f"the mean of {controls} control fine-tunes on the same prompts")
                ),
                text=(
                    "That is {value:.3g} more [{low:.3g}, {high:.3g}] than"
                    f" {on_average(controls, '.3g')}."
                ),
                also=ends("tuco"),
            ),
            beyond_new("beyond-new-control", mean("tuco"), "tuco", controls, "TuCo", ".3g"),
        ]
    return made if shuffles is None else [*made, *_of_classes(asked, names, controls, shuffles)]


def _of_classes(
    asked: TucoOptions, names: tuple[str, str], controls: int, shuffles: Shuffles
) -> list[Claim]:
    """Claims of the AUC of the two classes: over all pairs, over length-matched pairs, and compared
    with controls.
    """
    near: dict[str, Any] = {"within": ["tokens", asked.caliper]}
    most = f"{asked.caliper} token{'s' * (asked.caliper != 1)}"
    positive, negative = map(literal, names)
    made = [
        Claim(
            name="separates",
            estimate=auc("tuco", POSITIVE, NEGATIVE),
            at_least=0.5,
            null=Draws("permuted", "auc", arrangements=float(min(shuffles.ways, MOST_WAYS))),
            control="labels permuted by whole clusters",
            text=(
                f"TuCo of {positive} prompts is above that of {negative} ones with AUC"
                " {value:.2f} [{low:.2f}, {high:.2f}], p = {p:.2g}; their number of tokens alone"
                " with {length:.2f}."
            )
            + too_few(shuffles.ways),
            also={"length": auc("tokens", POSITIVE, NEGATIVE)},
        ),
        Claim(
            name="separates-at-equal-length",
            estimate=auc("tuco", POSITIVE, NEGATIVE, **near),
            at_least=0.5,
            null=Draws(
                "permuted", "auc_near", arrangements=float(min(shuffles.near_ways, MOST_WAYS))
            ),
            control="labels permuted among clusters of equal mean length",
            text=(
                f"Over pairs of prompts whose lengths differ by at most {most}, the AUC is"
                " {value:.2f} [{low:.2f}, {high:.2f}], p = {p:.2g} (number of tokens alone"
                " {length:.2f})."
            )
            + too_few(shuffles.near_ways),
            undefined=(
                f"No pair of prompts has lengths that differ by at most {most}: TuCo depends on"
                " length, which cannot be excluded as the cause here."
            ),
            also={"length": auc("tokens", POSITIVE, NEGATIVE, **near)},
        ),
    ]
    others = {}
    if asked.output:
        others["base"] = (
            {"column": "base_own", "folded": True},
            (
                "the size of what the base's blocks add on its own stream, in the direction with"
                " the larger AUC"
            ),
        )
    # the AUC of the controls' mean is the AUC of none of them: their own AUCs are compared below
    if controls == 1:
        others["control"] = ({"column": "control_tuco"}, "TuCo of the control fine-tune")
    for name, (other, said) in others.items():
        column, folded = other["column"], bool(other.get("folded"))
        made.append(
            Claim(
                name=f"separates-beyond-{name}",
                estimate=auc("tuco", POSITIVE, NEGATIVE, minus=other, **near),
                at_least=0.0,
                reference=auc(column, POSITIVE, NEGATIVE, folded=folded, **near),
                control=f"{said}, on the same pairs",
                text=(
                    "On these pairs that is {value:+.2f} [{low:+.2f}, {high:+.2f}] compared with"
                    f" the AUC of {said} ({{control:.2f}})."
                ),
                undefined=f"It cannot be compared with {said} either.",
            )
        )
    if controls:
        near_auc = auc("tuco", POSITIVE, NEGATIVE, **near)
        made.append(
            beyond_new(
                "separates-beyond-new-control",
                near_auc,
                "auc_near",
                controls,
                "the AUC on these pairs",
                ".2f",
            )
        )
    return made
