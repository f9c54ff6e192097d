"""What every claim maker owes: a verdict that the check accepts, and no other, whatever the numbers
are.

Hypothesis draws other numbers for a run twice by default, and as often as its profile says in the
slow tests, in which every analyzer runs on a further architecture.
"""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp import claims
from interp.errors import ClaimError


def selecting(recipe):
    """Columns by which a claim selects rows, anywhere in it."""
    if not isinstance(recipe, dict):
        return set()
    own = {name for key in ("where", "against") for name in recipe.get(key, {})}
    return own.union(*(selecting(value) for value in recipe.values()))


def perturbed(run, seed):
    """The run with other numbers: measures rescaled, flags flipped, keys and what rows are selected
    by as they are.
    """
    generator = np.random.default_rng(seed)
    kept = set().union(*(selecting(finding.claim.to_json()) for finding in findings(run)))

    def moved(part):
        data = {}
        for column in part.columns:
            values = part[column.name]
            if column.name in kept:
                pass
            elif column.role == "flag":
                flips = generator.random(len(values)) < generator.choice([0.0, 0.1, 0.5])
                values = (
                    generator.choice([True, False]) if generator.random() < 0.2 else values ^ flips
                )
                values = np.broadcast_to(values, len(part)).copy()
            elif column.role == "measure" and values.dtype.kind == "f":
                how = generator.integers(4)
                scale = (
                    generator.lognormal(0, 1, len(values))
                    if how
                    else np.full(len(values), generator.choice([0, 1]))
                )
                values = np.multiply(
                    values, scale, out=values.copy(), where=np.isfinite(values), casting="same_kind"
                )
            data[column.name] = values
        return dataclasses.replace(part, data=data, tables={}, arrays={}, provenance=None)

    tables = {name: moved(part) for name, part in run.tables.items() if name != "claims"}
    return dataclasses.replace(moved(run), tables=tables)


def findings(run):
    """The run's claims as it states them."""
    return claims.from_table(run.tables["claims"])


def require_honest(run):
    """Every finding is accepted by the check, and none with another number, verdict or sentence."""
    for finding in findings(run):
        claims.check(finding, run)
        assert finding.sentence.endswith(".")
        assert finding.reaches_threshold or not finding.supported
        require_like_beside_like(finding, run)
        for name in ("value", "low", "high", "p"):
            number = getattr(finding, name)
            wrong = (
                0.5 if np.isnan(number) else number + (0.01 if abs(number) < 1 else -0.01 * number)
            )
            with pytest.raises(ClaimError):
                claims.check(dataclasses.replace(finding, **{name: wrong}), run)
        other = claims.NOT_SUPPORTED if finding.supported else claims.SUPPORTED
        with pytest.raises(ClaimError):
            claims.check(dataclasses.replace(finding, verdict=other), run)


OF_DIFFERENCES = {"localised"}
"""Claims whose rows are differences already: what they subtract is 0 and brings its spread alone.
"""


def require_like_beside_like(finding, run):
    """A difference has a difference as its control, or the very level that it is a difference from."""
    estimate, reference = finding.claim.estimate, finding.claim.reference
    if finding.name in OF_DIFFERENCES:
        return
    if finding.is_difference and isinstance(reference, claims.Estimate) and not reference.minus:
        level = dataclasses.replace(
            estimate, **{"minus": {}, "pair": "", "folded": False} | dict(estimate.minus)
        )
        # the same number where another table has it
        own = claims.measure(level, run).value
        assert own == pytest.approx(finding.control_value, nan_ok=True), finding.name
        assert finding.control_is_level


def require_honest_makers(run, examples=2):
    """The same of the run's claims on other numbers, drawn by hypothesis."""
    if settings.get_current_profile_name() == "slow":
        examples = settings().max_examples

    @settings(max_examples=examples, deadline=None, derandomize=True, database=None)
    @given(st.integers(0, 2**31))
    def holds(seed):
        made = claims.conclude(perturbed(run, seed), [finding.claim for finding in findings(run)])
        for finding in findings(made):
            claims.check(finding, made)
            other = claims.NOT_SUPPORTED if finding.supported else claims.SUPPORTED
            with pytest.raises(ClaimError):
                claims.check(dataclasses.replace(finding, verdict=other), made)

    require_honest(run)
    holds()


def require_remeasured(run):
    """The same, and the summary's verdicts; returns the findings by name."""
    require_honest_makers(run)
    found = {finding.name: finding for finding in findings(run)}
    assert run.summary["verdicts"] == {name: finding.verdict for name, finding in found.items()}
    return found
