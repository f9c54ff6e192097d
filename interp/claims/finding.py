"""Claims evaluated on a run's tables: ``evaluate``.

Value, interval, p, verdict and sentence follow from the claim and the tables, so both are enough to
check them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from interp.claims.claim import Claim, Draws
from interp.claims.estimates import Estimate, measure, selected_rows
from interp.claims.numbers import NAN
from interp.claims.sentences import fill
from interp.display import control_is_level
from interp.errors import ClaimError
from interp.maths.intervals import MIN_CLUSTERS
from interp.maths.statistics import benjamini_hochberg, permutation_p
from interp.table import Table

SUPPORTED, NOT_SUPPORTED, TOO_FEW, NOT_TESTED = (
    "supported",
    "not supported",
    "too few clusters",
    "not tested",
)
VERDICTS = (SUPPORTED, NOT_SUPPORTED, TOO_FEW, NOT_TESTED)


@dataclass(frozen=True)
class Finding:
    """A claim evaluated on a run's tables.

    ``clusters`` is the effective number of clusters of the estimate, NaN if it has no interval over
    clusters; the ``control_*`` fields are mean and central 95 % of the null, or the reference with
    its interval, NaN without either; ``p_adjusted`` is p after correction for the family, equal to
    p without a family; ``draws`` is the number of draws. ``reason`` says why the verdict is not
    "supported", and is "" if it is.
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
    reason: str
    sentence: str

    def __repr__(self) -> str:
        return (
            f"Finding({self.name}: {self.verdict}, {self.value:.4g} [{self.low:.4g},"
            f" {self.high:.4g}])"
        )

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
        """Both ends of the interval."""
        return self.low, self.high

    @property
    def threshold(self) -> float:
        """The number that the value has to reach."""
        return self.claim.threshold

    @property
    def direction(self) -> str:
        """Required side of the threshold: "at least" or "at most"."""
        return self.claim.direction

    @property
    def control(self) -> str:
        """Description of the null or the reference."""
        return self.claim.control or "none"

    @property
    def bounds(self) -> list[float]:
        """The numbers that the interval has to lie beyond."""
        claim = self.claim
        named_bounds = {
            "threshold": claim.threshold,
            "control": self.control_high if claim.at_most is None else self.control_low,
        }
        if math.isnan(named_bounds["control"]):
            named_bounds["control"] = self.control_value
        default = [] if math.isnan(self.clusters) else ["threshold"]
        bounds = default if claim.beyond is None else claim.beyond
        return [named_bounds[bound] if isinstance(bound, str) else float(bound) for bound in bounds]

    @property
    def needs(self) -> str:
        """The conditions for "supported": on the value, the interval, and p if there is a null."""
        above = self.direction == "at least"
        sign, side = (">=", ">") if above else ("<=", "<")
        ends = [end for end in self.bounds if not math.isnan(end)]
        end = (max(ends) if above else min(ends)) if ends else NAN
        # an interval beyond the threshold has the value beyond it too
        parts = [] if end == self.threshold else [f"value {sign} {self.threshold:.4g}"]
        parts += [f"interval {side} {end:.4g}"] if ends else []
        null = self.claim.null
        return ", ".join([*parts, *([f"p <= {null.level:.4g}"] if null else [])])

    @property
    def is_difference(self) -> bool:
        """Whether the value is a difference of two numbers, written with its sign."""
        return bool(self.claim.estimate.minus) and not self.claim.estimate.over

    @property
    def control_is_level(self) -> bool:
        """Whether the number of the control is the level that the value is a difference from; see
        ``interp.display.control_text``.
        """
        return control_is_level(self.claim.to_json())

    @property
    def reaches_threshold(self) -> bool:
        """Whether the value reaches the threshold."""
        return (
            self.value >= self.threshold
            if self.direction == "at least"
            else self.value <= self.threshold
        )


def evaluate(claims: Iterable[Claim], run: Table) -> tuple[Finding, ...]:
    """Every claim of a run, evaluated on its tables; ``ClaimError`` names a claim for which that
    fails.
    """
    claims = list(claims)
    if len({claim.name for claim in claims}) != len(claims):
        raise ClaimError(
            f"two claims of a run have one name: {', '.join(claim.name for claim in claims)}"
        )
    findings = [_evaluate_claim(claim, run) for claim in claims]
    for family in {claim.null.family for claim in claims if claim.null and claim.null.family}:
        members = [
            index
            for index, claim in enumerate(claims)
            if claim.null and claim.null.family == family
        ]
        adjusted = benjamini_hochberg([findings[index].p for index in members])
        for index, p in zip(members, adjusted.tolist(), strict=True):
            findings[index] = replace(findings[index], p_adjusted=p)
    verdicts: dict[str, tuple[str, str]] = {}
    by_name = {finding.name: finding for finding in findings}
    for finding in findings:
        _decide(finding.name, by_name, verdicts, ())
    with_verdicts = [
        replace(finding, verdict=verdicts[finding.name][0], reason=verdicts[finding.name][1])
        for finding in findings
    ]
    return tuple(with_sentence(finding, run) for finding in with_verdicts)


def _evaluate_claim(claim: Claim, run: Table) -> Finding:
    try:
        measurement = measure(claim.estimate, run)
        control, p, count = (NAN,) * 3, NAN, 0
        if claim.null is not None:
            draws = _draw_values(
                replace(claim.null, where={**claim.null.where, **claim.null.control_where}), run
            )
            drawn = draws[~np.isnan(draws)]
            if drawn.size:
                control = (
                    float(drawn.mean()),
                    *(float(end) for end in np.quantile(drawn, [0.025, 0.975])),
                )
            p, count = _p_value(claim.null, claim.null.observed or claim.estimate, run)
        if isinstance(claim.reference, Estimate):
            control = measure(claim.reference, run)[:3]
        elif claim.reference is not None:
            control = (float(claim.reference), NAN, NAN)
    except (ClaimError, ValueError, TypeError, KeyError) as error:
        raise ClaimError(f"claim {claim.name!r}: {error}") from error
    return Finding(
        claim,
        measurement.value,
        measurement.low,
        measurement.high,
        measurement.clusters,
        control[0],
        control[1],
        control[2],
        p,
        p,
        float(count),
        NOT_TESTED,
        "",
        "",
    )


def _draw_values(null: Draws, run: Table) -> np.ndarray:
    table, rows = selected_rows(
        Estimate(column=null.column, table=null.table, where=null.where), run
    )
    if null.column not in table.data:
        raise ClaimError(
            f"column {null.column!r} is read, which table {table.kind!r} does not have"
        )
    return table[null.column][rows].astype(np.float64)


def _p_value(null: Draws, observed: Estimate, run: Table) -> tuple[float, int]:
    """p and the number of draws; with ``each`` the largest p and the smallest number of draws."""
    conditions = [{}]
    if null.max_over:
        table, rows = selected_rows(observed, run)
        conditions = [
            {null.max_over: value} for value in np.unique(table[null.max_over][rows]).tolist()
        ]
    p_values, counts = [], []
    for condition in conditions:
        draws = _draw_values(replace(null, where={**null.where, **condition}), run)
        value = measure(replace(observed, where={**observed.where, **condition}), run).value
        p_values.append(permutation_p(value, draws, null.alternative))
        counts.append(draws.size)
    return max(float(np.max(p_values)), 1 / null.arrangements), min(counts)


def _decide(
    name: str,
    findings: Mapping[str, Finding],
    verdicts: dict[str, tuple[str, str]],
    path: tuple[str, ...],
) -> tuple[str, str]:
    """The verdict of one claim and its reason, after the claims that it requires."""
    if name in verdicts:
        return verdicts[name]
    if name not in findings or name in path:
        raise ClaimError(
            f"claim {path[-1]!r} requires the claim {name!r}, which the run does not make before it"
        )
    finding = findings[name]
    required = {
        claim_name: _decide(claim_name, findings, verdicts, (*path, name))[0]
        for claim_name in finding.claim.requires
    }
    verdicts[name] = _verdict(finding, required)
    return verdicts[name]


def _verdict(finding: Finding, required: Mapping[str, str]) -> tuple[str, str]:
    claim, null = finding.claim, finding.claim.null
    if math.isnan(finding.value):
        return NOT_TESTED, "there is no value"
    if null is None and claim.reference is None:
        return NOT_TESTED, "there is nothing to compare with" + (
            f": {claim.missing}" if claim.missing else ""
        )
    if null is not None:
        min_p = max(1 / (1 + finding.draws), 1 / null.arrangements)
        if math.isnan(finding.p) or min_p > null.level:
            # p cannot be that small with so few draws
            return (
                NOT_TESTED,
                f"{finding.draws:.0f} draws of the null cannot give p <= {null.level:.4g}",
            )
        if finding.draws < null.min_draws:
            return (
                NOT_TESTED,
                f"{finding.draws:.0f} draws of the null are too few, {null.min_draws} are needed",
            )
    # NaN for an estimate without clusters
    if finding.clusters < MIN_CLUSTERS - 1e-9:
        return TOO_FEW, f"{finding.clusters:.3g} effective clusters, {MIN_CLUSTERS} are needed"
    unmet = [
        *_unmet_conditions(finding),
        *(f"{name} is {verdict}" for name, verdict in required.items() if verdict != SUPPORTED),
    ]
    return (NOT_SUPPORTED, "; ".join(unmet)) if unmet else (SUPPORTED, "")


def _unmet_conditions(finding: Finding) -> list[str]:
    """The conditions that are not met."""
    null, above, unmet = finding.claim.null, finding.direction == "at least", []
    side = "below" if above else "above"
    if not finding.reaches_threshold:
        unmet.append(f"the value {finding.value:.4g} is {side} {finding.threshold:.4g}")
    end = finding.low if above else finding.high
    if (not finding.bounds and null is None) or (finding.bounds and math.isnan(end)):
        unmet.append("the value has no interval")
    elif any(map(math.isnan, finding.bounds)):
        unmet.append("the control has no value")
    elif beyond := [
        bound for bound in finding.bounds if not (end > bound if above else end < bound)
    ]:
        bound = max(beyond) if above else min(beyond)
        unmet.append(
            f"the interval reaches {end:.4g}, not {'above' if above else 'below'} {bound:.4g}"
        )
    if null is not None and not finding.p_adjusted <= null.level:
        p_name = "p" if finding.p == finding.p_adjusted else "p, corrected for its family,"
        unmet.append(f"{p_name} is {finding.p_adjusted:.3g}, above {null.level:.4g}")
    return unmet


def with_sentence(finding: Finding, run: Table) -> Finding:
    """The finding with its sentence, filled with its numbers and the estimates of ``also``."""
    claim = finding.claim
    template = claim.text
    if math.isnan(finding.value) and claim.undefined:
        template = claim.undefined
    elif not finding.supported and claim.otherwise:
        template = claim.otherwise
    draws = np.zeros(0) if claim.null is None else _draw_values(claim.null, run)
    numbers = {
        "value": finding.value,
        "low": finding.low,
        "high": finding.high,
        "clusters": finding.clusters,
        "p": finding.p,
        "p_adjusted": finding.p_adjusted,
        "control": finding.control_value,
        "control_low": finding.control_low,
        "control_high": finding.control_high,
        "control_max": float(draws.max(initial=-math.inf)) if draws.size else NAN,
        "draws": finding.draws,
    }
    try:
        numbers |= {name: measure(estimate, run).value for name, estimate in claim.also.items()}
        return replace(finding, sentence=fill(template, numbers))
    except (ClaimError, ValueError) as error:
        raise ClaimError(f"claim {claim.name!r}: {error}") from error
