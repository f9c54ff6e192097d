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
from interp.sae.analysis.cross_model_evaluation import ROLES, OneOnOther
from interp.sae.analysis.diff_claims import (
    KINDS,
    claims_of,
    control_table,
    counted,
    flags,
    named_column,
    shares,
)
from interp.sae.analysis.differences import DifferenceScaling
from interp.sae.analysis.jackknife import FOLDS, Apart, Estimate
from interp.sae.analysis.latent_scaling import BASE, TUNED, LatentScaling
from interp.sae.analysis.model_swap_test import DRAWS, exchange_p
from interp.sae.core.config import SPARSE
from interp.sae.core.dictionary import Dictionary
from interp.table import Table, table

WAYS = ("crosscoder", "difference", "base", "tuned")
SIDES = {"base": ("base-only",), "tuned": ("tuned-only",)}
"""Classes of one model that a dictionary of one model can find; the other comparisons find both."""
ALPHA = 0.05
KIND = "sae-diff"

Batch = (
    tuple[Float[Tensor, "N D"], Float[Tensor, "N D"], Int[Tensor, " N"]]
    | tuple[Float[Tensor, "N D"], Float[Tensor, "N D"], Int[Tensor, " N"], Bool[Tensor, " N"]]
)

_STREAMS = {
    "crosscoder": LatentScaling,
    "difference": DifferenceScaling,
    "base": partial(OneOnOther, own=BASE),
    "tuned": partial(OneOnOther, own=TUNED),
}


def stream_of(dictionary: Dictionary, way: str, folds: int = FOLDS) -> Any:
    """The accumulator for a comparison; raises OptionError for an unknown comparison, or a
    dictionary that does not fit it.
    """
    if way not in WAYS:
        raise OptionError(f"unknown comparison {way!r}; use {', '.join(WAYS)}")
    stream = _STREAMS[way](dictionary, folds)
    if dictionary.config.architecture in SPARSE:
        dictionary.choose(training=False)  # raises if there is no threshold
    return stream


def compare(
    dictionary: Dictionary,
    way: str,
    batches: Iterable[Batch],
    *,
    limits: Thresholds | None = None,
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
    stream, exact = stream_of(dictionary, way, folds), True
    if any(control.kind != KIND or control.summary.get("way") != way for control in controls):
        raise OptionError(
            f"the control run is not a {KIND} run with comparison {way}; run the same comparison"
            " on the control pair first"
        )
    limits = limits or Thresholds()
    for base, tuned, *rest in batches:
        given = (torch.cat([base, tuned], 1),) if way == "crosscoder" else (base, tuned)
        stream.update(*given, *rest)
        exact = exact and torch.equal(base, tuned)
    found = stream.result()
    told = {"crosscoder": _crosscoder, "difference": _difference}.get(way, _applied)
    columns, more = told(found, limits, draws, seed)
    columns |= _apart(found.apart)
    named = columns["class"][0]
    p = columns["exchange_p"][0]
    one_sided = np.isin(named, ("tuned-only", "base-only"))
    claimed = ~np.isin(named, ("unclear", "silent", "opposed")) & (~one_sided | (p <= ALPHA))
    columns = {
        "latent": (np.arange(len(named)), "key", "number of the latent"),
        "class": columns.pop("class"),
        "claimed": (
            claimed,
            "flag",
            "the class is claimed: by its entire interval and, if specific to one model, beyond"
            " exchanged models",
        ),
        **columns,
    }
    kinds = [kind for kind in KINDS if kind == "changed" or kind in SIDES.get(way, KINDS)]
    columns |= flags(named, claimed, kinds)
    live = int(columns["live"][0].sum())
    counts = {kind: int(((named == kind) & claimed).sum()) for kind in CLASSES}
    summary = {
        "way": way,
        "latents": len(named),
        "live": live,
        "claimed": counts,
        "identical": bool(exact),
        "classes": {kind: int((named == kind).sum()) for kind in CLASSES},
        "thresholds": asdict(limits),
        **more,
    }
    parts = {"classes": counted(named, claimed, controls)}
    if controls:
        parts["control"] = control_table(controls, kinds)
        parts[TABLE] = shares(controls, kinds)
    made = [claim for kind in kinds for claim in claims_of(kind, controls)] if live else []
    lead = "" if live else f"None of {len(named)} latents is active often enough to be classified."
    lead = "Both models' rows are equal, bit for bit." if exact else lead
    run = conclude(table(KIND, columns, summary=summary, tables=parts), made, lead=lead)
    return replace(
        run, summary={**run.summary, "supported": any(run.tables["claims"]["supported"])}
    )


def _estimate(name: str, found: Estimate, meaning: str) -> dict[str, tuple]:
    return {
        name: (found.value, "measure", meaning),
        f"{name}_low": (
            found.low,
            "measure",
            f"lower end of the interval of {name} over documents",
        ),
        f"{name}_high": (found.high, "measure", f"upper end of the interval of {name}"),
    }


def _apart(found: Apart | None) -> dict[str, tuple]:
    if found is None:
        return {}
    return {
        "rate_special": (
            found.special,
            "measure",
            "share of special and template tokens on which it is active",
        ),
        "rate_content": (
            found.content,
            "measure",
            "share of all other tokens on which it is active",
        ),
        "special_share": (
            found.share,
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


def _crosscoder(
    found: Any, limits: Thresholds, draws: int, seed: int
) -> tuple[dict[str, tuple], dict]:
    p = np.fmin(*(exchange_p(found.moved[model], draws, seed) for model in (BASE, TUNED)))
    p = np.fmin(1.0, 2 * p)
    columns = {
        "class": named_column(classes.of_crosscoder(found, limits)),
        "rate": (found.rate, *_RATE),
        "folds_active": (found.folds_active, *_FOLDS),
        **_estimate(
            "nu_error",
            found.nu["error", TUNED],
            "base divided by tuned, in the error plus its contribution",
        ),
        **_estimate(
            "nu_reconstruction",
            found.nu["reconstruction", TUNED],
            "base divided by tuned, in the reconstruction",
        ),
        **_estimate(
            "nu_reconstruction_no_bias",
            found.nu["reconstruction_no_bias", TUNED],
            "the same without the decoder's bias",
        ),
        **_estimate(
            "nu_error_base",
            found.nu["error", BASE],
            "tuned divided by base along the base's decoder row",
        ),
        **_estimate(
            "nu_reconstruction_base",
            found.nu["reconstruction", BASE],
            "the same in the reconstruction",
        ),
        **_estimate(
            "nu_reconstruction_no_bias_base",
            found.nu["reconstruction_no_bias", BASE],
            "the same without the decoder's bias",
        ),
        **_estimate(
            "ratio",
            found.ratio,
            "length of the tuned model's slope on its codes divided by the base's",
        ),
        **_estimate("cosine", found.cosine, "cosine of both models' slopes on its codes"),
        **_estimate(
            "part_cosine", found.part_cosine, "cosine of both models' parts along its decoder rows"
        ),
        "decoder_cosine": (found.decoder_cosine, "measure", "cosine of both decoder rows"),
        "norm_difference": (
            found.norm_difference,
            "measure",
            "from decoder norms: 0 base only, 1 tuned only",
        ),
        "by_norms": (
            classes.by_norms(found),
            "text",
            "class by the decoder's norms alone, for comparison",
        ),
        "exchange_p": (p, *_P),
    }
    return columns, {"by_norms": int((classes.by_norms(found) == "tuned-only").sum())}


def _difference(
    found: Any, limits: Thresholds, draws: int, seed: int
) -> tuple[dict[str, tuple], dict]:
    return {
        "class": named_column(classes.of_differences(found, limits)),
        "rate": (found.rate, *_RATE),
        "folds_active": (found.folds_active, *_FOLDS),
        **_estimate(
            "base_part",
            found.base_part,
            "the base's slope on it divided by the difference of the models' slopes",
        ),
        **_estimate(
            "row_cosine",
            found.row_cosine,
            "cosine of its decoder row and the models' difference where it fires",
        ),
        **_estimate("base_slope", found.slope[BASE], "slope of the base's rows on its codes"),
        **_estimate(
            "tuned_slope", found.slope[TUNED], "slope of the tuned model's rows on its codes"
        ),
        "exchange_p": (exchange_p(found.moved, draws, seed), *_P),
    }, {}


def _applied(
    found: Any, limits: Thresholds, draws: int, seed: int
) -> tuple[dict[str, tuple], dict]:
    p = exchange_p(found.fired, draws, seed)
    own, other = ROLES[found.own], ROLES[1 - found.own]
    mine, theirs = ("the base", "the tuned model")[:: 1 - 2 * found.own]
    columns = {
        "class": named_column(classes.of_applied(found, limits)),
        "rate": (found.rate[found.own], "measure", f"share of {mine}'s rows in which it is active"),
        f"rate_{other}": (
            found.rate[1 - found.own],
            "measure",
            f"share of {theirs}'s rows in which it is active",
        ),
        "folds_active": (found.folds_active, *_FOLDS),
        **_estimate(
            "kept",
            found.kept,
            f"slope of {theirs}'s rows on {mine}'s codes divided by that of {mine}'s rows",
        ),
        **_estimate("rate_ratio", found.rate_ratio, f"rate in {theirs} divided by {mine}'s"),
        **_estimate(
            "mean_ratio", found.mean_ratio, f"mean code where active, {other} divided by {own}"
        ),
        **_estimate(
            "explained_ratio",
            found.explained_ratio,
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
    base, tuned = found.unexplained
    return columns, {
        "unexplained_base": base,
        "unexplained_tuned": tuned,
        "rate_differs": int((p <= ALPHA).sum()),
    }
