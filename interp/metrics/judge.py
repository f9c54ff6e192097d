"""A local judge: a model that is asked about every answer and read by the log-odds of Yes against
No.

Its error rates are measured on labelled answers, and the shares that it measures can be corrected
for them (``interp.maths.judge_correction``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import SupportsFloat

import numpy as np

from interp.capture import batches, make_batch
from interp.engines import TorchEngine
from interp.errors import MetricError
from interp.maths.host import to_host
from interp.maths.judge_correction import CorrectedShare, corrected_share
from interp.metrics.continuations import Continuations
from interp.models.pair import Pair
from interp.models.sources import file_digests, find
from interp.prompts import Prompt, encode
from interp.provenance import digest

MIN_LABELS = 20
"""Minimum number of labelled answers of each label for a judge's error rates."""

PromptAnswer = tuple[str, str]


@dataclass(frozen=True)
class JudgeErrors:
    """Error rates of a judge: ``true_yes`` of ``positives`` labelled yes were judged yes,
    ``true_no`` of ``negatives`` labelled no were judged no.
    """

    true_yes: int
    positives: int
    true_no: int
    negatives: int

    def corrected(self, judged_yes: SupportsFloat, n: SupportsFloat) -> CorrectedShare:
        """The corrected share of yes, for ``judged_yes`` among ``n`` judged answers, with its
        interval.
        """
        return corrected_share(
            judged_yes, n, self.true_yes, self.positives, self.true_no, self.negatives
        )

    def __str__(self) -> str:
        return (
            f"{self.true_yes} of {self.positives} answers labelled yes were judged so, and"
            f" {self.true_no} of {self.negatives} labelled no"
        )


@dataclass(frozen=True)
class Judge:
    """A model (a directory or another model name) that answers ``question`` with one of ``yes`` or
    of ``no``.

    The question is a template with ``{answer}``, and optionally ``{prompt}``; it is a user turn if
    the model has a chat template. An answer exhibits the behaviour if yes is more likely than no.
    ``labels`` map prompt and answer to the right reading. The model is loaded on first use. Raises
    MetricError for a question without ``{answer}`` and for fewer than 20 labels of either kind, and
    ModelNotFound.
    """

    model: str
    question: str
    labels: Mapping[PromptAnswer, bool] = field(repr=False)
    yes: tuple[str, ...] = ("Yes",)
    no: tuple[str, ...] = ("No",)
    device: str = "auto"
    _readings: dict[PromptAnswer, bool] = field(default_factory=dict, repr=False, compare=False)
    _pairs: list[Pair] = field(default_factory=list, repr=False, compare=False)

    def __post_init__(self) -> None:
        if "{answer}" not in self.question:
            raise MetricError(
                f"the question {self.question[:40]!r} has no {{answer}}; put {{answer}} where the"
                " answer belongs"
            )
        for label, label_name in ((True, "yes"), (False, "no")):
            if (count := sum(value is label for value in self.labels.values())) < MIN_LABELS:
                raise MetricError(
                    f"{count} answers are labelled {label_name}; a judge's error rates need at"
                    f" least {MIN_LABELS} of each label"
                )
        find(self.model)

    @property
    def flag(self) -> str:
        """What a positive reading of an answer means."""
        return f"the judge {Path(self.model).name} says so"

    @property
    def identity(self) -> dict[str, object]:
        """What determines its readings: the judge's files, the question, and the labels of its
        error rates.
        """
        rows = sorted([*key, str(label)] for key, label in self.labels.items())
        return {
            "kind": "judge",
            "model": digest(file_digests(find(self.model))),
            "question": self.question,
            "yes": list(self.yes),
            "no": list(self.no),
            "labels": digest(rows),
        }

    @property
    def errors(self) -> JudgeErrors:
        """Its error rates on the labelled answers; MetricError if it is not better than chance."""
        readings = self._read_keys(list(self.labels))
        positives = sum(self.labels.values())
        negatives = len(self.labels) - positives
        true_yes = sum(readings[key] for key, label in self.labels.items() if label)
        errors = JudgeErrors(
            true_yes,
            positives,
            sum(not readings[k] for k, label in self.labels.items() if not label),
            negatives,
        )
        if errors.true_yes / positives + errors.true_no / negatives <= 1:
            raise MetricError(
                f"the judge {self.model} is not better than chance: {errors}; use another question"
                " or another model"
            )
        return errors

    def read(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> np.ndarray:
        """Whether the judge says yes to each answer."""
        keys = [
            (prompt.text.strip(), answer.strip())
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        readings = self._read_keys(keys)
        return np.array([readings[key] for key in keys], dtype=bool)

    def _read_keys(self, keys: Sequence[PromptAnswer]) -> dict[PromptAnswer, bool]:
        """Its reading of each prompt and answer; each is asked only once."""
        if new := [key for key in dict.fromkeys(keys) if key not in self._readings]:
            if not self._pairs:
                self._pairs.append(Pair.load(self.model, device=self.device))
            pair, engine = self._pairs[0], TorchEngine()
            number = Continuations.from_texts(pair.tokenizer, self.yes, self.no)
            coded = [
                encode(pair.tokenizer, self._question_text(*key)).with_decision(*number.suffixes)
                for key in new
            ]
            for rows in batches(coded, pair.tuned, None):
                batch, _ = make_batch(coded, rows, pair.pad_id, pair.tuned.device)
                run = engine.run(pair.tuned, batch, keep=number.objective.keep)
                log_odds = to_host(number.objective.function(run.require_logits()))
                self._readings.update(
                    {new[row]: bool(value > 0) for row, value in zip(rows, log_odds, strict=True)}
                )
        return self._readings

    def _question_text(self, prompt: str, answer: str) -> str:
        # the answer is filled in last, so that placeholders inside a prompt or an answer stay as
        # they are
        before, _, after = self.question.rpartition("{answer}")
        return before.replace("{prompt}", prompt) + answer + after.replace("{prompt}", prompt)
