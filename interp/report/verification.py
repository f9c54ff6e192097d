"""Verification of a report: its content is recomputed from the store and compared, including every
claim.

This proves that the report agrees with the stored tables, that the tables are the bytes that were
written, that each claim's numbers, verdict and sentence follow from them, and that each claim has a
control. It does not prove that the tables describe the models correctly; only repeating the
intervention does (``interp verify --remeasure``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from interp.claims import Finding, check, check_summary
from interp.claims.opening import opening
from interp.display import one_line
from interp.errors import ClaimError, InterpError
from interp.provenance import JSON, digest, sha256_of
from interp.report.document import Report, Run, claim_json, content
from interp.report.html_document import bundle_hash, without_bundle
from interp.report.plotly_bundle import unpacked_hash
from interp.report.text import escaped


@dataclass(frozen=True)
class Check:
    """One check of a report. Calling it raises ``ClaimError`` with a message of one line if the
    check fails.

    It returns the reason if the check could not be made, otherwise None. ``name`` is the name of
    the test; ``run`` and ``claim`` say what it checks, and are empty for checks of the whole
    report.
    """

    name: str
    run: str
    claim: str
    _does: Callable[[], str | None] = field(repr=False)

    def __call__(self) -> str | None:
        """Run the check."""
        try:
            return self._does()
        except ClaimError as error:
            raise ClaimError(one_line(str(error))) from error
        except InterpError as error:
            raise ClaimError(one_line(f"{self.name}: {error}")) from error
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            OSError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            # a store with matching digests can still contain what no analyzer writes
            said = one_line(f"{type(error).__name__}: {error}")[:200]
            raise ClaimError(
                f"{self.name}: it cannot be recomputed from the store ({said})"
            ) from error


def checks(report: Report) -> list[Check]:
    """The checks of a report: the report itself, each run, each claim, and the page."""
    again = _Again(report)
    made = [Check("report", "", "", again.the_report)]
    for run in report.value["runs"]:
        made.append(
            Check(one_line(f"run {run['key'][:12]}"), run["key"], "", partial(again.the_run, run))
        )
    for claim in report.value["claims"]:
        name = one_line(f"claim {claim['run'][:12]} {claim['name']}")
        made.append(Check(name, claim["run"], claim["name"], partial(again.the_claim, claim)))
    return [*made, Check("page", "", "", again.the_page)]


def failures(report: Report) -> list[tuple[Check, str]]:
    """The checks that failed, each with its message."""
    found = []
    for one in checks(report):
        try:
            one()
        except ClaimError as error:
            found.append((one, str(error)))
    return found


def require_control(claim: Finding) -> None:
    """Raise ``ClaimError`` for a supported claim without a control."""
    words = re.findall(r"\w+", claim.control.lower())
    missing = not words or words[0] in ("none", "no", "na") or words[:2] == ["n", "a"]
    if claim.supported and (
        missing or not (math.isfinite(claim.control_value) or math.isfinite(claim.p))
    ):
        raise ClaimError(
            f"claim {claim.name!r} is supported without a control: its control is {claim.control!r}"
            f" at {claim.control_value:g}, its p {claim.p:g}"
        )


@dataclass
class _Again:
    """The report recomputed from its store; each run is read once."""

    report: Report
    _runs: dict[str, Run] = field(default_factory=dict)

    @property
    def reported(self) -> Mapping[str, JSON]:
        return self.report.value

    def run(self, key: str) -> Run:
        if key not in self._runs:
            store = self.report.store
            self._runs[key] = Run(store.manifest(key), store.get(key))
        return self._runs[key]

    @cached_property
    def content(self) -> dict[str, JSON]:
        keys, agreements = [run["key"] for run in self.reported["runs"]], self.reported["agreement"]
        if len(set(keys)) < len(keys):
            raise ClaimError("report.runs lists a run twice")
        runs = [self.run(key) for key in keys]
        return content(
            [run for run in runs if run.key not in agreements],
            [run for run in runs if run.key in agreements],
            self.reported["title"],
            self.reported["written"],
        )

    def the_report(self) -> None:
        seal = digest({name: value for name, value in self.reported.items() if name != "sha256"})
        if seal != self.reported["sha256"]:
            raise ClaimError(
                "report: its content does not match its digest; it was changed after it was written"
            )
        # a report of another version is compared too; its page is only checked for the version's name
        made = self.content | {"interp": self.reported["interp"]}
        # claims and runs have their own checks
        for name in made:
            if name not in ("runs", "claims"):
                _same(f"report.{name}", self.reported[name], made[name])
        listed, there = (
            [[claim["run"], claim["name"]] for claim in value["claims"]]
            for value in (self.reported, made)
        )
        _same("report.claims, by run and name,", listed, there)
        if others := [
            key for key in self.reported["agreement"] if self.run(key).manifest.kind != "places"
        ]:
            raise ClaimError(
                f"report.agreement lists run {others[0]}, which is not an agreement run"
            )
        latest = max(run["written"] for run in made["runs"])
        if self.reported["written"] < latest[: len("2026-01-01T00:00:00")]:
            raise ClaimError(
                f"report.written is {self.reported['written']}, earlier than its run of {latest}"
            )

    def the_page(self) -> str | None:
        named = self.reported["page"]["file"]
        path = self.report.path.absolute().parent / named
        if Path(named).name != named or not path.is_file():
            raise ClaimError(
                f"page: {named} is missing next to the report; write it again with `interp report`"
            )
        found = sha256_of(path)
        if found != self.reported["page"]["sha256"]:
            raise ClaimError(
                f"page: {named} has the digest {found[:12]}, the report says"
                f" {self.reported['page']['sha256'][:12]}; the page was changed or replaced"
            )
        text, other = (
            path.read_bytes().decode("utf-8", "replace"),
            self.reported["interp"] != self.content["interp"],
        )
        plain, drawn_by = without_bundle(text), bundle_hash(text)
        runs, agreements = (
            [
                self.run(run["key"]).table
                for run in self.reported["runs"]
                if (run["key"] in self.reported["agreement"]) is wanted
            ]
            for wanted in (False, True)
        )
        # imports plotly, which is not needed to list the checks
        from interp.report.report_page import whole_page

        made = whole_page(
            self.content | {"interp": self.reported["interp"]},
            runs,
            agreements,
            self.report.path.name,
        )
        if without_bundle(made) == plain and drawn_by == unpacked_hash():
            return None
        if other or drawn_by not in ("", unpacked_hash()):
            for what in ("title", "written", "interp"):
                if escaped(self.reported[what]) not in plain:
                    raise ClaimError(
                        f"page: {named} does not contain the report's {what}"
                        f" {_short(self.reported[what])}"
                    )
            by = (
                f"interp {self.reported['interp']}"
                if other
                else "another plotly.js than the installed one"
            )
            return one_line(
                f"{named} was made by {by}, so it was not compared with the store: trust"
                " report.json, or write the page again with `interp report`"
            )
        raise ClaimError(
            f"page: {named} does not match the store; write it again with `interp report`"
        )

    def the_run(self, said: Mapping[str, JSON]) -> None:
        _same(f"run {said['key'][:12]}", said, self.run(said["key"]).said)
        try:
            table = self.run(said["key"]).table
            check_summary(table)
            if "opening" in table.summary and table.summary["opening"] != opening(table):
                raise ClaimError("the summary's opening lines are not those of its tables")
        except ClaimError as error:
            raise ClaimError(f"run {said['key'][:12]}: {error}") from error

    def the_claim(self, said: Mapping[str, JSON]) -> None:
        run = self.run(said["run"])
        mine = [claim for claim in run.claims if claim.name == said["name"]]
        if len(mine) != 1:
            raise ClaimError(
                f"claim {said['name']!r}: run {run.key} has {len(mine)} claims of that name"
            )
        try:
            _same(f"claim {said['name']!r}", said, claim_json(run.key, mine[0]))
            check(mine[0], run.table)
            require_control(mine[0])
        except ClaimError as error:
            raise ClaimError(f"run {said['run'][:12]}: {error}") from error


def _same(where: str, said: JSON, made: JSON) -> None:
    """Raise ``ClaimError`` with the first place where two values differ, and both values."""
    if isinstance(said, dict) and isinstance(made, dict):
        for name in sorted(said.keys() | made.keys()):
            if (name in said) != (name in made):
                there = (
                    "has a field that the store lacks"
                    if name in said
                    else "lacks a field of the store"
                )
                raise ClaimError(f"{where} {there}: {name}")
            _same(f"{where}.{name}", said[name], made[name])
    elif isinstance(said, list) and isinstance(made, list):
        if len(said) != len(made):
            raise ClaimError(f"{where} has {len(said)} entries, the store gives {len(made)}")
        for at, (one, other) in enumerate(zip(said, made, strict=True)):
            _same(f"{where}[{at}]", one, other)
    elif type(said) is not type(made) or said != made:
        raise ClaimError(f"{where} says {_short(said)}, the store gives {_short(made)}")


def _short(value: JSON) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:119] + "…"
