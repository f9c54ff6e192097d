"""Answers labelled by hand: a file that holds whether each answer exhibits the behaviour."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from interp.errors import MetricError, PromptError
from interp.prompts import Prompt
from interp.prompts.rows import kind_of, separated
from interp.provenance import digest

COLUMNS = ("prompt", "answer", "label")
_YES, _NO = ("1", "true", "yes"), ("0", "false", "no")


@dataclass(frozen=True)
class Labels:
    """``found``: by prompt and answer (both stripped), whether the answer exhibits the behaviour.

    ``missing``: a CSV file to which answers without a label are written, with an empty label.
    ``name`` of the label file is for messages.
    """

    found: Mapping[tuple[str, str], bool]
    name: str = "the file"
    missing: Path | None = field(default=None, compare=False)

    @property
    def flag(self) -> str:
        """What a positive reading of an answer means."""
        return "the answer is labelled so"

    @property
    def identity(self) -> dict[str, object]:
        """What determines its readings: the labels, not the file."""
        rows = sorted([*key, str(label)] for key, label in self.found.items())
        return {"kind": "labels", "labels": digest(rows)}

    def read(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> np.ndarray:
        """The label of each answer; MetricError if some have none."""
        keys = [
            (prompt.text.strip(), answer.strip())
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        if without := list(dict.fromkeys(key for key in keys if key not in self.found)):
            self._complain(without, len(set(keys)))
        return np.array([self.found[key] for key in keys], dtype=bool)

    def _complain(self, without: Sequence[tuple[str, str]], count: int) -> None:
        said = f"{len(without)} of {count} answers have no label in {self.name}"
        if self.missing is None:
            raise MetricError(
                f"{said}; add `missing: FILE.csv` to the behaviour file to have them written"
                " there for labelling"
            )
        try:
            with open(self.missing, "w", encoding="utf-8", newline="") as stream:
                csv.writer(stream).writerows([COLUMNS, *([*key, ""] for key in without)])
        except OSError as error:
            raise MetricError(
                f"{said}, and {self.missing} cannot be written ({error.strerror or error})"
            ) from error
        raise MetricError(
            f"{said}; they are written to {self.missing}: label them and add them to {self.name}"
        )


def read_labels(path: Path) -> dict[tuple[str, str], bool]:
    """Labels from a ``.csv``, ``.tsv`` or ``.jsonl`` file with columns prompt, answer and label (1
    or 0, yes or no).

    Raises MetricError for another file type, a missing column, an invalid label, and contradicting
    labels.
    """
    found: dict[tuple[str, str], bool] = {}
    for at, row in enumerate(_rows(path)):
        if absent := [column for column in COLUMNS if column not in row]:
            raise MetricError(
                f"{path}, row {at}, has no column {absent[0]}; labels need {', '.join(COLUMNS)}"
            )
        label = str(row["label"]).strip().casefold()
        if label not in _YES + _NO:
            raise MetricError(f"{path}, row {at}: the label is {row['label']!r}; write 1 or 0")
        key = (str(row["prompt"]).strip(), str(row["answer"]).strip())
        if found.setdefault(key, label in _YES) != (label in _YES):
            raise MetricError(
                f"{path}, row {at}: an answer to {key[0][:40]!r} is labelled both ways; keep one"
            )
    if not found:
        raise MetricError(f"{path} holds no labels; write a row for each answer")
    return found


def _rows(path: Path) -> list[dict[str, Any]]:
    if kind_of(path) not in (".csv", ".tsv", ".jsonl"):
        raise MetricError(f"{path} is not a label file; use .csv, .tsv or .jsonl")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if kind_of(path) != ".jsonl":
            return separated(path, text)
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    except FileNotFoundError as error:
        raise MetricError(f"no label file at {path}; check the path") from error
    except PromptError as error:
        raise MetricError(str(error)) from error
    except (OSError, ValueError) as error:
        raise MetricError(f"{path} cannot be read as labels ({error})") from error
    if not all(isinstance(row, dict) for row in rows):
        raise MetricError(
            f"{path}: a line is not a JSON object; write"
            " {'prompt': ..., 'answer': ..., 'label': 1}"
        )
    return rows
