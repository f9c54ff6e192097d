"""The statistics of one and of two columns, by the name that an estimate uses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from interp.maths.statistics import area_under_dose, rank_correlation, smallest_dose

NAN = float("nan")

ONE_COLUMN: dict[str, Callable[[np.ndarray], float]] = {
    "mean": np.mean,
    "median": np.median,
    "minimum": np.min,
    "maximum": np.max,
    "sum": np.sum,
    "count": np.size,
    "root-mean-square": lambda values: np.sqrt(np.mean(np.square(values))),
}


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson correlation; 0 if one of the two is constant."""
    if not np.ptp(x) or not np.ptp(y):
        return 0.0
    return float(np.mean((x - x.mean()) / x.std() * ((y - y.mean()) / y.std())))


TWO_COLUMNS: dict[str, Callable[[np.ndarray, np.ndarray, float], float]] = {
    "area": lambda values, doses, reach: area_under_dose(doses, values),
    "smallest-dose": lambda values, doses, reach: float(smallest_dose(doses, values, reach) or NAN),
    "rank-correlation": lambda values, others, reach: rank_correlation(values, others),
    "correlation": lambda values, others, reach: correlation(values, others),
}
