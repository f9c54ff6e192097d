"""A claim: a number with its interval, beside its control and its threshold, and how to measure it again.

A recipe is data. It names a table of the run, which rows of it, one statistic and one column::

    {"table": "answers", "where": {"condition": "ablate-base", "group": "positive"}, "statistic": "mean",
     "column": "equal_base", "cluster": "cluster", "minus": {"where": {"condition": "base"}}}

``table`` "" is the run's own table; ``where`` compares each column with a value, or with a list of values; ``by`` names
the dose column for "area" and "smallest-dose" (``reach``: the level of the latter, 0.95), and the other column for
"rank-correlation". ``minus`` and ``over`` are recipes too, which take what they do not say from the one around them:
value = (statistic - minus) / over. ``cluster`` names the column that intervals resample; it does not change the value.
``p`` is the recipe of p (``recompute_p``) and ``beyond`` what the interval of a shown claim lies beyond (``check``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import SupportsFloat

import numpy as np

from interp.errors import ClaimError
from interp.maths.statistics import area_under_dose, permutation_p, rank_correlation, smallest_dose
from interp.provenance import JSON, plain
from interp.table import Column, Table

ALPHA = 0.05

DESCRIPTIONS = {
    "name": ("key", "short name of the claim"),
    "sentence": ("text", "the claim in one plain sentence"),
    "value": ("measure", "the estimate"),
    "low": ("measure", "lower end of its interval"),
    "high": ("measure", "upper end of its interval"),
    "control": ("text", "what the null was"),
    "control_value": ("measure", "the same number under the null"),
    "control_low": ("measure", "lower end of the null's range"),
    "control_high": ("measure", "upper end of the null's range"),
    "p": ("measure", "(1 + b) / (1 + n) over the draws of the null; NaN where none was drawn"),
    "threshold": ("measure", "what the value has to reach"),
    "direction": ("text", "on which side of the threshold"),
    "shown": ("flag", "whether the data support the claim"),
    "recipe": ("text", "how to measure the value again, as JSON"),
}


@dataclass(frozen=True)
class Claim:
    """A finding that the stored tables can confirm or refute; the module's docstring explains ``recipe``.

    ``low`` and ``high`` bound the estimate ``value``; the ``control_*`` fields are the same numbers under the null, NaN
    where there is none, as is ``p``. ``direction`` is "at least" or "at most"; ``shown`` is the analyzer's verdict.
    """

    name: str
    sentence: str
    value: SupportsFloat
    low: SupportsFloat
    high: SupportsFloat
    control: str
    control_value: SupportsFloat
    control_low: SupportsFloat
    control_high: SupportsFloat
    p: SupportsFloat
    threshold: SupportsFloat
    direction: str
    shown: bool
    recipe: Mapping[str, JSON] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.direction not in ("at least", "at most"):
            raise ValueError(f"claim {self.name!r} has the direction {self.direction!r}: 'at least' or 'at most'")
        for name, (role, _) in DESCRIPTIONS.items():
            if role == "measure":
                object.__setattr__(self, name, float(getattr(self, name)))
        object.__setattr__(self, "shown", bool(self.shown))
        object.__setattr__(self, "recipe", plain(self.recipe, "recipe"))

    @property
    def holds(self) -> bool:
        """Whether the value lies on the right side of the threshold."""
        return self.value >= self.threshold if self.direction == "at least" else self.value <= self.threshold


def not_shown(claims: Iterable[Claim], draws: int | None = None) -> str:
    """What a summary's sentence ends with where claims do not hold: which, and for which too few draws forbade it."""
    failed = [claim for claim in claims if not claim.shown]
    said = f" Not shown: {', '.join(claim.name for claim in failed)}." if failed else ""
    drawn = [claim.name for claim in failed if not math.isnan(claim.p)]
    if drawn and draws is not None and draws < 19:
        said += f" Of {', '.join(drawn)} {draws} random sets can show nothing; 19 at least are needed."
    return said


def to_table(claims: Iterable[Claim]) -> Table:
    """Table of kind "claims", one row each, the recipe as JSON text."""
    columns = [Column(name, role, meaning) for name, (role, meaning) in DESCRIPTIONS.items()]
    # An empty key column has no values to tell its type from.
    rows = [
        {**{f.name: getattr(claim, f.name) for f in fields(claim)}, "recipe": json.dumps(claim.recipe)}
        for claim in claims
    ]
    data = {
        column.name: np.array([row[column.name] for row in rows], dtype=object)
        if column.role in ("key", "text")
        else [row[column.name] for row in rows]
        for column in columns
    }
    return Table("claims", tuple(columns), data)


def from_table(table: Table) -> tuple[Claim, ...]:
    """Inverse of ``to_table``; ``ClaimError`` when the table does not hold claims."""
    if missing := set(DESCRIPTIONS) - set(table.data):
        raise ClaimError(f"table {table.kind!r} lacks the columns {', '.join(sorted(missing))}: it holds no claims")
    try:
        return tuple(
            Claim(**{**{name: row[name] for name in DESCRIPTIONS}, "recipe": json.loads(row["recipe"])})
            for row in table.rows()
        )
    except (ValueError, TypeError) as error:
        raise ClaimError(f"table {table.kind!r} holds a claim that cannot be read: {error}") from error


def _area(values: np.ndarray, doses: np.ndarray, reach: float) -> float:
    return area_under_dose(doses, values)


def _smallest_dose(values: np.ndarray, doses: np.ndarray, reach: float) -> float:
    found = smallest_dose(doses, values, reach)
    return math.nan if found is None else float(found)


STATISTICS: dict[str, Callable[[np.ndarray], float]] = {
    "mean": np.mean,
    "share": np.mean,
    "median": np.median,
    "minimum": np.min,
    "maximum": np.max,
    "sum": np.sum,
    "count": np.size,
    "root-mean-square": lambda values: np.sqrt(np.mean(np.square(values))),
}


def _rank_correlation(values: np.ndarray, others: np.ndarray, reach: float) -> float:
    return rank_correlation(values, others)


PAIRED_STATISTICS = {"area": _area, "smallest-dose": _smallest_dose, "rank-correlation": _rank_correlation}


def _selected(table: Table, where: Mapping[str, JSON], name: str) -> np.ndarray:
    mask = np.ones(len(table), dtype=bool)
    for column, wanted in where.items():
        if column not in table.data:
            raise ClaimError(f"claim {name!r} selects by {column!r}, which table {table.kind!r} does not have")
        options = wanted if isinstance(wanted, list) else [wanted]
        asked = np.array(options, dtype=table[column].dtype)
        # made to fit the column, 0.7 would be 0 and any text yes
        if asked.dtype.kind in "bi" and asked.tolist() != options:
            raise ClaimError(f"claim {name!r} selects {column!r} by {wanted!r}, which are no values of {asked.dtype}")
        mask &= np.isin(table[column], asked)
    return mask


def _value(recipe: Mapping[str, JSON], table: Table, name: str) -> float:
    part = table.tables.get(recipe.get("table", "")) if recipe.get("table") else table
    if part is None:
        raise ClaimError(f"claim {name!r} reads the table {recipe['table']!r}: the run has {sorted(table.tables)}")
    statistic, column = recipe.get("statistic"), recipe.get("column")
    known = [*STATISTICS, *PAIRED_STATISTICS]
    if statistic not in known:
        raise ClaimError(f"claim {name!r} asks for the statistic {statistic!r}: known are {', '.join(known)}")
    for needed in (column, recipe.get("by")) if statistic in PAIRED_STATISTICS else (column,):
        if needed not in part.data:
            raise ClaimError(f"claim {name!r} reads the column {needed!r}, which table {part.kind!r} does not have")
    if part[column].dtype == object:
        raise ClaimError(f"claim {name!r} measures the column {column!r}, which holds text")
    mask = _selected(part, recipe.get("where", {}), name)
    if not mask.any() and statistic != "count":
        raise ClaimError(f"claim {name!r} selects no row of table {part.kind!r} by {recipe.get('where', {})}")
    values = part[column][mask].astype(np.float64)
    if statistic in PAIRED_STATISTICS:
        result = PAIRED_STATISTICS[statistic](values, part[recipe["by"]][mask], recipe.get("reach", 0.95))
    else:
        result = float(STATISTICS[statistic](values))
    rest = {key: value for key, value in recipe.items() if key not in ("minus", "over", "p", "beyond")}
    if "minus" in recipe:
        result -= _value(rest | recipe["minus"], table, name)
    if "over" in recipe:
        divisor = _value(rest | recipe["over"], table, name)
        result = result / divisor if divisor else math.nan
    return result


def recompute(claim: Claim, table: Table) -> float:
    """The claim's value, measured again from the run's table by its recipe; ``ClaimError`` when that cannot be done."""
    if not claim.recipe:
        raise ClaimError(f"claim {claim.name!r} has no recipe: it cannot be measured again")
    try:
        return float(_value(claim.recipe, table, claim.name))
    except (ValueError, TypeError, AttributeError) as error:
        raise ClaimError(f"claim {claim.name!r} has a recipe that cannot be followed: {error}") from error


def recompute_p(claim: Claim, table: Table) -> float:
    """The claim's p, measured again: ``recipe["p"]`` names the draws (``null``) and the number beside them.

    With ``each``, a column of both tables, it is the largest of the p of that column's values.
    """
    asked = claim.recipe["p"]
    drawn, observed = asked["null"], asked["observed"]
    part = table.tables.get(drawn["table"])
    if part is None or drawn["column"] not in part.data:
        raise ClaimError(f"claim {claim.name!r} draws its null from {drawn}, which the run does not have")
    each = asked.get("each")
    found = []
    for more in [{each: value} for value in np.unique(part[each]).tolist()] if each else [{}]:
        null = part[drawn["column"]][_selected(part, drawn["where"] | more, claim.name)]
        where = {**observed, "where": observed.get("where", {}) | more} if each else observed
        found.append(permutation_p(_value(where, table, claim.name), null))
    return float(np.max(found))


def check(claim: Claim, table: Table, tolerance: float = 1e-9) -> None:
    """Measure the claim again; ``ClaimError`` names it where a number differs or its verdict does not follow.

    Value and p are measured again; ``tolerance`` is relative to the value, and absolute below 1. A p without a recipe
    of its own is refused. Of the interval it is checked that the value lies within. Its ends and the control's come of
    draws that are not kept: they are taken as stated, as are the threshold and the recipe.

    Of a claim marked as shown the value has to reach the threshold, p (where the recipe has one) to be at most 0.05,
    and the interval to lie beyond the threshold. Where an analyzer's rule is another the recipe says so: ``p``'s
    ``at_most``, and ``beyond``, the numbers or fields of the claim that the interval has to lie beyond, none of them
    where it is a range and p decides. That a claim is not shown can have further reasons and is not checked.
    """
    value = recompute(claim, table)
    if "p" in claim.recipe:
        try:
            p = recompute_p(claim, table)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise ClaimError(f"claim {claim.name!r} has a recipe of p that cannot be followed: {error!r}") from error
        if not _same(p, claim.p, tolerance):
            raise ClaimError(f"claim {claim.name!r} says p = {claim.p:g}, its tables give {p:g}")
    elif not math.isnan(claim.p):
        raise ClaimError(f"claim {claim.name!r} says p = {claim.p:g}, and has no recipe for it")
    if not _same(value, claim.value, tolerance * max(1.0, abs(claim.value))):
        raise ClaimError(f"claim {claim.name!r} says {claim.value:g}, its table gives {value:g}")
    slack = tolerance * max(1.0, abs(claim.value))
    if claim.value < claim.low - slack or claim.value > claim.high + slack:
        raise ClaimError(f"claim {claim.name!r} says {claim.value:g}, outside of [{claim.low:g}, {claim.high:g}]")
    if claim.shown:
        _check_verdict(claim)


def _same(one: float, other: float, tolerance: float) -> bool:
    return (math.isnan(one) and math.isnan(other)) or abs(one - other) <= tolerance


BOUNDS = ("threshold", "control_value", "control_low", "control_high")
"""What of a claim its interval can lie beyond: an end of its own would be no bound."""


def _check_verdict(claim: Claim) -> None:
    said = f"claim {claim.name!r} is marked as shown, but"
    if not claim.holds or not math.isfinite(claim.threshold):
        raise ClaimError(f"{said} {claim.value:g} is not {claim.direction} {claim.threshold:g}")
    tested = "p" in claim.recipe
    most = claim.recipe["p"].get("at_most", ALPHA) if tested else ALPHA
    if type(most) not in (int, float) or not 0 < most <= 1:
        raise ClaimError(f"{said} its recipe asks for p at most {most!r}")
    if tested and not claim.p <= most:
        raise ClaimError(f"{said} p = {claim.p:g} is not at most {most:g}")
    # a claim of draws alone has no interval
    bare = tested and math.isnan(claim.low) and math.isnan(claim.high)
    bounds = claim.recipe.get("beyond", [] if bare else ["threshold"])
    if not isinstance(bounds, list) or not all(b in BOUNDS or type(b) in (int, float) for b in bounds):
        raise ClaimError(f"{said} its recipe asks for an interval beyond {bounds!r}: a list of {', '.join(BOUNDS)}")
    # p that is not asked, or hardly, has to be replaced by the interval's place beside the control
    if (not bounds and not tested) or (most > ALPHA and not {*bounds} & {*BOUNDS[1:]}):
        raise ClaimError(f"{said} its recipe asks neither p at most {ALPHA:g} nor an interval beyond its control")
    for bound in bounds:
        end = float(getattr(claim, bound) if isinstance(bound, str) else bound)
        if not (claim.low > end if claim.direction == "at least" else claim.high <= end):
            raise ClaimError(f"{said} its interval [{claim.low:g}, {claim.high:g}] is not beyond {end:g}")
