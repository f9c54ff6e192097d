"""Split one class of prompts in two: prompts whose answer shows the behaviour, and the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from interp.maths.intervals import effective_clusters
from interp.metrics import Behaviour, malformed
from interp.prompts import Contrast, OneClass
from interp.study import Study
from interp.table import Table, table


@dataclass(frozen=True)
class Answered:
    """The study on both classes (on one, where all answers are alike), their names, and the
    answers.
    """

    study: Study
    names: tuple[str, str]
    answers: Table
    sentence: str


def by_answer(study: Study, keep_text: bool = False) -> Answered:
    """Split the study's one class by the fine-tuned model's greedy answers; positive prompts are
    those whose answer shows the behaviour.
    """
    metric, prompts = (
        study.require_metric("splitting prompts by answer"),
        study.prompts("positive"),
    )
    answers = study.answers("tuned", "positive")
    texts = [study.decode(answer) for answer in answers]
    shown = metric.exhibits(prompts.prompts, texts, "positive")
    column, (did, did_not) = metric.words.column, metric.words.parted
    names = (column, f"not {column}")
    broken = [malformed(answer, study.stop_ids, ended_before=False) for answer in answers]
    columns = {
        "prompt_id": (
            [prompt.id for prompt in prompts],
            "key",
            "position in the prompt file, from 0",
        ),
        "cluster": (prompts.clusters, "key", "prompts that depend on each other"),
        column: (shown, "flag", metric.words.flag),
        "malformed": (broken, "flag", "the fine-tuned model's answer is empty or repeats itself"),
        **({"text": (texts, "text", "the fine-tuned model's answer")} if keep_text else {}),
    }
    parts = [
        prompts.keep([row for row, each in enumerate(shown) if each == wanted])
        for wanted in (True, False)
    ]
    said = (
        f"Of {len(prompts)} prompts {len(parts[0])} {did} and {len(parts[1])} {did_not}"
        f" ({sum(broken)} answers are"
        f" malformed){'' if all(parts) else ': there are no two classes to compare'}."
    )
    if isinstance(metric, Behaviour) and (errors := metric.errors) is not None:
        clusters = effective_clusters(prompts.clusters)
        share = errors.corrected(float(np.mean(shown)) * clusters, clusters)
        said += (
            f" Corrected for the judge's errors the share is {share.value:.1%} [{share.low:.1%},"
            f" {share.high:.1%}], not {share.judged:.1%}."
        )
    contrast = Contrast(*parts) if all(parts) else OneClass(prompts)
    return Answered(study.with_prompts(contrast), names, table("tuco-answers", columns), said)
