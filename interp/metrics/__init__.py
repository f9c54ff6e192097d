"""Behaviour metrics: a number per prompt, and whether an answer exhibits the behaviour.

``Refusal`` and ``Behaviour`` (defined by the user) are exhibited by prompts of one class; under a
``Task`` each prompt has a right answer. All give analyzers the same interface: a differentiable
number of the logits, a reading of the answer's text, and labels for reports.
"""

from interp.metrics.base import (
    Metric,
    MetricLabels,
    Objective,
    is_malformed,
    repetition_rate,
    token_divergences,
    token_losses,
)
from interp.metrics.behaviour import Behaviour, first_token_ids, require_number
from interp.metrics.refusal import REFUSAL_MARKERS, Refusal, read_markers
from interp.metrics.sampling import Sampling
from interp.metrics.specification import (
    BehaviourSpecification,
    load_behaviour,
    read_behaviour,
    refusal_specification,
)
from interp.metrics.task import TASK_METRICS, Task

__all__ = [
    "REFUSAL_MARKERS",
    "TASK_METRICS",
    "Behaviour",
    "BehaviourSpecification",
    "Metric",
    "MetricLabels",
    "Objective",
    "Refusal",
    "Sampling",
    "Task",
    "first_token_ids",
    "is_malformed",
    "load_behaviour",
    "read_behaviour",
    "read_markers",
    "refusal_specification",
    "repetition_rate",
    "require_number",
    "token_divergences",
    "token_losses",
]
