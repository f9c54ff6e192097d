"""Texts drawn with the base's log probabilities subtracted from a model's, and their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from interp.analyzers.contrastive_generation.contrast import (
    Contrast,
    ContrastiveText,
    contrastive_texts,
)
from interp.experiments.discovery import loss_groups, sample_groups, sample_losses
from interp.interventions.teacher_forcing import Text
from interp.models.model import Model
from interp.study import Study
from interp.training.one_text import OneTextTraining


@dataclass(frozen=True)
class Prompt:
    """What a text continues, and the contrast that it is drawn from.

    ``where``: the kind of prompt. ``round``: of the iterative form, from 1; 0 for other texts.
    """

    where: str
    ids: tuple[int, ...]
    contrast: Contrast
    round: int = 0


@dataclass(frozen=True)
class Writer:
    """Writes texts of at most ``tokens`` tokens; ``learning_rate``: of the iterative form."""

    study: Study
    prompts: Sequence[Prompt]
    tokens: int
    learning_rate: float

    def write(self, tuned: Model, base: Model, name: str) -> list[ContrastiveText]:
        """A text per prompt, with the log probabilities of ``base`` subtracted from ``tuned``'s.

        In the rounds of the iterative form those of a copy of the base are subtracted, which is trained
        on every such text, so that later texts avoid it.
        """
        texts: dict[int, ContrastiveText] = {}
        for rows in self.study.progress(self._batches(), f"texts, {name}"):
            texts.update(zip(rows, self._draw(rows, tuned, base), strict=True))
        if rounds := [row for row, prompt in enumerate(self.prompts) if prompt.round]:
            training = OneTextTraining(base, self.learning_rate, self.study.seed)
            for row in self.study.progress(rounds, f"rounds, {name}"):
                (texts[row],) = self._draw([row], tuned, training.model)
                training.step(self.prompts[row].ids, texts[row].ids)
        return [texts[row] for row in range(len(self.prompts))]

    def _batches(self) -> list[list[int]]:
        """Rows of the prompts outside the iterative form, one contrast per batch; the same for all
        models.
        """
        batches = []
        by_contrast: dict[Contrast, list[int]] = {}
        for row, prompt in enumerate(self.prompts):
            if not prompt.round:
                by_contrast.setdefault(prompt.contrast, []).append(row)
        for rows in by_contrast.values():
            ids = [self.prompts[row].ids for row in rows]
            # twice the tokens: there is a cache for each of two models
            groups = sample_groups(self.study, self.study.pair.tuned, ids, 2 * self.tokens)
            batches += [[rows[at] for at in group] for group in groups]
        return batches

    def _draw(self, rows: Sequence[int], tuned: Model, base: Model) -> list[ContrastiveText]:
        study, prompts = self.study, [self.prompts[row] for row in rows]
        models = (tuned, base, study.pair["tuned"], study.pair["base"])
        return contrastive_texts(
            study.engine,
            tuned,
            base,
            Text([prompt.ids for prompt in prompts], None, study.pad_id, study.stop_ids),
            prompts[0].contrast,
            min(model.anatomy.vocabulary for model in models),
            self.tokens,
            study.seed,
            prompts[0].round,
        )

    def scores_under(
        self, model: Model, texts: Sequence[ContrastiveText], name: str
    ) -> Float[np.ndarray, " n"]:
        """Scores of texts with another model in place of the one that wrote them, nats."""
        prefills, samples = [prompt.ids for prompt in self.prompts], [one.ids for one in texts]
        groups = loss_groups(self.study, self.study.pair.tuned, prefills, samples)
        losses = sample_losses(
            self.study, model, prefills, samples, groups=groups, name=f"texts under {name}"
        )
        rows = zip(losses, self.prompts, texts, strict=True)
        return np.array(
            [-loss.mean() - prompt.contrast.gamma * one.base for loss, prompt, one in rows]
        )

    def scores(self, texts: Sequence[ContrastiveText]) -> Float[np.ndarray, " n"]:
        """Mean over tokens of l_t - gamma l_b of every text, nats."""
        rows = zip(self.prompts, texts, strict=True)
        return np.array([one.tuned - prompt.contrast.gamma * one.base for prompt, one in rows])

    def read(self, texts: Sequence[ContrastiveText]) -> list[str]:
        """The texts without special tokens."""
        return [self.study.pair.decode(one.ids, True) for one in texts]

    @property
    def prefills(self) -> list[str]:
        """What every text continues, without special tokens."""
        return [self.study.pair.decode(prompt.ids, True) for prompt in self.prompts]
