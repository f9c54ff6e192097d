"""Behaviour metrics: one number per prompt, and whether an answer shows the behaviour.

``Refusal`` is a behaviour that prompts of one class show; a ``Task`` is one that is right or wrong by prompt. Both give
analyzers the same: a differentiable number of the logits, read as text, and the words to speak of it.
"""

from interp.metrics.base import Metric, Objective, Words, malformed, repeats, token_divergences, token_losses
from interp.metrics.refusal import REFUSAL_MARKERS, Refusal, read_markers
from interp.metrics.task import TASK_METRICS, Task

__all__ = [
    "REFUSAL_MARKERS",
    "TASK_METRICS",
    "Metric",
    "Objective",
    "Refusal",
    "Task",
    "Words",
    "malformed",
    "read_markers",
    "repeats",
    "token_divergences",
    "token_losses",
]
