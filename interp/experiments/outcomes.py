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

from interp.experiments.ablated_metric import AblatedMetric
from interp.experiments.conditions import (
    DIRECTIONS,
    RECEIVERS,
    PatchSource,
    metric_is_at_answer_start,
)
from interp.experiments.patched_channels import channels_by_site, select_channels
from interp.experiments.pending_answers import (
    PendingAnswers,
    common_prefix_length,
    decided_length,
    generate_pending,
)
from interp.experiments.stream_cache import StreamCache
from interp.experiments.unedited_metric import unedited_values
from interp.interventions.generation import KnownBeginnings
from interp.interventions.intervention import Activations, Intervention, last_columns
from interp.interventions.teacher_forcing import (
    AnswerLogits,
    Text,
    UneditedStream,
    answer_logits,
    first_columns,
    first_logits,
    known_beginnings,
    read_answers,
    read_donor,
    stream_at,
    would_answer,
)
from interp.maths.batches import BATCH_COST_ON_CPU, BATCH_COST_ON_GPU, batch_by_length
from interp.maths.host import to_host
from interp.maths.memory import Memory, activation_budget
from interp.models.caches import CachedPrefix
from interp.study import Study

UnitSet = Sequence[tuple[int, int]]
MEASURES = ("behaviour", "recovery")
ANSWERS_AT_ONCE = 64  # answers per batch of generation at most, each with a cache of two models
MIN_ANSWERS_AT_ONCE = 8


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
class _AnswerBatch:
    """A batch of prompts, the beginnings of the receiver's answers that decide its behaviour
    (``receiver_answers``), and the donor's answers (``donor_answers``).

    ``donor_on_receiver_answers``, ``donor_on_donor_answers``: the donor's activations on both.
    ``cache``: its keys and values on the former.
    """

    rows: list[int]
    text: Text
    receiver_answers: list[list[int]]
    donor_answers: list[list[int]]
    decided_lengths: list[int]
    donor_on_receiver_answers: Activations
    donor_on_donor_answers: Activations
    cache: Any
    streams: StreamCache = field(default_factory=StreamCache)


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
        patch_source: PatchSource,
        direction: str,
        rows: Sequence[int],
        *,
        units: Iterable[tuple[int, int]] | None = None,
        exact: bool = False,
    ) -> None:
        receiver_role, donor_role = RECEIVERS[direction]
        self._study, self._patch_source, self._condition, self._exact = (
            study,
            patch_source,
            DIRECTIONS[direction],
            exact,
        )
        self._model, self._donor_model = study.pair[receiver_role], study.pair[donor_role]
        self.rows = sorted(rows)
        receiver_answers, donor_answers = (
            study.answers(receiver_role, "positive"),
            study.answers(donor_role, "positive"),
        )
        at_start = metric_is_at_answer_start(study, "positive")
        self._ablated_metric = (
            None if at_start else AblatedMetric(study, patch_source, self.rows, direction, units)
        )
        self._channels = channels_by_site(patch_source.unit, self._model, units)
        one_unit_per_layer = [(site.layer, 0) for site in self._channels]
        reader = patch_source.condition(self._condition, one_unit_per_layer).require_intervention()
        beginnings = {
            row: list(receiver_answers[row][: decided_length(study, row, receiver_answers[row])])
            for row in self.rows
        }
        max_rows = (1 << 29) // (
            8 * 64 * len(one_unit_per_layer) * patch_source.unit.n_channels(self._model.anatomy)
        )
        size = study.batch_size_for(max(1, min(len(self.rows), 24, max_rows)))
        self.lengths = [
            len(study.encoded("positive")[row].ids) + len(beginnings[row]) for row in self.rows
        ]
        row_cost = BATCH_COST_ON_CPU if self._model.device.type == "cpu" else BATCH_COST_ON_GPU
        self._batches = [
            self._make_batch([self.rows[at] for at in some], beginnings, donor_answers, reader)
            for some in batch_by_length(self.lengths, size, row_cost)
        ]
        self.receiver, self.donor = self._unedited(receiver_role, donor_role)

    def _make_batch(
        self,
        rows: list[int],
        beginnings: Mapping[int, list[int]],
        donor_answers: Sequence,
        reader: Intervention,
    ) -> _AnswerBatch:
        study = self._study
        text = study.text("positive", rows).select(range(len(rows)))
        receiver_answers, decided_lengths = (
            [beginnings[row] for row in rows],
            [decided_length(study, row, donor_answers[row]) for row in rows],
        )
        compared_answers = [
            list(donor_answers[row][: None if self._exact else end])
            for row, end in zip(rows, decided_lengths, strict=True)
        ]
        run_on_receiver_answers = read_donor(
            study.engine, reader, text, receiver_answers, use_cache=True
        )
        cache, activations = (
            run_on_receiver_answers.cache,
            select_channels(run_on_receiver_answers.values, self._channels),
        )
        run_on_donor_answers = read_donor(study.engine, reader, text, compared_answers)
        return _AnswerBatch(
            rows,
            text,
            receiver_answers,
            compared_answers,
            decided_lengths,
            activations,
            select_channels(run_on_donor_answers.values, self._channels),
            cache,
        )

    def _unedited(self, receiver_role: str, donor_role: str) -> tuple[Outcome, Outcome]:
        """Outcomes of the unedited models."""
        study, outcomes = self._study, []
        prompts = [study.prompts("positive").prompts[row] for row in self.rows]
        donor_answers = study.answers(donor_role, "positive")
        for role in (receiver_role, donor_role):
            answers = study.answers(role, "positive")
            texts = [study.decode(answers[row]) for row in self.rows]
            exhibits = study.require_metric().exhibits(prompts, texts, "positive")
            equal = (
                np.array([answers[row] == donor_answers[row] for row in self.rows], bool)
                if self._exact
                else None
            )
            outcomes.append(
                Outcome(unedited_values(study, role, "positive", self.rows), exhibits, equal)
            )
        return outcomes[0], outcomes[1]

    def of(self, units: UnitSet) -> Outcome:
        """The outcome with these units patched."""
        return self.of_each([units])[0]

    def of_each(self, sets: Iterable[UnitSet]) -> list[Outcome]:
        """The outcome of every set; answers that must be generated are generated together at the
        end.
        """
        return self.under(
            (
                self._patch_source.condition(self._condition, chosen).require_intervention()
                if chosen
                else None
            )
            for chosen in sets
        )

    @property
    def _answers_at_once(self) -> int:
        """Answers whose caches of both models fit into the memory of a batch."""
        study = self._study
        tokens = study.max_new_tokens + max(
            len(study.encoded("positive")[row].ids) for row in self.rows
        )
        # twice: a growing cache is copied block by block
        cache = 2 * tokens * (self._model.cached_bytes + self._donor_model.cached_bytes)
        memory = study.batch_size if isinstance(study.batch_size, Memory) else None
        fitting = activation_budget(memory, self._model.device) // cache
        return max(MIN_ANSWERS_AT_ONCE, min(ANSWERS_AT_ONCE, fitting))

    def under(self, interventions: Iterable[Intervention | None]) -> list[Outcome]:
        """The outcome under each of some interventions from the donor of this direction."""
        outcomes, used_interventions, pending = [], [], []
        places = {row: place for place, row in enumerate(self.rows)}
        size = self._study.batch_size_for(self._answers_at_once)

        def write_waiting() -> None:
            # their caches are handed over, so that they are not held during generation
            batch, pending[:] = [*pending], []
            for at, row, exhibits in generate_pending(
                self._study, self._model, batch, used_interventions
            ):
                outcomes[at].exhibits[places[row]] = exhibits

        for at, intervention in enumerate(interventions):
            used_interventions.append(intervention)
            if intervention is None:
                outcomes.append(self.receiver)
                continue
            outcome, unwritten = self._read(intervention)
            outcomes.append(outcome)
            for rows, beginnings in unwritten:
                remaining = PendingAnswers(at, rows, beginnings)
                while remaining is not None:
                    part, remaining = remaining.split_at(
                        size - sum(len(each.rows) for each in pending)
                    )
                    pending.append(part)
                    if sum(len(each.rows) for each in pending) >= size:
                        write_waiting()
            if pending and intervention.kind not in ("donor", "activation"):
                write_waiting()
        if pending:
            write_waiting()
        return outcomes

    def _read(
        self, intervention: Intervention
    ) -> tuple[Outcome, list[tuple[list[int], KnownBeginnings]]]:
        """The outcome as far as passes over known answers determine it; the undecided rows with the
        known beginnings of their answers.
        """
        positions = {row: number for number, row in enumerate(self.rows)}
        number, exhibits, equal = (
            self.receiver.number.copy(),
            self.receiver.exhibits.copy(),
            np.zeros(len(positions), bool),
        )
        pending: list[tuple[list[int], KnownBeginnings]] = []
        for part in self._batches:
            places = np.array([positions[row] for row in part.rows])
            numbers, shows, equals, undecided = self._measure(part, intervention, places)
            number[places], exhibits[places], equal[places] = numbers, shows, equals
            if undecided is not None:
                pending.append(undecided)
        if self._ablated_metric is not None:
            number = self._ablated_metric.under(intervention)
        return Outcome(number, exhibits, equal if self._exact else None), pending

    def _measure(
        self, part: _AnswerBatch, intervention: Intervention, places: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[list[int], KnownBeginnings] | None]:
        """Metric, behaviour and equality of a batch; the undecided rows with the known beginnings
        of their answers.
        """
        study, engine, lowest = self._study, self._study.engine, min(intervention.units)
        stream = part.streams.get(
            lowest,
            lambda: stream_at(engine, self._model, part.text, part.receiver_answers, lowest, True),
        )
        read = read_answers(
            engine,
            self._model,
            part.text,
            part.receiver_answers,
            intervention,
            part.donor_on_receiver_answers,
            stream and stream.start_edit,
            True,
        )
        logits, target, real, _ = read
        first = first_logits(logits, real)
        number = np.full(len(part.rows), np.nan)
        if self._ablated_metric is None:
            objective = study.objective("positive", part.rows)
            number = to_host(objective.function(first[:, None])).astype(np.float64)
        decided = to_host(would_answer(logits, target, real))
        beginnings = known_beginnings(logits, target, real)
        exhibits, equal = self.receiver.exhibits[places].copy(), np.zeros(len(part.rows), bool)
        candidates = [
            at
            for at, answer in enumerate(part.donor_answers)
            if beginnings[at][0] == answer[0] and (self._exact or not decided[at])
        ]
        if candidates:
            exact, decided_as_donor, donor_beginnings = self._compare_with_donor(
                part, candidates, intervention
            )
            equal[candidates] = exact
            newly_decided = np.array(candidates)[decided_as_donor]
            exhibits[newly_decided], decided[newly_decided] = (
                self.donor.exhibits[places][newly_decided],
                True,
            )
            for at, donor_beginning in zip(candidates, donor_beginnings, strict=True):
                beginnings[at] = max(beginnings[at], donor_beginning, key=len)
        rows = [int(at) for at in np.flatnonzero(~decided)]
        cached_beginnings = (
            self._cached_beginnings(
                part, rows, [beginnings[at] for at in rows], intervention, stream, read
            )
            if rows
            else None
        )
        return (
            number,
            exhibits,
            equal,
            cached_beginnings and ([part.rows[at] for at in rows], cached_beginnings),
        )

    def _cached_beginnings(
        self,
        part: _AnswerBatch,
        rows: Sequence[int],
        tokens: list[list[int]],
        intervention: Intervention,
        stream: UneditedStream | None,
        read: AnswerLogits,
    ) -> KnownBeginnings:
        """Known beginnings of some rows of a batch, with the cache of the pass over the receiver's
        own answers.
        """
        starts, lengths = first_columns(part.text, part.receiver_answers), []
        for at, known in zip(rows, tokens, strict=True):
            # the last known token is read by the next pass
            n_same = min(
                common_prefix_length(known, part.receiver_answers[at]),
                len(known) - 1,
                len(part.receiver_answers[at]) - 1,
            )
            lengths.append(len(part.text.prompts[at]) + n_same)
        columns = [starts[at] for at in rows]
        lower_caches = [] if stream is None else [(stream.cache, min(intervention.units))]
        receiver = CachedPrefix.from_caches(
            [*lower_caches, (read.cache, self._model.anatomy.n_layers)], rows, columns, lengths
        )
        if receiver is None or intervention.donor is None:
            return KnownBeginnings(tokens, receiver)
        return KnownBeginnings(
            tokens, receiver, CachedPrefix.from_caches([(part.cache, None)], rows, columns, lengths)
        )

    def _compare_with_donor(
        self, part: _AnswerBatch, rows: Sequence[int], intervention: Intervention
    ) -> tuple[np.ndarray, np.ndarray, list[list[int]]]:
        """Whether some rows of a batch answer as the donor: to the end, as far as decides the
        behaviour; and the beginnings of their answers.
        """
        text = part.text.select(rows)
        answers = [part.donor_answers[at] for at in rows]
        width = max(map(len, text.prompts)) + max(map(len, answers)) - 1
        # batches are padded on the left, so every text ends in the last column
        activations = {
            site: last_columns(value, rows, width)
            for site, value in part.donor_on_donor_answers.items()
        }
        logits, target, real = answer_logits(
            self._study.engine, self._model, text, answers, intervention, activations
        )
        is_equal = to_host((logits.argmax(-1) == target) | ~real)
        # answers are right-aligned: the cells after the tokens that decide the behaviour
        is_after_decision = (
            to_host(real.int().cumsum(1))
            > np.array([part.decided_lengths[at] for at in rows])[:, None]
        )
        return (
            np.all(is_equal, axis=1),
            np.all(is_equal | is_after_decision, axis=1),
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
        rate, receiver_rate, donor_rate = (
            float(item.exhibits.mean()) for item in (outcome, self.receiver, self.donor)
        )
        mean, receiver_mean, donor_mean = (
            float(item.number.mean()) for item in (outcome, self.receiver, self.donor)
        )
        return {
            "behaviour": (rate - receiver_rate) / (donor_rate - receiver_rate) + 0.0
            if donor_rate != receiver_rate
            else float("nan"),
            "recovery": (mean - receiver_mean) / (donor_mean - receiver_mean) + 0.0
            if donor_mean != receiver_mean
            else float("nan"),
            "rate": rate,
            "difference": rate - donor_rate,
            "number": mean,
            "judged": len(self.rows),
            **({} if outcome.equal is None else {"exact": float(outcome.equal.mean())}),
        }
