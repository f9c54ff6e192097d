"""How much of the base's behaviour an intervention in the fine-tuned model brings back: numbers, and
columns of tables that several analyzers have.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped

from interp.experiments.conditions import ConditionResult
from interp.prompts import Prompt
from interp.rows import DrawRow, PromptRow, measure

NAN = float("nan")


class RandomSetRow(DrawRow):
    """A row per matched random set; see ``interp.experiments.dose.dose_effect``."""

    effect: float = measure("share of prompts with the base's behaviour under the random set")
    recovery: float = measure("share of the gap between both models' mean numbers that it closes")


class PositivePromptRow:
    """A row per positive prompt; ``prompt_columns`` has its values."""

    prompt_id: int = PromptRow.prompt_id
    cluster: str = PromptRow.cluster


def prompt_columns(prompts: Iterable[Prompt]) -> dict[str, Any]:
    """The columns of ``PositivePromptRow``, [prompts]."""
    prompts = list(prompts)
    return {
        "prompt_id": np.array([prompt.id for prompt in prompts], np.int64),
        "cluster": np.array([prompt.cluster for prompt in prompts], object),
    }


def has_behaviour_of(model: ConditionResult, result: ConditionResult) -> Bool[np.ndarray, " B"]:
    """Prompts whose behaviour is the model's, without answers that are malformed where the model's
    are not.
    """
    return ~result.flipped(model) & ~(result.malformed & ~model.malformed)


def recovery(
    numbers: Float[np.ndarray, " B"],
    tuned: Float[np.ndarray, " B"],
    base: Float[np.ndarray, " B"],
) -> float:
    """Share of the gap between both models' mean numbers that is closed, NaN where there is
    none.
    """
    edited, start, end = map(mean_or_nan, (numbers, tuned, base))
    return (edited - start) / (end - start) if end != start else NAN


def mean_or_nan(values: Shaped[np.ndarray, " B"]) -> float:
    """The mean, NaN of no values."""
    return float(values.mean()) if len(values) else NAN
