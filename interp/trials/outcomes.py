"""What positive prompts give while a set of units does as the other model does: number, behaviour, exact answer.

Few answers are written. A greedy answer is known if and only if, reading prompt and answer, every argmax is its next
token; and a behaviour is known as soon as nothing that may follow could change it. So one pass over the prompt and the
beginning of the receiver's own answer gives the metric's number and finds the prompts whose behaviour is unchanged; one
more, over the donor's answer, those that answer as the donor does. Only the others are generated, those of many sets
in one batch. What the donor does on these fixed texts is read once.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

from interp.capture import make_batch
from interp.generate import (
    Text,
    answer_logits,
    first_logits,
    generate,
    known_beginnings,
    read_donor,
    stream_at,
    would_answer,
)
from interp.intervention import Intervention
from interp.maths.host import to_host
from interp.study import Study
from interp.trials.conditions import DIRECTIONS, RECEIVERS, Donors, number_is_where_answers_begin
from interp.trials.numbers import Numbers
from interp.trials.streams import Streams

Set = Sequence[tuple[int, int]]
MEASURES = ("behaviour", "recovery")
ANSWERS_AT_ONCE = 64  # answers that are written together


@dataclass(frozen=True)
class Outcome:
    """Of some positive prompts, rows ascending, [prompts]: the metric's number, and the yes or no.

    ``equal``: whether the answer is the donor's, word for word; None where that was not asked for.
    """

    number: np.ndarray
    shown: np.ndarray
    equal: np.ndarray | None = None


@dataclass(frozen=True)
class _Part:
    """Some prompts, the beginnings of the receiver's answers that settle its behaviour, and the donor's answers."""

    rows: list[int]
    text: Text
    own: list[list[int]]
    wanted: list[list[int]]
    settled: list[int]
    on_own: dict
    on_wanted: dict
    streams: Streams = field(default_factory=Streams)


@dataclass(frozen=True)
class _Unwritten:
    """An answer that must be written to its decision: of which intervention, to which prompt, and how it begins."""

    at: int
    row: int
    begun: list[int]


class Outcomes:
    """Outcomes of any set on some positive prompts (``rows``), in one direction; of both models as they are.

    ``necessity``: the tuned model with the base's contributions (or activations, as ``donors.patch`` says);
    ``sufficiency``: the base with the tuned model's. ``layers``: those of all units that will be asked for, to keep no
    more of the donor than these need; ``exact``: count answers that become the donor's, word for word, too.
    """

    def __init__(
        self,
        study: Study,
        donors: Donors,
        direction: str,
        rows: Sequence[int],
        *,
        layers: Iterable[int] | None = None,
        exact: bool = False,
    ) -> None:
        role, other = RECEIVERS[direction]
        self._study, self._donors, self._condition, self._exact = study, donors, DIRECTIONS[direction], exact
        self._model, self.rows = study.pair[role], sorted(rows)
        own, wanted = study.answers(role, "positive"), study.answers(other, "positive")
        begins = number_is_where_answers_begin(study, "positive")
        self._numbers = None if begins else Numbers(study, donors, self.rows, direction)
        whole = [(layer, 0) for layer in sorted({*layers} if layers else range(self._model.anatomy.n_layers))]
        reader = donors.condition(self._condition, whole).require_intervention()
        begun = {row: list(own[row][: settled_length(study, row, own[row])]) for row in self.rows}
        most = (1 << 29) // (8 * 64 * len(whole) * donors.unit.n_channels(self._model.anatomy))
        size = study.at_a_time(max(1, min(len(self.rows), 24, most)))
        by_length = sorted(self.rows, key=lambda row: (len(study.encoded("positive")[row].ids) + len(begun[row]), row))
        self._parts = [
            self._part(by_length[start : start + size], begun, wanted, reader) for start in range(0, len(rows), size)
        ]
        self.receiver, self.donor = self._unedited(role, other)

    def _part(self, rows: list[int], begun: Mapping[int, list[int]], wanted: Sequence, reader: Intervention) -> _Part:
        study = self._study
        asked = study.text("positive", rows)
        text = Text(asked.prompts, None, asked.pad_id, asked.stop_ids)
        own, ends = [begun[row] for row in rows], [settled_length(study, row, wanted[row]) for row in rows]
        looked_for = [list(wanted[row][: None if self._exact else end]) for row, end in zip(rows, ends, strict=True)]
        on_own, on_wanted = (read_donor(study.engine, reader, text, answers) for answers in (own, looked_for))
        return _Part(rows, text, own, looked_for, ends, on_own, on_wanted)

    def _unedited(self, role: str, other: str) -> tuple[Outcome, Outcome]:
        """Both models as they are."""
        study, found = self._study, []
        prompts = [study.prompts("positive").prompts[row] for row in self.rows]
        wanted = study.answers(other, "positive")
        for each in (role, other):
            answers = study.answers(each, "positive")
            texts = [study.decode(answers[row]) for row in self.rows]
            shown = study.require_metric().shown(prompts, texts, "positive")
            equal = np.array([answers[row] == wanted[row] for row in self.rows], bool) if self._exact else None
            found.append(Outcome(unedited_numbers(study, each, self.rows), shown, equal))
        return found[0], found[1]

    def of(self, chosen: Set) -> Outcome:
        """The outcome with these units patched."""
        return self.of_each([chosen])[0]

    def of_each(self, sets: Iterable[Set]) -> list[Outcome]:
        """The outcome of every set; answers that must be written are written together at the end."""
        return self.under(
            self._donors.condition(self._condition, chosen).require_intervention() if chosen else None
            for chosen in sets
        )

    def under(self, interventions: Iterable[Intervention | None]) -> list[Outcome]:
        """The outcome under each of some interventions from this direction's donor."""
        found, kept, unwritten = [], [], []
        for at, intervention in enumerate(interventions):
            kept.append(intervention)
            if intervention is None:
                found.append(self.receiver)
                continue
            outcome, begun = self._read(intervention)
            found.append(outcome)
            unwritten += [_Unwritten(at, row, known) for row, known in begun.items()]
        places = {row: place for place, row in enumerate(self.rows)}
        size = self._study.at_a_time(ANSWERS_AT_ONCE)
        alone = any(each is not None and each.kind not in ("donor", "activation") for each in kept)
        for some in _batches(unwritten, size, alone):
            shown = self._written(some, Intervention.together(kept, [each.at for each in some]))
            for each, yes in zip(some, shown, strict=True):
                found[each.at].shown[places[each.row]] = yes
        return found

    def _read(self, intervention: Intervention) -> tuple[Outcome, dict[int, list[int]]]:
        """The outcome as far as reading known answers tells it, and beginnings of those that tell nothing yet."""
        at = {row: number for number, row in enumerate(self.rows)}
        number, shown, equal = self.receiver.number.copy(), self.receiver.shown.copy(), np.zeros(len(at), bool)
        begun: dict[int, list[int]] = {}
        for part in self._parts:
            places = np.array([at[row] for row in part.rows])
            numbers, shows, equals, unknown = self._measure(part, intervention, places, min(intervention.units))
            number[places], shown[places], equal[places] = numbers, shows, equals
            begun |= {part.rows[row]: known for row, known in unknown.items()}
        if self._numbers is not None:
            number = self._numbers.under(intervention)
        return Outcome(number, shown, equal if self._exact else None), begun

    def _measure(
        self, part: _Part, intervention: Intervention, places: np.ndarray, lowest: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[int, list[int]]]:
        """Numbers, behaviour and equality of a part; and the beginnings of those answers that do not tell yet."""
        study, engine = self._study, self._study.engine
        enter = part.streams.at(lowest, lambda: stream_at(engine, self._model, part.text, part.own, lowest))
        logits, target, real = answer_logits(engine, self._model, part.text, part.own, intervention, part.on_own, enter)
        first = first_logits(logits, real)
        number = np.full(len(part.rows), np.nan)
        if self._numbers is None:
            aim = study.objective("positive", part.rows)
            number = to_host(aim.of(first[:, None])).astype(np.float64)
        known = to_host(would_answer(logits, target, real))
        begins = known_beginnings(logits, target, real)
        shown, equal = self.receiver.shown[places].copy(), np.zeros(len(part.rows), bool)
        like = [
            at for at, answer in enumerate(part.wanted)
            if begins[at][0] == answer[0] and (self._exact or not known[at])
        ]  # fmt: skip
        if like:
            right, whole, as_far = self._as_donor(part, like, intervention)
            equal[like] = right
            settled = np.array(like)[whole]
            shown[settled], known[settled] = self.donor.shown[places][settled], True
            for at, other in zip(like, as_far, strict=True):
                begins[at] = max(begins[at], other, key=len)
        return number, shown, equal, {int(at): begins[at] for at in np.flatnonzero(~known)}

    def _written(self, some: Sequence[_Unwritten], intervention: Intervention) -> np.ndarray:
        """Behaviour of answers that must be written to their decision, row by row of the intervention."""
        study, rows = self._study, [each.row for each in some]
        text = study.text("positive", rows)
        answers = generate(
            study.engine, self._model, Text(text.prompts, None, text.pad_id, text.stop_ids), study.max_new_tokens,
            intervention, lambda at, answer: settles(study, rows[at], answer), [each.begun for each in some],
        )  # fmt: skip
        prompts = [study.prompts("positive").prompts[row] for row in rows]
        return study.require_metric().shown(prompts, [study.decode(answer) for answer in answers], "positive")

    def _as_donor(
        self, part: _Part, rows: Sequence[int], intervention: Intervention
    ) -> tuple[np.ndarray, np.ndarray, list[list[int]]]:
        """Which of some rows of a part answer as the donor, to the end and as far as settles the behaviour; how far."""
        text = Text([part.text.prompts[at] for at in rows], None, part.text.pad_id, part.text.stop_ids)
        answers = [part.wanted[at] for at in rows]
        width = max(map(len, text.prompts)) + max(map(len, answers)) - 1
        # batches are padded on the left, so a row's text ends in the last column of either
        donated = {site: value[list(rows)][:, -width:] for site, value in part.on_wanted.items()}
        logits, target, real = answer_logits(self._study.engine, self._model, text, answers, intervention, donated)
        right = to_host((logits.argmax(-1) == target) | ~real)
        # answers are right-aligned: which cells stand after the tokens that settle the behaviour
        after = to_host(real.int().cumsum(1)) > np.array([part.settled[at] for at in rows])[:, None]
        return np.all(right, axis=1), np.all(right | after, axis=1), known_beginnings(logits, target, real)

    def effects(self, outcome: Outcome) -> dict[str, float]:
        """``behaviour`` and ``recovery``: share of the gap between both models' rates and mean numbers that is closed,
        NaN where there is none; ``rate``, and its ``difference`` from the donor's; the mean ``number``; with ``exact``
        the share of answers that became the donor's under this name."""
        if not self.rows:
            return dict.fromkeys((*MEASURES, "rate", "difference", "number"), float("nan"))
        rate, own, other = (float(one.shown.mean()) for one in (outcome, self.receiver, self.donor))
        number, mine, theirs = (float(one.number.mean()) for one in (outcome, self.receiver, self.donor))
        return {
            "behaviour": (rate - own) / (other - own) + 0.0 if other != own else float("nan"),
            "recovery": (number - mine) / (theirs - mine) + 0.0 if theirs != mine else float("nan"),
            "rate": rate,
            "difference": rate - other,
            "number": number,
            **({} if outcome.equal is None else {"exact": float(outcome.equal.mean())}),
        }


def _batches(unwritten: Sequence[_Unwritten], size: int, alone: bool) -> list[list[_Unwritten]]:
    """Answers that are written together, as many in each batch: of all interventions, or (``alone``) of one alone."""
    groups = [[*of] for _, of in groupby(unwritten, key=lambda each: each.at)] if alone else [list(unwritten)]
    found = []
    for group in groups:
        count = -(-len(group) // size)
        found += [group[len(group) * at // count : len(group) * (at + 1) // count] for at in range(count)]
    return found


def unedited_numbers(study: Study, role: str, rows: Sequence[int]) -> np.ndarray:
    """The metric's number of some positive prompts in a model as it is."""
    posed, model, found = study.posed("positive"), study.pair[role], np.full(len(rows), np.nan)
    for group in study.batches([posed[row] for row in rows], model):
        chosen = [rows[at] for at in group]
        batch, _ = make_batch(posed, chosen, study.pad_id, model.device)
        aim = study.objective("positive", chosen)
        found[group] = to_host(aim.of(study.engine.run(model, batch, keep=aim.keep).require_logits()))
    return found


def settled_length(study: Study, row: int, answer: Sequence[int]) -> int:
    """After how many tokens of an answer to a positive prompt nothing that may follow changes its yes or no."""
    return next((end for end in range(1, len(answer)) if settles(study, row, answer[:end])), len(answer))


def settles(study: Study, row: int, begun: Sequence[int], group: str = "positive") -> bool:
    """Whether the beginning of an answer to a prompt of a class settles its yes or no."""
    if not study.begins_at_once:
        return False
    text = study.decode(begun)
    # half a character can become any other
    return not text.endswith("\ufffd") and study.require_metric().settled(study.prompts(group).prompts[row], text)
