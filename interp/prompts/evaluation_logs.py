"""Scores that a team already has: per-sample files of lm-evaluation-harness, and logs of Inspect.

lm-eval writes ``samples_<task>_<date>.jsonl``, a line per document and filter, with a key per
metric. Inspect writes ``.json``, or ``.eval``, a zip archive whose members newer versions compress
with zstd; the package ``inspect_ai`` reads those. A score is a number: right and wrong are 1 and 0,
Inspect's C, P, I and N are 1, .5, 0 and 0. What is none (perplexities, pairs for F1, NaN) is left
out and counted.
"""

from __future__ import annotations

import json
import math
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from interp.errors import PromptError

LEAST_MATCHED = 0.9
"""Share of the rows of the larger side below which two sets of scores are not compared."""
_INSPECT = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
_SAMPLES = re.compile(r"samples_(.+?)_\d{4}-\d\d-\d\d")
Name = tuple[str, str]
Document = tuple[str, str]


@dataclass
class Scores:
    """Scores of one model: by task and metric, then by document; ``targets`` and ``prompts`` are
    the hashes of both by task and document, where the file has them.
    """

    source: str
    values: dict[Name, dict[Document, float]] = field(default_factory=dict)
    targets: dict[tuple[str, Document], str] = field(default_factory=dict)
    prompts: dict[tuple[str, Document], str] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)

    def add(self, name: Name, document: Document, value: Any) -> None:
        """Keep the score of a document, in place of an earlier one."""
        number = _number(value)
        if number is None:
            self.notes[f"scores of {name[0]}, {name[1]} that are no single number"] += 1
            return
        of_name = self.values.setdefault(name, {})
        if document in of_name:
            self.notes[
                f"documents of {name[0]}, {name[1]} that occur again (the last one counts)"
            ] += 1
        of_name[document] = number


@dataclass(frozen=True)
class PairedTask:
    """Scores of two models on the documents of a task that both have, in the documents' order."""

    task: str
    metric: str
    documents: tuple[str, ...]
    base: Float[np.ndarray, " n"]
    tuned: Float[np.ndarray, " n"]
    notes: tuple[str, ...]


def score_files(path: str | Path) -> dict[str, Path]:
    """A file of scores, or all ``samples_*.jsonl`` of a folder, by name; PromptError where there is
    none.
    """
    path = Path(path)
    if path.is_dir():
        if files := sorted(path.glob("samples_*.jsonl")):
            return {file.name: file for file in files}
        raise PromptError(f"{path} has no file samples_*.jsonl; give lm-eval's output folder")
    if not path.is_file():
        raise PromptError(f"there are no scores at {path}; check the path")
    return {path.name: path}


def read_scores(files: Mapping[str, Path]) -> Scores:
    """The scores of some files by name; PromptError for what is not one."""
    scores = Scores(", ".join(files))
    for name, file in files.items():
        if file.suffix == ".jsonl":
            _read_harness(name, file, scores)
        else:
            _read_inspect(file, scores)
    if not scores.values:
        raise PromptError(
            f"{scores.source} has no scores; give files of samples with a number per metric"
        )
    return scores


def pair_scores(base: Scores, tuned: Scores) -> list[PairedTask]:
    """The tasks of both, document by document, in the order of the base's file.

    Raises PromptError where one has a task or metric that the other lacks, or fewer than 90 % of
    the rows of the larger side match. Documents whose target differs do not match.
    """
    if missing := sorted({*base.values} ^ {*tuned.values}):
        task, metric = missing[0]
        lacking = tuned if missing[0] in base.values else base
        raise PromptError(f"{lacking.source} has no scores of {task}, {metric}; score both alike")
    return [_paired(name, base, tuned) for name in base.values]


def _paired(name: Name, base: Scores, tuned: Scores) -> PairedTask:
    task, metric = name
    first, second = base.values[name], tuned.values[name]
    shared = [one for one in first if one in second]
    same = [
        one for one in shared if base.targets.get((task, one)) == tuned.targets.get((task, one))
    ]
    larger = max(len(first), len(second))
    if len(same) < LEAST_MATCHED * larger:
        raise PromptError(
            f"{task}, {metric}: {len(same)} of {larger} documents match, and"
            f" {math.ceil(LEAST_MATCHED * larger)} are needed; score both models on the same"
            " documents"
        )
    notes = []
    if len(same) < larger:
        notes.append(f"{task}, {metric}: {larger - len(same)} of {larger} documents do not match")
    others = sum(base.prompts.get((task, one)) != tuned.prompts.get((task, one)) for one in same)
    if others:
        notes.append(
            f"{task}, {metric}: {others} documents were put into another prompt (template, shots):"
            " the difference is not of the models alone"
        )
    return PairedTask(
        task,
        metric,
        tuple("/".join(filter(None, one)) for one in same),
        np.array([first[one] for one in same]),
        np.array([second[one] for one in same]),
        tuple(notes),
    )


def notes_of(scores: Iterable[Scores]) -> list[str]:
    """What was left out of files, in sentences."""
    return [f"{one.source}: {count} {what}" for one in scores for what, count in one.notes.items()]


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        return _INSPECT.get(value)
    if isinstance(value, (bool, int, float)) and math.isfinite(value):
        return float(value)
    return None


def _read_harness(file_name: str, path: Path, scores: Scores) -> None:
    """Lines of lm-eval; the task is in the file's name."""
    named = _SAMPLES.match(file_name)
    task = named[1] if named else Path(file_name).stem.removeprefix("samples_")
    filters: dict[str, str] = {}
    for number, row in _json_lines(path):
        metrics = row.get("metrics")
        if "doc_id" not in row or not isinstance(metrics, Sequence):
            raise PromptError(
                f"{path}, line {number}: no doc_id or no metrics; give lm-eval's file of samples"
                " (--log_samples)"
            )
        document = (str(row["doc_id"]), str(row.get("doc_hash", "")))
        for kind, kept in (("target", scores.targets), ("prompt", scores.prompts)):
            if f"{kind}_hash" in row:
                kept[task, document] = str(row[f"{kind}_hash"])
        name = str(row.get("filter", "none"))
        filters.setdefault(name, "" if name == "none" else f",{name}")
        for metric in metrics:
            scores.add((task, f"{metric}{filters[name]}"), document, row.get(metric))


def _json_lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        try:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, _object(path, number, line)
        except UnicodeDecodeError as error:
            raise PromptError(f"{path} is not UTF-8; save it as UTF-8") from error


def _object(path: Path, number: int, line: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise PromptError(f"{path}, line {number} is not JSON ({error})") from error
    if not isinstance(row, Mapping):
        raise PromptError(f"{path}, line {number} is not a JSON object; give a sample per line")
    return row


def _read_inspect(path: Path, scores: Scores) -> None:
    """A log of Inspect: epochs of a sample are averaged."""
    header, samples = _inspect_log(path)
    about = header.get("eval")
    if not isinstance(about, Mapping) or "task" not in about:
        raise PromptError(f"{path} is no log of Inspect: it has no eval.task; give .json or .eval")
    if header.get("status") != "success":
        raise PromptError(
            f"{path} has the status {header.get('status')!r}; give a log that ended with success"
        )
    task, collected = str(about["task"]), {}
    for sample in samples:
        if sample.get("error") or sample.get("limit") or sample.get("invalidation"):
            scores.notes[f"samples of {task} with an error, a limit or an invalidation"] += 1
            continue
        for scorer, score in (sample.get("scores") or {}).items():
            value = score.get("value") if isinstance(score, Mapping) else score
            parts = value if isinstance(value, Mapping) else {"": value}
            for part, one in parts.items():
                metric = f"{scorer}/{part}" if part else str(scorer)
                if one == "N":
                    scores.notes[
                        f"samples of {task}, {metric} with no answer (N), counted as wrong"
                    ] += 1
                number = _number(one)
                if number is None:
                    scores.notes[f"samples of {task}, {metric} without a score"] += 1
                    continue
                document = (str(sample.get("id")), "")
                collected.setdefault(((task, metric), document), []).append(number)
    for (name, document), numbers in collected.items():
        scores.add(name, document, sum(numbers) / len(numbers))


def _inspect_log(path: Path) -> tuple[Mapping[str, Any], list[Mapping[str, Any]]]:
    """Header and samples of a log."""
    try:
        if path.suffix == ".eval":
            return _zipped_log(path)
        log = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError, zipfile.BadZipFile) as error:
        raise PromptError(f"{path} cannot be read as a log of Inspect ({error})") from error
    if not isinstance(log, Mapping):
        raise PromptError(f"{path} is no log of Inspect: it is not a JSON object")
    return log, [one for one in log.get("samples") or () if isinstance(one, Mapping)]


def _zipped_log(path: Path) -> tuple[Mapping[str, Any], list[Mapping[str, Any]]]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if "header.json" not in names:
                raise PromptError(f"{path} has no header.json, so it is no log of Inspect")
            header = json.loads(archive.read("header.json"))
            samples = [name for name in names if re.fullmatch(r"samples/.+\.json", name)]
            return header, [json.loads(archive.read(name)) for name in samples]
    except (NotImplementedError, RuntimeError) as error:
        raise PromptError(
            f"{path} is compressed in a way that Python {_version()} cannot read ({error}); convert"
            " it with: inspect log convert --to json --output-dir DIR FILE"
        ) from error


def _version() -> str:
    import platform

    return platform.python_version()
