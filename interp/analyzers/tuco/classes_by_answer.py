"""Split one class of prompts in two: prompts whose answer shows the behaviour, and the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from interp.maths.intervals import effective_clusters
from interp.metrics import Behaviour, is_malformed
from interp.prompts import Contrast, OneClass
from interp.study import Study
from interp.table import Table, table


@dataclass(frozen=True)
class AnswerSplit:
    """The study on both classes (on one, where all answers are alike), their names, and the
    answers.
    """

    study: Study
    names: tuple[str, str]
    answers: Table
    sentence: str


def split_by_answer(study: Study, keep_text: bool = False) -> AnswerSplit:
    """Split the study's one class by the fine-tuned model's greedy answers; positive prompts are
    those whose answer shows the behaviour.
    """
    metric = study.require_metric("splitting prompts by answer")
    prompts = study.prompts("positive")
    answers = study.answers("tuned", "positive")
    texts = [study.decode(answer) for answer in answers]
    exhibits = metric.exhibits(prompts.prompts, texts, "positive")
    column, (did, did_not) = metric.labels.column, metric.labels.prompt_classes
    malformed_flags = [
        is_malformed(answer, study.stop_ids, ended_before=False) for answer in answers
    ]
    columns = {
        "prompt_id": (
            [prompt.id for prompt in prompts],
            "key",
            "position in the prompt file, from 0",
        ),
        "cluster": (
            prompts.clusters,
            "key",
            "prompts that are not independent of each other share a cluster",
        ),
        column: (exhibits, "flag", metric.labels.flag),
        "malformed": (
            malformed_flags,
            "flag",
            "the fine-tuned model's answer is empty or repeats itself",
        ),
        **({"text": (texts, "text", "the fine-tuned model's answer")} if keep_text else {}),
    }
    classes = [
        prompts.keep([row for row, each in enumerate(exhibits) if each == wanted])
        for wanted in (True, False)
    ]
    sentence = (
        f"Of {len(prompts)} prompts {len(classes[0])} {did} and {len(classes[1])} {did_not}"
        f" ({sum(malformed_flags)} answers are"
        f" malformed){'' if all(classes) else ': there are no two classes to compare'}."
    )
    if isinstance(metric, Behaviour) and (errors := metric.errors) is not None:
        clusters = effective_clusters(prompts.clusters)
        share = errors.corrected(float(np.mean(exhibits)) * clusters, clusters)
        sentence += (
            f" Corrected for the judge's errors the share is {share.value:.1%} [{share.low:.1%},"
            f" {share.high:.1%}], not {share.judged:.1%}."
        )
    contrast = Contrast(*classes) if all(classes) else OneClass(prompts)
    return AnswerSplit(
        study.with_prompts(contrast), (column, f"not {column}"), table("", columns), sentence
    )
