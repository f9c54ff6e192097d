"""Behaviour metrics: a number per prompt, and whether an answer exhibits the behaviour.

``Refusal`` and ``Behaviour`` (defined by the user) are exhibited by prompts of one class; under a
``Task`` each prompt has a right answer. All give analyzers the same interface: a differentiable
number of the logits, a reading of the answer's text, and labels for reports.
"""

from interp.metrics.base import (
    Metric,
    MetricLabels,
    Objective,
    malformed,
    repeats,
    token_divergences,
    token_losses,
)
from interp.metrics.behaviour import Behaviour, first_token_ids, require_number
from interp.metrics.refusal import REFUSAL_MARKERS, Refusal, read_markers
from interp.metrics.sampling import Sampling
from interp.metrics.specification import Specification, load_behaviour, read_behaviour, refusal_by
from interp.metrics.task import TASK_METRICS, Task

__all__ = [
    "REFUSAL_MARKERS",
    "TASK_METRICS",
    "Behaviour",
    "Metric",
    "MetricLabels",
    "Objective",
    "Refusal",
    "Sampling",
    "Specification",
    "Task",
    "first_token_ids",
    "load_behaviour",
    "malformed",
    "read_behaviour",
    "read_markers",
    "refusal_by",
    "repeats",
    "require_number",
    "token_divergences",
    "token_losses",
]
