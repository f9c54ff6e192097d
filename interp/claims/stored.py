"""Findings as a table of a run: written, read, and evaluated again."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from interp.claims.claim import Claim
from interp.claims.finding import (
    NOT_SUPPORTED,
    NOT_TESTED,
    SUPPORTED,
    TOO_FEW,
    VERDICTS,
    Finding,
    evaluate,
    with_sentence,
)
from interp.claims.sentences import texts_match
from interp.errors import ClaimError
from interp.provenance import JSON, to_json_value
from interp.table import Column, Table

COLUMNS = {
    "name": ("key", "short name of the claim"),
    "sentence": ("text", "the claim in one plain sentence"),
    "value": ("measure", "the estimate"),
    "low": ("measure", "lower end of its 95 % interval"),
    "high": ("measure", "upper end of its 95 % interval"),
    "clusters": (
        "measure",
        "effective number of clusters of the estimate; NaN without an interval over clusters",
    ),
    "control": ("text", "description of the null or the control"),
    "control_value": ("measure", "the same number under the null, on average, or in the control"),
    "control_low": (
        "measure",
        "lower end of the null's central 95 %, or of the control's interval",
    ),
    "control_high": (
        "measure",
        "upper end of the null's central 95 %, or of the control's interval",
    ),
    "p": ("measure", "(1 + b) / (1 + n) over the draws of the null; NaN without draws"),
    "p_adjusted": (
        "measure",
        "p after correction for the claims of one family; p without a family",
    ),
    "draws": ("measure", "number of draws of the null; 0 without a null"),
    "threshold": ("measure", "number that the value has to reach"),
    "direction": ("text", "required side of the threshold: at least or at most"),
    "supported": ("flag", "whether the data support the claim"),
    "verdict": ("text", "supported, not supported, too few clusters, or not tested"),
    "reason": ("text", "why the verdict is not supported; empty if it is"),
    "recipe": ("text", "the claim as JSON, from which all other columns are computed"),
}
SUMMARY_FIELDS = (
    "name",
    "verdict",
    "reason",
    "value",
    "low",
    "high",
    "is_difference",
    "clusters",
    "needs",
    "control",
    "control_is_level",
    "control_value",
    "control_low",
    "control_high",
    "p",
    "draws",
)
"""Fields of each finding in a summary."""
MEASURES = tuple(name for name, (role, _) in COLUMNS.items() if role == "measure")


def to_table(findings: Iterable[Finding]) -> Table:
    """Table of kind "claims", one row each."""
    rows = [
        {
            **{name: getattr(finding, name) for name in COLUMNS if name != "recipe"},
            "recipe": json.dumps(finding.claim.to_json()),
        }
        for finding in findings
    ]
    columns = [Column(name, role, meaning) for name, (role, meaning) in COLUMNS.items()]
    # the type of an empty column cannot be inferred
    types = {"key": object, "text": object, "flag": bool, "measure": np.float64}
    data = {c.name: np.array([row[c.name] for row in rows], dtype=types[c.role]) for c in columns}
    return Table("claims", tuple(columns), data)


def from_table(table: Table) -> tuple[Finding, ...]:
    """Inverse of ``to_table``; ``ClaimError`` when the table does not hold claims."""
    if missing := set(COLUMNS) - set(table.data):
        raise ClaimError(
            f"table {table.kind!r} is not a table of claims: it lacks the columns"
            f" {', '.join(sorted(missing))}"
        )
    return tuple(finding_from_row(row) for row in table.rows())


def finding_from_row(row: Mapping[str, JSON]) -> Finding:
    """The finding in a row of the table or of a report; ``ClaimError`` if its fields contradict its
    recipe.
    """
    name = row["name"]
    try:
        recipe = json.loads(row["recipe"]) if isinstance(row["recipe"], str) else row["recipe"]
    except (ValueError, RecursionError) as error:
        raise ClaimError(f"claim {name!r} has a recipe that is not JSON: {error}") from error
    claim = Claim.from_json(name, recipe)
    numbers = {field: math.nan if row[field] is None else float(row[field]) for field in MEASURES}
    threshold = numbers.pop("threshold")
    finding = Finding(
        claim, **numbers, verdict=row["verdict"], reason=row["reason"], sentence=row["sentence"]
    )
    stored_fields = (
        threshold,
        row["direction"],
        row["control"],
        row["verdict"] in VERDICTS,
        bool(row["supported"]),
    )
    if stored_fields != (
        finding.threshold,
        finding.direction,
        finding.control,
        True,
        finding.supported,
    ):
        raise ClaimError(
            f"claim {name!r} states a threshold, direction, control or verdict that its recipe does"
            " not have"
        )
    return finding


def conclude(run: Table, claims: Iterable[Claim], *, lead: str = "", **summary: JSON) -> Table:
    """The run with its claims evaluated: sub-table "claims", and in the summary ``sentence``,
    ``supported``, ``verdicts`` and ``findings``.

    The sentence is ``lead`` or that of the first claim, followed by the verdicts. ``supported`` is
    True if all claims that could be tested are supported; ``summary`` adds or replaces fields.
    """
    findings = evaluate(claims, run)
    claims_summary = summary_of(findings, lead)
    return replace(
        run,
        summary={**claims_summary, **run.summary, **summary},
        tables={**run.tables, "claims": to_table(findings)},
    )


def summary_of(findings: Sequence[Finding], lead: str = "") -> dict[str, JSON]:
    """The fields of a summary that follow from the findings; see ``conclude``."""
    tested = [finding for finding in findings if finding.verdict != NOT_TESTED]
    return {
        "sentence": headline(findings, lead),
        "supported": bool(tested) and all(finding.supported for finding in tested),
        "verdicts": {finding.name: finding.verdict for finding in findings},
        "findings": [finding_summary(finding) for finding in findings],
    }


def finding_summary(finding: Finding) -> dict[str, JSON]:
    """The fields of a finding in a summary."""
    return {name: getattr(finding, name) for name in SUMMARY_FIELDS}


def headline(findings: Sequence[Finding], lead: str = "") -> str:
    """At most two sentences: the lead, or the sentence of the first claim, and the verdicts."""
    parts = [lead or findings[0].sentence] if findings or lead else []
    return " ".join([*parts, *([verdicts_sentence(findings)] if findings else [])])


def verdicts_sentence(findings: Sequence[Finding]) -> str:
    """Which claims are supported, which are not, and which could not be decided."""
    phrases = []
    for verdict in VERDICTS:
        names = [finding.name for finding in findings if finding.verdict == verdict]
        if names:
            phrases.append(f"{verdict}: {', '.join(names)}")
    text = "; ".join(phrases)
    return f"{text[:1].upper()}{text[1:]}."


def check(finding: Finding, run: Table, tolerance: float = 1e-9) -> None:
    """Evaluate the claim again; ``ClaimError`` names it if a number, its verdict or its sentence
    differs.

    Everything except the recipe is computed again: value, interval, clusters, the numbers of the
    control, p, verdict and sentence. ``tolerance`` is relative, and absolute below 1. The claims
    that the verdict depends on (required claims and those of its family) are taken from the run.
    """
    recomputed = next(
        candidate
        for candidate in evaluate(_with_related(finding.claim, run), run)
        if candidate.name == finding.name
    )
    for name in MEASURES:
        stored_value, measured = getattr(finding, name), getattr(recomputed, name)
        if not _equal(stored_value, measured, tolerance):
            prefix = "" if name == "value" else f"{name} = "
            raise ClaimError(
                f"claim {finding.name!r} says {prefix}{stored_value:g}, its tables give"
                f" {measured:g}"
            )
    if finding.verdict != recomputed.verdict:
        raise ClaimError(
            f"claim {finding.name!r} says {finding.verdict!r}, its tables give"
            f" {recomputed.verdict!r}{_evidence_text(recomputed)}"
        )
    if not texts_match(finding.reason, recomputed.reason, 0.0):
        raise ClaimError(
            f"claim {finding.name!r} gives the reason {finding.reason!r}, its tables"
            f" {recomputed.reason!r}"
        )
    # the numbers of the claim have to be equal to the last digit; those of ``also`` are stored only
    # in the sentence, and may be rounded to either side
    restated = with_sentence(finding, run).sentence
    if not (
        texts_match(finding.sentence, restated, 0.0)
        if finding.claim.also
        else finding.sentence == restated
    ):
        raise ClaimError(
            f"claim {finding.name!r} says {finding.sentence!r}, its tables give {restated!r}"
        )


def check_summary(run: Table) -> None:
    """Raise ``ClaimError`` if a run's summary contradicts its table of claims.

    Verdicts, numbers and the last sentence are compared with the table of claims. The words before
    that sentence are the analyzer's. A run without a supported claim cannot be called supported.
    """
    findings = from_table(run.tables["claims"]) if "claims" in run.tables else ()
    if not findings:
        return
    expected = summary_of(findings)
    for name in ("verdicts", "findings"):
        if to_json_value(run.summary.get(name), finite=False) != to_json_value(
            expected[name], finite=False
        ):
            raise ClaimError(f"the summary's {name} are not those of its claims")
    sentence = str(run.summary.get("sentence"))
    if not sentence.endswith(verdicts_sentence(findings)):
        raise ClaimError(
            f"the summary ends with {sentence[-80:]!r}, its claims give"
            f" {verdicts_sentence(findings)!r}"
        )
    if run.summary.get("supported") and not any(finding.supported for finding in findings):
        raise ClaimError("the summary says supported, but none of its claims is")


def _with_related(claim: Claim, run: Table) -> list[Claim]:
    """The claim, after the other claims of the run that its verdict depends on."""
    run_claims = (
        [finding.claim for finding in from_table(run.tables["claims"])]
        if "claims" in run.tables
        else []
    )
    other_claims = {
        candidate.name: candidate for candidate in run_claims if candidate.name != claim.name
    }
    family = claim.null.family if claim.null else ""
    related = [
        name
        for name, candidate in other_claims.items()
        if family and candidate.null and candidate.null.family == family
    ]
    pending = list(claim.requires)
    while pending:
        name = pending.pop()
        if name in other_claims and name not in related:
            related.append(name)
            pending += other_claims[name].requires
    return [*(other_claims[name] for name in related), claim]


def _equal(a: float, b: float, tolerance: float) -> bool:
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    return a == b or abs(a - b) <= tolerance * max(1.0, abs(a))


def _evidence_text(finding: Finding) -> str:
    """The numbers behind a verdict, in brackets."""
    if finding.verdict == TOO_FEW:
        return f" ({finding.clusters:.3g} effective clusters)"
    if finding.verdict not in (SUPPORTED, NOT_SUPPORTED):
        return ""
    p = "" if math.isnan(finding.p_adjusted) else f", p = {finding.p_adjusted:.3g}"
    return (
        f" ({finding.value:.4g} [{finding.low:.4g}, {finding.high:.4g}]{p}, threshold"
        f" {finding.direction} {finding.threshold:g}, control {finding.control_value:.4g})"
    )
