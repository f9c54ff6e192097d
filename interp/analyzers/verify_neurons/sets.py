"""The verifying run's tables of sets: effects of prefixes of the ranking and of random sets."""

import numpy as np

from interp.analyzers.verify_neurons.evidence import Evidence
from interp.analyzers.verify_neurons.keys import DirectionRow
from interp.experiments.records import records_table
from interp.rows import DrawRow, flag, key, measure
from interp.table import Table

NAN = float("nan")


class EffectRow:
    """Effects of a set of units on the control prompts."""

    behaviour: float = measure(
        "share of the gap between both models' rates of the behaviour that is closed; NaN where"
        " there is none, or only the number was measured"
    )
    recovery: float = measure(
        "share of the gap between both models' mean numbers that is closed; NaN where there is none"
    )
    rate: float = measure("share of answers that show the behaviour")
    difference: float = measure("that share minus the donor's")


class _SizedRow(DirectionRow):
    k: int = key("units, in rank order")
    source: str = key("located, or a matched random set")
    draw: int = key("number of the random set, from 1; 0 for located")


class DoseRow(EffectRow, _SizedRow):
    """A row per direction, size and set."""


class _MatchedRow(DrawRow, DirectionRow):
    k: int = measure("units in it")
    norm_ratio: float = measure("size of its contributions over the located set's")
    change_ratio: float = measure("size of the change of its contributions over the located set's")
    matched: float = measure(
        "share of its units whose change is within a factor of 2 of the located unit's"
    )
    judged: float = measure(
        "control prompts whose answers were judged; where not all, rate is NaN, and behaviour and"
        " difference are bounds: as if none of the others showed it (necessity), or all did"
        " (sufficiency)"
    )
    first: bool = flag("judged on all of them in any case")
    whole: bool = flag("judged on all control prompts")


class RandomSetRow(EffectRow, _MatchedRow):
    """A row per direction and random set of the located size."""


class HarmlessRow(DrawRow):
    """A row per random set that was ablated on negative prompts."""

    harmed: float = measure(
        "share of negative prompts whose answer it flips, not back to the base's (for a task:"
        " changes)"
    )
    flipped: float = measure("share of answers to negative prompts whose behaviour flips")
    divergence: float = measure("KL divergence from the fine-tuned model on them", "nats a token")


def dose_table(evidence: Evidence) -> Table:
    """One row per direction, size and set: prefixes of the ranking, and random sets of each
    size.
    """
    located = [
        {"direction": direction, "k": k, "source": "located", "draw": 0, **effects[k]}
        for direction, effects in evidence.dose.items()
        for k in sorted(effects)
    ]
    random = [
        {"direction": direction, "k": k, "source": "random", "draw": draw, **effect}
        for (direction, k), effects in evidence.random_dose.items()
        for draw, effect in enumerate(effects, 1)
    ]
    return records_table(DoseRow, "dose", [*located, *random])


def random_table(evidence: Evidence) -> Table:
    """One row per direction and random set of the located size: how well it matches, and its
    effects.
    """
    records = [
        {
            "direction": direction,
            "draw": draw,
            "k": len(evidence.sets[draw]),
            "norm_ratio": evidence.ratios[draw],
            "change_ratio": evidence.change_ratios[draw] if evidence.change_ratios else NAN,
            "matched": evidence.matched[draw] if evidence.matched else NAN,
            "judged": NAN,
            "first": evidence.n_judged_sets is None or draw < evidence.n_judged_sets,
            "whole": not np.isnan(effect["rate"]),
            **effect,
        }
        for direction, effects in evidence.random.items()
        for draw, effect in enumerate(effects)
    ]
    return records_table(RandomSetRow, "random-sets", records)


def harmless_table(evidence: Evidence) -> Table:
    """One row per random set: effects of its ablation on answers to negative prompts."""
    records = [
        {"draw": draw, "harmed": harmed, "flipped": flipped, "divergence": divergence}
        for draw, (harmed, flipped, divergence) in enumerate(evidence.harmless)
    ]
    return records_table(HarmlessRow, "random-harmless", records)
