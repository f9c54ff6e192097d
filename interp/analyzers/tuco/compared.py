"""Rows of the table, and what is claimed of them: beyond rounding and a control, and of two classes which is above."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from interp.analyzers.tuco.passes import Asked, Measured
from interp.analyzers.tuco.shuffles import Shuffles, too_few
from interp.claims import Claim, Draws, auc, literal, mean
from interp.display import shortened
from interp.table import Table, table

POSITIVE, NEGATIVE = {"group": "positive"}, {"group": "negative"}
MOST_WAYS = 2**53


def prompt_columns(
    asked: Asked, found: Sequence[Measured], sham: Sequence[Measured] | None, names: tuple[str, str]
) -> dict[str, tuple]:
    """One row per prompt, the classes called ``names``."""

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in found])

    tuco = joined("tuco")
    columns = {
        "group": ([part.group for part in found for _ in part.prompts], "key",
                  f"class of the prompt: {names[0]} prompts are positive"),
        "prompt_id": ([p.id for part in found for p in part.prompts], "key", "position in the prompt file, from 0"),
        "cluster": ([p.cluster for part in found for p in part.prompts], "key", "prompts that depend on each other"),
        "prompt": ([shortened(p.text) for part in found for p in part.prompts], "text", "its text, shortened"),
        "tokens": (joined("lengths"), "measure", "tokens of the prompt"),
        "tuco": (tuco, "measure", f"share of tuning in what all blocks add {tokens_of(asked)}"),
        "pre_co": (1 - tuco, "measure", "share of the base's blocks"),
        "output_co": (
            joined("output_co"), "measure",
            "the same share of where the two models' own streams end; NaN where it was not asked",
        ),
        "base_own": (
            joined("base_own"), "measure",
            "norm of what the base's blocks add on its own stream; NaN where OutputCo was not asked",
        ),
        "beta": (
            joined("betas").max(1), "measure",
            "largest share after any block, over all tokens, as in the paper; NaN on the fast path",
        ),
        "beta_last": (joined("betas_last").max(1), "measure", "largest share after any block, at the last token"),
    }  # fmt: skip
    if sham is not None:
        columns["sham_tuco"] = (np.concatenate([part.tuco for part in sham]), "measure", "TuCo of the sham")
    return columns


def tokens_of(asked: Asked) -> str:
    """Over which tokens TuCo is taken."""
    return "at the last token" if asked.positions == "last" else "over all tokens"


def permuted(shuffles: Shuffles, asked: Asked, tuco: np.ndarray, seed: int) -> Table:
    """AUCs of ``tuco``, positive then negative prompts, under permuted labels: over all pairs, and at equal length."""
    near = shuffles.near_auc(tuco, asked.caliper, asked.permutations, seed)
    return table("tuco-permuted", {
        "draw": (np.arange(asked.permutations), "key", "number of the permutation"),
        "auc": (shuffles.auc(tuco, asked.permutations, seed), "measure", "AUC with labels of whole clusters permuted"),
        "auc_near": (near, "measure", "AUC at equal length, labels permuted among clusters of one mean length"),
    })  # fmt: skip


def claims_of(
    asked: Asked, floor: float, count: int, names: tuple[str, str], sham: bool, shuffles: Shuffles | None
) -> list[Claim]:
    """What is claimed of ``count`` prompts, of two classes where there are ``shuffles`` of their labels.

    ``floor``: the largest share that rounding alone gives.
    """
    made = [
        Claim(
            name="beyond-rounding",
            estimate=mean("tuco"),
            at_least=floor,
            reference=floor,
            control="the fine-tuned model and itself, by arithmetic of another shape",
            text="Tuning makes up {value:.3g} [{low:.3g}, {high:.3g}] of what the blocks add "
            f"{tokens_of(asked)} (TuCo, mean of {count} prompts; rounding alone gives about {{control:.2g}}).",
        )
    ]
    if sham:
        made.append(
            Claim(
                name="beyond-sham",
                estimate=mean("tuco", minus={"column": "sham_tuco"}),
                at_least=0.0,
                reference=mean("sham_tuco"),
                control="the control fine-tune on the same prompts",
                text="That is {value:.3g} more [{low:.3g}, {high:.3g}] than of the control ({control:.3g}).",
            )
        )
    return made if shuffles is None else [*made, *_of_classes(asked, names, sham, shuffles)]


def _of_classes(asked: Asked, names: tuple[str, str], sham: bool, shuffles: Shuffles) -> list[Claim]:
    """One class above the other; at equal length; and more so than without this tuning."""
    near: dict[str, Any] = {"within": ["tokens", asked.caliper]}
    most = f"{asked.caliper} token{'s' * (asked.caliper != 1)}"
    positive, negative = map(literal, names)
    made = [
        Claim(
            name="separates",
            estimate=auc("tuco", POSITIVE, NEGATIVE),
            at_least=0.5,
            null=Draws("permuted", "auc", arrangements=float(min(shuffles.ways, MOST_WAYS))),
            control="labels permuted by whole clusters",
            text=f"TuCo of {positive} prompts is above that of {negative} ones with AUC {{value:.2f}} [{{low:.2f}}, "
            f"{{high:.2f}}], p = {{p:.2g}}; their number of tokens alone with {{length:.2f}}." + too_few(shuffles.ways),
            also={"length": auc("tokens", POSITIVE, NEGATIVE)},
        ),
        Claim(
            name="separates-at-equal-length",
            estimate=auc("tuco", POSITIVE, NEGATIVE, **near),
            at_least=0.5,
            null=Draws("permuted", "auc_near", arrangements=float(min(shuffles.near_ways, MOST_WAYS))),
            control="labels permuted among clusters of one mean length",
            text=f"Over pairs of prompts whose lengths differ by at most {most}, the AUC is {{value:.2f}} "
            "[{low:.2f}, {high:.2f}], p = {p:.2g} (number of tokens alone {length:.2f})." + too_few(shuffles.near_ways),
            undefined=f"No pair of prompts has lengths that differ by at most {most}: TuCo moves with length, and what "
            "length does cannot be told apart here.",
            also={"length": auc("tokens", POSITIVE, NEGATIVE, **near)},
        ),
    ]
    others = {}
    if asked.output:
        others["base"] = (
            {"column": "base_own", "folded": True},
            "the size of what the base's blocks add on its own stream, in whichever direction tells more pairs apart",
        )
    if sham:
        others["sham"] = ({"column": "sham_tuco"}, "TuCo of the control fine-tune")
    for name, (other, said) in others.items():
        column, folded = other["column"], bool(other.get("folded"))
        made.append(
            Claim(
                name=f"separates-beyond-{name}",
                estimate=auc("tuco", POSITIVE, NEGATIVE, minus=other, **near),
                at_least=0.0,
                reference=auc(column, POSITIVE, NEGATIVE, folded=folded, **near),
                control=f"{said}, on the same pairs",
                text=f"On these pairs that is {{value:+.2f}} [{{low:+.2f}}, {{high:+.2f}}] compared with the AUC of "
                f"{said} ({{control:.2f}}).",
                undefined=f"Nor can it be compared with {said}.",
            )
        )
    return made
