"""Columns of the table, and claims: TuCo beyond rounding and a control, and the AUC between two
classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from interp.analyzers.tuco.compute import GroupContributions, TucoOptions
from interp.analyzers.tuco.label_permutations import LabelPermutations, too_few_note
from interp.claims import Claim, Draws, auc, escape_braces, mean
from interp.claims.control_fine_tunes import (
    beyond_new_control,
    comparison_sentence,
    control_range,
    controls_phrase,
)
from interp.display import shortened
from interp.maths.auc import pairwise_order
from interp.table import Table, table

POSITIVE, NEGATIVE = {"group": "positive"}, {"group": "negative"}
MAX_ARRANGEMENTS = 2**53


def prompt_columns(
    options: TucoOptions,
    results: Sequence[GroupContributions],
    controls: Sequence[Sequence[GroupContributions]],
    names: tuple[str, str],
) -> dict[str, tuple]:
    """One row per prompt; ``names`` of the two classes."""

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in results])

    tuco = joined("tuco")
    columns = {
        "group": (
            [part.group for part in results for _ in part.prompts],
            "key",
            f"class of the prompt: {names[0]} prompts are positive",
        ),
        "prompt_id": (
            [p.id for part in results for p in part.prompts],
            "key",
            "position in the prompt file, from 0",
        ),
        "cluster": (
            [p.cluster for part in results for p in part.prompts],
            "key",
            "prompts that depend on each other",
        ),
        "prompt": (
            [shortened(p.text) for part in results for p in part.prompts],
            "text",
            "its text, shortened",
        ),
        "tokens": (joined("lengths"), "measure", "tokens of the prompt"),
        "tuco": (
            tuco,
            "measure",
            f"share due to fine-tuning in what all blocks add {tokens_clause(options)}",
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
        of_controls = (
            "of the control" if len(controls) == 1 else f"mean of {len(controls)} controls"
        )
        columns["control_tuco"] = (
            np.mean([_joined_tuco(control) for control in controls], 0),
            "measure",
            f"TuCo {of_controls}",
        )
    return columns


def _joined_tuco(parts: Sequence[GroupContributions]) -> np.ndarray:
    return np.concatenate([part.tuco for part in parts])


def control_columns(
    options: TucoOptions,
    controls: Sequence[Sequence[GroupContributions]],
    columns: dict[str, tuple],
) -> dict[str, tuple]:
    """Mean TuCo of each control; with two classes also its AUC over length-matched pairs."""
    values = [_joined_tuco(control) for control in controls]
    means = {"tuco": ([value.mean() for value in values], "measure", "mean TuCo over all prompts")}
    positive = np.array([group == "positive" for group in columns["group"][0]])
    if positive.all():
        return means
    lengths = np.asarray(columns["tokens"][0])
    is_matched = np.abs(lengths[positive][:, None] - lengths[~positive][None]) <= options.caliper
    orders = [pairwise_order(value[positive], value[~positive]) for value in values]
    aucs = [
        float(order[is_matched].mean()) if is_matched.any() else float("nan") for order in orders
    ]
    return means | {
        "auc_near": (
            aucs,
            "measure",
            "its AUC over length-matched pairs; NaN where there are none",
        )
    }


def tokens_clause(options: TucoOptions) -> str:
    """The tokens that TuCo is measured on, in words."""
    return "at the last token" if options.positions == "last" else "over all tokens"


def permuted_aucs(
    permutations: LabelPermutations, options: TucoOptions, tuco: np.ndarray, seed: int
) -> Table:
    """AUCs of ``tuco`` (positive, then negative prompts) under permuted labels: over all and over
    length-matched pairs.
    """
    matched_aucs = permutations.matched_auc(tuco, options.caliper, options.permutations, seed)
    return table(
        "tuco-permuted",
        {
            "draw": (np.arange(options.permutations), "key", "number of the permutation"),
            "auc": (
                permutations.auc(tuco, options.permutations, seed),
                "measure",
                "AUC with labels of whole clusters permuted",
            ),
            "auc_near": (
                matched_aucs,
                "measure",
                (
                    "AUC over length-matched pairs, labels permuted among clusters of equal mean"
                    " length"
                ),
            ),
        },
    )


def claims_of(
    options: TucoOptions,
    floor: float,
    count: int,
    names: tuple[str, str],
    controls: int,
    permutations: LabelPermutations | None,
) -> list[Claim]:
    """Claims about ``count`` prompts, with two classes where there are ``permutations`` of their
    labels.

    ``floor``: the largest share due to rounding alone.
    """
    compared, control_estimates = comparison_sentence("control_tuco", controls, ".3g")
    claims = [
        Claim(
            name="beyond-rounding",
            estimate=mean("tuco"),
            at_least=floor,
            reference=floor,
            control="the fine-tuned model against itself with other padding",
            text=(
                "Fine-tuning makes up {value:.3g} [{low:.3g}, {high:.3g}] of what the blocks"
                f" add {tokens_clause(options)} (TuCo, mean of {count} prompts; rounding alone"
                f" gives about {{control:.2g}}).{compared}"
            ),
            also=control_estimates,
        )
    ]
    if controls:
        claims += [
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
                    f" {controls_phrase(controls, '.3g')}."
                ),
                also=control_range("tuco"),
            ),
            beyond_new_control("beyond-new-control", mean("tuco"), "tuco", controls, "TuCo", ".3g"),
        ]
    return (
        claims
        if permutations is None
        else [*claims, *_class_claims(options, names, controls, permutations)]
    )


def _class_claims(
    options: TucoOptions, names: tuple[str, str], controls: int, permutations: LabelPermutations
) -> list[Claim]:
    """Claims of the AUC of the two classes: over all pairs, over length-matched pairs, and compared
    with controls.
    """
    matched: dict[str, Any] = {"within": ["tokens", options.caliper]}
    caliper_text = f"{options.caliper} token{'s' * (options.caliper != 1)}"
    positive, negative = map(escape_braces, names)
    claims = [
        Claim(
            name="separates",
            estimate=auc("tuco", POSITIVE, NEGATIVE),
            at_least=0.5,
            null=Draws(
                "permuted",
                "auc",
                arrangements=float(min(permutations.n_permutations, MAX_ARRANGEMENTS)),
            ),
            control="labels permuted by whole clusters",
            text=(
                f"TuCo of {positive} prompts is above that of {negative} ones with AUC"
                " {value:.2f} [{low:.2f}, {high:.2f}], p = {p:.2g}; their number of tokens"
                " alone with {length:.2f}."
            )
            + too_few_note(permutations.n_permutations),
            also={"length": auc("tokens", POSITIVE, NEGATIVE)},
        ),
        Claim(
            name="separates-at-equal-length",
            estimate=auc("tuco", POSITIVE, NEGATIVE, **matched),
            at_least=0.5,
            null=Draws(
                "permuted",
                "auc_near",
                arrangements=float(min(permutations.n_matched_permutations, MAX_ARRANGEMENTS)),
            ),
            control="labels permuted among clusters of equal mean length",
            text=(
                f"Over pairs of prompts whose lengths differ by at most {caliper_text}, the AUC is"
                " {value:.2f} [{low:.2f}, {high:.2f}], p = {p:.2g} (number of tokens alone"
                " {length:.2f})."
            )
            + too_few_note(permutations.n_matched_permutations),
            undefined=(
                f"No pair of prompts has lengths that differ by at most {caliper_text}: TuCo"
                " depends on length, which cannot be excluded as the cause here."
            ),
            also={"length": auc("tokens", POSITIVE, NEGATIVE, **matched)},
        ),
    ]
    references = {}
    if options.output:
        references["base"] = (
            {"column": "base_own", "folded": True},
            (
                "the size of what the base's blocks add on its own stream, in the direction with"
                " the larger AUC"
            ),
        )
    # the AUC of the controls' mean is the AUC of none of them: their own AUCs are compared below
    if controls == 1:
        references["control"] = ({"column": "control_tuco"}, "TuCo of the control fine-tune")
    for name, (reference, description) in references.items():
        column, folded = reference["column"], bool(reference.get("folded"))
        claims.append(
            Claim(
                name=f"separates-beyond-{name}",
                estimate=auc("tuco", POSITIVE, NEGATIVE, minus=reference, **matched),
                at_least=0.0,
                reference=auc(column, POSITIVE, NEGATIVE, folded=folded, **matched),
                control=f"{description}, on the same pairs",
                text=(
                    "On these pairs that is {value:+.2f} [{low:+.2f}, {high:+.2f}] compared"
                    f" with the AUC of {description} ({{control:.2f}})."
                ),
                undefined=f"It cannot be compared with {description} either.",
            )
        )
    if controls:
        matched_auc = auc("tuco", POSITIVE, NEGATIVE, **matched)
        claims.append(
            beyond_new_control(
                "separates-beyond-new-control",
                matched_auc,
                "auc_near",
                controls,
                "the AUC on these pairs",
                ".2f",
            )
        )
    return claims
