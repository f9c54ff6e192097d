"""The answers that the base has to learn: the fine-tuned model's own greedy ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from interp.experiments.base_answers import Reading, read_answers
from interp.interventions.intervention import Intervention
from interp.models.pair import Pair
from interp.prompts import Encoded
from interp.study import Study

Rows = Int[np.ndarray, " m"]


@dataclass(frozen=True, eq=False)
class TunedAnswers:
    """Prompts of all classes with the greedy answers of both models of a pair.

    ``base`` and ``tuned``: the fine-tuned model's answers as both models read them. ``selection``
    and ``held_out``: rows of the two splits, which share no cluster.
    """

    study: Study
    keys: tuple[dict[str, Any], ...]
    encoded: tuple[Encoded, ...]
    answers: tuple[tuple[int, ...], ...]
    base_answers: tuple[tuple[int, ...], ...]
    base: Reading
    tuned: Reading
    selection: Rows
    held_out: Rows

    @classmethod
    def from_study(cls, study: Study) -> TunedAnswers:
        """Generate the answers of both models and read the fine-tuned model's with both."""
        written = [study.answers_to(study.classes, role) for role in ("tuned", "base")]
        keys = tuple(
            {"group": group, "prompt_id": prompt.id, "cluster": prompt.cluster}
            for group in study.classes
            for prompt in study.prompts(group)
        )
        encoded = tuple(coded for group in study.classes for coded in study.encoded(group))
        answers, base_answers = (
            tuple(tuple(one) for group in study.classes for one in both[group]) for both in written
        )
        base, tuned = (
            read_answers(study, study.pair[role], encoded, answers) for role in ("base", "tuned")
        )
        row = {(key["group"], key["prompt_id"]): at for at, key in enumerate(keys)}
        halves = [
            np.array([row[group, p.id] for group in part.classes for p in part.prompts(group)])
            for part in study.split(study.seed)
        ]
        return cls(study, keys, encoded, answers, base_answers, base, tuned, *halves)

    def of_control(self, pair: Pair) -> tuple[tuple[int, ...], ...]:
        """A control fine-tune's greedy answers to the same prompts."""
        study = Study(
            pair,
            self.study.contrast,
            None,
            self.study.seed,
            self.study.batch_size,
            self.study.max_new_tokens,
            self.study.answer_after,
            self.study.engine,
        )
        written = study.answers_to(study.classes, "tuned")
        return tuple(tuple(one) for group in study.classes for one in written[group])

    @property
    def changed(self) -> Bool[np.ndarray, " n"]:
        """Whether the base does not write the fine-tuned model's answer."""
        return ~self.base.writes

    def read(self, rows: Rows, intervention: Intervention | None = None) -> Reading:
        """The answers to some prompts, read by the base."""
        return read_answers(
            self.study,
            self.study.pair.require_base("lofit"),
            [self.encoded[row] for row in rows.tolist()],
            [self.answers[row] for row in rows.tolist()],
            intervention,
        )

    def columns(self, rows: Rows) -> dict[str, list]:
        """Keys of some prompts, as columns."""
        chosen = [self.keys[row] for row in rows.tolist()]
        return {name: [key[name] for key in chosen] for name in ("group", "prompt_id", "cluster")}

    def clusters(self, rows: Rows) -> Sequence[str]:
        """Clusters of some prompts."""
        return self.columns(rows)["cluster"]

    @property
    def summary(self) -> dict[str, Any]:
        """Numbers of prompts and of changed answers in both splits."""
        return {
            "answer_tokens": self.study.max_new_tokens,
            "selection_prompts": len(self.selection),
            "held_out_prompts": len(self.held_out),
            "selection_changed": int(self.changed[self.selection].sum()),
            "held_out_changed": int(self.changed[self.held_out].sum()),
        }
