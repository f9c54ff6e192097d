"""Claims about labels and logit effects of latents."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from interp.claims import ALPHA, Claim, mean, statistic
from interp.table import Table

_SCORED = {"where": {"scored": True}}


def claims_of(rows: Table) -> list[Claim]:
    """Claims that labels are more accurate than other latents' labels, that more labels are than
    expected by chance, and that decoder rows have larger logit effects than random rows.
    """
    claims, scored = [], rows["scored"]
    if scored.any() and np.isfinite(rows["others"][scored]).all():
        claims.append(
            Claim(
                name="labels-detect",
                estimate=mean("detection", cluster="latent", minus={"column": "others"}, **_SCORED),
                at_least=0.0,
                reference=mean("others", cluster="latent", **_SCORED),
                control="labels of other latents, on the same tokens",
                text=(
                    "Labels predict on held-out documents where their latents are active with"
                    " mean accuracy {own:.3g}, other latents' labels with {control:.3g}: a"
                    " difference"
                    " of {value:+.3g} [{low:+.3g}, {high:+.3g}] over latents."
                ),
                also={"own": mean("detection", cluster="latent", **_SCORED)},
            )
        )
    if scored.any():
        claims.append(
            _share_claim(
                "labels-beyond-nulls",
                "labels are more accurate than other latents' labels and with shuffled firing",
                "detected",
                "other latents' labels and shuffled firing, corrected",
                _SCORED,
            )
        )
    if "beyond_random" in rows.data:
        claims.append(
            _share_claim(
                "logits-stand-out",
                "decoder rows change some token's logit more than random rows",
                "beyond_random",
                "random rows of equal norm, corrected",
                {},
            )
        )
    return claims


def _share_claim(
    name: str, statement: str, column: str, control: str, rows: Mapping[str, Mapping]
) -> Claim:
    """Claim that more latents are significant than the level of the single tests allows."""
    return Claim(
        name=name,
        estimate=mean(column, cluster="latent", **rows),
        at_least=ALPHA,
        reference=ALPHA,
        control=control,
        text=(
            f"{{count:d}} of {{total:d}} {statement} ({{low:.1%}} to {{high:.1%}}; at most"
            f" {ALPHA:.0%} expected by chance)."
        ),
        also={
            "count": statistic("sum", column, **rows),
            "total": statistic("count", column, **rows),
        },
    )


def first_sentence(rows: Table, live: int) -> str:
    """The first sentence of the report."""
    return (
        f"{len(rows)} of {live} active latents, {int(rows['scored'].sum())} of them active often"
        " enough to be labelled."
    )
