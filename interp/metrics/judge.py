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
from interp.maths.judge_correction import Corrected, corrected_share
from interp.metrics.continuations import Continuations
from interp.models.pair import Pair
from interp.models.sources import file_digests, find
from interp.prompts import Prompt, encode
from interp.provenance import digest

FEWEST = 20
"""Minimum number of labelled answers of each label for a judge's error rates."""

Key = tuple[str, str]


@dataclass(frozen=True)
class Errors:
    """Error rates of a judge: ``true_yes`` of ``positives`` labelled yes were judged yes,
    ``true_no`` of ``negatives`` labelled no were judged no.
    """

    true_yes: int
    positives: int
    true_no: int
    negatives: int

    def corrected(self, yes: SupportsFloat, n: SupportsFloat) -> Corrected:
        """The corrected share of yes, for ``yes`` among ``n`` judged answers, with its interval."""
        return corrected_share(yes, n, self.true_yes, self.positives, self.true_no, self.negatives)

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
    labels: Mapping[Key, bool] = field(repr=False)
    yes: tuple[str, ...] = ("Yes",)
    no: tuple[str, ...] = ("No",)
    device: str = "auto"
    _kept: dict[Key, bool] = field(default_factory=dict, repr=False, compare=False)
    _loaded: list[Pair] = field(default_factory=list, repr=False, compare=False)

    def __post_init__(self) -> None:
        if "{answer}" not in self.question:
            raise MetricError(
                f"the question {self.question[:40]!r} has no {{answer}}; put {{answer}} where the"
                " answer belongs"
            )
        for label, said in ((True, "yes"), (False, "no")):
            if (count := sum(value is label for value in self.labels.values())) < FEWEST:
                raise MetricError(
                    f"{count} answers are labelled {said}; a judge's error rates need at least"
                    f" {FEWEST} of each label"
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
    def errors(self) -> Errors:
        """Its error rates on the labelled answers; MetricError if it is not better than chance."""
        judged = self._ask(list(self.labels))
        positives = sum(self.labels.values())
        negatives = len(self.labels) - positives
        true_yes = sum(judged[key] for key, label in self.labels.items() if label)
        found = Errors(
            true_yes,
            positives,
            sum(not judged[k] for k, label in self.labels.items() if not label),
            negatives,
        )
        if found.true_yes / positives + found.true_no / negatives <= 1:
            raise MetricError(
                f"the judge {self.model} is not better than chance: {found}; use another question"
                " or another model"
            )
        return found

    def read(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> np.ndarray:
        """Whether the judge says yes to each answer."""
        keys = [
            (prompt.text.strip(), answer.strip())
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        judged = self._ask(keys)
        return np.array([judged[key] for key in keys], dtype=bool)

    def _ask(self, keys: Sequence[Key]) -> dict[Key, bool]:
        """Its reading of each prompt and answer; each is asked only once."""
        if new := [key for key in dict.fromkeys(keys) if key not in self._kept]:
            if not self._loaded:
                self._loaded.append(Pair.load(self.model, device=self.device))
            pair, engine = self._loaded[0], TorchEngine()
            number = Continuations.of(pair.tokenizer, self.yes, self.no)
            coded = [
                encode(pair.tokenizer, self._asked(*key)).with_decision(*number.suffixes)
                for key in new
            ]
            for rows in batches(coded, pair.tuned, None):
                batch, _ = make_batch(coded, rows, pair.pad_id, pair.tuned.device)
                run = engine.run(pair.tuned, batch, keep=number.objective.keep)
                said = to_host(number.objective.of(run.require_logits()))
                self._kept.update(
                    {new[row]: bool(value > 0) for row, value in zip(rows, said, strict=True)}
                )
        return self._kept

    def _asked(self, prompt: str, answer: str) -> str:
        # the answer is filled in last, so that placeholders inside a prompt or an answer stay as
        # they are
        before, _, after = self.question.rpartition("{answer}")
        return before.replace("{prompt}", prompt) + answer + after.replace("{prompt}", prompt)
