"""A study: a pair, prompts of one or two classes, a metric, and how passes are run."""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from torch import Tensor

from interp.capture import Backoff, BatchSize, batches, require_parts
from interp.display import facts_html
from interp.engines import Engine, TorchEngine
from interp.errors import OptionError, OutOfMemory, PromptError
from interp.interventions.generation import GENERATION_BATCH_FACTOR, cached_bytes, generate
from interp.interventions.intervention import Intervention
from interp.interventions.teacher_forcing import Text
from interp.maths.memory import release_freed_memory
from interp.metrics import Behaviour, Metric, Objective
from interp.models.model import Model
from interp.models.pair import Pair
from interp.progress import Progress
from interp.prompts import (
    NO_PROMPTS,
    Contrast,
    Encoded,
    EncodedSet,
    OneClass,
    PromptSet,
    prompt_notes,
    template_notes,
)
from interp.prompts.thinking import AnswerStart, answer_start
from interp.provenance import HasOptions, Provenance, digest, environment, to_json_value
from interp.store.journal import Journal

Item = TypeVar("Item")
LogitsCallback = Callable[[Sequence[tuple[str, int]], Tensor], None]
GROUPS = ("positive", "negative")
ANSWERS = 2  # version of generating and reading answers: raise it when the same inputs give others


@dataclass(frozen=True, eq=False)
class Study:
    """A pair of models, prompts, a metric and a random seed; an analyzer maps it to a Table.

    Prompts are of two classes, or of one for analyzers without a contrast. ``metric`` is None for
    analyzers that measure no behaviour. ``batch_size``: prompts per batch, or the ``Memory`` that
    batches may use; None bounds batches by tokens and free memory. The answer is the text after
    ``answer_after``: ``auto`` (after a thinking block), ``none``, or a text. Answers and encodings
    are computed once and kept with the study.
    """

    pair: Pair
    contrast: Contrast | OneClass
    metric: Metric | None
    seed: int = 0
    batch_size: BatchSize = None
    max_new_tokens: int = 48
    answer_after: str = "auto"
    engine: Engine = field(default_factory=TorchEngine)
    quiet: bool = True
    _cache: dict[Any, Any] = field(default_factory=dict, repr=False)
    journal: Journal | None = field(default=None, repr=False)
    _backoff: Backoff = field(default_factory=Backoff, repr=False)
    stages: Progress = field(default_factory=Progress, repr=False)

    def __repr__(self) -> str:
        return (
            f"Study({self.pair!r}; {', '.join(f'{name} {value}' for name, value in self._facts)})"
        )

    def _repr_html_(self) -> str:
        return facts_html("Study", [*self.pair.facts, *self._facts])

    @property
    def _facts(self) -> list[tuple[str, Any]]:
        prompts = [(group, self.prompts(group)) for group in self.classes]
        metric = (
            "none"
            if self.metric is None
            else f"{self.metric.labels.number} ({self.metric.labels.unit})"
        )
        counts = [(group, f"{part.counts} ({part.source})") for group, part in prompts if len(part)]
        return [*counts, ("metric", metric), ("seed", self.seed), ("engine", self.engine.name)]

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on the pair, the prompts and the metric that a reader of a result has to know."""
        generation_notes = () if self.metric is None else self.pair.generation_notes
        metric_notes = self.metric.notes if isinstance(self.metric, Behaviour) else ()
        encoders = [(self.prompts(group), partial(self.encoded, group)) for group in self.classes]
        text_notes = (
            *template_notes(self.pair.tokenizer, encoders),
            *prompt_notes(prompts for prompts, _ in encoders),
        )
        return (
            *self.pair.notes,
            *generation_notes,
            *text_notes,
            *metric_notes,
            *filter(None, [self.single_prompt_reason]),
        )

    @property
    def counts(self) -> str:
        """Numbers of prompts, distinct texts and clusters of each class, and of shared clusters."""
        return self.contrast.counts

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes of prompts: ``positive``, and ``negative`` in a contrast."""
        return self.contrast.classes

    def require_metric(self, what: str = "this") -> Metric:
        """The metric, or OptionError naming what needs it."""
        if self.metric is None:
            raise OptionError(f"{what} needs a metric and the study has none; give a behaviour")
        return self.metric

    def require_contrast(self, what: str = "this") -> Contrast:
        """The contrast of two classes, or PromptError naming what needs it."""
        if isinstance(self.contrast, OneClass):
            raise PromptError(
                f"{what} needs two classes of prompts and there is one; give --negative FILE too"
            )
        return self.contrast

    def with_prompts(self, contrast: Contrast | OneClass) -> "Study":
        """The same study on other prompts."""
        return replace(self, contrast=contrast, _cache={})

    def split(self, seed: int) -> "tuple[Study, Study]":
        """A selection study and a held-out study, on halves of the clusters drawn by ``seed``.

        The halves share no cluster, twin or text. Raises PromptError where there are too few
        clusters to give both halves every class.
        """
        contrast = (
            Contrast(self.contrast.positive, NO_PROMPTS)
            if isinstance(self.contrast, OneClass)
            else self.contrast
        )
        selection, held_out = (
            OneClass(part.positive) if isinstance(self.contrast, OneClass) else part
            for part in contrast.split(seed)
        )
        return self.with_prompts(selection), self.with_prompts(held_out)

    def prompts(self, group: str) -> PromptSet:
        """The prompts of ``positive`` or ``negative``."""
        return self.contrast.positive if group == "positive" else self.contrast.negative

    def encoded(self, group: str) -> list[Encoded]:
        """Token ids and roles of a class's prompts, in order; both models read identical ids."""
        if ("encoded", group) not in self._cache:
            encoded = self._read(group).within(self.pair.tuned.context_length)
            longest = max(len(item.ids) for item in encoded)
            self._backoff.single_prompt_reason = (
                self.single_prompt_reason
                or self.pair.single_prompt_reason(longest + self.max_new_tokens)
            )
            self._cache["encoded", group] = encoded
        return self._cache["encoded", group]

    def _read(self, group: str) -> EncodedSet:
        return self.cached(
            ("read", group), lambda: EncodedSet(self.pair.tokenizer, self.prompts(group))
        )

    def decision_inputs(self, group: str) -> list[Encoded]:
        """The prompts of a class, followed by the part of an answer that the metric has to read."""
        if not self.require_metric().applies(group):
            return self.encoded(group)
        metric, rows = (
            self.require_metric(),
            zip(self.encoded(group), self.prompts(group), strict=True),
        )
        name = "posed", group, digest(metric.identity)
        return self.cached(
            name, lambda: [coded.with_decision(*metric.suffixes(prompt)) for coded, prompt in rows]
        )

    def objective(self, group: str, rows: Sequence[int]) -> Objective:
        """The metric of some rows, as a function of the logits of their ``decision_inputs``."""
        return self.require_metric().objective([self.prompts(group).prompts[row] for row in rows])

    def require_parts(self) -> None:
        """Check on one prompt that both models are read exactly; raises UnsupportedModel."""
        for model in {self.pair.tuned, self.pair.base or self.pair.tuned}:
            require_parts(self.engine, model, self.encoded("positive")[0])

    @property
    def pad_id(self) -> int:
        """Token id used for padding; padding never counts."""
        return self.pair.pad_id

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Token ids that end an answer of one of the models."""
        return self.pair.stop_ids

    def text(self, group: str, rows: Sequence[int], role: str | None = None) -> Text:
        """Prompts of some rows and their twins in the other class.

        ``role``: answers end at the stop tokens of this model, by default of either model.
        """
        return self._text([(group, row) for row in rows], role)

    def _text(self, items: Sequence[tuple[str, int]], role: str | None) -> Text:
        ends = self.stop_ids if role is None else self.pair.end_ids(role)
        prompts, twins = [self.encoded(group)[row].ids for group, row in items], None
        if len(self.classes) > 1:
            other = {"positive": "negative", "negative": "positive"}
            twins = [self.encoded(other[group])[self.twins(group)[row]].ids for group, row in items]
        return Text(prompts, twins, self.pad_id, ends)

    def twins(self, group: str) -> list[int]:
        """For every prompt of a class the row of its twin in the other class."""
        contrast = self.require_contrast()
        if group == "negative":
            contrast = Contrast(contrast.negative, contrast.positive)
        return self.cached(("twins", group), contrast.twins)

    def groups(self, group: str, model: Model, per_token_bytes: int = 0) -> list[list[int]]:
        """Rows of a class in batches of similar length."""
        return self.batches(self.encoded(group), model, per_token_bytes)

    def batches(
        self, encoded: Sequence[Encoded], model: Model, per_token_bytes: int = 0, times: float = 1.0
    ) -> list[list[int]]:
        """Rows of encoded prompts in batches of similar length, smaller after memory ran out."""
        groups = batches(encoded, model, self.batch_size, per_token_bytes, times)
        sizes = [self.batch_size_for(len(rows)) for rows in groups]
        return [
            rows[start : start + size]
            for rows, size in zip(groups, sizes, strict=True)
            for start in range(0, len(rows), size)
        ]

    @property
    def single_prompt_reason(self) -> str:
        """Why prompts are read one at a time; empty where padded batches give the same numbers."""
        return self._backoff.single_prompt_reason

    def batch_size_for(self, count: int) -> int:
        """The batch size to use in place of ``count``, smaller after memory ran out."""
        return self._backoff.batch_size(count)

    def back_off(self, reason: str) -> None:
        """Halve the batch size after memory ran out; raises OutOfMemory where it was 1."""
        if not self._backoff.halve():
            raise OutOfMemory(
                f"{self.pair.tuned.device} has no memory for one prompt at a time ({reason}); use"
                " shorter prompts, --dtype bfloat16 or another --device"
            )
        if not self.quiet:
            print(
                f"note: memory ran out ({reason}); trying again with half the prompts per batch",
                file=sys.stderr,
            )

    def answers(
        self,
        role: str,
        group: str,
        intervention: Intervention | None = None,
        callback: LogitsCallback | None = None,
    ) -> list[list[int]]:
        """Greedy answers of a model to a class, as token ids; ``callback`` is as in ``answers_to``."""
        return self.answers_to([group], role, intervention, callback)[group]

    def answers_to(
        self,
        groups: Sequence[str],
        role: str,
        intervention: Intervention | None = None,
        callback: LogitsCallback | None = None,
    ) -> dict[str, list[list[int]]]:
        """Greedy answers to several classes, in common batches, as token ids.

        ``callback`` is called for each batch with the class and row of every prompt, and the logits
        where their answers begin.
        """
        cache_keys = {group: ("answers", role, group) for group in groups}
        known = {
            group: self._cache[key]
            for group, key in cache_keys.items()
            if intervention is None and key in self._cache
        }
        items = [
            (group, row)
            for group in groups
            if group not in known
            for row in range(len(self.encoded(group)))
        ]
        results = known | {
            group: [[] for _ in self.encoded(group)] for group in groups if group not in known
        }
        model, encoded = self.pair[role], [self.encoded(group)[row] for group, row in items]
        title, under = (
            f"{role} answers, {' and '.join(cache_keys)}",
            f", {intervention.name}" if intervention else "",
        )
        bytes_per_token = cached_bytes(model, intervention, encoded, self.max_new_tokens)
        for batch in (
            self.progress(
                self.batches(encoded, model, bytes_per_token, GENERATION_BATCH_FACTOR),
                title + under,
            )
            if items
            else ()
        ):
            batch_items = [items[at] for at in batch]
            text, batch_callback = (
                self._text(batch_items, None if intervention else role),
                callback and partial(callback, batch_items),
            )
            answers = generate(
                self.engine, model, text, self.max_new_tokens, intervention, callback=batch_callback
            )
            for (group, row), answer in zip(batch_items, answers, strict=True):
                results[group][row] = answer
        if intervention is None:
            self._cache.update({key: results[group] for group, key in cache_keys.items()})
        return results

    def cached(self, name: Any, make: Callable[[], Any]) -> Any:
        """A value that is computed once for these prompts and kept with the study."""
        if name not in self._cache:
            self._cache[name] = make()
        return self._cache[name]

    def decode(self, answer: Sequence[int]) -> str:
        """An answer as text, without special tokens and without a leading thinking block."""
        return self.answer_start.read(answer, self.pair.decode)[0]

    def has_answer(self, answer: Sequence[int]) -> bool:
        """Whether the answer began, after a thinking block where there is one."""
        return self.answer_start.read(answer, self.pair.decode)[1]

    @property
    def answer_start(self) -> AnswerStart:
        """Where answers begin."""
        return self.cached("start", lambda: answer_start(self.pair.tokenizer, self.answer_after))

    def with_journal(self, journal: Journal) -> "Study":
        """The same study, which keeps the results of ``part`` in a journal."""
        return replace(self, journal=journal)

    def part(self, name: str, make: Callable[[], Any]) -> Any:
        """A part of a run, as JSON: kept by an earlier, interrupted run, else computed now."""
        return make() if self.journal is None else self.journal.part(name, make)

    def progress(self, items: Sequence[Item], description: str) -> Iterable[Item]:
        """The items, with progress on stderr unless the study is quiet."""
        release_freed_memory()
        return self.stages.over(items, description, self.quiet)

    @property
    def inputs(self) -> dict[str, Any]:
        """The inputs that determine an analyzer's numbers, as JSON."""
        return {
            **self.pair.inputs,
            "prompts": self.contrast.digest,
            "tokens": {group: self._read(group).digest for group in self.classes},
            "metric": None if self.metric is None else self.metric.identity,
            "seed": self.seed,
            "max_new_tokens": self.max_new_tokens,
            "answers": ANSWERS,
            "answer_after": self.answer_after,
            "pad_id": self.pad_id,
        }

    def provenance(self, analyzer: HasOptions) -> Provenance:
        """The provenance of a result of this analyzer on this study."""
        tuned = self.pair.tuned
        context = {
            **self.pair.identity,
            **{group: self.prompts(group).source for group in self.classes},
            **{f"n_{group}": len(self.prompts(group)) for group in self.classes},
            **{f"texts_{group}": self.prompts(group).n_texts for group in self.classes},
            **{f"clusters_{group}": self.prompts(group).n_clusters for group in self.classes},
            "architecture": tuned.anatomy.architecture,
            "device": str(tuned.device),
            "batch_size": (
                self.batch_size
                if isinstance(self.batch_size, int)
                else str(self.batch_size or "auto")
            ),
            "engine": self.engine.name,
            "notes": list(self.notes),
            "environment": environment(),
        }
        return Provenance(
            analyzer.name,
            analyzer.version,
            to_json_value(analyzer.options),
            analyzer.parent,
            self.inputs,
            context,
        )
