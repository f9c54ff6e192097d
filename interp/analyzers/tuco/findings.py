"""Tables and claims: TuCo beyond rounding and a control, and the AUC between two
classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from interp.analyzers.framework import prompt_rows
from interp.analyzers.tuco.compute import GroupContributions
from interp.analyzers.tuco.options import TucoOptions
from interp.claims import Claim, Draws, auc, escape_braces, mean
from interp.claims.control_fine_tunes import (
    ControlRow,
    beyond_new_control,
    comparison_sentence,
    control_range,
    controls_phrase,
)
from interp.display import shortened
from interp.experiments.label_permutations import LabelPermutations, too_few_note
from interp.experiments.records import records_table
from interp.maths.auc import pairwise_order
from interp.rows import DrawRow, LayerRow, PromptRow, key, measure, rows_table, text
from interp.study import Study
from interp.table import Table

POSITIVE, NEGATIVE = {"group": "positive"}, {"group": "negative"}
MAX_ARRANGEMENTS = 2**53


class TucoRow(PromptRow):
    """Shares of a prompt, and norms of what blocks add."""

    prompt: str = text("its text, shortened")
    tokens: int = measure("tokens of the prompt")
    tuco: float = measure(
        "share due to fine-tuning in what all blocks add, at the last token or over all, as the"
        " option positions says"
    )
    pre_co: float = measure("share due to the base's blocks")
    output_co: float = measure(
        "the same share for the last streams of the two models' own passes; NaN where not measured"
    )
    base_own: float = measure(
        "norm of what the base's blocks add on its own stream; NaN where OutputCo was not measured"
    )
    beta: float = measure(
        "largest share after any block, over all tokens, as in the paper; NaN on the fast path"
    )
    beta_last: float = measure("largest share after any block, at the last token")
    control_tuco: float = measure("TuCo, mean over the controls", optional=True)


class LayersRow:
    """A block on a prompt."""

    group: str = PromptRow.group
    prompt_id: int = PromptRow.prompt_id
    layer: int = LayerRow.layer
    beta: float = measure(
        "share due to fine-tuning in what the blocks up to and including this one added, over all"
        " tokens; NaN on the fast path"
    )
    beta_last: float = measure("the same at the last token")
    base_size: float = measure("norm of what the base's block adds (PTC)")
    tuned_size: float = measure("norm of what the fine-tuned block adds minus that (FTC)")
    cosine: float = measure("cosine of PTC and FTC")
    error: float = measure(
        "norm of the stream after this block minus embedding and both sums, relative to the stream"
    )


class TokenRow:
    """A token of a prompt after a block."""

    group: str = PromptRow.group
    prompt_id: int = PromptRow.prompt_id
    position: int = key("token of the prompt, from 0")
    token: str = text("the token")
    layer: int = LayerRow.layer
    beta: float = measure(
        "share due to fine-tuning in what the blocks up to and including this one added at this"
        " token"
    )


class TucoControlRow(ControlRow):
    """Mean TuCo of a control; with two classes also its AUC over length-matched pairs."""

    tuco: float = measure("mean TuCo over all prompts")
    auc_near: float = measure(
        "its AUC over length-matched pairs; NaN where there are none", optional=True
    )


class PermutedRow(DrawRow):
    """AUCs under permuted labels."""

    auc: float = measure("AUC with labels of whole clusters permuted")
    auc_near: float = measure(
        "AUC over length-matched pairs, labels permuted among clusters of equal mean length"
    )


def prompt_table(
    study: Study,
    results: Sequence[GroupContributions],
    controls: Sequence[Sequence[GroupContributions]],
) -> Table:
    """One row per prompt of the study."""
    tuco = joined(results, "tuco")
    of_controls = [joined(control, "tuco") for control in controls]
    prompts = [shortened(prompt.text) for part in results for prompt in part.prompts]
    return prompt_rows(
        study,
        TucoRow,
        prompt=np.array(prompts, object),
        tokens=joined(results, "lengths"),
        tuco=tuco,
        pre_co=1 - tuco,
        output_co=joined(results, "output_co"),
        base_own=joined(results, "base_own"),
        beta=joined(results, "betas").max(1),
        beta_last=joined(results, "betas_last").max(1),
        **({"control_tuco": np.mean(of_controls, 0)} if controls else {}),
    )


def layer_table(results: Sequence[GroupContributions]) -> Table:
    """One row per prompt and block."""
    columns = {
        "beta": "betas",
        "beta_last": "betas_last",
        "base_size": "base_sizes",
        "tuned_size": "tuned_sizes",
        "cosine": "cosines",
        "error": "errors",
    }
    prompts = [(part.group, prompt.id) for part in results for prompt in part.prompts]
    n_layers = results[0].betas.shape[1]
    return rows_table(
        LayersRow,
        "",
        {
            "group": [group for group, _ in prompts for _ in range(n_layers)],
            "prompt_id": np.repeat([prompt_id for _, prompt_id in prompts], n_layers),
            "layer": np.tile(np.arange(n_layers), len(prompts)),
            **{column: joined(results, name).ravel() for column, name in columns.items()},
        },
    )


def token_table(results: Sequence[GroupContributions]) -> Table:
    """One row per prompt, position and block, of the first prompts of each class."""
    rows = [
        {
            "group": part.group,
            "prompt_id": part.prompts[row].id,
            "position": position,
            "token": token,
            "layer": layer,
            "beta": share,
        }
        for part in results
        for row, (words, shares) in part.tokens.items()
        for position, token in enumerate(words)
        for layer, share in enumerate(shares[:, position])
    ]
    return records_table(TokenRow, "", rows)


def joined(parts: Sequence[GroupContributions], name: str) -> np.ndarray:
    """A number of all prompts, class by class."""
    return np.concatenate([getattr(part, name) for part in parts])


def control_numbers(
    caliper: int, controls: Sequence[Sequence[GroupContributions]]
) -> dict[str, list[Any]]:
    """A number of each control for every column of ``TucoControlRow``."""
    numbers = {"tuco": [joined(control, "tuco").mean() for control in controls]}
    if len(controls[0]) < 2:
        return numbers
    lengths = [part.lengths for part in controls[0]]
    is_matched = np.abs(lengths[0][:, None] - lengths[1][None]) <= caliper
    orders = [pairwise_order(*(part.tuco for part in control)) for control in controls]
    aucs = [
        float(order[is_matched].mean()) if is_matched.any() else float("nan") for order in orders
    ]
    return {**numbers, "auc_near": aucs}


def tokens_clause(options: TucoOptions) -> str:
    """The tokens that TuCo is measured on, in words."""
    return "at the last token" if options.positions == "last" else "over all tokens"


def permuted_aucs(
    permutations: LabelPermutations, options: TucoOptions, tuco: np.ndarray, seed: int
) -> Table:
    """AUCs of ``tuco`` (positive, then negative prompts) under permuted labels: over all and over
    length-matched pairs.
    """
    draws = options.permutations
    return rows_table(
        PermutedRow,
        "",
        {
            "draw": np.arange(draws),
            "auc": permutations.auc(tuco, draws, seed),
            "auc_near": permutations.matched_auc(tuco, options.caliper, draws, seed),
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
