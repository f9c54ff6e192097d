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
from interp.sae.analysis import classes
from interp.sae.analysis.classes import CLASSES, Thresholds
from interp.sae.analysis.cross_model_evaluation import ROLES, CrossModelEvaluator
from interp.sae.analysis.diff_claims import (
    KINDS,
    claims_of,
    class_column,
    class_counts,
    control_shares,
    control_table,
    flags,
)
from interp.sae.analysis.differences import DifferenceScaling
from interp.sae.analysis.jackknife import FOLDS, Estimate, TokenRates
from interp.sae.analysis.latent_scaling import BASE, TUNED, LatentScaling
from interp.sae.analysis.model_swap_test import DRAWS, model_swap_p
from interp.sae.core.config import TOPK_ARCHITECTURES
from interp.sae.core.dictionary import Dictionary
from interp.table import Table, table

COMPARISONS = ("crosscoder", "difference", "base", "tuned")
ONE_SIDED_CLASSES = {"base": ("base-only",), "tuned": ("tuned-only",)}
"""Classes of one model that a dictionary of one model can find; the other comparisons find both."""
ALPHA = 0.05
KIND = "sae-diff"

Batch = (
    tuple[Float[Tensor, "N D"], Float[Tensor, "N D"], Int[Tensor, " N"]]
    | tuple[Float[Tensor, "N D"], Float[Tensor, "N D"], Int[Tensor, " N"], Bool[Tensor, " N"]]
)

_ACCUMULATORS = {
    "crosscoder": LatentScaling,
    "difference": DifferenceScaling,
    "base": partial(CrossModelEvaluator, own_model=BASE),
    "tuned": partial(CrossModelEvaluator, own_model=TUNED),
}


def accumulator_for(dictionary: Dictionary, comparison: str, folds: int = FOLDS) -> Any:
    """The accumulator for a comparison; raises OptionError for an unknown comparison, or a
    dictionary that does not fit it.
    """
    if comparison not in COMPARISONS:
        raise OptionError(f"unknown comparison {comparison!r}; use {', '.join(COMPARISONS)}")
    accumulator = _ACCUMULATORS[comparison](dictionary, folds)
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
    columns_of = {"crosscoder": _crosscoder_columns, "difference": _difference_columns}.get(
        comparison, _one_model_columns
    )
    columns, extra_summary = columns_of(result, thresholds, draws, seed)
    columns |= _token_rate_columns(result.token_rates)
    class_of = columns["class"][0]
    p = columns["exchange_p"][0]
    one_sided = np.isin(class_of, ("tuned-only", "base-only"))
    claimed = ~np.isin(class_of, ("unclear", "silent", "opposed")) & (~one_sided | (p <= ALPHA))
    columns = {
        "latent": (np.arange(len(class_of)), "key", "number of the latent"),
        "class": columns.pop("class"),
        "claimed": (
            claimed,
            "flag",
            (
                "the class is claimed: by its entire interval and, if specific to one model, beyond"
                " exchanged models"
            ),
        ),
        **columns,
    }
    kinds = [
        kind
        for kind in KINDS
        if kind == "changed" or kind in ONE_SIDED_CLASSES.get(comparison, KINDS)
    ]
    columns |= flags(class_of, claimed, kinds)
    live = int(columns["live"][0].sum())
    counts = {kind: int(((class_of == kind) & claimed).sum()) for kind in CLASSES}
    summary = {
        "way": comparison,
        "latents": len(class_of),
        "live": live,
        "claimed": counts,
        "identical": bool(is_identical),
        "classes": {kind: int((class_of == kind).sum()) for kind in CLASSES},
        "thresholds": asdict(thresholds),
        **extra_summary,
    }
    parts = {"classes": class_counts(class_of, claimed, controls)}
    if controls:
        parts["control"] = control_table(controls, kinds)
        parts[TABLE] = control_shares(controls, kinds)
    claims = [claim for kind in kinds for claim in claims_of(kind, controls)] if live else []
    lead = (
        "" if live else f"None of {len(class_of)} latents is active often enough to be classified."
    )
    lead = "Both models' rows are equal, bit for bit." if is_identical else lead
    run = conclude(table(KIND, columns, summary=summary, tables=parts), claims, lead=lead)
    return replace(
        run, summary={**run.summary, "supported": any(run.tables["claims"]["supported"])}
    )


def _estimate_columns(name: str, estimate: Estimate, meaning: str) -> dict[str, tuple]:
    return {
        name: (estimate.value, "measure", meaning),
        f"{name}_low": (
            estimate.low,
            "measure",
            f"lower end of the interval of {name} over documents",
        ),
        f"{name}_high": (estimate.high, "measure", f"upper end of the interval of {name}"),
    }


def _token_rate_columns(rates: TokenRates | None) -> dict[str, tuple]:
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
    scaling: Any, thresholds: Thresholds, draws: int, seed: int
) -> tuple[dict[str, tuple], dict]:
    p = np.fmin(*(model_swap_p(scaling.moved[model], draws, seed) for model in (BASE, TUNED)))
    p = np.fmin(1.0, 2 * p)
    columns = {
        "class": class_column(classes.classify_crosscoder(scaling, thresholds)),
        "rate": (scaling.rate, *_RATE),
        "folds_active": (scaling.folds_active, *_FOLDS),
        **_estimate_columns(
            "nu_error",
            scaling.nu["error", TUNED],
            "base divided by tuned, in the error plus its contribution",
        ),
        **_estimate_columns(
            "nu_reconstruction",
            scaling.nu["reconstruction", TUNED],
            "base divided by tuned, in the reconstruction",
        ),
        **_estimate_columns(
            "nu_reconstruction_no_bias",
            scaling.nu["reconstruction_no_bias", TUNED],
            "the same without the decoder's bias",
        ),
        **_estimate_columns(
            "nu_error_base",
            scaling.nu["error", BASE],
            "tuned divided by base along the base's decoder row",
        ),
        **_estimate_columns(
            "nu_reconstruction_base",
            scaling.nu["reconstruction", BASE],
            "the same in the reconstruction",
        ),
        **_estimate_columns(
            "nu_reconstruction_no_bias_base",
            scaling.nu["reconstruction_no_bias", BASE],
            "the same without the decoder's bias",
        ),
        **_estimate_columns(
            "ratio",
            scaling.ratio,
            "length of the tuned model's slope on its codes divided by the base's",
        ),
        **_estimate_columns("cosine", scaling.cosine, "cosine of both models' slopes on its codes"),
        **_estimate_columns(
            "part_cosine",
            scaling.part_cosine,
            "cosine of both models' parts along its decoder rows",
        ),
        "decoder_cosine": (scaling.decoder_cosine, "measure", "cosine of both decoder rows"),
        "norm_difference": (
            scaling.norm_difference,
            "measure",
            "from decoder norms: 0 base only, 1 tuned only",
        ),
        "by_norms": (
            classes.classify_by_norms(scaling),
            "text",
            "class by the decoder's norms alone, for comparison",
        ),
        "exchange_p": (p, *_P),
    }
    return columns, {"by_norms": int((classes.classify_by_norms(scaling) == "tuned-only").sum())}


def _difference_columns(
    slopes: Any, thresholds: Thresholds, draws: int, seed: int
) -> tuple[dict[str, tuple], dict]:
    return {
        "class": class_column(classes.classify_differences(slopes, thresholds)),
        "rate": (slopes.rate, *_RATE),
        "folds_active": (slopes.folds_active, *_FOLDS),
        **_estimate_columns(
            "base_part",
            slopes.base_part,
            "the base's slope on it divided by the difference of the models' slopes",
        ),
        **_estimate_columns(
            "row_cosine",
            slopes.row_cosine,
            "cosine of its decoder row and the models' difference where it fires",
        ),
        **_estimate_columns(
            "base_slope", slopes.slope[BASE], "slope of the base's rows on its codes"
        ),
        **_estimate_columns(
            "tuned_slope", slopes.slope[TUNED], "slope of the tuned model's rows on its codes"
        ),
        "exchange_p": (model_swap_p(slopes.moved, draws, seed), *_P),
    }, {}


def _one_model_columns(
    evaluation: Any, thresholds: Thresholds, draws: int, seed: int
) -> tuple[dict[str, tuple], dict]:
    p = model_swap_p(evaluation.fired, draws, seed)
    own, other = ROLES[evaluation.own_model], ROLES[1 - evaluation.own_model]
    own_name, other_name = ("the base", "the tuned model")[:: 1 - 2 * evaluation.own_model]
    columns = {
        "class": class_column(classes.classify_one_model(evaluation, thresholds)),
        "rate": (
            evaluation.rate[evaluation.own_model],
            "measure",
            f"share of {own_name}'s rows in which it is active",
        ),
        f"rate_{other}": (
            evaluation.rate[1 - evaluation.own_model],
            "measure",
            f"share of {other_name}'s rows in which it is active",
        ),
        "folds_active": (evaluation.folds_active, *_FOLDS),
        **_estimate_columns(
            "kept",
            evaluation.kept,
            f"slope of {other_name}'s rows on {own_name}'s codes divided by that of {own_name}'s"
            " rows",
        ),
        **_estimate_columns(
            "rate_ratio", evaluation.rate_ratio, f"rate in {other_name} divided by {own_name}'s"
        ),
        **_estimate_columns(
            "mean_ratio", evaluation.mean_ratio, f"mean code where active, {other} divided by {own}"
        ),
        **_estimate_columns(
            "explained_ratio",
            evaluation.explained_ratio,
            f"squared error that it explains, {other} divided by {own}",
        ),
        "exchange_p": (
            p,
            "measure",
            "p of firing counts as different with exchanged models, corrected",
        ),
        "rate_differs": (
            p <= ALPHA,
            "flag",
            "firing rates differ by more than with exchanged models",
        ),
    }
    base, tuned = evaluation.unexplained
    return columns, {
        "unexplained_base": base,
        "unexplained_tuned": tuned,
        "rate_differs": int((p <= ALPHA).sum()),
    }
