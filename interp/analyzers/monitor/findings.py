"""Rows and claims of the monitor."""

from __future__ import annotations

from collections.abc import Sequence

from interp.claims import Claim, Draws, mean
from interp.claims.control_fine_tunes import ControlRow, beyond_new_control
from interp.rows import DrawRow, PromptRow, flag, key, measure, text

MIN_DRAWS = 19


class MonitorRow(PromptRow):
    """A row per judged text."""

    score: float = measure(
        "largest excursion of a cosine beyond the mean extreme of ordinary texts, in standard"
        " deviations"
    )
    threshold: float = measure("the calibrated score beyond which a text is flagged")
    flagged: bool = flag("score is beyond the threshold")
    direction: str = key("matrix and rank of the update direction with the largest excursion")
    side: str = key("above or below the range of ordinary texts")
    source: str = key("whose tokens: text, user or assistant")
    tokens: str = text("tokens that the direction makes likelier on that side, by the logit lens")
    example: str = text("where in the text, marked by « and »")


class CalibrationRow(PromptRow):
    """A row per ordinary text of the half that calibrates."""

    score: float = MonitorRow.score


class RandomRow(DrawRow):
    """A row per set of random directions."""

    flagged: float = measure("share of judged texts that these directions flag")


class FlaggedControlRow(ControlRow):
    """A row per control fine-tune."""

    flagged: float = measure(
        "share of judged texts that the control's own directions flag, in the control"
    )


def monitor_claims(alpha: float, bound: float, n_random: int, n_controls: int) -> Sequence[Claim]:
    """Are more texts flagged than the stated rate, than by random directions, than by controls?

    ``bound``: the largest false positive rate that a calibration with so few texts may have.
    """
    rate = mean("flagged")
    claims = [
        Claim(
            name="flags-more-than-allowed",
            estimate=rate,
            at_least=alpha,
            beyond=[bound],
            reference=bound,
            control=(
                "the largest false positive rate, for texts like the ordinary ones, that a"
                " calibration of this size may have (97.5 %)"
            ),
            text=(
                "{value:.1%} [{low:.1%}, {high:.1%}] of the judged texts are flagged;"
                f" of texts like the ordinary ones at most {alpha:.1%} are expected, and with so"
                f" many to calibrate with at most {bound:.1%}."
            ),
        ),
        Claim(
            name="flags-more-than-random-directions",
            estimate=rate,
            at_least=alpha,
            beyond=[],
            null=Draws("random", "flagged", min_draws=MIN_DRAWS) if n_random else None,
            control=f"{n_random} sets of as many random directions" if n_random else "",
            missing="" if n_random else "no random directions were drawn",
            requires=["flags-more-than-allowed"],
            text=(
                "Random directions flag {control:.1%} ({control_low:.1%} to {control_high:.1%});"
                " those of the update {value:.1%}, p = {p:.2g}."
                if n_random
                else "{value:.1%} of the judged texts are flagged; no random directions were drawn."
            ),
        ),
    ]
    if n_controls:
        claims.append(
            beyond_new_control(
                "flags-more-than-new-control",
                rate,
                "flagged",
                n_controls,
                "the share of texts that the fine-tuned model's directions flag",
                ".1%",
            )
        )
    return claims
