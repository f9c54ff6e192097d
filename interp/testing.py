"""Assertions for pytest suites: a behaviour is localised, a pair does not differ, a table has not
changed.

They read tables and import no torch. A failure is one sentence with the claim, its value, control
and threshold.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from interp.claims import Finding, check, from_table
from interp.display import control_text
from interp.errors import ClaimError, InterpError, required
from interp.maths.intervals import cluster_interval
from interp.table import Table, dtype_name

LOCALISED_CLAIMS = ("behaviour", "necessity", "harmless", "malformed")
"""The claims that together mean that a behaviour is localised."""

CHANGE_COLUMNS = {
    "locate-neurons": ("score",),
    "tuco": ("tuco", "beta"),
    "compare": ("kl", "kl_last", "flips", "flip_last"),
    "compare-weights": ("change",),
    "intruders-matrices": ("norm",),
}
"""By kind of table, the columns that are exactly 0 if fine-tuning changed nothing."""

_FORMAT, _VERSION = "interp-blessed", 1


def assert_localised(
    verified: Any, claims: Sequence[str] = LOCALISED_CLAIMS, max_units: int | None = None
) -> None:
    """Fail unless every named claim of a verifying run is supported, also if evaluated again.

    ``verified`` is a table with a sub-table ``claims``, as ``Store.run`` returns it. ``max_units``
    is the maximum size of the located set. ``AssertionError`` names the claim, its value, control
    and threshold.
    """
    __tracebackhide__ = True
    table = _table(verified)
    if isinstance(claims, str) or not claims:
        raise ValueError(f"claims={claims!r} is not a list of names of claims, or is empty")
    names = [claim.name for claim in _claims(table)]
    _require(
        len({*names}) == len(names),
        f"this run of {table.kind} has two claims of one name: {_listed(names)}",
    )
    claims_by_name = {claim.name: claim for claim in _claims(table)}
    for name in claims:
        _require(
            name in claims_by_name,
            f"there is no claim {name!r} in this run of {table.kind}: it has"
            f" {_listed(claims_by_name)}",
        )
        text = claim_text(claims_by_name[name])
        _require(claims_by_name[name].supported, f"{text}: {claims_by_name[name].verdict}")
        try:
            check(claims_by_name[name], table)
        except ClaimError as error:
            raise AssertionError(f"{text}: {error}") from None
    if max_units is not None:
        count = table.summary.get("selected")
        _require(
            isinstance(count, int),
            f"the summary of a run of {table.kind} has no number of selected units",
        )
        _require(
            required(count, "their number") <= max_units,
            f"{count} units are selected, more than the {max_units} allowed",
        )


def assert_behaves(
    study: Any,
    at_least: float = 0.0,
    at_most: float = 1.0,
    group: str = "positive",
    model: str = "tuned",
) -> None:
    """Fail unless the rate of the metric's behaviour on a class of prompts is within bounds.

    ``study`` is an ``interp.study.Study``, whose model answers greedily. The 95 % interval over
    clusters of prompts must lie above ``at_least`` and below ``at_most``, so few prompts are not
    enough: 0.9 needs 36 clusters that all exhibit the behaviour. ``AssertionError`` has the rate,
    its interval and the number of clusters.
    """
    __tracebackhide__ = True
    if not 0 <= at_least <= at_most <= 1 or (at_least, at_most) == (0, 1):
        raise ValueError(
            f"at_least={at_least!r}, at_most={at_most!r}: give at least one bound between 0 and 1"
        )
    prompts, metric = study.prompts(group), study.require_metric("assert_behaves")
    answers = [study.decode(answer) for answer in study.answers(model, group)]
    exhibits = metric.exhibits(prompts.prompts, answers, group)
    share, low, high = cluster_interval(np.asarray(exhibits, dtype=bool), prompts.clusters)
    result = (
        f"the {model} model exhibits the behaviour on {share:.1%} [{low:.1%}, {high:.1%}] of"
        f" {len(exhibits)} {group} prompts ({len(set(prompts.clusters))} clusters)"
    )
    _require(low >= at_least, f"{result}: the interval is not above {at_least:.1%}")
    _require(high <= at_most, f"{result}: the interval is not below {at_most:.1%}")


def assert_silent(
    run: Any, atol: float = 0.0, columns: Sequence[str] | None = None, allowed: Iterable[str] = ()
) -> None:
    """Fail if a run shows an effect of fine-tuning: a selected unit, a supported claim, or a change
    above ``atol``.

    ``columns`` are the measures of change that have to be 0 within ``atol``, in the unit of the
    column; the default is ``CHANGE`` for this kind of table. ``allowed`` names claims that may be
    supported. An identical pair passes; for a control fine-tune use ``columns=()``, since its
    weights do change. ``AssertionError`` names the first row or claim.
    """
    __tracebackhide__ = True
    table, allowed = _table(run), {*allowed}
    if isinstance(columns, str) or not 0 <= atol < math.inf:
        raise ValueError(
            f"columns={columns!r}, atol={atol}: give names of columns, and a finite number of at"
            " least 0"
        )
    if "selected" in table.data and table["selected"].dtype == bool:
        rows = np.flatnonzero(table["selected"]).tolist()
        _require(
            not rows,
            f"{len(rows)} rows of {table.kind} are selected, first {_row(table, rows[:1])}",
        )
    if "claims" in table.tables:
        for claim in from_table(table.tables["claims"]):
            _require(
                not claim.supported or claim.name in allowed,
                f"{claim_text(claim)}: supported, but no claim should be",
            )
    if columns is None:
        parts = (table, *table.tables.values())
        measured = [
            (part, name)
            for part in parts
            for name in CHANGE_COLUMNS.get(part.kind, ())
            if name in part.data
        ]
    else:
        measured = [(table, column) for column in columns]
    for part, column in measured:
        _require(
            column in part.data,
            f"{part.kind} has no column {column!r}: it has {_listed(part.data)}",
        )
        size = np.abs(part[column].astype(np.float64))
        # NaN is not 0
        rows = np.flatnonzero(~(size <= atol)).tolist()
        _require(
            not rows,
            f"{part.kind}: {column} is not 0 in {len(rows)} of {len(part)} rows, first"
            f" {_row(part, rows[:1])}: {part[column][rows[0]] if rows else 0:g} (atol {atol:g})",
        )
    is_measured = (
        any(len(part) for part, _ in measured)
        or len(table.tables.get("claims", ()))
        or "selected" in table.data
    )
    _require(
        bool(is_measured),
        f"no column of {table.kind} is known to measure change: name some with columns=",
    )


def claim_text(claim: Finding) -> str:
    """A claim with its numbers: ``claim 'necessity': 0.12 [0.05, 0.2], control 0 [0, 0.02] (...),
    threshold ...``.
    """
    control = "no control"
    if not math.isnan(claim.control_value):
        number = f"{claim.control_value:.4g} [{claim.control_low:.4g}, {claim.control_high:.4g}]"
        control = f"control {control_text(number, claim.control_is_level)} ({claim.control})"
    p = "" if math.isnan(claim.p) else f", p = {claim.p:.3g}"
    return (
        f"claim {claim.name!r}: {claim.value:.4g} [{claim.low:.4g}, {claim.high:.4g}],"
        f" {control}{p}, threshold {claim.direction} {claim.threshold:g}"
    )


def compare_blessed(table: Any, path: Path, rtol: float = 1e-6, overwrite: bool = False) -> None:
    """Compare a table's columns with the reference file ``path``; if there is none, or with
    ``overwrite``, write it and fail.

    Keys, flags and text have to be equal, measures within ``rtol`` (relative, absolute below 1).
    ``AssertionError`` says that the file was written, or names the first different cell by the keys
    of its row.
    """
    __tracebackhide__ = True
    if not 0 <= rtol < math.inf:
        raise ValueError(f"rtol={rtol} is not a tolerance: give a finite number of at least 0")
    table = _table(table)
    if overwrite or not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps(_reference(table), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
            "utf-8",
        )
        raise AssertionError(f"written to {path}; look at it, commit it, run again")
    try:
        reference = json.loads(path.read_text("utf-8"))
        is_same_version = (reference["format"], reference["version"]) == (_FORMAT, _VERSION)
        shapes = {
            column["name"]: (column["role"], column["type"]) for column in reference["columns"]
        }
        values = {column["name"]: column["values"] for column in reference["columns"]}
    except (ValueError, KeyError, TypeError) as error:
        raise AssertionError(
            f"{path} is not a reference table ({type(error).__name__}); --interp-bless writes it"
            " anew"
        ) from None
    _require(
        is_same_version,
        f"{path} was written by another version of interp; --interp-bless writes it anew",
    )
    _require(
        reference["kind"] == table.kind,
        f"{path} is of kind {reference['kind']!r}, this table is {table.kind!r}",
    )
    current_shapes = {
        column.name: (column.role, dtype_name(table[column.name])) for column in table.columns
    }
    for name in [*shapes, *current_shapes]:
        _require(
            shapes.get(name) == current_shapes.get(name),
            f"column {name!r} was {_shape(shapes.get(name))}, is {_shape(current_shapes.get(name))}"
            f" ({path})",
        )
    for name, column in values.items():
        _require(
            len(column) == len(table),
            f"{table.kind} had {len(column)} rows, has {len(table)} ({path})",
        )
        current_values = _json_values(table[name])
        for row, (before, after) in enumerate(zip(column, current_values, strict=True)):
            same = before == after
            if (
                not same
                and shapes[name][0] == "measure"
                and not {type(before), type(after)} & {str}
            ):
                same = abs(before - after) <= rtol * max(1.0, abs(before))
            _require(
                same,
                f"column {name!r}, row {row} ({_row(table, [row])}): expected {before!r}, got"
                f" {after!r} (tolerance {rtol:g}; {path})",
            )


def _require(condition: bool, sentence: str) -> None:
    __tracebackhide__ = True
    if not condition:
        raise AssertionError(sentence)


def _table(value: Any) -> Table:
    if not isinstance(value, Table):
        raise TypeError(f"{value!r:.80} is not a Table; give a table or what Store.run returned")
    return value


def _claims(table: Table) -> tuple[Finding, ...]:
    __tracebackhide__ = True
    _require(
        "claims" in table.tables,
        f"a run of {table.kind} has no claims: give the verifying run",
    )
    try:
        return from_table(table.tables["claims"])
    except InterpError as error:
        raise AssertionError(str(error)) from None


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _row(table: Table, rows: Sequence[int]) -> str:
    """The keys of a row, as text."""
    keys = [column.name for column in table.columns if column.role == "key"]
    return ", ".join(f"{name} {table[name][rows[0]]}" for name in keys) if len(rows) else ""


def _reference(table: Table) -> dict[str, Any]:
    columns = [
        {
            "name": c.name,
            "role": c.role,
            "unit": c.unit,
            "type": dtype_name(table[c.name]),
            "values": _json_values(table[c.name]),
        }
        for c in table.columns
    ]
    return {"format": _FORMAT, "version": _VERSION, "kind": table.kind, "columns": columns}


def _json_values(values: np.ndarray) -> list[Any]:
    """Values for JSON, with NaN and infinities as text."""
    return [str(v) if isinstance(v, float) and not math.isfinite(v) else v for v in values.tolist()]


def _shape(shape: tuple[str, str] | None) -> str:
    return "absent" if shape is None else " of ".join(shape)
