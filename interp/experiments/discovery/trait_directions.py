"""Directions between two classes of prompts, and how far a mean change lies along them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float

from interp.experiments.discovery.labels import ClusteredLabels
from interp.maths.statistics import roc_auc

CLASS, SHUFFLED, RANDOM = "class", "shuffled", "random"
MIN_SIZE = 1e-6
"""A difference of the classes that is smaller than this share of the states is rounding."""


@dataclass(frozen=True)
class Directions:
    """The direction between the classes at every depth, and directions of two nulls, as weights of
    the same states.

    ``states`` [n, depths, D]: the base's, centred. ``gram``: their inner products. ``weights``, by
    kind: of the *class* direction, the mean of the positive states minus that of the negative ones;
    of *shuffled* ones, the same with permuted labels; of *random* ones, Gaussian combinations.
    """

    states: Float[np.ndarray, "n depths D"]
    gram: Float[np.ndarray, "depths n n"]
    weights: dict[str, Float[np.ndarray, "_ n"]]

    @classmethod
    def from_states(
        cls, states: Float[np.ndarray, "n depths D"], labels: ClusteredLabels, draws: int, seed: int
    ) -> Directions:
        """From the base's states of prompts, and which of them are positive; ``draws`` directions
        of each null.
        """
        # all weights sum to 0: centring changes no direction and saves digits
        states = states.astype(np.float64)
        states -= states.mean(axis=0)
        random = np.random.default_rng(seed).standard_normal((draws, len(states)))
        shuffled = [contrast_weights(permuted) for permuted in labels.permuted(draws, seed)]
        weights = {
            CLASS: contrast_weights(labels.labels)[None],
            SHUFFLED: np.stack(shuffled),
            RANDOM: random - random.mean(axis=1, keepdims=True),
        }
        return cls(states, np.einsum("ild,jld->lij", states, states, optimize=True), weights)

    @cached_property
    def direction(self) -> Float[np.ndarray, "depths D"]:
        """Mean state of the positive class minus that of the negative one."""
        return np.einsum("n,nld->ld", self.weights[CLASS][0], self.states)

    @cached_property
    def distance(self) -> Float[np.ndarray, " depths"]:
        """Length of the direction: the distance between the classes' means."""
        return np.linalg.norm(self.direction, axis=1)

    def left_out(self, clusters: Sequence[str]) -> Float[np.ndarray, "depths n"]:
        """Each state along the direction between the classes of all other clusters, from the middle
        between these; all 0 where a class has no other cluster.

        In as many dimensions as there are prompts a direction separates its own prompts always.
        """
        positive, names = self.weights[CLASS][0] > 0, np.asarray(clusters, object)
        scores = np.zeros((len(self.gram), len(names)))
        for cluster in set(clusters):
            own = names == cluster
            kept = [side & ~own for side in (positive, ~positive)]
            if not all(side.any() for side in kept):
                return np.zeros_like(scores)
            first, second = (side / side.sum() for side in kept)
            inner = self.gram @ (first - second)
            scores[:, own] = inner[:, own] - (inner @ (first + second))[:, None] / 2
        return scores

    def separation(self, clusters: Sequence[str]) -> Float[np.ndarray, " depths"]:
        """AUC of the classes at every depth, by ``left_out``; 0 where that is not possible."""
        scores, positive = self.left_out(clusters), self.weights[CLASS][0] > 0
        if not scores.any():
            return np.zeros(len(scores))
        return np.array([roc_auc(positive, values) for values in scores])

    def gap(self, clusters: Sequence[str]) -> Float[np.ndarray, " depths"]:
        """Difference of the classes' mean ``left_out`` scores, in standard deviations within a
        class; 0 without any.
        """
        scores, positive = self.left_out(clusters), self.weights[CLASS][0] > 0
        sides = scores[:, positive], scores[:, ~positive]
        difference = sides[0].mean(1) - sides[1].mean(1)
        spread = np.sqrt((sides[0].var(1) + sides[1].var(1)) / 2)
        return np.divide(difference, spread, out=np.zeros_like(spread), where=spread > 0)

    def along(
        self, kind: str, change: Float[np.ndarray, "depths D"]
    ) -> Float[np.ndarray, "draws depths"]:
        """Length of a change along every direction of a kind, in units of ``distance``; 0 where a
        direction has no length.
        """
        weights, distance = self.weights[kind], self.distance
        products = weights @ np.einsum("nld,ld->nl", self.states, change.astype(np.float64))
        divisor = _lengths(weights, self.gram) * distance
        return np.divide(products, divisor, out=np.zeros_like(products), where=divisor > 0)

    def rows_along(
        self, kind: str, depth: int, changes: Float[np.ndarray, "m D"]
    ) -> Float[np.ndarray, "draws m"]:
        """Inner products of several changes at one depth with every direction of a kind, over the
        squared ``distance``; 0 without a distance.

        Directions keep their length: where every twin differs in the same way, permuted labels give
        short directions that still point along the classes.
        """
        products = self.weights[kind] @ (self.states[:, depth] @ changes.T.astype(np.float64))
        squared = self.distance[depth] ** 2
        return products / squared if squared > 0 else np.zeros_like(products)

    def lengths(self, kind: str, depth: int) -> Float[np.ndarray, " draws"]:
        """Lengths of the directions of a kind at one depth, in units of ``distance``."""
        lengths = _lengths(self.weights[kind], self.gram[depth : depth + 1])[:, 0]
        return np.maximum(lengths, np.finfo(float).tiny) / self.distance[depth]

    def by_prompt(self, changes: Float[np.ndarray, "m depths D"]) -> Float[np.ndarray, "m depths"]:
        """Each change along the direction between the classes, in units of the distance; 0 at a
        depth without a distance.
        """
        squared = np.square(self.distance)
        products = np.einsum("mld,ld->ml", changes.astype(np.float64), self.direction)
        return np.divide(products, squared, out=np.zeros_like(products), where=squared > 0)


def _lengths(
    weights: Float[np.ndarray, "draws n"], gram: Float[np.ndarray, "depths n n"]
) -> Float[np.ndarray, "draws depths"]:
    squares = np.einsum("sn,lnm,sm->sl", weights, gram, weights, optimize=True)
    return np.sqrt(np.maximum(squares, 0.0))


def contrast_weights(labels: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Weights whose sum over rows is the mean of the labelled rows minus that of the others."""
    return np.where(labels, 1 / max(labels.sum(), 1), -1 / max((~labels).sum(), 1))


def usable_depths(
    states: Float[np.ndarray, "n depths D"], distance: Float[np.ndarray, " depths"]
) -> Bool[np.ndarray, " depths"]:
    """Depths at which the classes' means differ by more than rounding.

    Before the first block the last token of every prompt of a chat template is the same.
    """
    size = np.sqrt(np.square(states.astype(np.float64)).sum(2).mean(0))
    return distance > MIN_SIZE * size


@dataclass(frozen=True)
class Choice:
    """The depth at which a model moved furthest along the direction on the selection split, in
    standard deviations of the shuffled directions, and the sign of the movement.
    """

    depth: int
    sign: int


def choose_depth(
    directions: Directions,
    change: Float[np.ndarray, "depths D"],
    eligible: Bool[np.ndarray, " depths"],
) -> Choice:
    """The depth and sign of a model's mean change on the selection split; the first eligible depth
    where it did not change.
    """
    shift = directions.along(CLASS, change)[0]
    spread = np.sqrt(np.square(directions.along(SHUFFLED, change)).mean(axis=0))
    ratio = np.divide(np.abs(shift), spread, out=np.zeros_like(shift), where=spread > 0)
    ratio[~eligible] = -1.0
    depth = int(ratio.argmax())
    return Choice(depth, -1 if shift[depth] < 0 else 1)
