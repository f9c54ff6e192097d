"""Outcomes of patching a set of units on positive prompts: metric, behaviour, exact answer.

Few answers need to be generated. A greedy answer is known if, in a pass over prompt and answer,
every argmax is the answer's next token; and the behaviour is known as soon as no continuation could
change it. So one pass over the prompt and the beginning of the receiver's own answer gives the
metric and finds the prompts whose behaviour is unchanged; a second, over the donor's answer, finds
those that answer as the donor does. Only the others are generated, for many sets in one batch. The
donor's activations on these fixed texts are read once.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from interp.experiments.ablated_metric import Numbers
from interp.experiments.conditions import (
    DIRECTIONS,
    RECEIVERS,
    PatchSource,
    number_is_where_answers_begin,
)
from interp.experiments.patched_channels import only, wanted_of
from interp.experiments.pending_answers import Unwritten, same_tokens, settled_length, write
from interp.experiments.stream_cache import Streams
from interp.experiments.unedited_metric import own_numbers
from interp.interventions.generation import Begun
from interp.interventions.intervention import Activations, Intervention, last_columns
from interp.interventions.teacher_forcing import (
    Answered,
    Stream,
    Text,
    answer_logits,
    first_columns,
    first_logits,
    known_beginnings,
    read_answers,
    read_donor,
    stream_at,
    would_answer,
)
from interp.maths.batches import EACH_ON_CPU, EACH_ON_GPU, least_padded
from interp.maths.host import to_host
from interp.models.caches import CachedPrefix
from interp.study import Study

Set = Sequence[tuple[int, int]]
MEASURES = ("behaviour", "recovery")
ANSWERS_AT_ONCE = 64  # answers per batch of generation, each with a cache of two models


@dataclass(frozen=True)
class Outcome:
    """The metric's value and the behaviour (yes or no) of some positive prompts, rows ascending.

    ``equal``: whether the answer equals the donor's token by token; None where not measured. All
    arrays are [prompts].
    """

    number: np.ndarray
    exhibits: np.ndarray
    equal: np.ndarray | None = None


@dataclass(frozen=True)
class _Part:
    """A batch of prompts, the beginnings of the receiver's answers that decide its behaviour
    (``own``), and the donor's answers (``wanted``).

    ``on_own``, ``on_wanted``: the donor's activations on both. ``cache``: its keys and values on
    the former.
    """

    rows: list[int]
    text: Text
    own: list[list[int]]
    wanted: list[list[int]]
    settled: list[int]
    on_own: Activations
    on_wanted: Activations
    cache: Any
    streams: Streams = field(default_factory=Streams)


class Outcomes:
    """Outcomes of patching any set of units, on some positive prompts (``rows``) in one direction.

    ``necessity``: the tuned model with the base's contributions (or activations, see
    ``donors.patch``); ``sufficiency``: the base with the tuned model's. ``receiver`` and ``donor``:
    outcomes of the unedited models. ``lengths``: tokens of each prompt and of the part of the
    receiver's answer that is read. ``units``: all units that any set will hold, so that only their
    activations are kept; by default all. ``exact``: also compare whole answers with the donor's.
    """

    def __init__(
        self,
        study: Study,
        donors: PatchSource,
        direction: str,
        rows: Sequence[int],
        *,
        units: Iterable[tuple[int, int]] | None = None,
        exact: bool = False,
    ) -> None:
        role, other = RECEIVERS[direction]
        self._study, self._donors, self._condition, self._exact = (
            study,
            donors,
            DIRECTIONS[direction],
            exact,
        )
        self._model, self.rows = study.pair[role], sorted(rows)
        own, wanted = study.answers(role, "positive"), study.answers(other, "positive")
        begins = number_is_where_answers_begin(study, "positive")
        self._numbers = None if begins else Numbers(study, donors, self.rows, direction, units)
        self._wanted = wanted_of(donors.unit, self._model, units)
        whole = [(site.layer, 0) for site in self._wanted]
        reader = donors.condition(self._condition, whole).require_intervention()
        begun = {row: list(own[row][: settled_length(study, row, own[row])]) for row in self.rows}
        most = (1 << 29) // (8 * 64 * len(whole) * donors.unit.n_channels(self._model.anatomy))
        size = study.at_a_time(max(1, min(len(self.rows), 24, most)))
        self.lengths = [
            len(study.encoded("positive")[row].ids) + len(begun[row]) for row in self.rows
        ]
        fixed = EACH_ON_CPU if self._model.device.type == "cpu" else EACH_ON_GPU
        self._parts = [
            self._part([self.rows[at] for at in some], begun, wanted, reader)
            for some in least_padded(self.lengths, size, fixed)
        ]
        self.receiver, self.donor = self._unedited(role, other)

    def _part(
        self,
        rows: list[int],
        begun: Mapping[int, list[int]],
        wanted: Sequence,
        reader: Intervention,
    ) -> _Part:
        study = self._study
        text = study.text("positive", rows).select(range(len(rows)))
        own, ends = (
            [begun[row] for row in rows],
            [settled_length(study, row, wanted[row]) for row in rows],
        )
        looked_for = [
            list(wanted[row][: None if self._exact else end])
            for row, end in zip(rows, ends, strict=True)
        ]
        on_own = read_donor(study.engine, reader, text, own, use_cache=True)
        cache, own_values = on_own.cache, only(on_own.values, self._wanted)
        on_wanted = read_donor(study.engine, reader, text, looked_for)
        return _Part(
            rows,
            text,
            own,
            looked_for,
            ends,
            own_values,
            only(on_wanted.values, self._wanted),
            cache,
        )

    def _unedited(self, role: str, other: str) -> tuple[Outcome, Outcome]:
        """Outcomes of the unedited models."""
        study, found = self._study, []
        prompts = [study.prompts("positive").prompts[row] for row in self.rows]
        wanted = study.answers(other, "positive")
        for each in (role, other):
            answers = study.answers(each, "positive")
            texts = [study.decode(answers[row]) for row in self.rows]
            shown = study.require_metric().exhibits(prompts, texts, "positive")
            equal = (
                np.array([answers[row] == wanted[row] for row in self.rows], bool)
                if self._exact
                else None
            )
            found.append(Outcome(own_numbers(study, each, "positive", self.rows), shown, equal))
        return found[0], found[1]

    def of(self, chosen: Set) -> Outcome:
        """The outcome with these units patched."""
        return self.of_each([chosen])[0]

    def of_each(self, sets: Iterable[Set]) -> list[Outcome]:
        """The outcome of every set; answers that must be generated are generated together at the
        end.
        """
        return self.under(
            (
                self._donors.condition(self._condition, chosen).require_intervention()
                if chosen
                else None
            )
            for chosen in sets
        )

    def under(self, interventions: Iterable[Intervention | None]) -> list[Outcome]:
        """The outcome under each of some interventions from the donor of this direction."""
        found, kept, waiting = [], [], []
        places = {row: place for place, row in enumerate(self.rows)}
        size = self._study.at_a_time(ANSWERS_AT_ONCE)

        def write_waiting() -> None:
            # their caches are handed over, so that they are not held during generation
            some, waiting[:] = [*waiting], []
            for at, row, yes in write(self._study, self._model, some, kept):
                found[at].exhibits[places[row]] = yes

        for at, intervention in enumerate(interventions):
            kept.append(intervention)
            if intervention is None:
                found.append(self.receiver)
                continue
            outcome, unwritten = self._read(intervention)
            found.append(outcome)
            for rows, begun in unwritten:
                left = Unwritten(at, rows, begun)
                while left is not None:
                    some, left = left.divided(size - sum(len(each.rows) for each in waiting))
                    waiting.append(some)
                    if sum(len(each.rows) for each in waiting) >= size:
                        write_waiting()
            if waiting and intervention.kind not in ("donor", "activation"):
                write_waiting()
        if waiting:
            write_waiting()
        return found

    def _read(self, intervention: Intervention) -> tuple[Outcome, list[tuple[list[int], Begun]]]:
        """The outcome as far as passes over known answers determine it; the undecided rows with the
        known beginnings of their answers.
        """
        at = {row: number for number, row in enumerate(self.rows)}
        number, shown, equal = (
            self.receiver.number.copy(),
            self.receiver.exhibits.copy(),
            np.zeros(len(at), bool),
        )
        unwritten: list[tuple[list[int], Begun]] = []
        for part in self._parts:
            places = np.array([at[row] for row in part.rows])
            numbers, shows, equals, unknown = self._measure(part, intervention, places)
            number[places], shown[places], equal[places] = numbers, shows, equals
            if unknown is not None:
                unwritten.append(unknown)
        if self._numbers is not None:
            number = self._numbers.under(intervention)
        return Outcome(number, shown, equal if self._exact else None), unwritten

    def _measure(
        self, part: _Part, intervention: Intervention, places: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[list[int], Begun] | None]:
        """Metric, behaviour and equality of a batch; the undecided rows with the known beginnings
        of their answers.
        """
        study, engine, lowest = self._study, self._study.engine, min(intervention.units)
        stream = part.streams.get(
            lowest, lambda: stream_at(engine, self._model, part.text, part.own, lowest, True)
        )
        read = read_answers(
            engine,
            self._model,
            part.text,
            part.own,
            intervention,
            part.on_own,
            stream and stream.enter,
            True,
        )
        logits, target, real, _ = read
        first = first_logits(logits, real)
        number = np.full(len(part.rows), np.nan)
        if self._numbers is None:
            aim = study.objective("positive", part.rows)
            number = to_host(aim.of(first[:, None])).astype(np.float64)
        known = to_host(would_answer(logits, target, real))
        begins = known_beginnings(logits, target, real)
        shown, equal = self.receiver.exhibits[places].copy(), np.zeros(len(part.rows), bool)
        like = [
            at
            for at, answer in enumerate(part.wanted)
            if begins[at][0] == answer[0] and (self._exact or not known[at])
        ]
        if like:
            right, whole, as_far = self._as_donor(part, like, intervention)
            equal[like] = right
            settled = np.array(like)[whole]
            shown[settled], known[settled] = self.donor.exhibits[places][settled], True
            for at, other in zip(like, as_far, strict=True):
                begins[at] = max(begins[at], other, key=len)
        rows = [int(at) for at in np.flatnonzero(~known)]
        begun = (
            self._begun(part, rows, [begins[at] for at in rows], intervention, stream, read)
            if rows
            else None
        )
        return number, shown, equal, begun and ([part.rows[at] for at in rows], begun)

    def _begun(
        self,
        part: _Part,
        rows: Sequence[int],
        tokens: list[list[int]],
        intervention: Intervention,
        stream: Stream | None,
        read: Answered,
    ) -> Begun:
        """Known beginnings of some rows of a batch, with the cache of the pass over the receiver's
        own answers.
        """
        starts, lengths = first_columns(part.text, part.own), []
        for at, known in zip(rows, tokens, strict=True):
            # the last known token is read by the next pass
            same = min(same_tokens(known, part.own[at]), len(known) - 1, len(part.own[at]) - 1)
            lengths.append(len(part.text.prompts[at]) + same)
        where = [starts[at] for at in rows]
        below = [] if stream is None else [(stream.cache, min(intervention.units))]
        receiver = CachedPrefix.take(
            [*below, (read.cache, self._model.anatomy.n_layers)], rows, where, lengths
        )
        if receiver is None or intervention.donor is None:
            return Begun(tokens, receiver)
        return Begun(
            tokens, receiver, CachedPrefix.take([(part.cache, None)], rows, where, lengths)
        )

    def _as_donor(
        self, part: _Part, rows: Sequence[int], intervention: Intervention
    ) -> tuple[np.ndarray, np.ndarray, list[list[int]]]:
        """Whether some rows of a batch answer as the donor: to the end, as far as decides the
        behaviour; and the beginnings of their answers.
        """
        text = part.text.select(rows)
        answers = [part.wanted[at] for at in rows]
        width = max(map(len, text.prompts)) + max(map(len, answers)) - 1
        # batches are padded on the left, so every text ends in the last column
        donated = {site: last_columns(value, rows, width) for site, value in part.on_wanted.items()}
        logits, target, real = answer_logits(
            self._study.engine, self._model, text, answers, intervention, donated
        )
        right = to_host((logits.argmax(-1) == target) | ~real)
        # answers are right-aligned: the cells after the tokens that decide the behaviour
        after = to_host(real.int().cumsum(1)) > np.array([part.settled[at] for at in rows])[:, None]
        return (
            np.all(right, axis=1),
            np.all(right | after, axis=1),
            known_beginnings(logits, target, real),
        )

    def effects(self, outcome: Outcome) -> dict[str, float]:
        """The effects of an outcome, by name.

        ``behaviour`` and ``recovery``: share of the gap between both models' rates and mean metrics
        that is closed, NaN where there is no gap. ``rate``: share that shows the behaviour, and its
        ``difference`` from the donor's. ``number``: mean metric. ``judged``: number of prompts.
        ``exact``: share of answers equal to the donor's, where measured.
        """
        if not self.rows:
            return dict.fromkeys(
                (*MEASURES, "rate", "difference", "number", "judged"), float("nan")
            )
        rate, own, other = (
            float(item.exhibits.mean()) for item in (outcome, self.receiver, self.donor)
        )
        number, mine, theirs = (
            float(item.number.mean()) for item in (outcome, self.receiver, self.donor)
        )
        return {
            "behaviour": (rate - own) / (other - own) + 0.0 if other != own else float("nan"),
            "recovery": (number - mine) / (theirs - mine) + 0.0 if theirs != mine else float("nan"),
            "rate": rate,
            "difference": rate - other,
            "number": number,
            "judged": len(self.rows),
            **({} if outcome.equal is None else {"exact": float(outcome.equal.mean())}),
        }
