"""Dose-response and random sets: how many answers become the donor's when k neurons do as the donor does.

Greedy decoding gives exactly a known answer if and only if, reading prompt and answer, every argmax is the answer's
next token. So no answer is generated here: one pass decides, and first a shorter one, over the prompt alone, which
settles every prompt whose first answer token already differs. What the donor does on these fixed texts is read once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from interp.engines import Engine
from interp.generate import Text, answer_logits, read_donor, would_answer
from interp.intervention import Intervention
from interp.maths.host import to_host
from interp.models.model import Model
from interp.study import Study
from interp.trials.conditions import DIRECTIONS, Donors
from interp.trials.outcomes import refine as bisect

Set = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class _Chunk:
    """Some prompts with the answer looked for, and the donor's activations on prompt and on prompt with answer."""

    text: Text
    answers: list[list[int]]
    on_prompt: dict
    on_answer: dict

    @classmethod
    def read(cls, engine: Engine, reader: Intervention, text: Text, answers: list[list[int]]) -> "_Chunk":
        first = [answer[:1] for answer in answers]
        return cls(text, answers, read_donor(engine, reader, text, first), read_donor(engine, reader, text, answers))

    def hits(self, engine: Engine, model: Model, intervention: Intervention) -> np.ndarray:
        """Whether each prompt's greedy answer is the one looked for."""
        first = [answer[:1] for answer in self.answers]
        found = would_answer(*answer_logits(engine, model, self.text, first, intervention, self.on_prompt))
        rows = to_host(found.nonzero().ravel()).tolist()
        hits = np.zeros(len(self.answers), dtype=bool)
        if rows:
            some = Text([self.text.prompts[row] for row in rows], None, self.text.pad_id, self.text.stop_ids)
            answers = [self.answers[row] for row in rows]
            width = max(map(len, some.prompts)) + max(map(len, answers)) - 1
            # both batches are padded on the left, so a row's text ends in the last column of either
            donated = {site: value[rows][:, -width:] for site, value in self.on_answer.items()}
            hits[rows] = to_host(would_answer(*answer_logits(engine, model, some, answers, intervention, donated)))
        return hits


class Doses:
    """Effects of sets of neurons on prompts where the two models' answers differ.

    ``rows``: positive prompts to use. Direction ``necessity``: the tuned model with the base's contributions (or
    activations, as ``donors.patch`` says), looking for the base's answer; ``sufficiency``: the base with the tuned
    model's, looking for the tuned model's answer.
    """

    def __init__(self, study: Study, donors: Donors, direction: str, rows: Sequence[int]) -> None:
        self._study, self._donors, self._condition = study, donors, DIRECTIONS[direction]
        anatomy = study.pair.tuned.anatomy
        whole = [(layer, 0) for layer in range(anatomy.n_layers)]
        reader = donors.condition(self._condition, whole)
        self._model = study.pair[reader.role]
        wanted = study.answers("base" if direction == "necessity" else "tuned", "positive")
        most = (1 << 29) // (8 * 64 * anatomy.n_layers * donors.unit.n_channels(anatomy))
        size = study.at_a_time(max(1, min(len(rows), 96, most)))
        by_length = sorted(rows, key=lambda row: (len(wanted[row]), len(study.encoded("positive")[row].ids)))
        self._order = by_length
        self._chunks = []
        for start in range(0, len(by_length), size):
            part = by_length[start : start + size]
            text = study.text("positive", part)
            text = Text(text.prompts, None, text.pad_id, text.stop_ids)
            answers = [wanted[row] for row in part]
            self._chunks.append(_Chunk.read(study.engine, reader.require_intervention(), text, answers))

    def hits(self, chosen: Set) -> np.ndarray:
        """Per row, rows ascending, whether the answer became the donor's."""
        intervention = self._donors.condition(self._condition, chosen).intervention
        parts = [chunk.hits(self._study.engine, self._model, intervention) for chunk in self._chunks]
        found = dict(zip(self._order, np.concatenate(parts), strict=True))
        return np.array([found[row] for row in sorted(found)])

    def effect(self, chosen: Set) -> float:
        """Share of the rows whose answer became the donor's."""
        return float(self.hits(chosen).mean()) if self._order else float("nan")


def grid(depth: int) -> list[int]:
    """Doses 1, 2, 3, 5, 8, 12, 20, 30, 50, 80, 120, 200 ... up to and including ``depth``."""
    steps = [1, 2, 3, 5, 8]
    scale = 10
    while scale <= depth:
        steps += [round(scale * factor) for factor in (1.2, 2, 3, 5, 8)]
        scale *= 10
    return sorted({step for step in steps if step < depth} | {depth})


def refine(doses: Doses, ranking: Set, effects: dict[int, float], reach: float) -> dict[int, float]:
    """Effects with those of the doses between the last below ``reach`` and the first at it: see ``outcomes.refine``."""
    measured = {k: {"effect": effect} for k, effect in effects.items()}
    found = bisect(lambda chosen: {"effect": doses.effect(chosen)}, ranking, measured, reach, "effect")
    return {k: effect["effect"] for k, effect in found.items()}
