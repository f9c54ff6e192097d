"""Claims of a comparison of latents: shares of live latents by class, compared with control
pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from interp.claims import Claim, mean, statistic
from interp.claims.control_fine_tunes import beyond_new_control, controls_table
from interp.rows import columns_of, flag, key, measure, rows_table, text
from interp.sae.analysis.classes import CHANGED, CLASSES
from interp.table import Table

KINDS = {"tuned-only": ("tuned-only",), "base-only": ("base-only",), "changed": CHANGED}
"""The claims about a pair, and the classes that count for each."""


class LatentRow:
    """A row per latent of a dictionary; ``kind`` is stored as ``class``."""

    latent: int = key("number of the latent in its dictionary")
    kind: str = text("; ".join(f"{name}: {meaning}" for name, meaning in CLASSES.items()))
    claimed: bool = flag(
        "the class is claimed: by its entire interval and, if specific to one model, beyond"
        " exchanged models"
    )


class ControlRow:
    """A row per latent of all control pairs' dictionaries."""

    row: int = key("index of the latent over all control pairs")
    control: int = key("number of the control pair, in the given order")


class ControlLatentRow(LatentRow, ControlRow):
    """The columns of ``ControlRow``, then those of ``LatentRow``."""


class ClassCountRow:
    """A row per pair and class; ``kind`` is stored as ``class``."""

    pair: str = key("whose dictionary: this pair's, or a control's")
    kind: str = key("what became of a latent")
    latents: int = measure("latents of the class")
    claimed: int = measure("those of them that are claimed")
    live: int = measure("all latents of the pair except silent ones")


def flags(classes: np.ndarray, claimed: np.ndarray, kinds: Iterable[str]) -> dict[str, tuple]:
    """Flags of live latents, and of latents claimed to be of each kind."""
    return {
        "live": (classes != "silent", "flag", "active in enough folds to be classified"),
        **{
            _flag(kind): (
                np.isin(classes, KINDS[kind]) & claimed,
                "flag",
                f"claimed to be {_either(kind)}",
            )
            for kind in kinds
        },
    }


def _flag(kind: str) -> str:
    return f"claimed_{kind.replace('-', '_')}"


def _either(kind: str) -> str:
    return " or ".join(KINDS[kind])


def control_table(controls: Sequence[Table], kinds: Iterable[str]) -> Table:
    """Table of kind "sae-diff-control": the class of each latent of the control pairs'
    dictionaries.
    """
    classes, claimed = (
        np.concatenate([control[name] for control in controls]) for name in ("class", "claimed")
    )
    counts = [len(control) for control in controls]
    return rows_table(
        ControlLatentRow,
        "sae-diff-control",
        {
            "row": np.arange(len(classes)),
            "control": np.repeat(np.arange(len(controls)), counts),
            "latent": np.concatenate([np.arange(count) for count in counts]),
            "kind": classes,
            "claimed": claimed,
        },
        rename={"kind": "class"},
        extra=flags(classes, claimed, kinds),
    )


def control_shares(controls: Sequence[Table], kinds: Iterable[str]) -> Table:
    """Share of live latents claimed to be of each kind, per control; NaN if no latent is live."""
    columns = {
        _flag(kind): (
            [_live_share(control, kind) for control in controls],
            "measure",
            f"share of live latents claimed to be {_either(kind)}",
        )
        for kind in kinds
    }
    return controls_table([_name(control) for control in controls], columns)


def _live_share(control: Table, kind: str) -> float:
    live = control["class"] != "silent"
    counts = np.isin(control["class"], KINDS[kind]) & control["claimed"]
    return float(counts[live].mean()) if live.any() else float("nan")


def _name(control: Table) -> str:
    return "" if control.provenance is None else str(control.provenance.context.get("tuned", ""))


def class_counts(classes: np.ndarray, claimed: np.ndarray, controls: Sequence[Table]) -> Table:
    """Number of latents of each class, for this pair and the controls."""
    by_pair = {"this pair": (classes, claimed)} | {
        "control" if len(controls) == 1 else f"control {at}": (control["class"], control["claimed"])
        for at, control in enumerate(controls, 1)
    }
    rows = [
        (
            pair,
            kind,
            int((one == kind).sum()),
            int(((one == kind) & sure).sum()),
            int((one != "silent").sum()),
        )
        for pair, (one, sure) in by_pair.items()
        for kind in CLASSES
    ]
    return rows_table(
        ClassCountRow,
        "sae-diff-classes",
        dict(zip(columns_of(ClassCountRow), zip(*rows, strict=True), strict=True)),
        rename={"kind": "class"},
    )


def claims_of(kind: str, controls: Sequence[Table]) -> list[Claim]:
    """Claim that more latents are of a kind than in the control pairs; with several controls also
    than in a new one.
    """
    claims = [_claim(kind, controls)]
    if len(controls) > 1 and all((control["class"] != "silent").any() for control in controls):
        claim = beyond_new_control(
            f"{kind}-beyond-new-control",
            mean(_flag(kind), cluster="latent", where={"live": True}),
            _flag(kind),
            len(controls),
            f"the share of {_either(kind)} latents",
            ".1%",
        )
        # shares of few latents vary even if those of the controls are all 0
        claims.append(replace(claim, requires=(kind,)))
    return claims


def _claim(kind: str, controls: Sequence[Table]) -> Claim:
    """Claim that the share of live latents of a kind is larger than in the pooled control pairs, by
    both intervals.
    """
    column, rows = _flag(kind), {"where": {"live": True}}
    control_rows = {"table": "control", **rows}
    has_live_controls = any((control["class"] != "silent").any() for control in controls)
    control_name, verb = (
        ("the control pair", "gives")
        if len(controls) == 1
        else (f"{len(controls)} control pairs", "give")
    )
    also = {"count": statistic("sum", column, **rows), "total": statistic("count", column, **rows)}
    end = "there is no control pair to compare with."
    if has_live_controls:
        also |= {
            "control_count": statistic("sum", column, **control_rows),
            "control_total": statistic("count", column, **control_rows),
        }
        end = (
            f"{control_name} {verb} {{control_count:d}} of {{control_total:d}} ({{control:.1%}}, at"
            " most {control_high:.1%})."
        )
    elif controls:
        end = f"no latent of {control_name} is active often enough to compare with."
    return Claim(
        name=kind,
        estimate=mean(column, cluster="latent", **rows),
        at_least=0.0,
        beyond=["control"],
        reference=mean(column, cluster="row", **control_rows) if has_live_controls else None,
        control=f"the same share in {control_name}" if has_live_controls else "",
        missing="" if controls else "give a control pair with --control and --control-dictionary",
        text=(
            f"{{count:d}} of {{total:d}} live latents are {_either(kind)} ({{low:.1%}} to"
            f" {{high:.1%}}); {end}"
        ),
        also=also,
    )
