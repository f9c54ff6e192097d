"""Comparison of two methods over the places that both cover."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from interp.agreement.places import HEAD, Place, PlaceRow, common_level, intensities, level_of
from interp.claims import Claim, Draws, statistic
from interp.maths.statistics import benjamini_hochberg, permutation_p, rank_correlation, ranks
from interp.rows import DrawRow, columns_of, key, measure, rows_table
from interp.table import Table

PLURAL = {HEAD: "heads", "matrix": "matrices", "sublayer": "sublayers", "block": "blocks"}


class PairRow:
    """Rows about two methods."""

    first: str = key("one method")
    second: str = key("the other")


class AgreementRow(PairRow):
    """A row per pair of methods."""

    level: str = key("finest level that both have")
    places: int = measure("number of places compared")
    correlation: float = measure("Spearman's correlation of intensities")
    chance: float = measure("mean correlation with permuted intensities")
    p: float = measure(
        "permutation p: share of draws that agree at least as well, counting the observed one"
    )
    adjusted_p: float = measure("after correction for all pairs (Benjamini and Hochberg)")
    beyond_movement: float = measure("partial correlation given the movement of the weights")


class CellRow(PairRow):
    """A row per pair of methods and place."""

    layer: int = PlaceRow.layer
    part: str = PlaceRow.part
    one: float = measure("intensity by the first")
    other: float = measure("intensity by the second")


class NullRow(DrawRow, PairRow):
    """A row per pair of methods and draw."""

    correlation: float = measure("rank correlation")


@dataclass(frozen=True)
class MethodComparison:
    """Two methods over the places that both cover."""

    first: str
    second: str
    level: str
    places: list[tuple[int, str]]
    first_intensities: np.ndarray
    second_intensities: np.ndarray
    null: np.ndarray
    beyond_movement: float

    @classmethod
    def from_places(
        cls,
        first: str,
        second: str,
        places_by_method: Mapping[str, Sequence[Place]],
        movement: str | None,
        generator: np.random.Generator,
        draws: int,
    ) -> MethodComparison:
        """Compare two of ``places_by_method`` methods; ``movement`` names the method that measures
        weight changes, if any.
        """
        level = common_level(*(level_of(places_by_method[name]) for name in (first, second)))
        first_intensities, second_intensities = (
            intensities(places_by_method[name], level) for name in (first, second)
        )
        places = sorted(first_intensities.keys() & second_intensities.keys())
        a, b = (
            np.array([values[place] for place in places], np.float64)
            for values in (first_intensities, second_intensities)
        )
        beyond = float("nan")
        if movement and movement not in (first, second):
            movement_intensities = intensities(places_by_method[movement], level)
            if all(place in movement_intensities for place in places):
                beyond = _partial_correlation(
                    a, b, np.array([movement_intensities[place] for place in places])
                )
        null = _null_correlations(a, b, places, generator, draws)
        return cls(first, second, level, places, a, b, null, beyond)

    @property
    def correlation(self) -> float:
        """Spearman's correlation; NaN if one method is constant."""
        return rank_correlation(self.first_intensities, self.second_intensities)

    @property
    def p(self) -> float:
        """Permutation p: share of draws that agree at least as well, counting the observed one."""
        return permutation_p(self.correlation, self.null)

    @property
    def claim(self) -> Claim:
        """Agreement as a claim; p is of this pair alone, the verdict is after correction for all
        pairs of the run.
        """
        methods = f"{self.first} and {self.second}"
        sentence = (
            f"Over {len(self.places)} {PLURAL[self.level]}, {methods} have a rank correlation of"
            " {value:.2f} (permuted intensities {control:.2f}, p = {p_adjusted:.2g} after"
            " correction)"
        )
        if np.isfinite(self.beyond_movement):
            sentence += (
                f"; partial correlation {self.beyond_movement:.2f} given the movement of the"
                " weights"
            )
        silent = (
            self.first
            if len(self.first_intensities) and np.ptp(self.first_intensities) == 0
            else self.second
        )
        where = {"first": self.first, "second": self.second}
        return Claim(
            name=f"{self.first}-{self.second}",
            estimate=statistic("rank-correlation", "one", by="other", table="cells", where=where),
            at_least=0.0,
            null=Draws("null", "correlation", where, family="pairs of methods"),
            control=(
                "intensities permuted among all heads"
                if self.level == HEAD
                else "intensities permuted among the blocks, within each kind of part"
            ),
            text=f"{sentence}.",
            undefined=(
                f"{methods} cannot be compared: {silent} is constant over the places that both"
                " cover."
            ),
        )


def _null_correlations(
    a: np.ndarray,
    b: np.ndarray,
    places: Sequence[tuple[int, str]],
    generator: np.random.Generator,
    draws: int,
) -> np.ndarray:
    """Rank correlations with ``b`` permuted among the blocks, within each part; heads are one."""
    if np.isnan(rank_correlation(a, b)):
        return np.full(draws, np.nan)
    parts = np.array([HEAD if part.startswith(HEAD) else part for _, part in places])
    permuted = np.tile(ranks(b), (draws, 1))
    for part in np.unique(parts):
        permuted[:, parts == part] = generator.permuted(permuted[:, parts == part], axis=1)
    return np.array([rank_correlation(a, row) for row in permuted])


def _partial_correlation(a: np.ndarray, b: np.ndarray, control: np.ndarray) -> float:
    """Partial rank correlation of ``a`` and ``b`` given ``control`` (Kendall and Stuart's
    formula).
    """
    ab, ag, bg = rank_correlation(a, b), rank_correlation(a, control), rank_correlation(b, control)
    unexplained = (1 - ag**2) * (1 - bg**2)
    # undefined if one is a monotone function of the given values
    return float((ab - ag * bg) / np.sqrt(unexplained)) if unexplained > 1e-12 else float("nan")


def agreement_table(pairs: Sequence[MethodComparison]) -> Table:
    """One row per pair."""
    return rows_table(
        AgreementRow,
        "places-agreement",
        {
            "first": [pair.first for pair in pairs],
            "second": [pair.second for pair in pairs],
            "level": [pair.level for pair in pairs],
            "places": [len(pair.places) for pair in pairs],
            "correlation": [pair.correlation for pair in pairs],
            "chance": [float(np.mean(pair.null)) for pair in pairs],
            "p": [pair.p for pair in pairs],
            "adjusted_p": benjamini_hochberg(np.array([pair.p for pair in pairs])),
            "beyond_movement": [pair.beyond_movement for pair in pairs],
        },
    )


def cells_table(pairs: Sequence[MethodComparison]) -> Table:
    """One row per pair and place: the compared intensities."""
    rows = [
        (pair.first, pair.second, *place, float(first), float(second))
        for pair in pairs
        for place, first, second in zip(
            pair.places, pair.first_intensities, pair.second_intensities, strict=True
        )
    ]
    columns = {name: [row[at] for row in rows] for at, name in enumerate(columns_of(CellRow))}
    return rows_table(CellRow, "places-cells", columns)


def null_table(pairs: Sequence[MethodComparison]) -> Table:
    """One row per pair and draw."""
    return rows_table(
        NullRow,
        "places-null",
        {
            "first": [pair.first for pair in pairs for _ in pair.null],
            "second": [pair.second for pair in pairs for _ in pair.null],
            "draw": [draw for pair in pairs for draw in range(len(pair.null))],
            "correlation": np.concatenate([pair.null for pair in pairs]),
        },
    )
