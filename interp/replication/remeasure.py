"""Reports measured again: the commands that made their runs are run anew, on the same prompts or on
fresh ones.

``interp verify --remeasure`` and the pytest plugin ask the same questions here; neither pytest nor
typer is known.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from interp.claims import MEASURES, Finding, check, from_table
from interp.display import one_line
from interp.errors import ClaimError, InterpError, OptionError
from interp.maths.prediction import prediction_interval
from interp.provenance import JSON, Provenance, digest
from interp.provenance.request import CommandRequest, has_request, recorded_request
from interp.replication.commands import ReplayedCommands
from interp.replication.new_prompts import on_fresh_prompts, replication_blocker
from interp.table import Table


@dataclass(frozen=True)
class Question:
    """A question about one claim. Calling it raises ClaimError where the answer is no.

    It returns a reason where it could not be asked, else None. ``run`` and ``claim`` name what it
    is about.
    """

    name: str
    run: str
    claim: str
    ask: Callable[[], str | None] = field(repr=False)

    def __call__(self) -> str | None:
        """Ask."""
        try:
            return self.ask()
        except ClaimError as error:
            raise ClaimError(one_line(str(error))) from error
        except InterpError as error:
            raise ClaimError(one_line(f"{self.name}: {error}")) from error
        except (KeyError, TypeError, AttributeError, ValueError, OSError) as error:
            said = f"{type(error).__name__}: {error}"
            raise ClaimError(
                f"{self.name}: the report lacks what measuring it again needs ({said})"
            ) from error


@contextmanager
def remeasurement(
    prompts: Sequence[str] = (), tolerance: float = 1e-6, directory: Path | None = None
) -> Iterator[Remeasurement]:
    """``Remeasurement`` in a temporary folder, which is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="interp-again-") as folder:
        yield Remeasurement(Path(folder), prompts, tolerance, directory)


class Remeasurement(ReplayedCommands):
    """What commands of reports measure when they are run again, each once.

    ``folder`` holds their stores. ``prompts``: one fresh file, or a positive and a negative one.
    ``tolerance`` is relative, absolute below 1. Commands run in ``directory``, from which their
    relative paths have to lead. Raises OptionError for prompt files that are not there.
    """

    def __init__(
        self,
        folder: Path,
        prompts: Sequence[str] = (),
        tolerance: float = 1e-6,
        directory: Path | None = None,
    ) -> None:
        super().__init__(Path(folder), Path(directory or Path.cwd()))
        self.tolerance = tolerance
        self.prompts = [self.directory / path for path in prompts]
        if len(self.prompts) > 2:
            raise OptionError(
                f"{len(self.prompts)} prompt files were given; give positive and negative ones,"
                " or one"
            )
        for path in self.prompts:
            if not path.is_file():
                raise OptionError(f"no prompt file at {path}; check the path")
        self._tests = 0
        self._tables: dict[tuple[Path, str], Table] = {}

    def remeasured(self, report: Any) -> list[Question]:
        """One question per claim: does the command that made its run give the same numbers again?"""
        runs = _runs(report)
        return [
            Question(
                f"{_name(row)} measured again",
                row["run"],
                row["name"],
                partial(self._check_same, report, runs, row),
            )
            for row in report.value["claims"]
        ]

    def on_fresh_prompts(self, report: Any) -> list[Question]:
        """One question per claim: does it hold on other prompts, as far from its value as chance
        may put it?

        Ask after all reports are given: 5 % is divided among all claims of all of them. Without
        prompts there are none.
        """
        if not self.prompts:
            return []
        runs, questions, n_tested = _runs(report), [], 0
        for row in report.value["claims"]:
            reason = self._unaskable(runs, row)
            n_tested += not reason
            ask = (
                (lambda reason=reason: reason)
                if reason
                else partial(self._check_replicated, report, runs, row)
            )
            questions.append(
                Question(f"{_name(row)} on fresh prompts", row["run"], row["name"], ask)
            )
        self._tests += n_tested
        return (
            questions
            if n_tested
            else [Question("fresh prompts", "", "", lambda: self._fail_for_no_questions(questions))]
        )

    def _fail_for_no_questions(self, questions: Sequence[Question]) -> None:
        why = f": {questions[0].name} {questions[0]()}" if questions else ": it has none"
        raise ClaimError(f"no claim of this report can be tested on fresh prompts{why}")

    def _check_same(self, report: Any, runs: Mapping[str, JSON], row: JSON) -> None:
        run, label = runs[row["run"]], _label(row)
        store = self.made(self._request(run, label), report)
        if not (store / run["key"]).is_dir():
            raise ClaimError(f"{label}: {_why_another_run(run, _manifests(store))}")
        now = self._claim(store, run["key"], row["name"], label)
        for name in MEASURES:
            before, after = _number(row[name]), float(getattr(now, name))
            close = abs(after - before) <= self.tolerance * max(1.0, abs(before))
            if not (close or (math.isnan(before) and math.isnan(after)) or before == after):
                where = "" if name == "value" else f" ({name})"
                raise ClaimError(
                    f"{label} says {before:.9g}{where}, measured again it is {after:.9g}, further"
                    " off than "
                    f"{self.tolerance:g}{_difference_of_context(run, self._table(store, run['key']).provenance)}"
                )
        if (row["verdict"], row["direction"]) != (now.verdict, now.direction):
            raise ClaimError(f"{label} says {row['verdict']}, measured again it is {now.verdict}")
        # sentences follow from these fields and the recipe; that they do is checked in the report
        if row["recipe"] != now.claim.to_json():
            raise ClaimError(
                f"{label} has another recipe than the one by which it is measured again,"
                f" {now.claim.to_json()}"
            )

    def _unaskable(self, runs: Mapping[str, JSON], row: JSON) -> str:
        try:
            if row["recipe"]["estimate"].get("cluster") != "cluster":
                return "is not an estimate over prompts"
            if not all(math.isfinite(_number(row[end])) for end in ("value", "low", "high")):
                return "has no interval"
            request = recorded_request(runs[row["run"]]["context"])
        except (KeyError, TypeError, AttributeError, ValueError):
            return ""  # asked, it says what is wrong
        return (
            replication_blocker(request, self.prompts)
            if request
            else "is of a run made in Python: no command is kept"
        )

    def _check_replicated(self, report: Any, runs: Mapping[str, JSON], row: JSON) -> str | None:
        run, label = runs[row["run"]], _label(row)
        request = self._request(run, label)
        half = self.folder / f"half-{digest(request.to_json())[:20]}"
        with self.alone(half):
            request = on_fresh_prompts(request, self.prompts, half, self.directory)
        # located on the same prompts the set is the report's own, and need not be located again
        store = self.made(request, report, [run["parent"]] if run["parent"] else [])
        alike = [m for m in _manifests(store) if m.provenance.analyzer == run["analyzer"]]
        alike = [m for m in alike if m.provenance.context.get("positive") == self.prompts[0].name]
        if not alike:
            return "is measured on the prompts that located, which stay as they were"
        new = alike[0]
        if new.provenance.inputs["prompts"] == run["inputs"].get("prompts"):
            raise ClaimError(f"{label}: these are the prompts of the report, not fresh ones")
        self._require_same_set(report, run, store, new, label)
        now = self._claim(store, new.key, row["name"], label)
        before, after = (
            (_number(row[end]) for end in ("value", "low", "high")),
            (now.value, now.low, now.high),
        )
        value, low, high = before
        if row["supported"] and not math.isfinite(now.value):
            raise ClaimError(
                f"{label} is supported, {value:.4g}; on fresh prompts there is no such number"
                f" ({now.value:g})"
            )
        if not all(map(math.isfinite, after)):
            return f"has no interval on these prompts ({now.value:g})"
        least, most = prediction_interval((value, low, high), after, self._tests)
        numbers = f"{now.value:.4g} [{now.low:.4g}, {now.high:.4g}]"
        if not least - 1e-9 <= now.value <= most + 1e-9:
            raise ClaimError(
                f"{label} says {value:.4g} [{low:.4g}, {high:.4g}]; on fresh prompts it is"
                f" {numbers}, outside of [{least:.4g}, {most:.4g}], where a true one of"
                f" {self._tests} would be"
            )
        if row["supported"] and not now.reaches_threshold:
            raise ClaimError(
                f"{label} is supported, {value:.4g}; on fresh prompts it is {numbers}, not"
                f" {now.direction} {now.threshold:g}"
            )
        return None

    def _require_same_set(self, report: Any, run: JSON, store: Path, new: Any, label: str) -> None:
        """The set that is tested on fresh prompts has to be the set of the report."""
        if not run["parent"] or not new.provenance.parent:
            return
        before, after = report.store.get(run["parent"]), self._table(store, new.provenance.parent)
        if "selected" not in before.data or "selected" not in after.data:
            return
        sets = [
            {tuple(row.values()) for row in _keys(table).select(table["selected"]).rows()}
            for table in (before, after)
        ]
        if sets[0] != sets[1]:
            raise ClaimError(
                f"{label}: the command selects another set now ({len(sets[0] & sets[1])} of"
                f" {len(sets[0])} are the same); prompts or models that located are not those of"
                " the report"
            )

    def _request(self, run: JSON, label: str) -> CommandRequest:
        if request := recorded_request(run["context"]):
            return request
        if has_request(run["context"]):
            raise ClaimError(f"{label}: the request of run {run['key'][:12]} cannot be read")
        raise ClaimError(
            f"{label}: run {run['key'][:12]} was made in Python, no command is kept that measures"
            " it again; make it with the command line, or verify the report without measuring"
            " again"
        )

    def _table(self, store: Path, key: str) -> Table:
        from interp.store import Store

        if (store, key) not in self._tables:
            self._tables[store, key] = Store(store).get(key)
        return self._tables[store, key]

    def _claim(self, store: Path, key: str, name: str, label: str) -> Finding:
        table = self._table(store, key)
        findings = (
            {claim.name: claim for claim in from_table(table.tables["claims"])}
            if "claims" in table.tables
            else {}
        )
        if name not in findings:
            raise ClaimError(
                f"{label}: measured again the run has no such claim (it has"
                f" {', '.join(findings) or 'none'})"
            )
        check(findings[name], table)
        return findings[name]


def _runs(report: Any) -> dict[str, JSON]:
    return {run["key"]: run for run in report.value["runs"]}


def _name(row: JSON) -> str:
    return one_line(f"claim {row['run'][:12]} {row['name']}")


def _label(row: JSON) -> str:
    return f"claim {row['name']!r} of run {row['run'][:12]}"


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _manifests(store: Path) -> list[Any]:
    from interp.store import Store

    return Store(store).runs()


def _why_another_run(run: JSON, manifests: Sequence[Any]) -> str:
    """Why a command does not make this run any more: in what the nearest run of its analyzer
    differs.
    """
    alike = [
        manifest.provenance
        for manifest in manifests
        if manifest.provenance.analyzer == run["analyzer"]
    ]
    if not alike:
        return f"its command makes no run of {run['analyzer']} any more"
    near = min(alike, key=lambda provenance: len(_differing(run, provenance)))
    changed = _differing(run, near)
    message = (
        f"its command makes run {near.key[:12]} now, for {', '.join(changed) or 'the record'}"
        " changed"
    )
    if changed == ["tokens"]:
        return (
            f"{message}: the same prompts become other tokens, as where a chat template reads the"
            " clock or a library is of another version; write a new report"
        )
    return f"{message}; put back the prompt files and models of the report, or write a new report"


def _differing(run: JSON, now: Provenance) -> list[str]:
    fields = now.to_json()
    inputs = [
        name
        for name in {**run["inputs"], **now.inputs}
        if run["inputs"].get(name) != now.inputs.get(name)
    ]
    return inputs + [name for name in ("version", "options", "parent") if run[name] != fields[name]]


def _difference_of_context(run: JSON, now: Provenance | None) -> str:
    """Where the two were measured, as far as it differs: on another device numbers differ in their
    last bits.
    """
    places = []
    for context in (run["context"], now.context if now else {}):
        software = context.get("environment") or {}
        places.append(
            [
                str(context.get("device")),
                *(f"{name} {software.get(name)}" for name in ("interp", "torch")),
            ]
        )
    before, after = (
        [one for one, other in zip(p, q, strict=True) if one != other]
        for p, q in (places, places[::-1])
    )
    return f" (made on {', '.join(before)}; now on {', '.join(after)})" if before else ""


def _keys(table: Table) -> Table:
    """The columns that say what a row is."""
    columns = [column for column in table.columns if column.role == "key"]
    return Table(table.kind, columns, {column.name: table[column.name] for column in columns})
