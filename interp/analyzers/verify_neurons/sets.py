"""The verifying run's tables of sets: effects of prefixes of the ranking and of random sets."""

from collections.abc import Sequence

import numpy as np

from interp.analyzers.verify_neurons.evidence import Effects, Evidence
from interp.table import Table, table

NAN = float("nan")
_EFFECTS = {
    "behaviour": (
        "share of the gap between both models' rates of the behaviour that is closed; NaN where"
        " there is none, or only the number was measured"
    ),
    "recovery": (
        "share of the gap between both models' mean numbers that is closed; NaN where there is none"
    ),
    "rate": "share of answers that show the behaviour",
    "difference": "that share minus the donor's",
}
_DIRECTION = "necessity: base into fine-tuned model; sufficiency: fine-tuned model into base"


def _effects(rows: Sequence[Effects]) -> dict[str, tuple]:
    return {
        name: (np.array([one[name] for one in rows], np.float64), "measure", said)
        for name, said in _EFFECTS.items()
    }


def dose_table(evidence: Evidence) -> Table:
    """One row per direction, size and set: prefixes of the ranking, and random sets of each
    size.
    """
    keys, effect_rows = [], []
    for direction, effects in evidence.dose.items():
        keys += [(direction, k, "located", 0) for k in sorted(effects)]
        effect_rows += [effects[k] for k in sorted(effects)]
    for (direction, k), effects in evidence.random_dose.items():
        keys += [(direction, k, "random", draw) for draw in range(1, len(effects) + 1)]
        effect_rows += effects
    columns = list(zip(*keys, strict=True)) if keys else [[]] * 4
    return table(
        "dose",
        {
            "direction": (np.array(columns[0], object), "key", _DIRECTION),
            "k": (np.array(columns[1], np.int64), "key", "units, in rank order"),
            "source": (np.array(columns[2], object), "key", "located, or a matched random set"),
            "draw": (np.array(columns[3], np.int64), "key", "0 for located"),
            **_effects(effect_rows),
        },
    )


def random_table(evidence: Evidence) -> Table:
    """One row per direction and random set of the located size: how well it matches, and its
    effects.
    """
    keys = [
        (direction, draw)
        for direction, effects in evidence.random.items()
        for draw in range(len(effects))
    ]
    draws = [draw for _, draw in keys]
    changes, matched = (
        [values[draw] for draw in draws] if values else [NAN] * len(draws)
        for values in (evidence.change_ratios, evidence.matched)
    )
    return table(
        "random-sets",
        {
            "direction": (
                np.array([direction for direction, _ in keys], object),
                "key",
                _DIRECTION,
            ),
            "draw": (np.array(draws, np.int64), "key", "number of the random set"),
            "k": (
                np.array([len(evidence.sets[draw]) for draw in draws], np.int64),
                "measure",
                "units in it",
            ),
            "norm_ratio": (
                np.array([evidence.ratios[draw] for draw in draws], np.float64),
                "measure",
                "size of its contributions over the located set's",
            ),
            "change_ratio": (
                np.array(changes, np.float64),
                "measure",
                "size of the change of its contributions over the located set's",
            ),
            "matched": (
                np.array(matched, np.float64),
                "measure",
                "share of its units whose change is within a factor of 2 of the located unit's",
            ),
            "judged": (
                np.array(
                    [
                        one.get("judged", NAN)
                        for effects in evidence.random.values()
                        for one in effects
                    ],
                    np.float64,
                ),
                "measure",
                (
                    "control prompts whose answers were judged; where not all, rate is NaN, and"
                    " behaviour and difference are bounds: as if none of the others showed it"
                    " (necessity), or all did (sufficiency)"
                ),
            ),
            "first": (
                np.array(
                    [
                        evidence.n_judged_sets is None or draw < evidence.n_judged_sets
                        for draw in draws
                    ],
                    bool,
                ),
                "flag",
                "judged on all of them in any case",
            ),
            "whole": (
                np.array(
                    [
                        not np.isnan(one["rate"])
                        for effects in evidence.random.values()
                        for one in effects
                    ],
                    bool,
                ),
                "flag",
                "judged on all control prompts",
            ),
            **_effects([one for effects in evidence.random.values() for one in effects]),
        },
    )


def harmless_table(evidence: Evidence) -> Table:
    """One row per random set: effects of its ablation on answers to negative prompts."""
    harmed, flipped, divergence = np.array(evidence.harmless, np.float64).reshape(-1, 3).T
    return table(
        "random-harmless",
        {
            "draw": (np.arange(len(evidence.harmless)), "key", "number of the random set"),
            "harmed": (
                harmed,
                "measure",
                (
                    "share of negative prompts whose answer it flips, not back to the base's (for a"
                    " task: changes)"
                ),
            ),
            "flipped": (
                flipped,
                "measure",
                "share of answers to negative prompts whose behaviour flips",
            ),
            "divergence": (
                divergence,
                "measure",
                "KL divergence from the fine-tuned model on them",
                "nats a token",
            ),
        },
    )
