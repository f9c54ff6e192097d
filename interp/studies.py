"""``load_study``: a study of a pair, from prompt files or texts and the name of a behaviour."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from interp.metrics import TASK_METRICS, Metric, Task, load_behaviour
from interp.models.pair import Pair
from interp.prompts import Contrast, OneClass, Prompt, PromptSet, read_prompts, read_task
from interp.study import Study


def load_study(
    pair: Pair,
    positive: str | Path | Iterable[str],
    negative: str | Path | Iterable[str] | None = None,
    behaviour: Metric | str | Path | None = "refusal",
    *,
    column: str = "prompt",
    max_prompts: int | None = None,
    **rest: Any,
) -> Study:
    """A study of a pair on prompt files, or on lists of texts, of one class or two.

    ``behaviour``: ``"refusal"``, the YAML file or entry point of another behaviour, the name of a
    task's metric (``"auto"``, ``"logit-diff"``, ``"answer-loss"``, ``"accuracy"``; ``positive`` is
    then a task file), a metric, or None. At most ``max_prompts`` of each class are used. ``rest``
    goes to ``Study``, for example ``seed=0``. Raises PromptError, MetricError.
    """
    is_task = behaviour in ("auto", *TASK_METRICS)
    first = _prompts(positive, "positive", read_task if is_task else read_prompts, column)
    prompts = (
        OneClass(first)
        if negative is None
        else Contrast(first, _prompts(negative, "negative", column=column))
    )
    if isinstance(behaviour, (str, Path)):
        behaviour = (
            Task.from_prompts(pair.tokenizer, list(first), str(behaviour))
            if is_task
            else load_behaviour(behaviour, pair.tokenizer)
        )
    return Study(pair, prompts.limit(max_prompts), behaviour, **rest)


def _prompts(
    source: str | Path | Iterable[str],
    group: str,
    read: Callable[..., PromptSet] = read_prompts,
    column: str = "prompt",
) -> PromptSet:
    """The prompts of a file, or some texts; equal texts are one cluster."""
    if isinstance(source, (str, Path)):
        return read(source, column, group)
    number: dict[str, int] = {}
    prompts = [
        Prompt(row, text, f"{group}:{number.setdefault(text, len(number))}")
        for row, text in enumerate(source)
    ]
    return PromptSet(tuple(prompts), group, clusters_given=False)
