"""The base's own greedy answers as the old capability: does a model still write them?

The answers are read by teacher forcing: a model writes an answer if every token of it is the most
likely next one, which is what greedy decoding would write. Prompts are divided by cluster into a
selection split, on which things are located, trained and chosen, and a held-out split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from interp.claims import Claim, evaluate, mean
from interp.interventions.intervention import Intervention
from interp.interventions.teacher_forcing import Text, answer_logits, would_answer
from interp.maths.host import to_host
from interp.metrics import token_losses
from interp.models.model import Model
from interp.prompts import Encoded, Prompt
from interp.provenance import JSON
from interp.rows import PromptRow, flag, key, text
from interp.study import Study
from interp.table import Table

CHANGED = "answers-changed"
BASE, TUNED, CONTROL, RANDOM, WORDS = "base", "tuned", "control", "random", "words"
"""Roles of models in tables."""
BYTES_PER_LOGIT = 16


class ModelRow:
    """A row per model, and what a subclass adds."""

    role: str = key("tuned, base, random (a random start), words (of the prompt) or control")
    control: int = key("number of the control fine-tune, from 0; -1 for other models")
    model: str = text("name of the model")


def model_columns(role: str, name: str, control: int = -1) -> dict[str, Any]:
    """The columns of ``ModelRow`` for one row."""
    return {"role": role, "control": control, "model": name}


class ChangedRow(PromptRow):
    """A row per prompt, with whether fine-tuning changed its answer."""

    changed: bool = flag("the fine-tuned model does not write the base's answer")


@dataclass(frozen=True)
class Reading:
    """Of every prompt: whether a model writes the answer, and its loss, nats per token."""

    writes: Bool[np.ndarray, " n"]
    loss: Float[np.ndarray, " n"]

    def __getitem__(self, rows: Int[np.ndarray, " m"] | Bool[np.ndarray, " n"]) -> Reading:
        return Reading(self.writes[rows], self.loss[rows])


@dataclass(frozen=True, eq=False)
class BaseAnswers:
    """Prompts of all classes with the base's greedy answers, at most ``study.max_new_tokens``.

    ``changed`` [n]: the fine-tuned model does not write the answer. ``selection`` and ``held_out``:
    rows of the two splits, which share no cluster.
    """

    study: Study
    prompts: tuple[tuple[str, Prompt], ...]
    encoded: tuple[Encoded, ...]
    answers: tuple[tuple[int, ...], ...]
    base: Reading
    tuned: Reading
    selection: Int[np.ndarray, " s"]
    held_out: Int[np.ndarray, " h"]

    @classmethod
    def from_study(cls, study: Study) -> BaseAnswers:
        """Generate the base's answers and read them with both models; kept with the study."""
        return study.cached("base answers", lambda: cls._from_study(study))

    @classmethod
    def _from_study(cls, study: Study) -> BaseAnswers:
        written = study.answers_to(study.classes, "base")
        prompts = tuple((group, each) for group in study.classes for each in study.prompts(group))
        encoded = tuple(coded for group in study.classes for coded in study.encoded(group))
        answers = tuple(tuple(one) for group in study.classes for one in written[group])
        base, tuned = (
            read_answers(study, study.pair[role], encoded, answers) for role in ("base", "tuned")
        )
        row = {(group, prompt.id): at for at, (group, prompt) in enumerate(prompts)}
        halves = [
            np.array([row[group, p.id] for group in part.classes for p in part.prompts(group)])
            for part in study.split(study.seed)
        ]
        return cls(study, prompts, encoded, answers, base, tuned, *halves)

    @property
    def changed(self) -> Bool[np.ndarray, " n"]:
        """Whether the fine-tuned model does not write the base's answer."""
        return ~self.tuned.writes

    @property
    def clusters(self) -> list[str]:
        """The cluster of every prompt."""
        return [prompt.cluster for _, prompt in self.prompts]

    def read(
        self,
        model: Model,
        rows: Int[np.ndarray, " m"] | None = None,
        intervention: Intervention | None = None,
    ) -> Reading:
        """The answers of some prompts, by default of all, read by a model."""
        chosen = range(len(self.answers)) if rows is None else rows.tolist()
        return read_answers(
            self.study,
            model,
            [self.encoded[row] for row in chosen],
            [self.answers[row] for row in chosen],
            intervention,
        )

    def columns(self, rows: Int[np.ndarray, " m"]) -> dict[str, Any]:
        """The columns of ``ChangedRow`` for some prompts."""
        chosen = [self.prompts[row] for row in rows.tolist()]
        return {
            "group": [group for group, _ in chosen],
            "prompt_id": [prompt.id for _, prompt in chosen],
            "cluster": [prompt.cluster for _, prompt in chosen],
            "changed": self.changed[rows],
        }

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


def read_answers(
    study: Study,
    model: Model,
    encoded: Sequence[Encoded],
    answers: Sequence[Sequence[int]],
    intervention: Intervention | None = None,
) -> Reading:
    """Given answers to prompts read by a model, in batches of the study."""
    writes, losses = np.zeros(len(answers), bool), np.zeros(len(answers))
    texts = [
        coded.with_completion(answer[:-1]) for coded, answer in zip(encoded, answers, strict=True)
    ]
    shortest, longest = min(len(text.ids) for text in texts), max(map(len, answers))
    bytes_per_token = BYTES_PER_LOGIT * model.anatomy.vocabulary * longest // shortest
    for rows in study.batches(texts, model, bytes_per_token):
        text = Text([encoded[row].ids for row in rows], None, study.pad_id, study.stop_ids)
        logits, targets, real = answer_logits(
            study.engine, model, text, [answers[row] for row in rows], intervention
        )
        writes[rows] = to_host(would_answer(logits, targets, real))
        summed = token_losses(logits, targets, real).double().sum(1)
        losses[rows] = to_host(summed / real.sum(1))
    return Reading(writes, losses)


def any_supported(
    claims: Sequence[Claim], rows: Table, tables: Mapping[str, Table], *names: str
) -> bool:
    """Whether one of the claims of these names is made and supported: the verdict of a run whose
    claims ask different things.
    """
    findings = evaluate(claims, replace(rows, tables=tables))
    return any(finding.supported for finding in findings if finding.name in names)


def changed_claim(table: str, where: Mapping[str, JSON] | None = None) -> Claim:
    """That fine-tuning changed answers at all; the other claims of these analyzers require it.

    ``table``: the sub-table of held-out prompts, with the columns of ``ChangedRow``; ``where``: the
    rows of it that count.
    """
    return Claim(
        name=CHANGED,
        estimate=mean("changed", table=table, where=where or {}),
        at_least=0.0,
        reference=0.0,
        control="two equal models, of which none differ",
        text=(
            "Fine-tuning changed the greedy answer to {value:.1%} [{low:.1%}, {high:.1%}] of the"
            " held-out prompts."
        ),
    )
