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
from interp.prompts.rows import file_type, read_separated
from interp.provenance import digest

COLUMNS = ("prompt", "answer", "label")
_YES, _NO = ("1", "true", "yes"), ("0", "false", "no")


@dataclass(frozen=True)
class HandLabels:
    """``by_answer``: by prompt and answer (both stripped), whether the answer exhibits the
    behaviour.

    ``missing_file``: a CSV file to which answers without a label are written, with an empty label.
    ``name`` of the label file is for messages.
    """

    by_answer: Mapping[tuple[str, str], bool]
    name: str = "the file"
    missing_file: Path | None = field(default=None, compare=False)

    @property
    def flag(self) -> str:
        """What a positive reading of an answer means."""
        return "the answer is labelled so"

    @property
    def identity(self) -> dict[str, object]:
        """What determines its readings: the labels, not the file."""
        rows = sorted([*key, str(label)] for key, label in self.by_answer.items())
        return {"kind": "labels", "labels": digest(rows)}

    def read(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> np.ndarray:
        """The label of each answer; MetricError if some have none."""
        keys = [
            (prompt.text.strip(), answer.strip())
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        if unlabelled := list(dict.fromkeys(key for key in keys if key not in self.by_answer)):
            self._raise_unlabelled(unlabelled, len(set(keys)))
        return np.array([self.by_answer[key] for key in keys], dtype=bool)

    def _raise_unlabelled(self, unlabelled: Sequence[tuple[str, str]], count: int) -> None:
        message = f"{len(unlabelled)} of {count} answers have no label in {self.name}"
        if self.missing_file is None:
            raise MetricError(
                f"{message}; add `missing: FILE.csv` to the behaviour file to have them written"
                " there for labelling"
            )
        try:
            with open(self.missing_file, "w", encoding="utf-8", newline="") as stream:
                csv.writer(stream).writerows([COLUMNS, *([*key, ""] for key in unlabelled)])
        except OSError as error:
            raise MetricError(
                f"{message}, and {self.missing_file} cannot be written ({error.strerror or error})"
            ) from error
        raise MetricError(
            f"{message}; they are written to {self.missing_file}: label them and add them to"
            f" {self.name}"
        )


def read_labels(path: Path) -> dict[tuple[str, str], bool]:
    """Labels from a ``.csv``, ``.tsv`` or ``.jsonl`` file with columns prompt, answer and label (1
    or 0, yes or no).

    Raises MetricError for another file type, a missing column, an invalid label, and contradicting
    labels.
    """
    labels: dict[tuple[str, str], bool] = {}
    for row_number, row in enumerate(_rows(path)):
        if absent := [column for column in COLUMNS if column not in row]:
            raise MetricError(
                f"{path}, row {row_number}, has no column {absent[0]}; labels need"
                f" {', '.join(COLUMNS)}"
            )
        label = str(row["label"]).strip().casefold()
        if label not in _YES + _NO:
            raise MetricError(
                f"{path}, row {row_number}: the label is {row['label']!r}; write 1 or 0"
            )
        key = (str(row["prompt"]).strip(), str(row["answer"]).strip())
        if labels.setdefault(key, label in _YES) != (label in _YES):
            raise MetricError(
                f"{path}, row {row_number}: an answer to {key[0][:40]!r} is labelled both ways;"
                " keep one"
            )
    if not labels:
        raise MetricError(f"{path} holds no labels; write a row for each answer")
    return labels


def _rows(path: Path) -> list[dict[str, Any]]:
    if file_type(path) not in (".csv", ".tsv", ".jsonl"):
        raise MetricError(f"{path} is not a label file; use .csv, .tsv or .jsonl")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if file_type(path) != ".jsonl":
            return read_separated(path, text)
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
