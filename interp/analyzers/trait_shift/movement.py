"""What one model moved: its depth chosen on the selection split, its shift on the held-out one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from interp.experiments.discovery.labels import ClusteredLabels
from interp.experiments.discovery.trait_directions import CLASS, Choice, Directions, choose_depth
from interp.prompts import Contrast, Prompt


@dataclass(frozen=True)
class Half:
    """A split of the prompts: their rows among all prompts (positive ones first), and labels."""

    rows: Int[np.ndarray, " m"]
    prompts: tuple[tuple[str, Prompt], ...]
    labels: ClusteredLabels

    @classmethod
    def from_contrasts(cls, whole: Contrast, part: Contrast) -> Half:
        """The rows of a split of ``whole``."""
        prompts = tuple((group, prompt) for group in part.classes for prompt in _of(part, group))
        numbers = [(group, prompt.id) for group in whole.classes for prompt in _of(whole, group)]
        row = {name: at for at, name in enumerate(numbers)}
        return cls(
            np.array([row[group, prompt.id] for group, prompt in prompts]),
            prompts,
            ClusteredLabels.from_clusters(
                [group == "positive" for group, _ in prompts],
                [prompt.cluster for _, prompt in prompts],
            ),
        )

    @property
    def clusters(self) -> list[str]:
        """The cluster of every prompt."""
        return [prompt.cluster for _, prompt in self.prompts]

    @property
    def keys(self) -> dict[str, Any]:
        """The columns of ``interp.rows.PromptRow``."""
        return {
            "group": [group for group, _ in self.prompts],
            "prompt_id": [prompt.id for _, prompt in self.prompts],
            "cluster": self.clusters,
        }


def _of(contrast: Contrast, group: str):
    return contrast.positive if group == "positive" else contrast.negative


@dataclass(frozen=True)
class Movement:
    """A model's movement along the direction, in distances between the classes.

    ``choice``: its depth and sense, from the selection split. ``selection`` [depths]: its shift
    there. ``shifts`` [m, depths]: of every held-out prompt, and ``change`` [depths, D] their mean
    change of the stream.
    """

    choice: Choice
    selection: Float[np.ndarray, " depths"]
    shifts: Float[np.ndarray, "m depths"]
    change: Float[np.ndarray, "depths D"]

    @classmethod
    def from_changes(
        cls,
        directions: Directions,
        eligible: Bool[np.ndarray, " depths"],
        selection: Float[np.ndarray, "s depths D"],
        held_out: Float[np.ndarray, "m depths D"],
    ) -> Movement:
        """From the changes of the stream of the prompts of both splits."""
        first, second = (part.mean(axis=0, dtype=np.float64) for part in (selection, held_out))
        return cls(
            choose_depth(directions, first, eligible),
            directions.along(CLASS, first)[0],
            directions.by_prompt(held_out),
            second,
        )

    @property
    def moved(self) -> Float[np.ndarray, " m"]:
        """Of every held-out prompt, the shift at the chosen depth in the chosen sense."""
        return self.choice.sign * self.shifts[:, self.choice.depth]
