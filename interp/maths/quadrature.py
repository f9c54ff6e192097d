"""Nested quadrature on [0, 1]: Patterson's extensions of the three-node Gauss-Legendre rule.

Each rule contains all nodes of the previous one, so a finer rule reuses the function values of a
coarser one, and their difference estimates the error of the coarser one. With 3, 7, 15 and 31
nodes, polynomials up to degree 5, 11, 23 and 47 are exact. Patterson 1968, "The optimum addition of
points to quadrature formulae"; Kronrod 1965 for 7 nodes.
"""

from dataclasses import dataclass

import numpy as np

# From the middle outward on [-1, 1]: the node, and its weight in the rules of 3, 7, 15 and 31 nodes
# that have it.
_HALF_RULES = (
    (
        0.0,
        0.88888888888888888889,
        0.45091653865847414235,
        0.22551049979820668739,
        0.11275525672076869161,
    ),
    (0.11248894313318662575, 0.11195687302095345688),
    (0.22338668642896688163, 0.2191568584015874964, 0.10957842105592463824),
    (0.33113539325797683309, 0.10566989358023480974),
    (0.434243749346802558, 0.40139741477596222291, 0.20062852937698902103, 0.10031427861179557877),
    (0.53131974364437562397, 0.093627109981264473617),
    (0.62110294673722640294, 0.17151190913639138079, 0.085755920049990351154),
    (0.70249620649152707861, 0.076879620499003531043),
    (
        0.77459666924148337704,
        0.55555555555555555556,
        0.26848808986833344073,
        0.13441525524378422036,
        0.06720775429599070354,
    ),
    (0.8367259381688687355, 0.056979509494123357412),
    (0.88845923287225699889, 0.092927195315124537686, 0.046462893261757986541),
    (0.92965485742974005667, 0.035957103307129322097),
    (
        0.96049126870802028342,
        0.10465622602646726519,
        0.051603282997079739697,
        0.025807598096176653565,
    ),
    (0.98153114955374010687, 0.016446049854387810934),
    (0.99383196321275502221, 0.017001719629940260339, 0.0084345657393211062463),
    (0.99909812496766759766, 0.0025447807915618744154),
)

STEPS = (3, 7, 15, 31)
"""Numbers of nodes of the rules."""


@dataclass(frozen=True)
class Rule:
    """Nodes inside (0, 1) with their weights; the weights are positive and sum to 1."""

    weights: dict[float, float]

    @property
    def nodes(self) -> tuple[float, ...]:
        """In ascending order."""
        return tuple(self.weights)

    def __len__(self) -> int:
        return len(self.weights)


END_POINT = Rule({1.0: 1.0})
"""One node, at 1: the value at the end point in place of the mean."""


def rule(steps: int) -> Rule:
    """The rule with ``steps`` nodes, one of ``STEPS``; raises ValueError for another number."""
    if steps not in STEPS:
        raise ValueError(f"no rule has {steps} nodes; there are {STEPS}")
    position = len(STEPS) - STEPS.index(steps)
    half = [
        (node, weights[-position]) for node, *weights in _HALF_RULES if len(weights) >= position
    ]
    mirrored = [*((-node, weight) for node, weight in half[:0:-1]), *half]
    return Rule({(1 + node) / 2: weight / 2 for node, weight in mirrored})


def nested_rules(max_nodes: int) -> tuple[Rule, ...]:
    """All rules with at most ``max_nodes`` nodes, the coarsest first."""
    return tuple(rule(steps) for steps in STEPS if steps <= max_nodes)


def mean_over_interval(rule: Rule, values: np.ndarray) -> np.ndarray:
    """Mean over [0, 1] of a function from its values ``[nodes, ...]`` at a rule's nodes."""
    return np.tensordot(np.array(list(rule.weights.values())), values, 1)
