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

from interp.claims.numbers import NAN, ONE, TWO
from interp.errors import ClaimError
from interp.maths.auc import auc_difference_interval, auc_interval, fewest_clusters, pairwise_order
from interp.maths.intervals import Interval, cluster_interval, effective_clusters, jackknife_rows
from interp.maths.judge_correction import corrected_difference, corrected_share
from interp.maths.prediction import new_observation
from interp.provenance import JSON, plain
from interp.table import Table, as_counted


class Measured(NamedTuple):
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
            for name, value in plain(asdict(self), "estimate").items()
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
        for name, given in value.items():
            kind = _KINDS[name]
            if not isinstance(given, kind) or (name != "folded" and isinstance(given, bool)):
                raise ClaimError(f"an estimate cannot be read: its {name} is {given!r}")
        if not value.get("column"):
            raise ClaimError("an estimate cannot be read: it names no column")
        return cls(**value)


_KINDS = {
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
_DEFAULTS = plain(asdict(Estimate(column="x"))) | {"column": ""}
assert list(_KINDS) == [field.name for field in fields(Estimate)]


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


def measure(estimate: Estimate, run: Table) -> Measured:
    """The estimate on a run's tables; ``ClaimError`` if these lack what it reads."""
    try:
        if estimate.statistic == "auc":
            return _auc(estimate, run)
        if estimate.statistic == "mean" and estimate.cluster and not estimate.spread:
            own = _mean(estimate, run)
            return _corrected(own, estimate, run) if estimate.judge else own
        if estimate.judge:
            raise ClaimError(
                f"a {estimate.statistic} of {estimate.column!r} cannot be corrected for a judge's"
                " errors: only a proportion can"
            )
        return _other(estimate, run)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ClaimError(
            f"an estimate of {estimate.column!r} cannot be measured: {error}"
        ) from error


def rows_of(
    estimate: Estimate, run: Table, where: Mapping[str, JSON] | None = None
) -> tuple[Table, np.ndarray]:
    """The table that an estimate reads, and the indices of the rows that ``where`` selects."""
    part = run.tables.get(estimate.table) if estimate.table else run
    if part is None:
        raise ClaimError(
            f"table {estimate.table!r} is read: the run has"
            f" {', '.join(sorted(run.tables)) or 'none'}"
        )
    return part, np.flatnonzero(_selected(part, estimate.where if where is None else where))


def _selected(part: Table, where: Mapping[str, JSON]) -> np.ndarray:
    mask = np.ones(len(part), dtype=bool)
    for column, wanted in where.items():
        values = _column(part, column)
        options = wanted if isinstance(wanted, (list, tuple)) else [wanted]
        typed = np.array(options, dtype=values.dtype)
        # cast to the type of the column, 0.7 would be 0 and any text true
        if typed.dtype.kind in "bi" and typed.tolist() != list(options):
            raise ClaimError(
                f"column {column!r} is selected by {wanted!r}, which cannot be of type"
                f" {typed.dtype}"
            )
        mask &= np.isin(values, typed)
    return mask


def _column(part: Table, name: str) -> np.ndarray:
    if name not in part.data:
        raise ClaimError(f"column {name!r} is read, which table {part.kind!r} does not have")
    return part[name]


def _numbers(
    estimate: Estimate, run: Table, where: Mapping[str, JSON] | None = None
) -> tuple[np.ndarray, ...]:
    """Values (flags stay bool), clusters and pairing keys of the selected rows; without ``pair``
    the keys are row indices.
    """
    part, rows = rows_of(estimate, run, where)
    values = _column(part, estimate.column)
    if values.dtype == object:
        raise ClaimError(f"column {estimate.column!r} is measured, which holds text")
    if not rows.size and estimate.statistic != "count":
        raise ClaimError(
            f"no row of table {part.kind!r} is selected by {dict(where or estimate.where)}"
        )
    values = values[rows] if values.dtype == bool else values[rows].astype(np.float64)
    if estimate.statistic == "mean":
        values = as_counted(values, part.column(estimate.column).unit)
    clusters = _column(part, estimate.cluster)[rows] if estimate.cluster else np.arange(rows.size)
    names = [estimate.pair] if isinstance(estimate.pair, str) else list(estimate.pair)
    if not any(names):
        return values, clusters, rows
    keys = [
        tuple(key)
        for key in zip(*(_column(part, name)[rows].tolist() for name in names), strict=True)
    ]
    if len(set(keys)) != len(keys):
        raise ClaimError(f"rows are paired by {', '.join(names)}, which are not unique")
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return values[order], clusters[order], np.array([repr(keys[index]) for index in order], object)


def _derived(estimate: Estimate, changes: Mapping[str, JSON]) -> Estimate:
    """An estimate with ``changes``; the other fields are those of ``estimate``."""
    around = {
        name: value for name, value in estimate.to_json().items() if name not in ("minus", "over")
    }
    return Estimate.from_json(around | dict(changes))


def _mean(estimate: Estimate, run: Table) -> Measured:
    values, clusters, keys = _numbers(estimate, run)
    number = effective_clusters(clusters)

    def matched(part: Estimate) -> np.ndarray:
        theirs, _, other = _numbers(part, run)
        if not np.array_equal(keys, other):
            raise ClaimError(
                f"rows of {estimate.column!r} by {dict(estimate.where)} are not matched by those of"
                f" {part.column!r} by {dict(part.where)}"
            )
        return theirs

    minus_values = minus_clusters = over_values = over_minus = None
    if estimate.minus:
        minus = _derived(estimate, estimate.minus)
        same = (minus.table, dict(minus.where)) == (estimate.table, dict(estimate.where))
        if same or estimate.pair:
            minus_values = matched(minus)
        else:
            minus_values, minus_clusters, _ = _numbers(minus, run)
            number = min(number, effective_clusters(minus_clusters))
    if estimate.over:
        over = _derived(estimate, estimate.over)
        over_values = matched(over)
        if over.minus:
            over_minus = matched(_derived(over, over.minus))
    found = cluster_interval(
        values,
        clusters,
        minus=minus_values,
        minus_clusters=minus_clusters,
        over=over_values,
        over_minus=over_minus,
    )
    return Measured(*found, number)


def _corrected(own: Measured, estimate: Estimate, run: Table) -> Measured:
    """A proportion, or a difference of two, corrected for the error rates in table ``judge``."""
    part, _ = rows_of(Estimate(column="sensitivity", table=estimate.judge), run)
    if estimate.over or not len(part):
        raise ClaimError(
            f"{estimate.column!r} cannot be corrected by {estimate.judge!r}: it is a ratio, or the"
            " table has no rows"
        )
    yes, no = (float(_column(part, f"labelled_{name}")[0]) for name in ("yes", "no"))
    rates = (float(_column(part, name)[0]) for name in ("sensitivity", "specificity"))
    true_yes, true_no = (rate * count for rate, count in zip(rates, (yes, no), strict=True))
    if estimate.minus:
        return Measured(
            *corrected_difference(interval_of(own), true_yes, yes, true_no, no), own.clusters
        )
    return Measured(
        *corrected_share(own.value * own.clusters, own.clusters, true_yes, yes, true_no, no)[1:],
        own.clusters,
    )


def _auc(estimate: Estimate, run: Table) -> Measured:
    def side(column: str, where: Mapping[str, JSON]) -> tuple[np.ndarray, np.ndarray]:
        values, clusters, _ = _numbers(
            _derived(estimate, {"column": column, "pair": ""}), run, where
        )
        return values.astype(np.float64), clusters

    def order(column: str, folded: bool) -> np.ndarray:
        above = pairwise_order(*(side(column, where)[0] for where in groups))
        counted = above if near is None or not near.any() else above[near]
        return 1 - above if folded and counted.mean() < 0.5 else above

    groups = estimate.where, estimate.against
    own_clusters, other_clusters = (side(estimate.column, where)[1] for where in groups)
    near = None
    if estimate.within:
        name, most = estimate.within
        lengths = [side(str(name), where)[0] for where in groups]
        near = np.abs(lengths[0][:, None] - lengths[1][None]) <= float(most)
    counted = np.ones((own_clusters.size, other_clusters.size)) if near is None else near
    number = fewest_clusters(counted, (own_clusters, other_clusters)) if counted.any() else 0.0
    if not estimate.minus:
        positive, negative = (side(estimate.column, where)[0] for where in groups)
        plain, turned = order(estimate.column, False), order(estimate.column, estimate.folded)
        sign = 1 if np.array_equal(plain, turned) else -1
        return Measured(
            *auc_interval(sign * positive, sign * negative, own_clusters, other_clusters, near),
            number,
        )
    other = _derived(estimate, estimate.minus)
    own, theirs = order(estimate.column, estimate.folded), order(other.column, other.folded)
    return Measured(
        *auc_difference_interval(own, theirs, own_clusters, other_clusters, near), number
    )


def _other(estimate: Estimate, run: Table) -> Measured:
    value = _value(estimate, run)
    if estimate.spread == "range":
        values, _, _ = _numbers(estimate, run)
        return Measured(value, float(values.min()), float(values.max()), NAN)
    if estimate.spread == "new-observation":
        low, high = new_observation(_numbers(estimate, run)[0])
        if estimate.column.startswith("auc"):
            low, high = max(low, 0.0), min(high, 1.0)  # an AUC cannot lie beyond
        return Measured(value, low, high, NAN)
    if estimate.cluster and estimate.statistic in TWO:
        values, clusters, _ = _numbers(_derived(estimate, {"pair": ""}), run)
        others, _, _ = _numbers(_derived(estimate, {"column": estimate.by, "pair": ""}), run)
        two = TWO[estimate.statistic]
        found = jackknife_rows(
            lambda rows: two(values[rows], others[rows], estimate.reach), clusters
        )
        reach = 1.0 if "correlation" in estimate.statistic else math.inf
        low, high = np.clip([found.low, found.high], -reach, reach).tolist()
        return Measured(found.value, low, high, effective_clusters(clusters))
    return Measured(value, NAN, NAN, NAN)


def _value(estimate: Estimate, run: Table) -> float:
    values, _, _ = _numbers(estimate, run)
    if estimate.statistic in TWO:
        others, _, _ = _numbers(_derived(estimate, {"column": estimate.by}), run)
        result = TWO[estimate.statistic](
            values.astype(np.float64), others.astype(np.float64), estimate.reach
        )
    elif estimate.statistic in ONE:
        result = float(ONE[estimate.statistic](values))
    else:
        raise ClaimError(
            f"statistic {estimate.statistic!r}: known are {', '.join([*ONE, *TWO, 'auc'])}"
        )
    if estimate.minus:
        result -= _value(_derived(estimate, estimate.minus), run)
    if estimate.over:
        divisor = _value(_derived(estimate, estimate.over), run)
        result = result / divisor if divisor else NAN
    return float(result) if math.isfinite(result) else NAN


def interval_of(measured: Measured) -> Interval:
    """The value with its interval."""
    return Interval(*measured[:3])
