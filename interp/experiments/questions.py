"""Questions of a task answered by an unedited model: correctness, choices, losses; perplexity of
plain text.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.capture import BatchSize, batches
from interp.engines import Batch, Engine
from interp.errors import OptionError, PromptError, required
from interp.maths.host import to_host
from interp.maths.precision import widen
from interp.maths.statistics import calibration_error
from interp.metrics import token_losses
from interp.models.model import Model
from interp.prompts import (
    Encoded,
    Prompt,
    PromptSet,
    Tokenizer,
    encode,
    encode_answer,
    pad_id,
    require_usable_ids,
)
from interp.rows import DrawRow, PromptRow, flag, key, measure

Logits = Callable[[Batch, int], Float[Tensor, "B keep V"]]


class MetricRow:
    """A row per metric of a model or a mask."""

    metric: str = key("metric, on held-out questions or on plain text")
    value: float = measure("value of the metric; losses in nats per answer")


class AnswerRow:
    """A row per held-out question."""

    prompt_id: int = PromptRow.prompt_id
    cluster: str = PromptRow.cluster
    correct: bool = flag("the right one of two answers, or the answer written exactly")
    exact: bool = flag("greedy decoding would write the answer")
    loss: float = measure("loss of the answer", "nats")


class RandomMaskRow(DrawRow):
    """A row per random mask."""

    accuracy: float = measure("share of correct answers")
    kept_gain: float = measure("share of the fine-tuned model's gain in correct answers")


@dataclass(frozen=True)
class QuestionResults:
    """Results of a model on the questions, one value per question.

    ``exact``: greedy decoding would write the answer. ``loss``: of the whole answer, in nats.
    ``choice``: 0 for the right answer and 1 for the wrong one; without wrong answers a checksum of
    the tokens that the model would write. ``confidence``: probability of the choice among the two,
    NaN without wrong answers.
    """

    exact: np.ndarray
    loss: np.ndarray
    choice: np.ndarray
    confidence: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """Whether the choice is right, or without wrong answers whether the answer is exact."""
        return self.exact if np.isnan(self.confidence).any() else self.choice == 0

    @property
    def accuracy(self) -> float:
        """Share of questions whose answer is correct."""
        return float(self.correct.mean())

    def metrics(self, tuned: QuestionResults) -> dict[str, float]:
        """Metrics over all questions; ``agreement`` is the share of the choices that the
        fine-tuned model makes too.
        """
        return {
            "accuracy": self.accuracy,
            "exact": float(self.exact.mean()),
            "loss": float(self.loss.mean()),
            "agreement": float(np.mean(self.choice == tuned.choice)),
        }

    def calibration_errors(self, *bins: int) -> dict[str, float]:
        """Expected calibration error of the choices, by number of bins; none without wrong
        answers.
        """
        if np.isnan(self.confidence).any():
            return {}
        return {
            f"calibration-error-{count}": calibration_error(self.confidence, self.correct, count)
            for count in bins
        }


@dataclass(frozen=True)
class Questions:
    """Prompts with their answers as token ids.

    ``wrong``: position and token at which the wrong answer first differs from the right one.
    Questions of equal text have equal ``keys`` and the same cluster.
    """

    read: tuple[Encoded, ...]
    answers: tuple[tuple[int, ...], ...]
    wrong: tuple[tuple[int, int] | None, ...]
    clusters: tuple[str, ...]
    keys: tuple[Hashable, ...]
    ids: tuple[int, ...]
    pad_id: int

    @classmethod
    def from_prompts(
        cls, tokenizer: Tokenizer, prompts: Sequence[Prompt], context: int
    ) -> Questions:
        """The questions of these prompts; PromptError for one longer than ``context``, or whose two
        answers do not differ.
        """
        read, answers, wrong = [], [], []
        for prompt in prompts:
            answer = encode_answer(
                tokenizer, prompt.text, required(prompt.answer, "an answer to every question")
            )
            encoded = encode(tokenizer, prompt.text).with_decision(answer[:-1])
            if len(encoded.ids) > context:
                raise PromptError(
                    f"prompt {prompt.id} and its answer have {len(encoded.ids)} tokens, the context"
                    f" {context}"
                )
            read.append(encoded)
            answers.append(answer)
            wrong.append(None)
            if prompt.wrong_answer is not None:
                other = encode_answer(tokenizer, prompt.text, prompt.wrong_answer)
                difference = next(
                    (i for i, (a, b) in enumerate(zip(answer, other, strict=False)) if a != b), None
                )
                if difference is None:
                    raise PromptError(
                        f"prompt {prompt.id}: the tokens of {prompt.answer!r} begin as those of"
                        f" {prompt.wrong_answer!r} and never differ; give answers that differ"
                    )
                wrong[-1] = (difference, other[difference])
        prompt_set = PromptSet(tuple(prompts), "")
        return cls(
            tuple(read),
            tuple(answers),
            tuple(wrong),
            tuple(prompt_set.clusters),
            tuple(prompt_set.keys),
            tuple(prompt.id for prompt in prompts),
            pad_id(tokenizer),
        )

    def __len__(self) -> int:
        return len(self.read)

    def batch(self, rows: Sequence[int], device: torch.device) -> tuple[Batch, Batch]:
        """Some questions with their answers, padded on the left, and the answers alone."""
        read = Batch.pad([self.read[row].ids for row in rows], self.pad_id, device=device)
        return read, Batch.pad([self.answers[row] for row in rows], self.pad_id, device=device)

    def loss(
        self, rows: Sequence[int], logits: Logits, device: torch.device
    ) -> Float[Tensor, " B"]:
        """Differentiable loss of some answers in nats, summed over their tokens."""
        read, answer = self.batch(rows, device)
        return token_losses(logits(read, answer.ids.shape[1]), answer.ids, answer.mask).sum(1)

    def grade(
        self, groups: Sequence[Sequence[int]], logits: Logits, device: torch.device
    ) -> QuestionResults:
        """Results on all questions, batch by batch."""
        count = len(self)
        exact, loss = np.zeros(count, bool), np.zeros(count)
        choice, confidence = np.zeros(count, np.int64), np.full(count, np.nan)
        for rows in groups:
            read, answer = self.batch(rows, device)
            kept_logits = logits(read, answer.ids.shape[1])
            greedy = kept_logits.argmax(-1)
            exact[rows] = to_host(((greedy == answer.ids) | ~answer.mask).all(1))
            loss[rows] = to_host(token_losses(kept_logits, answer.ids, answer.mask).sum(1))
            written = to_host(greedy)
            for at, row in enumerate(rows):
                choice[row] = zlib.crc32(written[at, -len(self.answers[row]) :].tobytes())
            with_wrong_answer = [
                (at, row, *wrong)
                for at, row in enumerate(rows)
                if (wrong := self.wrong[row]) is not None
            ]
            if with_wrong_answer:
                columns = [
                    answer.ids.shape[1] - len(self.answers[row]) + parting
                    for _, row, parting, _ in with_wrong_answer
                ]
                right_tokens = [
                    self.answers[row][parting] for _, row, parting, _ in with_wrong_answer
                ]
                wrong_tokens = [token for *_, token in with_wrong_answer]
                values = widen(kept_logits[[at for at, *_ in with_wrong_answer], columns]).double()
                at = torch.arange(len(with_wrong_answer), device=values.device)
                gap = to_host(values[at, right_tokens] - values[at, wrong_tokens])
                compared_rows = [row for _, row, *_ in with_wrong_answer]
                choice[compared_rows] = gap <= 0
                confidence[compared_rows] = 1 / (1 + np.exp(-np.abs(gap)))
        return QuestionResults(exact, loss, choice, confidence)


def answer_columns(
    answered: Sequence[tuple[Questions, QuestionResults]],
) -> dict[str, np.ndarray]:
    """The columns of ``AnswerRow`` but for the clusters: all questions of each pair, in order."""
    results = {
        name: np.concatenate([getattr(graded, name) for _, graded in answered])
        for name in ("correct", "exact", "loss")
    }
    return {"prompt_id": np.concatenate([asked.ids for asked, _ in answered]), **results}


def require_disjoint(selection: PromptSet, held_out: PromptSet) -> None:
    """Raise OptionError for questions that both select a mask and measure it."""
    if shared := set(selection.shared(held_out)):
        raise OptionError(
            f"{len(shared)} questions are in both the selection and the held-out split, first"
            f" {min(shared)[:40]!r}; remove them from one"
        )


def engine_logits(engine: Engine, model: Model) -> Logits:
    """A function for the logits of the last columns, by an engine, without gradients."""
    return lambda batch, keep: engine.run(model, batch, keep=keep).require_logits()


def text_rows(tokenizer: Tokenizer, texts: Sequence[str], context: int) -> list[tuple[int, ...]]:
    """Plain texts as token ids, without a chat template, cut at the context; texts of one token are
    left out.
    """
    rows = [tuple(tokenizer(text)["input_ids"][:context]) for text in texts]
    for row, text in zip(rows, texts, strict=True):
        require_usable_ids(tokenizer, row, text)
    return [row for row in rows if len(row) > 1]


def perplexity(
    rows: Sequence[Sequence[int]], model: Model, logits: Logits, batch_size: BatchSize = None
) -> float:
    """Exponential of the mean loss over all tokens after the first of each text; NaN without
    tokens.
    """
    total, count = 0.0, 0
    encoded = [Encoded(tuple(row), (0,) * len(row)) for row in rows]
    for group in batches(encoded, model, batch_size):
        batch = Batch.pad([rows[row] for row in group], 0, "right", model.device)
        kept_logits = logits(batch, batch.ids.shape[1])
        losses = token_losses(kept_logits[:, :-1], batch.ids[:, 1:], batch.mask[:, 1:])
        total, count = (
            total + float(to_host(losses.double().sum())),
            count + int(to_host(batch.mask[:, 1:].sum())),
        )
    return float(np.exp(total / count)) if count else float("nan")
