"""Claims of a comparison of latents: shares of live latents by class, compared with control
pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from interp.claims import Claim, mean, statistic
from interp.claims.control_fine_tunes import beyond_new_control, controls_table
from interp.sae.analysis.classes import CHANGED, CLASSES
from interp.table import Table, table

KINDS = {"tuned-only": ("tuned-only",), "base-only": ("base-only",), "changed": CHANGED}
"""The claims about a pair, and the classes that count for each."""


def flags(classes: np.ndarray, claimed: np.ndarray, kinds: Iterable[str]) -> dict[str, tuple]:
    """Flags of live latents, and of latents claimed to be of each kind."""
    return {
        "live": (classes != "silent", "flag", "active in enough folds to be classified"),
        **{
            _flag(kind): (
                np.isin(classes, KINDS[kind]) & claimed,
                "flag",
                f"claimed to be {' or '.join(KINDS[kind])}",
            )
            for kind in kinds
        },
    }


def _flag(kind: str) -> str:
    return f"claimed_{kind.replace('-', '_')}"


def control_table(controls: Sequence[Table], kinds: Iterable[str]) -> Table:
    """Table of kind "sae-diff-control": the class of each latent of the control pairs'
    dictionaries.
    """
    classes, claimed = (
        np.concatenate([control[name] for control in controls]) for name in ("class", "claimed")
    )
    counts = [len(control) for control in controls]
    return table(
        "sae-diff-control",
        {
            "row": (np.arange(len(classes)), "key", "index of the latent over all control pairs"),
            "control": (
                np.repeat(np.arange(len(controls)), counts),
                "key",
                "number of the control pair, in the given order",
            ),
            "latent": (
                np.concatenate([np.arange(count) for count in counts]),
                "key",
                "number of the latent in this pair's dictionary",
            ),
            "class": class_column(classes),
            "claimed": (claimed, "flag", "the class is claimed"),
            **flags(classes, claimed, kinds),
        },
    )


def control_shares(controls: Sequence[Table], kinds: Iterable[str]) -> Table:
    """Share of live latents claimed to be of each kind, per control; NaN if no latent is live."""
    is_live = [control["class"] != "silent" for control in controls]
    columns = {}
    for kind in kinds:
        shares = [
            (
                float(
                    flags(control["class"], control["claimed"], [kind])[_flag(kind)][0][
                        alive
                    ].mean()
                )
                if alive.any()
                else float("nan")
            )
            for control, alive in zip(controls, is_live, strict=True)
        ]
        columns[_flag(kind)] = (
            shares,
            "measure",
            f"share of live latents claimed to be {' or '.join(KINDS[kind])}",
        )
    return controls_table([_name(control) for control in controls], columns)


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
    pairs, kinds, latents, n_claimed, live = zip(*rows, strict=True)
    return table(
        "sae-diff-classes",
        {
            "pair": (list(pairs), "key", "whose dictionary: this pair's, or a control's"),
            "class": (list(kinds), "key", "what became of a latent"),
            "latents": (list(latents), "measure", "latents of the class"),
            "claimed": (list(n_claimed), "measure", "those of them that are claimed"),
            "live": (list(live), "measure", "all latents of the pair except silent ones"),
        },
    )


def claims_of(kind: str, controls: Sequence[Table]) -> list[Claim]:
    """Claim that more latents are of a kind than in the control pairs; with several controls also
    than in a new one.
    """
    column = _flag(kind)
    share = mean(column, cluster="latent", where={"live": True})
    claims = [_claim(kind, controls)]
    if len(controls) > 1 and all((control["class"] != "silent").any() for control in controls):
        subject = f"the share of {' or '.join(KINDS[kind])} latents"
        claim = beyond_new_control(
            f"{kind}-beyond-new-control", share, column, len(controls), subject, ".1%"
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
    if has_live_controls:
        also |= {
            f"control_{name}": statistic(one, column, **control_rows)
            for name, one in (("count", "sum"), ("total", "count"))
        }
    end = {
        (
            True,
            True,
        ): (
            f"{control_name} {verb} {{control_count:d}} of {{control_total:d}} ({{control:.1%}}, at"
            " most {control_high:.1%})."
        ),
        (True, False): f"no latent of {control_name} is active often enough to compare with.",
        (False, False): "there is no control pair to compare with.",
    }[bool(controls), has_live_controls]
    return Claim(
        name=kind,
        estimate=mean(column, cluster="latent", **rows),
        at_least=0.0,
        beyond=["control"],
        reference=mean(column, cluster="row", **control_rows) if has_live_controls else None,
        control=f"the same share in {control_name}" if has_live_controls else "",
        missing="" if controls else "give a control pair with --control and --control-dictionary",
        text=(
            f"{{count:d}} of {{total:d}} live latents are {' or '.join(KINDS[kind])} ({{low:.1%}}"
            " to {high:.1%}); "
        )
        + end,
        also=also,
    )


def class_column(classes: np.ndarray) -> tuple:
    """The column of classes, with the meaning of each class."""
    return (classes, "text", "; ".join(f"{name}: {meaning}" for name, meaning in CLASSES.items()))
