"""What changed in each latent between a base and its tuned model: four comparisons, one table, with
nulls.

``crosscoder``: a dictionary of both models, by latent scaling. ``difference``: a dictionary of
tuned minus base. ``base``: the base's dictionary, applied to the tuned model. ``tuned``: the tuned
model's dictionary, applied to the base. Nulls: exchanging the models within pairs (``exchange``),
and tables of control pairs with dictionaries trained alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.claims import conclude
from interp.claims.control_fine_tunes import TABLE
from interp.errors import OptionError
from interp.rows import rows_table
from interp.sae.analysis import classes
from interp.sae.analysis.classes import CLASSES, Thresholds
from interp.sae.analysis.cross_model_evaluation import (
    ROLES,
    CrossModelEvaluation,
    CrossModelEvaluator,
)
from interp.sae.analysis.diff_claims import (
    LatentRow,
    claims_of,
    class_counts,
    control_shares,
    control_table,
    flags,
)
from interp.sae.analysis.differences import DifferenceScaling, DifferenceSlopes
from interp.sae.analysis.jackknife import FOLDS, Estimate, TokenRates
from interp.sae.analysis.latent_scaling import BASE, TUNED, LatentScaling, LatentScalingResult
from interp.sae.analysis.model_swap_test import DRAWS, model_swap_p
from interp.sae.core.config import TOPK_ARCHITECTURES
from interp.sae.core.dictionary import Dictionary
from interp.table import Table

ONE_SIDED_CLASSES = {
    "crosscoder": ("tuned-only", "base-only"),
    "difference": ("tuned-only", "base-only"),
    "base": ("base-only",),
    "tuned": ("tuned-only",),
}
"""Classes of one model that each comparison can find."""
COMPARISONS = tuple(ONE_SIDED_CLASSES)
ALPHA = 0.05
KIND = "sae-diff"

Batch = (
    tuple[Float[Tensor, "N D"], Float[Tensor, "N D"], Int[Tensor, " N"]]
    | tuple[Float[Tensor, "N D"], Float[Tensor, "N D"], Int[Tensor, " N"], Bool[Tensor, " N"]]
)
Columns = dict[str, tuple]
"""Columns of a table by name: values, role, meaning."""


def accumulator_for(dictionary: Dictionary, comparison: str, folds: int = FOLDS) -> Any:
    """The accumulator for a comparison; raises OptionError for an unknown comparison, or a
    dictionary that does not fit it.
    """
    if comparison not in COMPARISONS:
        raise OptionError(f"unknown comparison {comparison!r}; use {', '.join(COMPARISONS)}")
    accumulator = _METHODS[comparison][0](dictionary, folds)
    if dictionary.config.architecture in TOPK_ARCHITECTURES:
        dictionary.selector(training=False)  # raises if there is no threshold
    return accumulator


def compare_models(
    dictionary: Dictionary,
    comparison: str,
    batches: Iterable[Batch],
    *,
    thresholds: Thresholds | None = None,
    folds: int = FOLDS,
    draws: int = DRAWS,
    seed: int = 0,
    controls: Sequence[Table] = (),
) -> Table:
    """Table of kind "sae-diff", a row per latent; ``batches`` are (base rows, tuned rows, document
    numbers).

    An optional fourth element of a batch marks special tokens, whose activity is then reported
    separately.

    A latent is ``claimed`` if its class is decided by its entire interval and, for classes specific
    to one model, the models differ along its decoder row by more than under exchange of the models
    within pairs (p at most 0.05, corrected for all latents); for a dictionary of one model the test
    is on firing counts. ``controls``: tables of control pairs from the same comparison.

    Raises OptionError for a dictionary or a control that does not fit the comparison.
    """
    accumulator, is_identical = accumulator_for(dictionary, comparison, folds), True
    if any(
        control.kind != KIND or control.summary.get("way") != comparison for control in controls
    ):
        raise OptionError(
            f"the control run is not a {KIND} run with comparison {comparison}; run the same"
            " comparison on the control pair first"
        )
    thresholds = thresholds or Thresholds()
    for base, tuned, *rest in batches:
        inputs = (torch.cat([base, tuned], 1),) if comparison == "crosscoder" else (base, tuned)
        accumulator.update(*inputs, *rest)
        is_identical = is_identical and torch.equal(base, tuned)
    result = accumulator.result()
    class_of, columns, counts = _METHODS[comparison][1](result, thresholds, draws, seed)
    one_sided = np.isin(class_of, ("tuned-only", "base-only"))
    claimed = ~np.isin(class_of, ("unclear", "silent", "opposed")) & (
        ~one_sided | (columns["exchange_p"][0] <= ALPHA)
    )
    kinds = [*ONE_SIDED_CLASSES[comparison], "changed"]
    live = int((class_of != "silent").sum())
    parts = {"classes": class_counts(class_of, claimed, controls)}
    if controls:
        parts["control"] = control_table(controls, kinds)
        parts[TABLE] = control_shares(controls, kinds)
    rows = rows_table(
        LatentRow,
        KIND,
        {"latent": np.arange(len(class_of)), "kind": class_of, "claimed": claimed},
        rename={"kind": "class"},
        extra={
            **columns,
            **_token_rate_columns(result.token_rates),
            **flags(class_of, claimed, kinds),
        },
        summary={
            "way": comparison,
            "latents": len(class_of),
            "live": live,
            "claimed": {kind: int(((class_of == kind) & claimed).sum()) for kind in CLASSES},
            "identical": is_identical,
            "classes": {kind: int((class_of == kind).sum()) for kind in CLASSES},
            "thresholds": asdict(thresholds),
            **counts,
        },
        tables=parts,
    )
    lead = ""
    if is_identical:
        lead = "Both models' rows are equal, bit for bit."
    elif not live:
        lead = f"None of {len(class_of)} latents is active often enough to be classified."
    claims = [claim for kind in kinds for claim in claims_of(kind, controls)] if live else []
    run = conclude(rows, claims, lead=lead)
    return replace(
        run, summary={**run.summary, "supported": any(run.tables["claims"]["supported"])}
    )


def _intervals(**estimates: tuple[Estimate, str]) -> Columns:
    """Three columns for each estimate and its meaning: the value, and the ends of its interval."""
    columns = {}
    for name, (estimate, meaning) in estimates.items():
        columns |= {
            name: (estimate.value, "measure", meaning),
            f"{name}_low": (
                estimate.low,
                "measure",
                f"lower end of the interval of {name} over documents",
            ),
            f"{name}_high": (
                estimate.high,
                "measure",
                f"upper end of the interval of {name} over documents",
            ),
        }
    return columns


def _token_rate_columns(rates: TokenRates | None) -> Columns:
    if rates is None:
        return {}
    return {
        "rate_special": (
            rates.special,
            "measure",
            "share of special and template tokens on which it is active",
        ),
        "rate_content": (
            rates.content,
            "measure",
            "share of all other tokens on which it is active",
        ),
        "special_share": (
            rates.share,
            "measure",
            "share of its active tokens that are special or template tokens",
        ),
    }


_RATE = ("measure", "share of rows in which it is active")
_FOLDS = ("measure", "folds of documents in which it is active")
_P = (
    "measure",
    "p of a difference as large along it with exchanged models, corrected for all latents",
)


def _crosscoder_columns(
    scaling: LatentScalingResult, thresholds: Thresholds, draws: int, seed: int
) -> tuple[np.ndarray, Columns, dict[str, int]]:
    """Classes of latents, columns, and counts for the summary."""
    p = np.fmin(*(model_swap_p(scaling.moved[model], draws, seed) for model in (BASE, TUNED)))
    by_norms = classes.classify_by_norms(scaling)
    columns = {
        "rate": (scaling.rate, *_RATE),
        "folds_active": (scaling.folds_active, *_FOLDS),
        **_intervals(
            nu_error=(
                scaling.nu["error", TUNED],
                "base divided by tuned, in the error plus its contribution",
            ),
            nu_reconstruction=(
                scaling.nu["reconstruction", TUNED],
                "base divided by tuned, in the reconstruction",
            ),
            nu_reconstruction_no_bias=(
                scaling.nu["reconstruction_no_bias", TUNED],
                "base divided by tuned, in the reconstruction without the decoder's bias",
            ),
            nu_error_base=(
                scaling.nu["error", BASE],
                "tuned divided by base along the base's decoder row, in the error plus its"
                " contribution",
            ),
            nu_reconstruction_base=(
                scaling.nu["reconstruction", BASE],
                "tuned divided by base along the base's decoder row, in the reconstruction",
            ),
            nu_reconstruction_no_bias_base=(
                scaling.nu["reconstruction_no_bias", BASE],
                "tuned divided by base along the base's decoder row, in the reconstruction without"
                " the decoder's bias",
            ),
            ratio=(
                scaling.ratio,
                "length of the tuned model's slope on its codes divided by the base's",
            ),
            cosine=(scaling.cosine, "cosine of both models' slopes on its codes"),
            part_cosine=(
                scaling.part_cosine,
                "cosine of both models' parts along its decoder rows",
            ),
        ),
        "decoder_cosine": (scaling.decoder_cosine, "measure", "cosine of both decoder rows"),
        "norm_difference": (
            scaling.norm_difference,
            "measure",
            "from decoder norms: 0 base only, 1 tuned only",
        ),
        "by_norms": (by_norms, "text", "class by the decoder's norms alone, for comparison"),
        "exchange_p": (np.fmin(1.0, 2 * p), *_P),
    }
    return (
        classes.classify_crosscoder(scaling, thresholds),
        columns,
        {"by_norms": int((by_norms == "tuned-only").sum())},
    )


def _difference_columns(
    slopes: DifferenceSlopes, thresholds: Thresholds, draws: int, seed: int
) -> tuple[np.ndarray, Columns, dict[str, int]]:
    """Classes of latents, columns, and counts for the summary."""
    columns = {
        "rate": (slopes.rate, *_RATE),
        "folds_active": (slopes.folds_active, *_FOLDS),
        **_intervals(
            base_part=(
                slopes.base_part,
                "the base's slope on it divided by the difference of the models' slopes",
            ),
            row_cosine=(
                slopes.row_cosine,
                "cosine of its decoder row and the models' difference where it fires",
            ),
            base_slope=(slopes.slope[BASE], "slope of the base's rows on its codes"),
            tuned_slope=(slopes.slope[TUNED], "slope of the tuned model's rows on its codes"),
        ),
        "exchange_p": (model_swap_p(slopes.moved, draws, seed), *_P),
    }
    return classes.classify_differences(slopes, thresholds), columns, {}


def _one_model_columns(
    evaluation: CrossModelEvaluation, thresholds: Thresholds, draws: int, seed: int
) -> tuple[np.ndarray, Columns, dict[str, float]]:
    """Classes of latents, columns, and numbers for the summary."""
    p, own = model_swap_p(evaluation.fired, draws, seed), evaluation.own_model
    columns = {
        "rate": (
            evaluation.rate[own],
            "measure",
            "share of rows of the dictionary's model in which it is active",
        ),
        f"rate_{ROLES[1 - own]}": (
            evaluation.rate[1 - own],
            "measure",
            "share of rows of the other model in which it is active",
        ),
        "folds_active": (evaluation.folds_active, *_FOLDS),
        **_intervals(
            kept=(
                evaluation.kept,
                "slope of the other model's rows on codes of the dictionary's model divided by"
                " that of its own rows",
            ),
            rate_ratio=(
                evaluation.rate_ratio,
                "rate in the other model divided by that in the dictionary's",
            ),
            mean_ratio=(
                evaluation.mean_ratio,
                "mean code where active, other model divided by the dictionary's",
            ),
            explained_ratio=(
                evaluation.explained_ratio,
                "squared error that it explains, other model divided by the dictionary's",
            ),
        ),
        "exchange_p": (
            p,
            "measure",
            "p of firing counts as different with exchanged models, corrected for all latents",
        ),
        "rate_differs": (
            p <= ALPHA,
            "flag",
            "firing rates differ by more than with exchanged models",
        ),
    }
    base, tuned = evaluation.unexplained
    return (
        classes.classify_one_model(evaluation, thresholds),
        columns,
        {
            "unexplained_base": base,
            "unexplained_tuned": tuned,
            "rate_differs": int((p <= ALPHA).sum()),
        },
    )


_METHODS: dict[str, tuple[Any, Any]] = {
    "crosscoder": (LatentScaling, _crosscoder_columns),
    "difference": (DifferenceScaling, _difference_columns),
    "base": (partial(CrossModelEvaluator, own_model=BASE), _one_model_columns),
    "tuned": (partial(CrossModelEvaluator, own_model=TUNED), _one_model_columns),
}
"""The accumulator of each comparison, and what makes columns of its result."""
