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
from interp.claims.opening import opening_lines
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
    _function: Callable[[], str | None] = field(repr=False)

    def __call__(self) -> str | None:
        """Run the check."""
        try:
            return self._function()
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
            cause = one_line(f"{type(error).__name__}: {error}")[:200]
            raise ClaimError(
                f"{self.name}: it cannot be recomputed from the store ({cause})"
            ) from error


def checks(report: Report) -> list[Check]:
    """The checks of a report: the report itself, each run, each claim, and the page."""
    recomputed = _Recomputation(report)
    all_checks = [Check("report", "", "", recomputed.check_report)]
    for run in report.value["runs"]:
        all_checks.append(
            Check(
                one_line(f"run {run['key'][:12]}"),
                run["key"],
                "",
                partial(recomputed.check_run, run),
            )
        )
    for claim in report.value["claims"]:
        name = one_line(f"claim {claim['run'][:12]} {claim['name']}")
        all_checks.append(
            Check(name, claim["run"], claim["name"], partial(recomputed.check_claim, claim))
        )
    return [*all_checks, Check("page", "", "", recomputed.check_page)]


def failures(report: Report) -> list[tuple[Check, str]]:
    """The checks that failed, each with its message."""
    failed = []
    for report_check in checks(report):
        try:
            report_check()
        except ClaimError as error:
            failed.append((report_check, str(error)))
    return failed


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
class _Recomputation:
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

    def check_report(self) -> None:
        own_digest = digest(
            {name: value for name, value in self.reported.items() if name != "sha256"}
        )
        if own_digest != self.reported["sha256"]:
            raise ClaimError(
                "report: its content does not match its digest; it was changed after it was written"
            )
        # a report of another version is compared too; its page is only checked for the version's
        # name
        recomputed = self.content | {"interp": self.reported["interp"]}
        # claims and runs have their own checks
        for name in recomputed:
            if name not in ("runs", "claims"):
                _require_same(f"report.{name}", self.reported[name], recomputed[name])
        reported_claims, recomputed_claims = (
            [[claim["run"], claim["name"]] for claim in value["claims"]]
            for value in (self.reported, recomputed)
        )
        _require_same("report.claims, by run and name,", reported_claims, recomputed_claims)
        if not_agreements := [
            key for key in self.reported["agreement"] if self.run(key).manifest.kind != "places"
        ]:
            raise ClaimError(
                f"report.agreement lists run {not_agreements[0]}, which is not an agreement run"
            )
        latest = max(run["written"] for run in recomputed["runs"])
        if self.reported["written"] < latest[: len("2026-01-01T00:00:00")]:
            raise ClaimError(
                f"report.written is {self.reported['written']}, earlier than its run of {latest}"
            )

    def check_page(self) -> str | None:
        file_name = self.reported["page"]["file"]
        path = self.report.path.absolute().parent / file_name
        if Path(file_name).name != file_name or not path.is_file():
            raise ClaimError(
                f"page: {file_name} is missing next to the report; write it again with `interp"
                " report`"
            )
        page_digest = sha256_of(path)
        if page_digest != self.reported["page"]["sha256"]:
            raise ClaimError(
                f"page: {file_name} has the digest {page_digest[:12]}, the report says"
                f" {self.reported['page']['sha256'][:12]}; the page was changed or replaced"
            )
        text, is_other_version = (
            path.read_bytes().decode("utf-8", "replace"),
            self.reported["interp"] != self.content["interp"],
        )
        page_without_bundle, plotly_hash = without_bundle(text), bundle_hash(text)
        runs, agreements = (
            [
                self.run(run["key"]).table
                for run in self.reported["runs"]
                if (run["key"] in self.reported["agreement"]) is wanted
            ]
            for wanted in (False, True)
        )
        # imports plotly, which is not needed to list the checks
        from interp.report.report_page import render_report

        recomputed = render_report(
            self.content | {"interp": self.reported["interp"]},
            runs,
            agreements,
            self.report.path.name,
        )
        if without_bundle(recomputed) == page_without_bundle and plotly_hash == unpacked_hash():
            return None
        if is_other_version or plotly_hash not in ("", unpacked_hash()):
            for name in ("title", "written", "interp"):
                if escaped(self.reported[name]) not in page_without_bundle:
                    raise ClaimError(
                        f"page: {file_name} does not contain the report's {name}"
                        f" {_shortened(self.reported[name])}"
                    )
            origin = (
                f"interp {self.reported['interp']}"
                if is_other_version
                else "another plotly.js than the installed one"
            )
            return one_line(
                f"{file_name} was made by {origin}, so it was not compared with the store: trust"
                " report.json, or write the page again with `interp report`"
            )
        raise ClaimError(
            f"page: {file_name} does not match the store; write it again with `interp report`"
        )

    def check_run(self, reported_run: Mapping[str, JSON]) -> None:
        _require_same(
            f"run {reported_run['key'][:12]}", reported_run, self.run(reported_run["key"]).entry
        )
        try:
            table = self.run(reported_run["key"]).table
            check_summary(table)
            if "opening" in table.summary and table.summary["opening"] != opening_lines(table):
                raise ClaimError("the summary's opening lines are not those of its tables")
        except ClaimError as error:
            raise ClaimError(f"run {reported_run['key'][:12]}: {error}") from error

    def check_claim(self, reported_claim: Mapping[str, JSON]) -> None:
        run = self.run(reported_claim["run"])
        claims = [claim for claim in run.claims if claim.name == reported_claim["name"]]
        if len(claims) != 1:
            raise ClaimError(
                f"claim {reported_claim['name']!r}: run {run.key} has {len(claims)} claims of that"
                " name"
            )
        try:
            _require_same(
                f"claim {reported_claim['name']!r}", reported_claim, claim_json(run.key, claims[0])
            )
            check(claims[0], run.table)
            require_control(claims[0])
        except ClaimError as error:
            raise ClaimError(f"run {reported_claim['run'][:12]}: {error}") from error


def _require_same(path: str, reported: JSON, recomputed: JSON) -> None:
    """Raise ``ClaimError`` with the first place where two values differ, and both values."""
    if isinstance(reported, dict) and isinstance(recomputed, dict):
        for name in sorted(reported.keys() | recomputed.keys()):
            if (name in reported) != (name in recomputed):
                difference = (
                    "has a field that the store lacks"
                    if name in reported
                    else "lacks a field of the store"
                )
                raise ClaimError(f"{path} {difference}: {name}")
            _require_same(f"{path}.{name}", reported[name], recomputed[name])
    elif isinstance(reported, list) and isinstance(recomputed, list):
        if len(reported) != len(recomputed):
            raise ClaimError(
                f"{path} has {len(reported)} entries, the store gives {len(recomputed)}"
            )
        for index, (reported_item, recomputed_item) in enumerate(
            zip(reported, recomputed, strict=True)
        ):
            _require_same(f"{path}[{index}]", reported_item, recomputed_item)
    elif type(reported) is not type(recomputed) or reported != recomputed:
        raise ClaimError(
            f"{path} says {_shortened(reported)}, the store gives {_shortened(recomputed)}"
        )


def _shortened(value: JSON) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:119] + "…"
