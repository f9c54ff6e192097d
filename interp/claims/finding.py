"""Claims measured on a run's tables: ``evaluate``.

Value, interval, p, verdict and sentence all follow from the claim and the tables, so whoever has both can check them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from interp.claims.claim import Claim, Draws
from interp.claims.estimates import NAN, Estimate, measure, rows_of
from interp.claims.sentences import fill
from interp.errors import ClaimError
from interp.maths.intervals import FEWEST_CLUSTERS
from interp.maths.statistics import benjamini_hochberg, permutation_p
from interp.table import Table

SUPPORTED, NOT_SUPPORTED, TOO_FEW, NOT_TESTED = "supported", "not supported", "too few clusters", "not tested"
VERDICTS = (SUPPORTED, NOT_SUPPORTED, TOO_FEW, NOT_TESTED)


@dataclass(frozen=True)
class Finding:
    """A claim measured on a run's tables.

    ``clusters`` is the effective number of clusters of the estimate, NaN where it has no interval over clusters; the
    ``control_*`` fields are the null's mean and central 95 %, or the reference with its interval, NaN where there is
    none; ``p_adjusted`` is p after correction for the family, equal to p without one; ``draws`` is their number.
    """

    claim: Claim
    value: float
    low: float
    high: float
    clusters: float
    control_value: float
    control_low: float
    control_high: float
    p: float
    p_adjusted: float
    draws: float
    verdict: str
    sentence: str

    @property
    def name(self) -> str:
        """The claim's name."""
        return self.claim.name

    @property
    def supported(self) -> bool:
        """Whether the data support the claim."""
        return self.verdict == SUPPORTED

    @property
    def interval(self) -> tuple[float, float]:
        """Both ends."""
        return self.low, self.high

    @property
    def threshold(self) -> float:
        """What the value has to reach."""
        return self.claim.threshold

    @property
    def direction(self) -> str:
        """On which side of it."""
        return self.claim.direction

    @property
    def control(self) -> str:
        """What the null or the reference is, in words."""
        return self.claim.control or "none"

    @property
    def bounds(self) -> list[float]:
        """What the interval has to lie beyond, as numbers."""
        claim = self.claim
        named = {
            "threshold": claim.threshold,
            "control": self.control_high if claim.at_most is None else self.control_low,
        }
        if math.isnan(named["control"]):
            named["control"] = self.control_value
        default = [] if math.isnan(self.clusters) else ["threshold"]
        bounds = default if claim.beyond is None else claim.beyond
        return [named[bound] if isinstance(bound, str) else float(bound) for bound in bounds]

    @property
    def holds(self) -> bool:
        """Whether the value lies on the right side of the threshold."""
        return self.value >= self.threshold if self.direction == "at least" else self.value <= self.threshold


def evaluate(claims: Iterable[Claim], run: Table) -> tuple[Finding, ...]:
    """Every claim of a run, measured on its tables; ``ClaimError`` names a claim that cannot be measured."""
    claims = list(claims)
    if len({claim.name for claim in claims}) != len(claims):
        raise ClaimError(f"two claims of a run have one name: {', '.join(claim.name for claim in claims)}")
    findings = [_measured(claim, run) for claim in claims]
    for family in {claim.null.family for claim in claims if claim.null and claim.null.family}:
        mine = [at for at, claim in enumerate(claims) if claim.null and claim.null.family == family]
        adjusted = benjamini_hochberg([findings[at].p for at in mine])
        for at, p in zip(mine, adjusted.tolist(), strict=True):
            findings[at] = replace(findings[at], p_adjusted=p)
    verdicts: dict[str, str] = {}
    by_name = {finding.name: finding for finding in findings}
    for finding in findings:
        _judge(finding.name, by_name, verdicts, ())
    return tuple(said(replace(finding, verdict=verdicts[finding.name]), run) for finding in findings)


def _measured(claim: Claim, run: Table) -> Finding:
    try:
        own = measure(claim.estimate, run)
        control, p, count = (NAN,) * 3, NAN, 0
        if claim.null is not None:
            draws = _draws(claim.null, run)
            drawn = draws[~np.isnan(draws)]
            if drawn.size:
                control = (float(drawn.mean()), *(float(end) for end in np.quantile(drawn, [0.025, 0.975])))
            p, count = _p(claim.null, claim.null.observed or claim.estimate, run)
        if isinstance(claim.reference, Estimate):
            control = measure(claim.reference, run)[:3]
        elif claim.reference is not None:
            control = (float(claim.reference), NAN, NAN)
    except (ClaimError, ValueError, TypeError, KeyError) as error:
        raise ClaimError(f"claim {claim.name!r}: {error}") from error
    return Finding(
        claim, own.value, own.low, own.high, own.clusters, control[0], control[1], control[2], p, p, float(count),
        NOT_TESTED, "",
    )  # fmt: skip


def _draws(null: Draws, run: Table) -> np.ndarray:
    part, rows = rows_of(Estimate(column=null.column, table=null.table, where=null.where), run)
    if null.column not in part.data:
        raise ClaimError(f"column {null.column!r} is read, which table {part.kind!r} does not have")
    return part[null.column][rows].astype(np.float64)


def _p(null: Draws, observed: Estimate, run: Table) -> tuple[float, int]:
    """p and the number of draws, with ``each`` the largest p and the fewest draws."""
    conditions = [{}]
    if null.each:
        part, rows = rows_of(observed, run)
        conditions = [{null.each: value} for value in np.unique(part[null.each][rows]).tolist()]
    found, counts = [], []
    for more in conditions:
        draws = _draws(replace(null, where={**null.where, **more}), run)
        value = measure(replace(observed, where={**observed.where, **more}), run).value
        found.append(permutation_p(value, draws, null.alternative))
        counts.append(draws.size)
    return max(float(np.max(found)), 1 / null.arrangements), min(counts)


def _judge(name: str, findings: Mapping[str, Finding], verdicts: dict[str, str], path: tuple[str, ...]) -> str:
    """The verdict of one claim, after those that it requires."""
    if name in verdicts:
        return verdicts[name]
    if name not in findings or name in path:
        raise ClaimError(f"claim {path[-1]!r} requires the claim {name!r}, which the run does not make before it")
    finding = findings[name]
    required = [_judge(other, findings, verdicts, (*path, name)) for other in finding.claim.requires]
    verdicts[name] = _verdict(finding, required)
    return verdicts[name]


def _verdict(finding: Finding, required: Sequence[str]) -> str:
    claim, null = finding.claim, finding.claim.null
    if math.isnan(finding.value) or (null is None and claim.reference is None):
        return NOT_TESTED
    if null is not None and (math.isnan(finding.p) or max(1 / (1 + finding.draws), 1 / null.arrangements) > null.level):
        return NOT_TESTED  # no number of draws at least as large could have given a p that small
    # NaN: an estimate that is not of clusters
    if finding.clusters < FEWEST_CLUSTERS - 1e-9:
        return TOO_FEW
    above = claim.at_least is not None
    end = finding.low if above else finding.high
    met = (
        finding.holds
        and all(end > bound if above else end < bound for bound in finding.bounds)
        and (null is None or finding.p_adjusted <= null.level)
        and all(verdict == SUPPORTED for verdict in required)
        and bool(null is not None or finding.bounds)
    )
    return SUPPORTED if met else NOT_SUPPORTED


def said(finding: Finding, run: Table) -> Finding:
    """The finding with its sentence filled with its numbers, and with those of ``also`` measured on the run."""
    claim = finding.claim
    template = claim.text
    if math.isnan(finding.value) and claim.undefined:
        template = claim.undefined
    elif not finding.supported and claim.otherwise:
        template = claim.otherwise
    draws = np.zeros(0) if claim.null is None else _draws(claim.null, run)
    numbers = {
        "value": finding.value, "low": finding.low, "high": finding.high, "clusters": finding.clusters, "p": finding.p,
        "p_adjusted": finding.p_adjusted, "control": finding.control_value, "control_low": finding.control_low,
        "control_high": finding.control_high, "control_max": float(draws.max(initial=-math.inf)) if draws.size else NAN,
        "draws": finding.draws,
    }  # fmt: skip
    try:
        numbers |= {name: measure(estimate, run).value for name, estimate in claim.also.items()}
        return replace(finding, sentence=fill(template, numbers))
    except (ClaimError, ValueError) as error:
        raise ClaimError(f"claim {claim.name!r}: {error}") from error
