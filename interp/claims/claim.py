"""A claim as data: its estimate, threshold, null and sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

from interp.claims.estimates import Estimate
from interp.claims.sentences import field_formats
from interp.errors import ClaimError
from interp.provenance import JSON

ALPHA = 0.05
Number = float | int
Bound = Number | Literal["threshold", "control"]


@dataclass(frozen=True)
class Draws:
    """A null distribution in the tables of a run: ``column`` of the sub-table ``table``, one draw
    per row that ``where`` selects.

    ``observed`` is compared with the draws; the default is the estimate of the claim. p is
    (1 + b) / (1 + n) with b draws at least as large (for "less": as small), and at least
    1 / ``arrangements``, the number of distinct permutations of the labels. With ``max_over``, a
    column of both tables, p is the largest over its values. ``level``: significance level.
    ``family``: p is corrected over the claims of one family (Benjamini and Hochberg 1995).
    ``min_draws``: with fewer draws the claim is not tested. ``control_where``: a further condition
    on the draws whose mean and range are reported; the others are bounds that count for p only.
    """

    table: str
    column: str
    where: Mapping[str, JSON] = field(default_factory=dict)
    observed: Estimate | None = None
    alternative: str = "greater"
    max_over: str = ""
    arrangements: Number = math.inf
    level: Number = ALPHA
    family: str = ""
    min_draws: int = 0
    control_where: Mapping[str, JSON] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("arrangements", "level"):
            object.__setattr__(self, name, float(getattr(self, name)))
        if not 0 < self.level <= ALPHA or not self.arrangements >= 1:
            raise ValueError(
                f"a null with level {self.level!r}, {self.arrangements!r} arrangements: at most"
                f" {ALPHA}, at least 1"
            )
        if self.alternative not in ("greater", "less", "two-sided"):
            raise ValueError(
                f"alternative {self.alternative!r}: expected 'greater', 'less' or 'two-sided'"
            )


@dataclass(frozen=True, kw_only=True)
class Claim:
    """An assertion of a run, as data.

    It is supported if the estimate reaches ``at_least`` (or ``at_most``), its interval lies beyond
    all of ``beyond``, p of ``null`` is at most its level, the claims named in ``requires`` are
    supported, and there are at least 6 effective clusters. ``beyond`` contains numbers, "threshold"
    and "control" (the far end of the control's range); the default is the threshold, and nothing
    for an estimate without an interval over clusters. ``control`` describes the null or the
    ``reference``, an estimate or a number to compare with. A claim without null and reference is
    "not tested"; ``missing`` says which input would change that. ``text`` is the sentence, with
    fields ``{value}``, ``{low}``, ``{high}``, ``{p}``, ``{control}``, ``{control_low}``,
    ``{control_high}``, ``{control_max}``, ``{draws}``, ``{clusters}`` and the names of ``also``,
    further estimates. ``otherwise`` replaces it if the claim is not supported, ``undefined`` if it
    has no value.
    """

    name: str
    estimate: Estimate
    text: str
    at_least: Number | None = None
    at_most: Number | None = None
    beyond: Sequence[Bound] | None = None
    null: Draws | None = None
    reference: Estimate | Number | None = None
    control: str = ""
    missing: str = ""
    requires: Sequence[str] = ()
    also: Mapping[str, Estimate] = field(default_factory=dict)
    otherwise: str = ""
    undefined: str = ""

    def __post_init__(self) -> None:
        for name in ("at_least", "at_most", "reference"):
            value = getattr(self, name)
            if isinstance(value, (str, bool)):
                raise ValueError(f"claim {self.name!r} has {name} {value!r}: expected a number")
            if not isinstance(value, Estimate | None):
                object.__setattr__(self, name, float(value))
        if (self.at_least is None) == (self.at_most is None) or not math.isfinite(self.threshold):
            raise ValueError(f"claim {self.name!r} needs one finite threshold: at_least or at_most")
        tested = self.null is not None or self.reference is not None
        if tested and not self.control:
            raise ValueError(f"claim {self.name!r} does not describe its control")
        for bound in self.beyond or ():
            if bound not in ("threshold", "control") and (
                isinstance(bound, (bool, str)) or not math.isfinite(bound)
            ):
                raise ValueError(
                    f"claim {self.name!r} has the bound {bound!r}: a number, 'threshold' or"
                    " 'control'"
                )

    @property
    def threshold(self) -> float:
        """The number that the value has to reach."""
        threshold = self.at_most if self.at_least is None else self.at_least
        return math.nan if threshold is None else float(threshold)

    @property
    def direction(self) -> str:
        """Required side of the threshold: "at least" or "at most"."""
        return "at most" if self.at_least is None else "at least"

    @property
    def number_format(self) -> str:
        """The number format of the value in its sentences, such as ``.1%`` or ``+.3f``.

        If the sentences do not contain the value, it is the format of an end of its interval or of
        an estimate of the same column, else "".
        """
        same_unit = [
            name for name, estimate in self.also.items() if _unit(estimate) == _unit(self.estimate)
        ]
        for template in (self.text, self.otherwise):
            number_formats = field_formats(template)
            for name in ("value", "low", "high", *same_unit):
                if number_formats.get(name):
                    return number_formats[name]
        return ""

    def to_json(self) -> dict[str, JSON]:
        """The fields that are not at their defaults, without the name."""
        value: dict[str, JSON] = {"estimate": self.estimate.to_json(), "text": self.text}
        value |= {"at_most": self.at_most} if self.at_least is None else {"at_least": self.at_least}
        if self.beyond is not None:
            value["beyond"] = [
                bound if isinstance(bound, str) else float(bound) for bound in self.beyond
            ]
        if self.null is not None:
            value["null"] = _draws_json(self.null)
        if self.reference is not None:
            reference = self.reference
            value["reference"] = (
                reference.to_json() if isinstance(reference, Estimate) else float(reference)
            )
        value |= {
            name: getattr(self, name)
            for name in ("control", "missing", "otherwise", "undefined")
            if getattr(self, name)
        }
        if self.requires:
            value["requires"] = list(self.requires)
        if self.also:
            value["also"] = {name: estimate.to_json() for name, estimate in self.also.items()}
        return value

    @classmethod
    def from_json(cls, name: str, value: JSON) -> Claim:
        """Inverse of ``to_json``; ``ClaimError`` if the value is not a claim."""
        try:
            fields = dict(value)
            fields["estimate"] = Estimate.from_json(fields["estimate"])
            if "null" in fields:
                null = dict(fields["null"])
                if "observed" in null:
                    null["observed"] = Estimate.from_json(null["observed"])
                fields["null"] = Draws(**null)
            if isinstance(fields.get("reference"), Mapping):
                fields["reference"] = Estimate.from_json(fields["reference"])
            fields["also"] = {
                key: Estimate.from_json(estimate)
                for key, estimate in fields.get("also", {}).items()
            }
            return cls(name=name, **fields)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ClaimError(f"claim {name!r} has a recipe that cannot be read: {error}") from error


def _unit(estimate: Estimate) -> tuple[str, str, str, bool]:
    """Estimates for which this is equal have the same unit."""
    return estimate.table, estimate.column, estimate.statistic, bool(estimate.over)


def _draws_json(null: Draws) -> dict[str, JSON]:
    value = {name: value for name, value in asdict(null).items() if name != "observed"}
    default = asdict(Draws("", ""))
    value = {
        name: setting
        for name, setting in value.items()
        if name in ("table", "column") or setting != default[name]
    }
    return value | ({} if null.observed is None else {"observed": null.observed.to_json()})
