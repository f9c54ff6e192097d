"""An estimate as data: a statistic of rows of a run's tables, with its interval over clusters.

As JSON an estimate is an object of the fields of ``Estimate`` that are not at their defaults::

    {"table": "answers", "column": "correct", "cluster": "cluster", "where": {"kind": "graft"},
    "pair": "prompt_id",
     "minus": {"where": {"kind": "base"}}, "over": {"where": {"kind": "tuned"}, "minus": {"where":
     {"kind": "base"}}}}
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import NamedTuple

import numpy as np

from interp.claims.numbers import NAN, ONE_COLUMN, TWO_COLUMNS
from interp.errors import ClaimError
from interp.maths.auc import (
    auc_difference_interval,
    auc_interval,
    effective_clusters_of_smaller_group,
    pairwise_order,
)
from interp.maths.intervals import Interval, cluster_interval, effective_clusters, jackknife_rows
from interp.maths.judge_correction import corrected_difference, corrected_share
from interp.maths.prediction import observation_interval
from interp.provenance import JSON, to_json_value
from interp.table import Table, as_binary


class Measurement(NamedTuple):
    """A number, both ends of its interval and its effective clusters; NaN where it has none."""

    value: float
    low: float
    high: float
    clusters: float


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One number of a run's tables; ``mean``, ``auc`` and ``statistic`` make one.

    ``table``: "" is the primary table. ``where`` selects rows: a value or a list of values by
    column. ``cluster`` is the column of clusters for the interval; without one there is no
    interval. ``minus`` and ``over`` are estimates too, which take every field that they do not name
    from this one: the value is (this - minus) / over. Rows of a ``minus`` that selects other rows
    are matched by the column or columns ``pair``; without ``pair`` they are a second, independent
    group. ``by`` is the second column of a statistic of two columns. ``against``: for an AUC, the
    rows of the other group; ``within``: a column, and its maximum difference within a pair that
    counts; ``folded``: the larger of AUC and 1 - AUC. ``reach``: the level for "smallest-dose".
    ``spread``, in place of the interval: "range" for minimum and maximum, "new-observation" for a
    prediction interval (``interp.maths.prediction``). ``judge``: a table with the error rates of a
    judge, for which a proportion, or a difference of two, is corrected, and so is its interval
    (``interp.maths.judge_correction``).
    """

    column: str
    table: str = ""
    where: Mapping[str, JSON] = field(default_factory=dict)
    statistic: str = "mean"
    cluster: str = ""
    pair: str | Sequence[str] = ""
    by: str = ""
    against: Mapping[str, JSON] = field(default_factory=dict)
    within: Sequence[JSON] = ()
    folded: bool = False
    reach: float = 0.95
    spread: str = ""
    minus: Mapping[str, JSON] = field(default_factory=dict)
    over: Mapping[str, JSON] = field(default_factory=dict)
    judge: str = ""

    def to_json(self) -> dict[str, JSON]:
        """The fields that are not at their defaults."""
        return {
            name: value
            for name, value in to_json_value(asdict(self), "estimate").items()
            if value != _DEFAULTS[name]
        }

    @classmethod
    def from_json(cls, value: JSON) -> Estimate:
        """Inverse of ``to_json``; ``ClaimError`` if the value is not an estimate."""
        if not isinstance(value, Mapping) or not set(value) <= {*_DEFAULTS}:
            seen = sorted(set(value) - {*_DEFAULTS}) if isinstance(value, Mapping) else repr(value)
            raise ClaimError(
                f"an estimate cannot be read: {seen} is not among the fields {', '.join(_DEFAULTS)}"
            )
        for name, field_value in value.items():
            kind = _TYPES[name]
            if not isinstance(field_value, kind) or (
                name != "folded" and isinstance(field_value, bool)
            ):
                raise ClaimError(f"an estimate cannot be read: its {name} is {field_value!r}")
        if not value.get("column"):
            raise ClaimError("an estimate cannot be read: it names no column")
        return cls(**value)


_TYPES = {
    "column": str,
    "table": str,
    "where": Mapping,
    "statistic": str,
    "cluster": str,
    "pair": (str, list, tuple),
    "by": str,
    "against": Mapping,
    "within": (list, tuple),
    "folded": bool,
    "reach": (int, float),
    "spread": str,
    "minus": Mapping,
    "over": Mapping,
    "judge": str,
}
_DEFAULTS = to_json_value(asdict(Estimate(column="x"))) | {"column": ""}
assert list(_TYPES) == [field.name for field in fields(Estimate)]


def mean(column: str, *, cluster: str = "cluster", **rest: JSON) -> Estimate:
    """A mean with an interval over clusters (of a flag: a proportion); with ``minus`` a difference,
    with ``over`` a ratio.
    """
    return Estimate(column=column, cluster=cluster, **rest)


def auc(
    column: str, positive: Mapping, negative: Mapping, *, cluster: str = "cluster", **rest: JSON
) -> Estimate:
    """AUC of ``column`` between the rows ``positive`` and ``negative``; ``minus={"column": ...}``
    subtracts the AUC of another column.
    """
    return Estimate(
        column=column, statistic="auc", where=positive, against=negative, cluster=cluster, **rest
    )


def statistic(name: str, column: str, **rest: JSON) -> Estimate:
    """Another statistic: "sum", "count", "median", "minimum", "maximum", "root-mean-square", or of
    two columns (``by``) "area", "smallest-dose", "rank-correlation", "correlation"."""
    return Estimate(column=column, statistic=name, **rest)


def measure(estimate: Estimate, run: Table) -> Measurement:
    """The estimate on a run's tables; ``ClaimError`` if these lack what it reads."""
    try:
        if estimate.statistic == "auc":
            return _auc(estimate, run)
        if estimate.statistic == "mean" and estimate.cluster and not estimate.spread:
            measurement = _mean(estimate, run)
            return (
                _corrected_for_judge(measurement, estimate, run) if estimate.judge else measurement
            )
        if estimate.judge:
            raise ClaimError(
                f"a {estimate.statistic} of {estimate.column!r} cannot be corrected for a judge's"
                " errors: only a proportion can"
            )
        return _other_statistic(estimate, run)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ClaimError(
            f"an estimate of {estimate.column!r} cannot be measured: {error}"
        ) from error


def selected_rows(
    estimate: Estimate, run: Table, where: Mapping[str, JSON] | None = None
) -> tuple[Table, np.ndarray]:
    """The table that an estimate reads, and the indices of the rows that ``where`` selects."""
    table = run.tables.get(estimate.table) if estimate.table else run
    if table is None:
        raise ClaimError(
            f"table {estimate.table!r} is read: the run has"
            f" {', '.join(sorted(run.tables)) or 'none'}"
        )
    return table, np.flatnonzero(_row_mask(table, estimate.where if where is None else where))


def _row_mask(table: Table, where: Mapping[str, JSON]) -> np.ndarray:
    mask = np.ones(len(table), dtype=bool)
    for column, condition in where.items():
        values = _column(table, column)
        options = condition if isinstance(condition, (list, tuple)) else [condition]
        typed_options = np.array(options, dtype=values.dtype)
        # cast to the type of the column, 0.7 would be 0 and any text true
        if typed_options.dtype.kind in "bi" and typed_options.tolist() != list(options):
            raise ClaimError(
                f"column {column!r} is selected by {condition!r}, which cannot be of type"
                f" {typed_options.dtype}"
            )
        mask &= np.isin(values, typed_options)
    return mask


def _column(table: Table, name: str) -> np.ndarray:
    if name not in table.data:
        raise ClaimError(f"column {name!r} is read, which table {table.kind!r} does not have")
    return table[name]


def _selected_values(
    estimate: Estimate, run: Table, where: Mapping[str, JSON] | None = None
) -> tuple[np.ndarray, ...]:
    """Values (flags stay bool), clusters and pairing keys of the selected rows; without ``pair``
    the keys are row indices.
    """
    table, rows = selected_rows(estimate, run, where)
    values = _column(table, estimate.column)
    if values.dtype == object:
        raise ClaimError(f"column {estimate.column!r} is measured, which holds text")
    if not rows.size and estimate.statistic != "count":
        raise ClaimError(
            f"no row of table {table.kind!r} is selected by {dict(where or estimate.where)}"
        )
    values = values[rows] if values.dtype == bool else values[rows].astype(np.float64)
    if estimate.statistic == "mean":
        values = as_binary(values, table.column(estimate.column).unit)
    clusters = _column(table, estimate.cluster)[rows] if estimate.cluster else np.arange(rows.size)
    names = [estimate.pair] if isinstance(estimate.pair, str) else list(estimate.pair)
    if not any(names):
        return values, clusters, rows
    keys = [
        tuple(key)
        for key in zip(*(_column(table, name)[rows].tolist() for name in names), strict=True)
    ]
    if len(set(keys)) != len(keys):
        raise ClaimError(f"rows are paired by {', '.join(names)}, which are not unique")
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return values[order], clusters[order], np.array([repr(keys[index]) for index in order], object)


def _with_changes(estimate: Estimate, changes: Mapping[str, JSON]) -> Estimate:
    """An estimate with ``changes``; the other fields are those of ``estimate``."""
    inherited = {
        name: value for name, value in estimate.to_json().items() if name not in ("minus", "over")
    }
    return Estimate.from_json(inherited | dict(changes))


def _mean(estimate: Estimate, run: Table) -> Measurement:
    values, clusters, keys = _selected_values(estimate, run)
    n_clusters = effective_clusters(clusters)

    def matched(other_estimate: Estimate) -> np.ndarray:
        other_values, _, other_keys = _selected_values(other_estimate, run)
        if not np.array_equal(keys, other_keys):
            raise ClaimError(
                f"rows of {estimate.column!r} by {dict(estimate.where)} are not matched by those of"
                f" {other_estimate.column!r} by {dict(other_estimate.where)}"
            )
        return other_values

    minus_values = minus_clusters = over_values = over_minus = None
    if estimate.minus:
        minus = _with_changes(estimate, estimate.minus)
        same = (minus.table, dict(minus.where)) == (estimate.table, dict(estimate.where))
        if same or estimate.pair:
            minus_values = matched(minus)
        else:
            minus_values, minus_clusters, _ = _selected_values(minus, run)
            n_clusters = min(n_clusters, effective_clusters(minus_clusters))
    if estimate.over:
        over = _with_changes(estimate, estimate.over)
        over_values = matched(over)
        if over.minus:
            over_minus = matched(_with_changes(over, over.minus))
    interval = cluster_interval(
        values,
        clusters,
        minus=minus_values,
        minus_clusters=minus_clusters,
        over=over_values,
        over_minus=over_minus,
    )
    return Measurement(*interval, n_clusters)


def _corrected_for_judge(measurement: Measurement, estimate: Estimate, run: Table) -> Measurement:
    """A proportion, or a difference of two, corrected for the error rates in table ``judge``."""
    table, _ = selected_rows(Estimate(column="sensitivity", table=estimate.judge), run)
    if estimate.over or not len(table):
        raise ClaimError(
            f"{estimate.column!r} cannot be corrected by {estimate.judge!r}: it is a ratio, or the"
            " table has no rows"
        )
    yes, no = (float(_column(table, f"labelled_{name}")[0]) for name in ("yes", "no"))
    rates = (float(_column(table, name)[0]) for name in ("sensitivity", "specificity"))
    true_yes, true_no = (rate * count for rate, count in zip(rates, (yes, no), strict=True))
    if estimate.minus:
        return Measurement(
            *corrected_difference(as_interval(measurement), true_yes, yes, true_no, no),
            measurement.clusters,
        )
    return Measurement(
        *corrected_share(
            measurement.value * measurement.clusters,
            measurement.clusters,
            true_yes,
            yes,
            true_no,
            no,
        )[1:],
        measurement.clusters,
    )


def _auc(estimate: Estimate, run: Table) -> Measurement:
    def side(column: str, where: Mapping[str, JSON]) -> tuple[np.ndarray, np.ndarray]:
        values, clusters, _ = _selected_values(
            _with_changes(estimate, {"column": column, "pair": ""}), run, where
        )
        return values.astype(np.float64), clusters

    def order(column: str, folded: bool) -> np.ndarray:
        above = pairwise_order(*(side(column, where)[0] for where in groups))
        counted = above if is_close is None or not is_close.any() else above[is_close]
        return 1 - above if folded and counted.mean() < 0.5 else above

    groups = estimate.where, estimate.against
    own_clusters, other_clusters = (side(estimate.column, where)[1] for where in groups)
    is_close = None
    if estimate.within:
        name, max_difference = estimate.within
        lengths = [side(str(name), where)[0] for where in groups]
        is_close = np.abs(lengths[0][:, None] - lengths[1][None]) <= float(max_difference)
    counted = np.ones((own_clusters.size, other_clusters.size)) if is_close is None else is_close
    n_clusters = (
        effective_clusters_of_smaller_group(counted, (own_clusters, other_clusters))
        if counted.any()
        else 0.0
    )
    if not estimate.minus:
        positive, negative = (side(estimate.column, where)[0] for where in groups)
        plain, oriented = order(estimate.column, False), order(estimate.column, estimate.folded)
        sign = 1 if np.array_equal(plain, oriented) else -1
        return Measurement(
            *auc_interval(sign * positive, sign * negative, own_clusters, other_clusters, is_close),
            n_clusters,
        )
    other_estimate = _with_changes(estimate, estimate.minus)
    own_order, other_order = (
        order(estimate.column, estimate.folded),
        order(other_estimate.column, other_estimate.folded),
    )
    return Measurement(
        *auc_difference_interval(own_order, other_order, own_clusters, other_clusters, is_close),
        n_clusters,
    )


def _other_statistic(estimate: Estimate, run: Table) -> Measurement:
    value = _value(estimate, run)
    if estimate.spread == "range":
        values, _, _ = _selected_values(estimate, run)
        return Measurement(value, float(values.min()), float(values.max()), NAN)
    if estimate.spread == "new-observation":
        low, high = observation_interval(_selected_values(estimate, run)[0])
        if estimate.column.startswith("auc"):
            low, high = max(low, 0.0), min(high, 1.0)  # an AUC cannot lie beyond
        return Measurement(value, low, high, NAN)
    if estimate.cluster and estimate.statistic in TWO_COLUMNS:
        values, clusters, _ = _selected_values(_with_changes(estimate, {"pair": ""}), run)
        other_values, _, _ = _selected_values(
            _with_changes(estimate, {"column": estimate.by, "pair": ""}), run
        )
        two = TWO_COLUMNS[estimate.statistic]
        jackknife = jackknife_rows(
            lambda rows: two(values[rows], other_values[rows], estimate.reach), clusters
        )
        reach = 1.0 if "correlation" in estimate.statistic else math.inf
        low, high = np.clip([jackknife.low, jackknife.high], -reach, reach).tolist()
        return Measurement(jackknife.value, low, high, effective_clusters(clusters))
    return Measurement(value, NAN, NAN, NAN)


def _value(estimate: Estimate, run: Table) -> float:
    values, _, _ = _selected_values(estimate, run)
    if estimate.statistic in TWO_COLUMNS:
        other_values, _, _ = _selected_values(_with_changes(estimate, {"column": estimate.by}), run)
        result = TWO_COLUMNS[estimate.statistic](
            values.astype(np.float64), other_values.astype(np.float64), estimate.reach
        )
    elif estimate.statistic in ONE_COLUMN:
        result = float(ONE_COLUMN[estimate.statistic](values))
    else:
        raise ClaimError(
            f"statistic {estimate.statistic!r}: known are"
            f" {', '.join([*ONE_COLUMN, *TWO_COLUMNS, 'auc'])}"
        )
    if estimate.minus:
        result -= _value(_with_changes(estimate, estimate.minus), run)
    if estimate.over:
        divisor = _value(_with_changes(estimate, estimate.over), run)
        result = result / divisor if divisor else NAN
    return float(result) if math.isfinite(result) else NAN


def as_interval(measured: Measurement) -> Interval:
    """The value with its interval."""
    return Interval(*measured[:3])
