"""What became of each latent between a base and its tuned model, four ways, as one table with its
nulls.

``crosscoder``: a dictionary of both models side by side, by latent scaling. ``difference``: a
dictionary of tuned less base. ``base``: the base's own dictionary, applied to the tuned model.
``tuned``: the tuned model's own, applied to the base. Nulls: models exchanged within pairs
(``exchange``), and tables of control pairs, whose own dictionaries were made alike.
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
"""What one model's own dictionary can say is one model's alone; the other ways say both."""
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
    """What takes in rows of both models; OptionError for an unknown way, or a dictionary that
    cannot go it.
    """
    if way not in WAYS:
        raise OptionError(f"unknown way to compare {way!r}; use {', '.join(WAYS)}")
    stream = _STREAMS[way](dictionary, folds)
    if dictionary.config.architecture in SPARSE:
        dictionary.choose(training=False)  # refuses where there is no threshold
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
    """Table of kind "sae-diff", a row per latent; ``batches`` are (base rows, tuned rows,
    document numbers).

    A fourth part of every batch says which rows are of special tokens, whose activity is then
    counted apart.

    A latent is ``claimed`` where its class is by its whole interval, and, for classes of one model
    only, both models differ along its decoder row by more than exchanging them within pairs makes
    them (p at most 0.05, corrected for all latents); a latent of one model's dictionary: in how
    often it fires. ``controls``: tables of pairs that differ in nothing of interest, made in the
    same way.
    """
    stream, exact = stream_of(dictionary, way, folds), True
    if any(control.kind != KIND or control.summary.get("way") != way for control in controls):
        raise OptionError(
            f"the control run is no {KIND} by {way}; compare the control pair in the same way first"
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
            "the class is claimed: whole interval, and where one-sided beyond exchange",
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
    lead = "" if live else f"None of {len(named)} latents is active often enough to say anything."
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
            f"lower end of the interval of {name}, over documents",
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
            "share of its activity that is on special and template tokens",
        ),
    }


_RATE = ("measure", "share of rows in which it is active")
_FOLDS = ("measure", "folds of documents in which it is active")
_P = (
    "measure",
    "p that exchanging the models makes rows differ as much along it, corrected for all latents",
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
            "base by tuned in the error with its part put back",
        ),
        **_estimate(
            "nu_reconstruction",
            found.nu["reconstruction", TUNED],
            "base by tuned in the reconstruction",
        ),
        **_estimate(
            "nu_reconstruction_no_bias",
            found.nu["reconstruction_no_bias", TUNED],
            "the same without the decoder's bias",
        ),
        **_estimate(
            "nu_error_base", found.nu["error", BASE], "tuned by base along the base's decoder row"
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
            "ratio", found.ratio, "how many times as long the tuned model's slope on its codes is"
        ),
        **_estimate("cosine", found.cosine, "cosine of both models' slopes on its codes"),
        **_estimate(
            "part_cosine", found.part_cosine, "cosine of both models' parts along its decoder rows"
        ),
        "decoder_cosine": (found.decoder_cosine, "measure", "cosine of both decoder rows"),
        "norm_difference": (
            found.norm_difference,
            "measure",
            "of the decoder's norms: 0 base only, 1 tuned only",
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
            "slope of the base on it by what the models' slopes differ in",
        ),
        **_estimate(
            "row_cosine",
            found.row_cosine,
            "cosine of its row and what the models differ in where it fires",
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
            "kept", found.kept, f"slope of {theirs}'s rows on {mine}'s codes by {mine}'s own"
        ),
        **_estimate("rate_ratio", found.rate_ratio, f"rate in {theirs} by {mine}'s"),
        **_estimate("mean_ratio", found.mean_ratio, f"mean code where active, {other} by {own}"),
        **_estimate(
            "explained_ratio",
            found.explained_ratio,
            f"squared error that it saves, {other} by {own}",
        ),
        "exchange_p": (
            p,
            "measure",
            "p that exchanging the models makes it fire as unequally, corrected",
        ),
        "rate_differs": (
            p <= ALPHA,
            "flag",
            "fires more or less often than exchanged models would",
        ),
    }
    base, tuned = found.unexplained
    return columns, {
        "unexplained_base": base,
        "unexplained_tuned": tuned,
        "rate_differs": int((p <= ALPHA).sum()),
    }
