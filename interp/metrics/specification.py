"""Choosing a behaviour: ``refusal``, a YAML file, or the entry point of another package.

A file has ``name``, ``kind`` and the fields of that kind (``KINDS``). It is read and checked here
before any model is loaded; the tokenizer then turns it into a metric. Paths in it are relative to
the file's directory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from interp.errors import MetricError, OptionError
from interp.metrics.base import Metric
from interp.metrics.behaviour import AnswerReader, Behaviour, LogitNumber
from interp.metrics.continuations import Continuations
from interp.metrics.entry_points import load_entry_point
from interp.metrics.first_tokens import FirstTokens
from interp.metrics.judge import Judge
from interp.metrics.labels import HandLabels, read_labels
from interp.metrics.metric_labels import REFUSAL, behaviour_column
from interp.metrics.phrases import Phrases
from interp.metrics.refusal import REFUSAL_MARKERS, Refusal
from interp.metrics.sampling import Sampling
from interp.prompts import Tokenizer

_PHRASE_FIELDS = ("phrases", "regex", "where")
_CONTINUATION_FIELDS = ("continuations", "against")
_Number = TypeVar("_Number", int, float)
_SAMPLING_FIELDS = ("samples", "temperature", "seed")
_FIRST_SENTENCE = "first-sentence"


@dataclass(frozen=True)
class BehaviourSpecification:
    """A behaviour before a tokenizer is known: how answers are read, and what its number is.

    The number is the log-odds of the continuations ``targets`` (versus ``alternatives``, or any
    other answer); without continuations, of the first tokens of ``phrases``; without either, there
    is none.
    """

    name: str
    reader: AnswerReader
    phrases: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    alternatives: tuple[str, ...] = ()
    sampling: Sampling | None = None

    @property
    def differentiable(self) -> bool:
        """Whether it has a number, and so a gradient."""
        return bool(self.phrases or self.targets)

    def require_number(self, what: str) -> None:
        """Raise OptionError, naming what needs the number, if there is none."""
        if not self.differentiable:
            raise OptionError(
                f"{what} needs log-odds and {self.name} has none; add continuations to its file"
            )

    def metric(self, tokenizer: Tokenizer) -> Metric:
        """The metric for a tokenizer; MetricError if the tokenizer does not know its tokens.

        Refusal by phrases in the first sentence is always ``Refusal``, also if read from a file.
        """
        is_plain_refusal = self.name == REFUSAL and not self.targets and self.sampling is None
        if is_plain_refusal and self.reader == Phrases(self.phrases, where=_FIRST_SENTENCE):
            return Refusal.from_tokenizer(tokenizer, self.phrases)
        number: LogitNumber | None = None
        if self.targets:
            number = Continuations.from_texts(tokenizer, self.targets, self.alternatives)
        elif self.phrases:
            number = FirstTokens.from_phrases(tokenizer, self.phrases)
        return Behaviour(self.name, self.reader, number, self.sampling)


def refusal_specification(markers: Sequence[str] = REFUSAL_MARKERS) -> BehaviourSpecification:
    """Refusal by markers in the answer's first sentence; raises MetricError for a blank one."""
    if blank := [marker for marker in markers if not marker.strip()]:
        raise MetricError(
            f"the refusal marker {blank[0]!r} is blank and would match every answer; leave it out"
        )
    return BehaviourSpecification(
        REFUSAL, Phrases(tuple(markers), where=_FIRST_SENTENCE), tuple(markers)
    )


def read_behaviour(source: str | Path) -> BehaviourSpecification:
    """``refusal``, the path of a YAML file, or the name of an entry point of ``interp.behaviours``.

    Raises MetricError, naming the problem: no such file or entry point, an unknown kind or field, a
    field that is missing or of the wrong type.
    """
    if source == REFUSAL:
        return refusal_specification()
    path = Path(source)
    if (
        isinstance(source, str)
        and not path.is_file()
        and path.suffix not in (".yaml", ".yml")
        and path.name == source
    ):
        return BehaviourSpecification(source, load_entry_point(source))
    return _Fields(path, _read_yaml(path)).specification()


def load_behaviour(source: str | Path, tokenizer: Tokenizer) -> Metric:
    """The metric of a behaviour (see ``read_behaviour``) for a tokenizer such as
    ``pair.tokenizer``.

    Raises MetricError.
    """
    return read_behaviour(source).metric(tokenizer)


def _read_yaml(path: Path) -> Mapping[str, Any]:
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise MetricError(f"no behaviour file at {path}; check the path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise MetricError(f"{path} cannot be read as UTF-8 text ({error})") from error
    except yaml.YAMLError as error:
        raise MetricError(f"{path} is not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(fields, Mapping):
        raise MetricError(
            f"{path} has no fields; a behaviour has name, kind and the fields of its kind"
        )
    return fields


@dataclass(frozen=True)
class _Fields:
    """The fields of a behaviour file, read and checked by type."""

    path: Path
    values: Mapping[str, Any]

    def specification(self) -> BehaviourSpecification:
        if absent := [field for field in ("name", "kind") if field not in self.values]:
            kinds = (
                f"one of {', '.join(KINDS)}"
                if absent[0] == "kind"
                else "a short name of the behaviour"
            )
            raise MetricError(f"{self.path} has no field {absent[0]}; add {absent[0]}: {kinds}")
        kind, name = self.text("kind"), self.text("name")
        if kind not in KINDS:
            raise MetricError(f"{self.path}: unknown kind {kind!r}; use {', '.join(KINDS)}")
        required, optional, make_reader = KINDS[kind]
        known_fields = ("name", "kind", *required, *optional, *_CONTINUATION_FIELDS)
        if unknown := [field for field in self.values if field not in known_fields]:
            raise MetricError(
                f"{self.path}: unknown field {unknown[0]!r} of kind {kind}; use"
                f" {', '.join(known_fields)}"
            )
        if absent := [field for field in required if field not in self.values]:
            raise MetricError(f"{self.path}: kind {kind} needs the field {absent[0]}")
        if "against" in self.values and "continuations" not in self.values:
            raise MetricError(
                f"{self.path}: against needs continuations to compare with; give continuations too"
            )
        try:
            if name != REFUSAL:
                behaviour_column(name)
            reader, phrases = make_reader(self)
            sampling = self.sampling()
        except MetricError as error:
            # errors of a referenced file already name that file
            raise MetricError(f"{self.path}: {error}") from error
        return BehaviourSpecification(
            name, reader, phrases, self.texts("continuations"), self.texts("against"), sampling
        )

    def text(self, field: str, default: str | None = None) -> str:
        value = self.values.get(field, default)
        if not isinstance(value, str) or not value.strip():
            quote = "; put it in quotes" if isinstance(value, (bool, int, float)) else ""
            raise MetricError(f"{self.path}: {field} is {value!r} and has to be text{quote}")
        return value

    def texts(self, field: str) -> tuple[str, ...]:
        value = self.values.get(field, [])
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list) or (field in self.values and not value):
            raise MetricError(f"{self.path}: {field} is {value!r}; give a list of texts")
        if not_text := [text for text in value if not isinstance(text, str)]:
            raise MetricError(
                f"{self.path}: {field} holds {not_text[0]!r}, which is not text; put it in quotes"
            )
        if blank := [text for text in value if not text.strip()]:
            raise MetricError(
                f"{self.path}: {field} holds {blank[0]!r}, which matches every answer; leave it out"
            )
        return tuple(value)

    def share(self, field: str, default: float) -> float:
        value = self.values.get(field, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise MetricError(f"{self.path}: {field} is {value!r}; give a number from 0 to 1")
        return float(value)

    def sampling(self) -> Sampling | None:
        present = [field for field in _SAMPLING_FIELDS if field in self.values]
        if present and "samples" not in present:
            raise MetricError(
                f"{present[0]} applies to sampled answers; give samples too, or leave it out"
            )
        if not present:
            return None
        return Sampling(
            self.number("samples", int, 1),
            self.number("temperature", float, 1.0),
            self.number("seed", int, 0),
        )

    def number(self, field: str, kind: type[_Number], default: _Number) -> _Number:
        value = self.values.get(field, default)
        if isinstance(value, bool) or not isinstance(value, (int, kind)):
            raise MetricError(
                f"{field} is {value!r}; give a {'whole ' if kind is int else ''}number"
            )
        return kind(value)

    def file(self, field: str) -> Path:
        return self.path.parent / self.text(field)


_ReaderAndPhrases = tuple[AnswerReader, tuple[str, ...]]


def _phrases(fields: _Fields) -> _ReaderAndPhrases:
    phrases, default = (
        fields.texts("phrases"),
        _FIRST_SENTENCE if fields.values.get("name") == REFUSAL else "anywhere",
    )
    return Phrases(phrases, fields.texts("regex"), fields.text("where", default)), phrases


def _continuations(fields: _Fields) -> _ReaderAndPhrases:
    if any(field in fields.values for field in ("phrases", "regex")):
        return _phrases(fields)
    if "where" in fields.values:
        raise MetricError("where applies to phrases and regex; give some, or leave it out")
    return Phrases(fields.texts("continuations"), where="start"), ()


def _labels(fields: _Fields) -> _ReaderAndPhrases:
    file, missing = (
        fields.file("file"),
        fields.file("missing") if "missing" in fields.values else None,
    )
    return HandLabels(read_labels(file), file.name, missing), ()


def _entry_point(fields: _Fields) -> _ReaderAndPhrases:
    return load_entry_point(fields.text("entry_point"), fields.share("threshold", 0.5)), ()


def _judge(fields: _Fields) -> _ReaderAndPhrases:
    local, labels = fields.file("model"), read_labels(fields.file("labelled"))
    model = str(local) if local.is_dir() else fields.text("model")
    yes, no = fields.texts("yes_words") or ("Yes",), fields.texts("no_words") or ("No",)
    return Judge(model, fields.text("question"), labels, yes, no), ()


KINDS: dict[
    str, tuple[tuple[str, ...], tuple[str, ...], Callable[[_Fields], _ReaderAndPhrases]]
] = {
    "phrases": ((), (*_PHRASE_FIELDS, *_SAMPLING_FIELDS), _phrases),
    "continuations": (("continuations",), _PHRASE_FIELDS, _continuations),
    "labels": (("file",), ("missing",), _labels),
    "entry-point": (("entry_point",), ("threshold",), _entry_point),
    "judge": (("model", "question", "labelled"), ("yes_words", "no_words"), _judge),
}
"""Per kind: required fields, optional fields, and the function that reads it; every kind can have
continuations.
"""
