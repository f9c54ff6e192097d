"""Claims: the interaction and the late terms are larger than with the change rotated, and than a
new control's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from interp.claims import Claim, Draws, Estimate, mean, statistic
from interp.claims.control_fine_tunes import MIN_FOR_INTERVAL, MIN_FOR_RANK, beyond_new_control

ROTATED = (
    "the change with its singular vectors rotated at random, matrix by matrix, where its own"
    " answers diverge"
)
DESCRIPTIONS = {
    "interaction": "the interaction's share of the shift",
    "late_on_base": "the share of the shift that late blocks add on the base's stream",
    "late_on_tuned": "the share of the shift that late blocks add on their own stream",
}
DIVERGED = "diverged"
"""The table of the controls under which some answer diverges."""


def claims_of(
    boundary: int, blocks: int, rotations: int, controls: int, summary: Mapping[str, Any]
) -> list[Claim]:
    """All claims, at one depth and by the fine-tuned model's readout; the interaction is first,
    and the two late terms are corrected for each other.

    ``controls``: all that were given; the summary has how many have a divergence.
    """
    claims = [
        _beyond_rotations(name, boundary, blocks, rotations, summary) for name in DESCRIPTIONS
    ]
    if controls:
        claims += [_beyond_controls(name, boundary, controls, summary) for name in DESCRIPTIONS]
    return claims


def _beyond_controls(name: str, boundary: int, controls: int, summary: Mapping[str, Any]) -> Claim:
    """A claim against the controls under which answers diverge; not tested with too few of them."""
    diverged, description = summary["controls_diverged"], DESCRIPTIONS[name]
    slug = f"{_slug(name)}-beyond-new-control"
    missing = (
        f"answers diverge under {diverged} of {controls} controls, and {MIN_FOR_INTERVAL} of these"
        f" are needed for the interval of a new one, {MIN_FOR_RANK} for a rank test"
    )
    if not diverged:
        return Claim(
            name=slug,
            estimate=share(name, boundary),
            at_least=0.0,
            text=(
                f"Under none of {controls} controls does an answer diverge; {description} is"
                " {value:.1%} [{low:.1%}, {high:.1%}]."
            ),
            missing=missing,
        )
    claim = beyond_new_control(
        slug, share(name, boundary), name, diverged, description, ".1%", DIVERGED
    )
    return replace(claim, missing=missing) if claim.missing else claim


def share(name: str, boundary: int, readout: str = "tuned") -> Estimate:
    """Mean of a term over the mean native shift."""
    where = {"depth": boundary, "readout": readout}
    return mean(name, table="cells", where=where, over={"column": "shift"})


def _beyond_rotations(
    name: str, boundary: int, blocks: int, rotations: int, summary: Mapping[str, Any]
) -> Claim:
    value = "{value:.1%} [{low:.1%}, {high:.1%}]"
    also = {}
    if name == "interaction":
        where = {"depth": boundary, "readout": "tuned"}
        also = {
            "shift": mean("shift", table="cells", where=where),
            "late_on_base": share("late_on_base", boundary),
            "late_on_tuned": share("late_on_tuned", boundary),
            "by_base": share("interaction", boundary, "base"),
        }
        less = summary["interaction"] < 0
        text = (
            f"Where answers diverge ({summary['kept']} of {summary['prompts']} prompts), the"
            " fine-tuned model's preference for its token is {shift:.2f} logits above the base's;"
            f" its blocks from {boundary} of {blocks} on give {{late_on_base:.1%}} of that on the"
            " base's stream and {late_on_tuned:.1%} on its own: an interaction of"
            f" {value} ({{by_base:.1%}} by the base's final norm and head"
            f"{'; negative: these blocks add less on their own stream' if less else ''}"
            f"{_exchanged(summary, also)}"
        )
    else:
        text = f"{DESCRIPTIONS[name][:1].upper()}{DESCRIPTIONS[name][1:]} is {value}"
    diverged = summary["rotations_diverged"]
    rotated = "" if not rotations else f"none of {rotations} rotations of the change has one"
    if diverged:
        rotated = (
            f"{diverged} of {rotations} rotations of the change, those under which answers diverge,"
            " give {control:.1%} on average, at most {control_max:.1%}"
        )
    end = f"{'; ' if name == 'interaction' else ' ('}{rotated})" if rotated else ""
    end = end or (")" if name == "interaction" else "")
    if not diverged:
        return Claim(
            name=f"{_slug(name)}-beyond-rotations",
            estimate=share(name, boundary),
            at_least=0.0,
            text=f"{text}{end}.",
            missing=(
                f"answers diverge under none of {rotations} rotations of the change"
                if rotations
                else "no rotation of the change was drawn"
            ),
            also=also,
        )
    return Claim(
        name=f"{_slug(name)}-beyond-rotations",
        estimate=share(name, boundary),
        at_least=0.0,
        null=Draws(
            "rotations", name, {"diverged": True}, family="" if name == "interaction" else "late"
        ),
        control=ROTATED,
        text=f"{text}{end}.",
        also=also,
    )


def _exchanged(summary: Mapping[str, Any], also: dict[str, Estimate]) -> str:
    """What the tokens of other prompts give; nothing where no other prompt has other tokens."""
    if not summary["exchanged"]:
        return ""
    also["of_others"] = statistic("mean", "interaction", table="exchanged")
    return "; for the tokens of other prompts {of_others:.1%} of the own shift"


def _slug(name: str) -> str:
    return name.replace("_", "-")
