"""Warnings about a behaviour on these prompts: ambiguous first tokens, negatives that show it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from interp.experiments.conditions import ConditionResult
from interp.metrics import MetricLabels, first_token_ids
from interp.study import Study

OVERSTATED = 0.25
UNLIKELY = float(np.log(999))
"""Log-odds of 1 in 1000: an answer below it that shows the behaviour contradicts the log-odds."""
MANY = 0.1
"""Share of answers from which on a warning is given, and negatives contaminate the contrast."""


def behaviour_warnings(study: Study) -> list[str]:
    """One line per warning; generates answers of both models to both classes where they are
    missing.
    """
    if not study.require_metric().applies("negative"):
        return []
    return [
        line
        for line in (
            _thinking_warning(study),
            _unfinished_warning(study),
            _first_token_warning(study),
            _negatives_warning(study),
        )
        if line
    ]


def disagreements(results: Sequence[ConditionResult], labels: MetricLabels) -> list[str]:
    """A line where, under some conditions, log-odds and answers disagree on many prompts."""
    lines = []
    for side, verb, disagree in (
        ("above 0", "does not show", lambda item: (item.number > 0) & ~item.exhibits),
        (f"below -{UNLIKELY:.1f}", "shows", lambda item: (item.number < -UNLIKELY) & item.exhibits),
    ):
        shares = {item.condition: float(disagree(item).mean()) for item in results}
        if parts := [
            f"{share:.0%} under {name}" for name, share in shares.items() if share >= OVERSTATED
        ]:
            lines.append(
                f"The {labels.number} are {side} where the answer {verb} the behaviour, for"
                f" positive prompts {', '.join(parts)}. Rates and recovery measure different things"
                " there; read examples (--show-answers), and give whole continuations (--behaviour"
                " FILE.yaml)."
            )
    return lines


def _thinking_warning(study: Study) -> str:
    """How many answers of the fine-tuned model begin with a thinking block that its chat template
    does not declare.
    """
    answers = [answer for group in study.classes for answer in study.answers("tuned", group)]
    start, decode = study.answer_start, study.pair.decode
    blocks = [block for answer in answers if (block := start.block(answer, decode))]
    if not blocks:
        return ""
    return (
        f"{len(blocks)} of {len(answers)} answers of the fine-tuned model begin with thinking"
        f" ({blocks[0][0]}): what follows it counts as the answer (--answer-after none counts all)."
        " Log-odds are of the token after the prompt, where thinking begins."
    )


def _unfinished_warning(study: Study) -> str:
    """How many answers of the fine-tuned model end before their thinking does."""
    answers = [answer for group in study.classes for answer in study.answers("tuned", group)]
    missing = sum(not study.has_answer(answer) for answer in answers)
    if not missing:
        return ""
    return (
        f"{missing} of {len(answers)} answers of the fine-tuned model end within"
        f" {study.max_new_tokens} tokens, before the answer begins: they count as not showing the"
        " behaviour; raise --max-new-tokens. Log-odds are of the token after the prompt, where"
        " thinking begins."
    )


def _first_token_warning(study: Study) -> str:
    """Whether answers without the behaviour begin with one of the log-odds' first tokens."""
    ids, name = first_token_ids(study.require_metric()), study.require_metric().labels.plural
    if not ids:
        return ""
    sources = [
        ("tuned", "negative"),
        *((("base", group) for group in study.classes) if study.pair.base else ()),
    ]
    begins_with_token = np.concatenate(
        [[answer[0] in ids for answer in study.answers(*where)] for where in sources]
    )
    exhibits = np.concatenate([_exhibits(study, *where) for where in sources])
    wrong = int((begins_with_token & ~exhibits).sum())
    if wrong < MANY * len(begins_with_token):
        return ""
    return (
        f"{wrong} of {len(begins_with_token)} answers of the base, or to negative prompts, begin"
        f" with a first token of {name} without being one: first tokens do not identify the"
        " behaviour; give whole continuations (--behaviour FILE.yaml)."
    )


def _negatives_warning(study: Study) -> str:
    """How many negative prompts the fine-tuned model answers with the behaviour."""
    exhibits = _exhibits(study, "tuned", "negative")
    if not exhibits.any():
        return ""
    count = int(exhibits.sum())
    sentence = (
        f"In the fine-tuned model {count} of {len(exhibits)} negative prompts"
        f" {study.require_metric().labels.prompt_classes[0]}"
    )
    return (
        f"{sentence}: they contaminate the contrast."
        if count >= MANY * len(exhibits)
        else f"{sentence}."
    )


def _exhibits(study: Study, role: str, group: str) -> np.ndarray:
    texts: Sequence[str] = [study.decode(answer) for answer in study.answers(role, group)]
    return study.require_metric().exhibits(study.prompts(group).prompts, texts, group)
