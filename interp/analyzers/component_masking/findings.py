"""Claims: the heads that a mask selects carry what the source differs in, beyond random heads and
exchanged sources; the base's heads do so in the fine-tuned model, and more than in the base.
"""

from __future__ import annotations

from collections.abc import Mapping

from interp.claims import Claim, Draws, Estimate, escape_braces, mean
from interp.claims.control_fine_tunes import beyond_new_control
from interp.experiments.head_patches import RandomGroups

TITLES = {"base": "base", "tuned": "fine-tuned model"}
MIN_DRAWS = 19


def claims_of(
    source: str,
    position: str,
    counts: Mapping[str, int],
    random: Mapping[str, RandomGroups],
    permutations: int,
    controls: int,
) -> list[Claim]:
    """All claims. ``counts``: heads that the mask of each model selected; ``random``: random sets
    of as many; ``permutations``: exchanges of sources.
    """
    what = f"the source {escape_braces(source)!r} at {escape_braces(position)!r}"
    claims = []
    for found, model in (("base", "base"), ("tuned", "tuned"), ("base", "tuned")):
        if counts[found]:
            claims.append(_beyond_random(found, model, what, counts[found], random[found]))
            claims.append(_beyond_permuted(found, model, counts[found], permutations))
    if counts["base"]:
        claims.append(_more())
        if controls:
            claims.append(
                beyond_new_control(
                    "more-beyond-new-control",
                    _difference(),
                    "difference",
                    controls,
                    "what the base's heads give in the fine-tuned model more than in the base",
                    "+.3f",
                )
            )
    return claims


def _score(mask_name: str, model: str, column: str = "selected") -> Estimate:
    return mean(column, table="answers", where={"found": mask_name, "model": model})


def _beyond_random(
    mask_name: str, model: str, what: str, count: int, random: RandomGroups
) -> Claim:
    draws = len(random.groups)
    where = {"found": mask_name, "model": model}
    heads = f"{count} head{'s' if count > 1 else ''}"
    missing = "" if draws else "there is no other set of as many heads, or none was drawn (--draws)"
    return Claim(
        name=f"{_prefix(mask_name, model)}-beyond-random",
        estimate=mean("selected", table="answers", where=where, minus={"column": "unpatched"}),
        at_least=0.0,
        null=_draws(where, random) if draws else None,
        control="as many random heads" if draws else "",
        missing=missing,
        requires=[f"{_prefix(mask_name, model)}-beyond-permuted"],
        text=(
            f"Patched in the {TITLES[model]} from {what}, the {heads} of the {TITLES[mask_name]}'s mask"
            " give the target on {score:.1%} of held-out rows; unpatched {unpatched:.1%}, all heads"
            " {all:.1%}: {value:+.3f} [{low:+.3f}, {high:+.3f}]"
            + (
                f"; {draws} random sets of as many {{control:+.3f}} on average, at most"
                " {control_max:+.3f}."
                if draws
                else "."
            )
        ),
        also={
            "score": _score(mask_name, model),
            "unpatched": _score(mask_name, model, "unpatched"),
            "all": _score(mask_name, model, "all"),
        },
    )


def _draws(where: Mapping[str, str], random: RandomGroups) -> Draws:
    return Draws("random", "gain", where, arrangements=random.arrangements, min_draws=MIN_DRAWS)


def _prefix(mask_name: str, model: str) -> str:
    return f"{mask_name}-heads" if mask_name == model else "transfer"


def _beyond_permuted(mask_name: str, model: str, count: int, permutations: int) -> Claim:
    where = {"found": mask_name, "model": model}
    return Claim(
        name=f"{_prefix(mask_name, model)}-beyond-permuted",
        estimate=_score(mask_name, model),
        at_least=0.0,
        null=Draws("permuted", "score", where, min_draws=MIN_DRAWS) if permutations else None,
        control="the sources exchanged at random between rows" if permutations else "",
        missing="" if permutations else "no exchange of sources was drawn (--draws)",
        text=(
            f"With the {count} head{'s' if count > 1 else ''} of the {TITLES[mask_name]}'s mask patched in"
            f" the {TITLES[model]}, the target is given on {{value:.1%}} [{{low:.1%}}, {{high:.1%}}] of"
            " rows"
            + (
                f"; from the sources of other rows ({permutations} exchanges) on {{control:.1%}} on"
                " average, at most {control_max:.1%}."
                if permutations
                else "."
            )
        ),
    )


def _difference() -> Estimate:
    return mean("tuned_gain", table="transfer", minus={"column": "base_gain"})


def _more() -> Claim:
    return Claim(
        name="more-in-tuned",
        estimate=_difference(),
        at_least=0.0,
        null=Draws("exchanged", "difference", alternative="two-sided"),
        control="both models exchanged at random, cluster by cluster",
        text=(
            "The base's heads add {tuned:+.3f} to the share of rows that give the target in the"
            " fine-tuned model and {base:+.3f} in the base: {value:+.3f} [{low:+.3f}, {high:+.3f}]."
        ),
        also={
            "tuned": mean("tuned_gain", table="transfer"),
            "base": mean("base_gain", table="transfer"),
        },
    )
