"""What every finding of a run promises: its tables give it again, and nothing else than it."""

import dataclasses
import math

import pytest

from interp import claims
from interp.errors import ClaimError


def require_remeasured(table) -> dict[str, claims.Finding]:
    """The run's findings by name: each follows from the tables, and one with a moved part is refused."""
    findings = claims.from_table(table.tables["claims"])
    for finding in findings:
        claims.check(finding, table)
        moved = {name: getattr(finding, name) + 0.01 for name in ("value", "low", "p", "control_value")}
        wrong = {name: value for name, value in moved.items() if not math.isnan(value)}
        wrong["verdict"] = next(one for one in claims.VERDICTS if one != finding.verdict)
        for name, value in wrong.items():
            with pytest.raises(ClaimError, match=finding.name):
                claims.check(dataclasses.replace(finding, **{name: value}), table)
    assert table.summary["verdicts"] == {finding.name: finding.verdict for finding in findings}
    return {finding.name: finding for finding in findings}
