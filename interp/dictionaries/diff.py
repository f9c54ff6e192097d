"""What became of each latent between a base and its tuned model, four ways, as one table with its nulls.

``crosscoder``: a dictionary of both models side by side, by latent scaling. ``difference``: a dictionary of tuned less
base. ``base``: the base's own dictionary, applied to the tuned model. ``tuned``: the tuned model's own, applied to the
base. Nulls: models exchanged within pairs (``exchange``), and tables of control pairs, whose own dictionaries were
made alike.
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

from interp.claims import Claim, conclude, mean, statistic
from interp.claims.control_fine_tunes import TABLE, beyond_new, controls_table
from interp.dictionaries import classes
from interp.dictionaries.applied import ROLES, OneOnOther
from interp.dictionaries.classes import CHANGED, CLASSES, Thresholds
from interp.dictionaries.config import SPARSE
from interp.dictionaries.dictionary import Dictionary
from interp.dictionaries.differences import DifferenceScaling
from interp.dictionaries.exchange import DRAWS, exchange_p
from interp.dictionaries.folds import FOLDS, Apart, Estimate
from interp.dictionaries.scaling import BASE, TUNED, LatentScaling
from interp.errors import OptionError
from interp.table import Table, table

WAYS = ("crosscoder", "difference", "base", "tuned")
SIDES = {"base": ("base-only",), "tuned": ("tuned-only",)}
"""What one model's own dictionary can say is one model's alone; the other ways say both."""
ALPHA = 0.05
KIND = "dictionary-diff"
KINDS = {"tuned-only": ("tuned-only",), "base-only": ("base-only",), "changed": CHANGED}
"""What is claimed of a pair, and the classes that count for it."""

Batch = (
    tuple[Float[Tensor, "N D"], Float[Tensor, "N D"], Int[Tensor, " N"]]
    | tuple[Float[Tensor, "N D"], Float[Tensor, "N D"], Int[Tensor, " N"], Bool[Tensor, " N"]]
)

_STREAMS = {
    "crosscoder": LatentScaling, "difference": DifferenceScaling, "base": partial(OneOnOther, own=BASE),
    "tuned": partial(OneOnOther, own=TUNED),
}  # fmt: skip


def stream_of(dictionary: Dictionary, way: str, folds: int = FOLDS) -> Any:
    """What takes in rows of both models; OptionError for an unknown way, or a dictionary that cannot go it."""
    if way not in WAYS:
        raise OptionError(f"unknown way to compare {way!r}; use {', '.join(WAYS)}")
    stream = _STREAMS[way](dictionary, folds)
    if dictionary.config.architecture in SPARSE:
        dictionary.choose(training=False)  # refuses where there is no threshold
    return stream


def compare(
    dictionary: Dictionary, way: str, batches: Iterable[Batch], *, limits: Thresholds | None = None,
    folds: int = FOLDS, draws: int = DRAWS, seed: int = 0, controls: Sequence[Table] = (),
) -> Table:  # fmt: skip
    """Table of kind "dictionary-diff", a row per latent; ``batches`` are (base rows, tuned rows, document numbers).

    A fourth part of every batch says which rows are of special tokens, whose activity is then counted apart.

    A latent is ``claimed`` where its class is by its whole interval, and, for classes of one model only, both models
    differ along its decoder row by more than exchanging them within pairs makes them (p at most 0.05, corrected for
    all latents); a latent of one model's dictionary: in how often it fires. ``controls``: tables of pairs that
    differ in nothing of interest, made in the same way.
    """
    stream, exact = stream_of(dictionary, way, folds), True
    if any(control.kind != KIND or control.summary.get("way") != way for control in controls):
        raise OptionError(f"the control run is no {KIND} by {way}; compare the control pair in the same way first")
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
        "claimed": (claimed, "flag", "the class is claimed: whole interval, and where one-sided beyond exchange"),
        **columns,
    }
    kinds = [kind for kind in KINDS if kind == "changed" or kind in SIDES.get(way, KINDS)]
    columns |= _flags(named, claimed, kinds)
    live = int(columns["live"][0].sum())
    counts = {kind: int(((named == kind) & claimed).sum()) for kind in CLASSES}
    summary = {
        "way": way, "latents": len(named), "live": live, "claimed": counts, "identical": bool(exact),
        "classes": {kind: int((named == kind).sum()) for kind in CLASSES}, "thresholds": asdict(limits), **more,
    }  # fmt: skip
    parts = {"classes": _counted(named, claimed, controls)}
    if controls:
        parts["control"] = _control_table(controls, kinds)
        parts[TABLE] = _shares(controls, kinds)
    made = [claim for kind in kinds for claim in _claims(kind, controls)] if live else []
    lead = "" if live else f"None of {len(named)} latents is active often enough to say anything."
    lead = "Both models' rows are equal, bit for bit." if exact else lead
    run = conclude(table(KIND, columns, summary=summary, tables=parts), made, lead=lead)
    return replace(run, summary={**run.summary, "supported": any(run.tables["claims"]["supported"])})


def _flags(named: np.ndarray, claimed: np.ndarray, kinds: Iterable[str]) -> dict[str, tuple]:
    """Which latents count, and which of them are claimed to be of a kind: what shares of live latents are made of."""
    return {
        "live": (named != "silent", "flag", "active in folds enough to be classified"),
        **{
            _flag(kind): (np.isin(named, KINDS[kind]) & claimed, "flag", f"claimed to be {' or '.join(KINDS[kind])}")
            for kind in kinds
        },
    }


def _flag(kind: str) -> str:
    return f"claimed_{kind.replace('-', '_')}"


def _control_table(controls: Sequence[Table], kinds: Iterable[str]) -> Table:
    """Table of kind "dictionary-diff-control": the class of every latent of the control pairs' own dictionaries."""
    named, claimed = (np.concatenate([control[name] for control in controls]) for name in ("class", "claimed"))
    counts = [len(control) for control in controls]
    return table("dictionary-diff-control", {
        "row": (np.arange(len(named)), "key", "number of the latent over all control pairs"),
        "control": (np.repeat(np.arange(len(controls)), counts), "key", "control pair, in the order given"),
        "latent": (
            np.concatenate([np.arange(count) for count in counts]), "key",
            "number of the latent in this pair's dictionary",
        ),
        "class": _named(named),
        "claimed": (claimed, "flag", "the class is claimed"),
        **_flags(named, claimed, kinds),
    })  # fmt: skip


def _shares(controls: Sequence[Table], kinds: Iterable[str]) -> Table:
    """The share of live latents that is claimed to be of a kind, one of each control; NaN where none is live."""
    live = [control["class"] != "silent" for control in controls]
    columns = {}
    for kind in kinds:
        each = [
            float(_flags(control["class"], control["claimed"], [kind])[_flag(kind)][0][alive].mean())
            if alive.any() else float("nan")
            for control, alive in zip(controls, live, strict=True)
        ]  # fmt: skip
        columns[_flag(kind)] = (each, "measure", f"share of live latents claimed to be {' or '.join(KINDS[kind])}")
    return controls_table([_name(control) for control in controls], columns)


def _name(control: Table) -> str:
    return "" if control.provenance is None else str(control.provenance.context.get("tuned", ""))


def _counted(named: np.ndarray, claimed: np.ndarray, controls: Sequence[Table]) -> Table:
    """Latents of every class, of this pair and of the controls."""
    each = {"this pair": (named, claimed)} | {
        "control" if len(controls) == 1 else f"control {at}": (control["class"], control["claimed"])
        for at, control in enumerate(controls, 1)
    }
    rows = [
        (pair, kind, int((one == kind).sum()), int(((one == kind) & sure).sum()), int((one != "silent").sum()))
        for pair, (one, sure) in each.items() for kind in CLASSES
    ]  # fmt: skip
    pairs, kinds, latents, sure, live = zip(*rows, strict=True)
    return table("dictionary-classes", {
        "pair": (list(pairs), "key", "whose dictionary: this pair's, or the control's"),
        "class": (list(kinds), "key", "what became of a latent"),
        "latents": (list(latents), "measure", "how many are of the class"),
        "claimed": (list(sure), "measure", "how many of them are claimed"),
        "live": (list(live), "measure", "all latents of the pair but silent ones"),
    })  # fmt: skip


def _claims(kind: str, controls: Sequence[Table]) -> list[Claim]:
    """That more is of a kind than in the control pairs; of several, also than in a further one."""
    column = _flag(kind)
    own = mean(column, cluster="latent", where={"live": True})
    made = [_claim(kind, controls)]
    if len(controls) > 1 and all((control["class"] != "silent").any() for control in controls):
        said = f"the share of {' or '.join(KINDS[kind])} latents"
        further = beyond_new(f"{kind}-beyond-new-control", own, column, len(controls), said, ".1%")
        # shares of few latents vary even where those of the controls are all 0
        made.append(replace(further, requires=(kind,)))
    return made


def _claim(kind: str, controls: Sequence[Table]) -> Claim:
    """That a larger share of live latents is of a kind than in the control pairs together, by both intervals."""
    column, rows = _flag(kind), {"where": {"live": True}}
    beside = {"table": "control", **rows}
    active = any((control["class"] != "silent").any() for control in controls)
    one, give = ("the control pair", "gives") if len(controls) == 1 else (f"{len(controls)} control pairs", "give")
    also = {"count": statistic("sum", column, **rows), "total": statistic("count", column, **rows)}
    if active:
        also |= {
            f"control_{name}": statistic(one, column, **beside) for name, one in (("count", "sum"), ("total", "count"))
        }
    end = {
        (True, True): f"{one} {give} {{control_count:d}} of {{control_total:d}} ({{control:.1%}}, at most "
        "{control_high:.1%}).",
        (True, False): f"no latent of {one} is active often enough to compare with.",
        (False, False): "no control pair was given to compare with.",
    }[bool(controls), active]
    return Claim(
        name=kind,
        estimate=mean(column, cluster="latent", **rows),
        at_least=0.0,
        beyond=["control"],
        reference=mean(column, cluster="row", **beside) if active else None,
        control=f"the same share in {one}" if active else "",
        missing="" if controls else "give a control pair with --control and --control-dictionary",
        text=f"{{count:d}} of {{total:d}} live latents are {' or '.join(KINDS[kind])} ({{low:.1%}} to {{high:.1%}}); "
        + end,
        also=also,
    )


def _estimate(name: str, found: Estimate, meaning: str) -> dict[str, tuple]:
    return {
        name: (found.value, "measure", meaning),
        f"{name}_low": (found.low, "measure", f"lower end of the interval of {name}, over documents"),
        f"{name}_high": (found.high, "measure", f"upper end of the interval of {name}"),
    }


def _named(named: np.ndarray) -> tuple:
    return (named, "text", "; ".join(f"{name}: {meaning}" for name, meaning in CLASSES.items()))


def _apart(found: Apart | None) -> dict[str, tuple]:
    if found is None:
        return {}
    return {
        "rate_special": (found.special, "measure", "share of special and template tokens on which it is active"),
        "rate_content": (found.content, "measure", "share of all other tokens on which it is active"),
        "special_share": (found.share, "measure", "share of its activity that is on special and template tokens"),
    }


_RATE = ("measure", "share of rows in which it is active")
_FOLDS = ("measure", "folds of documents in which it is active")
_P = ("measure", "p that exchanging the models makes rows differ as much along it, corrected for all latents")


def _crosscoder(found: Any, limits: Thresholds, draws: int, seed: int) -> tuple[dict[str, tuple], dict]:
    p = np.fmin(*(exchange_p(found.moved[model], draws, seed) for model in (BASE, TUNED)))
    p = np.fmin(1.0, 2 * p)
    columns = {
        "class": _named(classes.of_crosscoder(found, limits)),
        "rate": (found.rate, *_RATE),
        "folds_active": (found.folds_active, *_FOLDS),
        **_estimate("nu_error", found.nu["error", TUNED], "base by tuned in the error with its part put back"),
        **_estimate("nu_reconstruction", found.nu["reconstruction", TUNED], "base by tuned in the reconstruction"),
        **_estimate(
            "nu_reconstruction_no_bias",
            found.nu["reconstruction_no_bias", TUNED],
            "the same without the decoder's bias",
        ),
        **_estimate("nu_error_base", found.nu["error", BASE], "tuned by base along the base's decoder row"),
        **_estimate("nu_reconstruction_base", found.nu["reconstruction", BASE], "the same in the reconstruction"),
        **_estimate(
            "nu_reconstruction_no_bias_base",
            found.nu["reconstruction_no_bias", BASE],
            "the same without the decoder's bias",
        ),
        **_estimate("ratio", found.ratio, "how many times as long the tuned model's slope on its codes is"),
        **_estimate("cosine", found.cosine, "cosine of both models' slopes on its codes"),
        **_estimate("part_cosine", found.part_cosine, "cosine of both models' parts along its decoder rows"),
        "decoder_cosine": (found.decoder_cosine, "measure", "cosine of both decoder rows"),
        "norm_difference": (found.norm_difference, "measure", "of the decoder's norms: 0 base only, 1 tuned only"),
        "by_norms": (classes.by_norms(found), "text", "class by the decoder's norms alone, for comparison"),
        "exchange_p": (p, *_P),
    }
    return columns, {"by_norms": int((classes.by_norms(found) == "tuned-only").sum())}


def _difference(found: Any, limits: Thresholds, draws: int, seed: int) -> tuple[dict[str, tuple], dict]:
    return {
        "class": _named(classes.of_differences(found, limits)),
        "rate": (found.rate, *_RATE),
        "folds_active": (found.folds_active, *_FOLDS),
        **_estimate("base_part", found.base_part, "slope of the base on it by what the models' slopes differ in"),
        **_estimate("row_cosine", found.row_cosine, "cosine of its row and what the models differ in where it fires"),
        **_estimate("base_slope", found.slope[BASE], "slope of the base's rows on its codes"),
        **_estimate("tuned_slope", found.slope[TUNED], "slope of the tuned model's rows on its codes"),
        "exchange_p": (exchange_p(found.moved, draws, seed), *_P),
    }, {}


def _applied(found: Any, limits: Thresholds, draws: int, seed: int) -> tuple[dict[str, tuple], dict]:
    p = exchange_p(found.fired, draws, seed)
    own, other = ROLES[found.own], ROLES[1 - found.own]
    mine, theirs = ("the base", "the tuned model")[:: 1 - 2 * found.own]
    columns = {
        "class": _named(classes.of_applied(found, limits)),
        "rate": (found.rate[found.own], "measure", f"share of {mine}'s rows in which it is active"),
        f"rate_{other}": (found.rate[1 - found.own], "measure", f"share of {theirs}'s rows in which it is active"),
        "folds_active": (found.folds_active, *_FOLDS),
        **_estimate("kept", found.kept, f"slope of {theirs}'s rows on {mine}'s codes by {mine}'s own"),
        **_estimate("rate_ratio", found.rate_ratio, f"rate in {theirs} by {mine}'s"),
        **_estimate("mean_ratio", found.mean_ratio, f"mean code where active, {other} by {own}"),
        **_estimate("explained_ratio", found.explained_ratio, f"squared error that it saves, {other} by {own}"),
        "exchange_p": (p, "measure", "p that exchanging the models makes it fire as unequally, corrected"),
        "fires_otherwise": (p <= ALPHA, "flag", "fires more or less often than exchanged models would"),
    }
    base, tuned = found.unexplained
    return columns, {
        "unexplained_base": base, "unexplained_tuned": tuned, "fires_otherwise": int((p <= ALPHA).sum()),
    }  # fmt: skip
