"""Claims: the interaction and the late terms are larger than with the change rotated, and than a
new control's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from interp.claims import Claim, Draws, Estimate, mean
from interp.claims.control_fine_tunes import beyond_new_control

ROTATED = (
    "the change with its singular vectors rotated at random, matrix by matrix, where its own"
    " answers part"
)
DESCRIPTIONS = {
    "interaction": "the interaction's share of the shift",
    "late_base": "the share of the shift that late blocks add on the base's stream",
    "late_tuned": "the share of the shift that late blocks add on their own stream",
}
PARTED = "parted"
"""The table of the controls under which some answer parts."""


def claims_of(
    boundary: int, blocks: int, rotations: int, controls: int, summary: Mapping[str, Any]
) -> list[Claim]:
    """All claims, at one depth and by the fine-tuned model's readout; the interaction is first,
    and the two late terms are corrected for each other.

    ``controls``: those under which some answer parts.
    """
    claims = [
        _beyond_rotations(name, boundary, blocks, rotations, summary) for name in DESCRIPTIONS
    ]
    if controls:
        claims += [
            beyond_new_control(
                f"{_slug(name)}-beyond-new-control",
                share(name, boundary),
                name,
                controls,
                description,
                ".1%",
                PARTED,
            )
            for name, description in DESCRIPTIONS.items()
        ]
    return claims


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
            "late_base": share("late_base", boundary),
            "late_tuned": share("late_tuned", boundary),
            "by_base": share("interaction", boundary, "base"),
        }
        text = (
            f"Where answers part ({summary['kept']} of {summary['prompts']} prompts), the"
            " fine-tuned model's preference for its token is {shift:.2f} logits above the base's;"
            f" its blocks from {boundary} of {blocks} on give {{late_base:.1%}} of that on the"
            " base's stream and {late_tuned:.1%} on its own: an interaction of"
            f" {value} ({{by_base:.1%}} by the base's final norm and head"
        )
    else:
        text = f"{DESCRIPTIONS[name][:1].upper()}{DESCRIPTIONS[name][1:]} is {value}"
    if not rotations:
        return Claim(
            name=f"{_slug(name)}-beyond-rotations",
            estimate=share(name, boundary),
            at_least=0.0,
            text=f"{text}{')' if name == 'interaction' else ''}.",
            missing="no rotation of the change was drawn",
            also=also,
        )
    rotated = f"none of {rotations} rotations of the change makes any answers part"
    if parted := summary["rotations_parted"]:
        rotated = (
            f"{parted} of {rotations} rotations of the change, those under which answers part,"
        )
        rotated += " give {control:.1%} on average, at most {control_max:.1%}"
    return Claim(
        name=f"{_slug(name)}-beyond-rotations",
        estimate=share(name, boundary),
        at_least=0.0,
        null=Draws(
            "rotations", name, {"parted": True}, family="" if name == "interaction" else "late"
        ),
        control=ROTATED,
        text=f"{text}{'; ' if name == 'interaction' else ' ('}{rotated}).",
        also=also,
    )


def _slug(name: str) -> str:
    return name.replace("_", "-")
