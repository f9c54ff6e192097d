"""``load_study``: a study of a pair from prompt files or texts, and a behaviour by name."""

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
    metric: Metric | str | Path | None = "refusal",
    *,
    column: str = "prompt",
    max_prompts: int | None = None,
    **rest: Any,
) -> Study:
    """A study of a pair on prompt files, or on lists of texts, of two classes or of one.

    ``metric`` is a metric, ``"refusal"``, the YAML file or entry point of another behaviour, the
    name of a task's (``"auto"``, ``"logit-diff"``, ``"answer-loss"``, ``"accuracy"``), for which
    ``positive`` is a task file, or None. At most ``max_prompts`` of each class; ``rest`` goes to
    ``Study``. Raises PromptError, MetricError.
    """
    of_task = metric in ("auto", *TASK_METRICS)
    first = _prompts(positive, "positive", read_task if of_task else read_prompts, column)
    prompts = (
        OneClass(first)
        if negative is None
        else Contrast(first, _prompts(negative, "negative", column=column))
    )
    if isinstance(metric, (str, Path)):
        metric = (
            Task.of(pair.tokenizer, list(first), str(metric))
            if of_task
            else load_behaviour(metric, pair.tokenizer)
        )
    return Study(pair, prompts.limit(max_prompts), metric, **rest)


def _prompts(
    given: str | Path | Iterable[str],
    group: str,
    read: Callable[..., PromptSet] = read_prompts,
    column: str = "prompt",
) -> PromptSet:
    """A file, or texts, of which equal ones are one cluster."""
    if isinstance(given, (str, Path)):
        return read(given, column, group)
    number: dict[str, int] = {}
    prompts = [
        Prompt(at, text, f"{group}:{number.setdefault(text, len(number))}")
        for at, text in enumerate(given)
    ]
    return PromptSet(tuple(prompts), group, clusters_given=False)
