"""How often intervals and verdicts are wrong: ``python -m benchmarks.coverage [--write]``.

Data sets whose truth is known are simulated, and every interval over clusters that a claim can rest
on is computed on them by the functions that the analyzers call. A cell gives, in per cent of the
data sets, how often the lower end lies above the truth and how often the upper end lies below it:
2.5 is nominal, and of the verdict rules how often a claim is supported that is just not true.

Rows of a cluster share half of their variance. "Equal" clusters have 5 rows each (2 for AUCs);
"dominated": one cluster holds half of all rows. Skewed data have mean 0 too: an exponential or
log-normal number less its mean, and the same turned around.
"""

import argparse
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from scipy.special import ndtri

from benchmarks.page import machine, markdown, write_section
from interp.claims import Claim, Draws, evaluate, mean
from interp.maths.auc import auc_difference_interval, auc_interval, pairwise_order
from interp.maths.intervals import MIN_CLUSTERS, Interval, cluster_interval, effective_clusters
from interp.table import Table, table

CLUSTERS = (2, 4, 6, 8, 12, 20, 48)
DESIGNS = ("equal", "dominated")
SKEWED = ("normal", "exponential", "exponential, left", "log-normal", "log-normal, left")
AUCS = (0.5, 0.8, 0.9, 0.98)
RATES = (0.02, 0.1, 0.5, 0.9, 0.98)
EACH = 5


def clusters_of(count: int, design: str, each: int = EACH) -> np.ndarray:
    """Cluster of every row."""
    sizes = np.full(count, each)
    if design == "dominated":
        sizes[0] = sizes[1:].sum()
    return np.repeat(np.arange(count), sizes)


def numbers(generator: np.random.Generator, code: np.ndarray, shape: str) -> np.ndarray:
    """Rows of mean 0 and variance about 1, half of it shared within clusters."""

    def drawn(size: int) -> np.ndarray:
        kind = shape.removesuffix(", left")
        if kind == "normal":
            return generator.normal(size=size)
        if kind == "exponential":
            values = generator.exponential(size=size) - 1
        else:
            values = (generator.lognormal(size=size) - np.exp(0.5)) / np.sqrt((np.e - 1) * np.e)
        return -values if shape.endswith("left") else values

    return (drawn(code.max() + 1)[code] + drawn(code.size)) / np.sqrt(2)


def flags(generator: np.random.Generator, code: np.ndarray, rate: float) -> np.ndarray:
    """Yes and no, with rates that differ between clusters: beta of mean ``rate`` and 2
    pseudo-observations.
    """
    own = generator.beta(2 * rate, 2 * (1 - rate), code.max() + 1)
    return generator.random(code.size) < own[code]


def a_mean(g: np.random.Generator, code: np.ndarray, shape: str) -> tuple[Interval, float]:
    return cluster_interval(numbers(g, code, shape), code), 0.0


def a_difference(g: np.random.Generator, code: np.ndarray, shape: str) -> tuple[Interval, float]:
    values = numbers(g, code, shape)
    return cluster_interval(values, code, minus=0.5 * values + numbers(g, code, shape)), 0.0


def two_groups(g: np.random.Generator, code: np.ndarray, shape: str) -> tuple[Interval, float]:
    other = numbers(g, code, shape) * 2
    return (
        cluster_interval(numbers(g, code, shape), code, minus=other, minus_clusters=code + 1000),
        0.0,
    )


def two_groups_tied(g: np.random.Generator, code: np.ndarray, shape: str) -> tuple[Interval, float]:
    shared = numbers(g, code, shape)
    other = shared + numbers(g, code, shape)
    return cluster_interval(shared, code, minus=other, minus_clusters=code), 0.0


def a_ratio(g: np.random.Generator, code: np.ndarray, shape: str) -> tuple[Interval, float]:
    bottom = 4 + numbers(g, code, shape)
    return cluster_interval(0.5 * bottom + numbers(g, code, shape), code, over=bottom), 0.5


def an_auc(g: np.random.Generator, code: np.ndarray, rate: float) -> tuple[Interval, float]:
    above = numbers(g, code, "normal") + np.sqrt(2) * ndtri(rate)
    return auc_interval(above, numbers(g, code, "normal"), code, code + 1000), rate


def an_auc_difference(
    g: np.random.Generator, code: np.ndarray, rate: float
) -> tuple[Interval, float]:
    # both numbers are the same but for noise
    positive, negative = (numbers(g, code, "normal") for _ in range(2))
    own, other = (
        pairwise_order(
            *(0.6 * shared + 0.8 * numbers(g, code, "normal") + shift for shared, shift in both)
        )
        for both in [((positive, np.sqrt(2) * ndtri(rate)), (negative, 0.0))] * 2
    )
    return auc_difference_interval(own, other, code, code + 1000), 0.0


def a_share(g: np.random.Generator, code: np.ndarray, rate: float) -> tuple[Interval, float]:
    return cluster_interval(flags(g, code, rate), code), rate


def paired_shares(g: np.random.Generator, code: np.ndarray, rate: float) -> tuple[Interval, float]:
    return cluster_interval(flags(g, code, rate), code, minus=flags(g, code, rate)), 0.0


def paired_flips(g: np.random.Generator, code: np.ndarray, rate: float) -> tuple[Interval, float]:
    after = flags(g, code, rate)
    return cluster_interval(after, code, minus=np.zeros(code.size, bool)), rate


def two_groups_of_shares(
    g: np.random.Generator, code: np.ndarray, rate: float
) -> tuple[Interval, float]:
    other = flags(g, code, rate)
    return (
        cluster_interval(flags(g, code, rate), code, minus=other, minus_clusters=code + 1000),
        0.0,
    )


def kept_gain(g: np.random.Generator, code: np.ndarray, rate: float) -> tuple[Interval, float]:
    """A graft keeps a share ``rate`` of the right answers that 80 % of rows gained."""
    base = np.zeros(code.size, bool)
    tuned = flags(g, code, 0.8)
    return (
        cluster_interval(
            tuned & flags(g, code, rate), code, minus=base, over=tuned, over_minus=base
        ),
        rate,
    )


INTERVALS: dict[str, tuple[Callable, tuple]] = {
    "mean": (a_mean, SKEWED),
    "paired difference": (a_difference, SKEWED),
    "two groups": (two_groups, SKEWED),
    "two groups that share clusters": (two_groups_tied, SKEWED),
    "ratio of means": (a_ratio, SKEWED),
    "AUC": (an_auc, AUCS),
    "difference of two AUCs": (an_auc_difference, AUCS),
    "share": (a_share, RATES),
    "paired difference of shares, none": (paired_shares, RATES),
    "paired difference of shares, one way": (paired_flips, RATES),
    "two groups of shares": (two_groups_of_shares, RATES),
    "share of a gain that is kept": (kept_gain, RATES),
}


def missed(name: str, shape: object, design: str, count: int, draws: int) -> str:
    """Per cent of intervals above and below the truth; how often there was none, where that
    happened.
    """
    make, code = INTERVALS[name][0], clusters_of(count, design, 2 if "AUC" in name else EACH)
    generator = np.random.default_rng([count, DESIGNS.index(design), list(INTERVALS).index(name)])
    above = below = none = 0
    for _ in range(draws):
        found, truth = make(generator, code, shape)
        none += bool(np.isnan(found.low))
        above += found.low > truth + 1e-12
        below += found.high < truth - 1e-12
    said = f"{100 * above / draws:.1f} / {100 * below / draws:.1f}"
    return said + (f" ({100 * none / draws:.0f} none)" if none else "")


def _run(columns: dict, draws: dict) -> Table:
    parts = {"random": table("random", {"effect": (draws, "measure", "effect")})}
    return table("x", {"x": ([0], "measure", "x")}, tables=parts | {"rows": table("rows", columns)})


NULL = {"null": Draws("random", "effect"), "control": "random sets"}
FIXED = {"reference": 0.0, "control": "none at all"}


def beyond_zero(g: np.random.Generator, code: np.ndarray) -> tuple[Claim, dict, np.ndarray]:
    """A mean beyond 0, as in ``compare`` and ``tuco``; the truth is 0."""
    columns = {"v": (numbers(g, code, "normal"), "measure", "v"), "cluster": (code, "key", "c")}
    return (
        Claim(name="c", estimate=mean("v", table="rows"), text="", at_least=0.0, **FIXED),
        columns,
        np.zeros(1),
    )


def one_class_above(g: np.random.Generator, code: np.ndarray) -> tuple[Claim, dict, np.ndarray]:
    """One class of prompts above the other; the truth is no difference."""
    columns = {
        "v": (np.r_[numbers(g, code, "normal"), numbers(g, code, "normal")], "measure", "v"),
        "cluster": (np.r_[code, code + 1000], "key", "c"),
        "group": (np.repeat(["a", "b"], code.size).astype(object), "key", "g"),
    }
    estimate = mean("v", table="rows", where={"group": "a"}, minus={"where": {"group": "b"}})
    return Claim(name="c", estimate=estimate, text="", at_least=0.0, **FIXED), columns, np.zeros(1)


def half_returned(g: np.random.Generator, code: np.ndarray) -> tuple[Claim, dict, np.ndarray]:
    """At least half of the answers, the interval beyond a quarter and all random sets; the truth is
    a quarter.
    """
    columns = {"v": (flags(g, code, 0.25), "flag", "v"), "cluster": (code, "key", "c")}
    made = Claim(
        name="c",
        estimate=mean("v", table="rows"),
        text="",
        at_least=0.5,
        beyond=["control", 0.25],
        **NULL,
    )
    return made, columns, np.clip(g.normal(0.05, 0.03, 39), 0, 1)


def little_lost(g: np.random.Generator, code: np.ndarray) -> tuple[Claim, dict, np.ndarray]:
    """At most 2 % lost, the interval up to 10 %; the truth is 10 %."""
    columns = {
        "v": (flags(g, code, 0.1), "flag", "v"),
        "w": (np.zeros(code.size, bool), "flag", "w"),
        "cluster": (code, "key", "c"),
    }
    estimate = mean("v", table="rows", minus={"column": "w"})
    return (
        Claim(name="c", estimate=estimate, text="", at_most=0.02, beyond=[0.1], **FIXED),
        columns,
        np.zeros(1),
    )


def no_rank(g: np.random.Generator, code: np.ndarray) -> tuple[Claim, dict, np.ndarray]:
    """A mean beyond 0 and beyond 39 permutations of it; the truth is 0."""
    values = numbers(g, code, "normal")
    sums = np.bincount(code, weights=values)
    draws = g.choice((-1, 1), (39, sums.size)) @ sums / values.size
    columns = {"v": (values, "measure", "v"), "cluster": (code, "key", "c")}
    return (
        Claim(name="c", estimate=mean("v", table="rows"), text="", at_least=0.0, **NULL),
        columns,
        draws,
    )


RULES: dict[str, Callable] = {
    "beyond a fixed number": beyond_zero,
    "one class above the other": one_class_above,
    "beyond sign flips and 0": no_rank,
    "half of the answers, beyond a quarter": half_returned,
    "at most 2 % lost, surely less than 10 %": little_lost,
}


def supported(name: str, design: str, count: int, draws: int) -> str:
    """Per cent of claims that are supported and not true, and of claims with too few clusters."""
    code, found = clusters_of(count, design), 0
    if effective_clusters(code) < MIN_CLUSTERS - 1e-9:
        return "too few"  # whatever the numbers are
    generator = np.random.default_rng([count, DESIGNS.index(design), 100 + list(RULES).index(name)])
    for _ in range(draws):
        claim, columns, null = RULES[name](generator, code)
        found += evaluate([claim], _run(columns, null))[0].supported
    return f"{100 * found / draws:.1f}"


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--write", action="store_true", help="write the tables into docs/benchmarks.md"
    )
    parser.add_argument("--draws", type=int, default=10_000, help="data sets per cell")
    parser.add_argument(
        "--small", action="store_true", help="20 data sets, few cells: does it run?"
    )
    parser.add_argument(
        "--only", default="", help="rows of intervals whose name holds this alone; writes nothing"
    )
    options = parser.parse_args()
    if options.only and options.write:
        parser.error("--only prints rows of the table; without it the table is written")
    draws, counts = (20, (2, 8)) if options.small else (options.draws, CLUSTERS)
    cells = [
        (name, shape, design)
        for name, (_, shapes) in INTERVALS.items()
        if options.only in name
        for shape in shapes
        for design in DESIGNS
    ]
    rules = [(name, design) for name in RULES for design in DESIGNS if not options.only]
    with ProcessPoolExecutor() as pool:
        found = [[pool.submit(missed, *cell, count, draws) for count in counts] for cell in cells]
        verdicts = [
            [pool.submit(supported, *rule, count, draws) for count in counts] for rule in rules
        ]
        rows = [
            {"interval": name, "data": shape, "clusters": design}
            | {str(count): cell.result() for count, cell in zip(counts, line, strict=True)}
            for (name, shape, design), line in zip(cells, found, strict=True)
        ]
        judged = [
            {"rule": name, "clusters": design}
            | {str(count): cell.result() for count, cell in zip(counts, line, strict=True)}
            for (name, design), line in zip(rules, verdicts, strict=True)
        ]
    numbers_ = [str(count) for count in counts]
    text = (
        f"Per cent of {draws:,} data sets whose lower end lies above the truth / whose upper end"
        " lies below it, by number of clusters; 2.5 is"
        f" nominal.\n\n{markdown(rows, ['interval', 'data', 'clusters', *numbers_])}\n\nPer cent of"
        f" {draws:,} claims that are supported though just not true (data normal or yes and"
        f" no):\n\n{markdown(judged, ['rule', 'clusters', *numbers_])}"
    )
    print(text)
    if options.write:
        write_section("coverage", f"`python -m benchmarks.coverage --write`. {machine()}\n\n{text}")


if __name__ == "__main__":
    main()
