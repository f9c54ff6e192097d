"""Scores of all methods, rows of the tables, nulls and claims of data selection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from interp.analyzers.data_selection.rows import ReadRows
from interp.claims import Claim, Draws, mean
from interp.maths.auc import count_label_arrangements, shuffled_labels
from interp.maths.data_selection import (
    bm25,
    calibrated_gradients,
    jaccard,
    places,
    random_recall,
    recall,
    scaled_codes,
    squared_distances,
    stacked,
    transport,
    words,
)
from interp.maths.statistics import roc_auc
from interp.prompts import PromptSet
from interp.rows import DrawRow, flag, key, measure, rows_table, text
from interp.table import Table

GOT_D, MONA, BM25 = "got-d", "mona", "bm25"
METHODS = (GOT_D, MONA, BM25)
RANDOM, LENGTH = "random", "length"
EXCERPT = 160
"""Characters of a row that the table shows."""
NAMES = {
    GOT_D: "optimal transport (GOT-D)",
    MONA: "Jaccard similarity of codes (MONA)",
    BM25: "BM25",
}


class SelectionRow:
    """A row per row of the pool, in the order of the first method."""

    row_id: int = key("position in the file of the pool, from 0")
    cluster: str = key("rows that are not independent of each other share a cluster")
    selected: bool = flag("among the first of the first method")
    marked: bool = flag("marked as wanted (--marks)", optional=True)
    evidence: str = text("the row, its beginning")
    length: int = measure("tokens that count", "tokens")
    got_d: float = measure(
        "change of the transport cost between pool and target with the row's weight, in median"
        " squared distances; the smallest come first",
        optional=True,
    )
    mona: float = measure(
        "generalised Jaccard similarity of its mean codes and the target's", optional=True
    )
    bm25: float = measure("BM25, mean over target rows", optional=True)
    rank_got_d: int = measure("place by got_d, from 1", optional=True)
    rank_mona: int = measure("place by mona, from 1", optional=True)
    rank_bm25: int = measure("place by bm25, from 1", optional=True)


class RecallRow:
    """A row per method."""

    method: str = key("method; random rows, and the longest rows, for comparison")
    recall: float = measure("share of marked rows among as many that come first")
    auc: float = measure("AUC of the score for marked rows; NaN for random rows")
    random: float = measure("recall of as many random rows, expected")
    random_low: float = measure("its 95 % interval (hypergeometric)")
    random_high: float = measure("its 95 % interval (hypergeometric)")


class FoundRow:
    """A row per method and marked row."""

    method: str = key("method")
    row_id: int = key("position in the file of the pool, from 0")
    cluster: str = key("rows that are not independent of each other share a cluster")
    found: bool = flag("among as many rows as are marked")


class OrdinaryRow(DrawRow):
    """A row per target that was drawn from ordinary rows of the pool, and method."""

    method: str = key("method")
    overlap: float = measure("share of the rows taken that are taken for the given target too")
    recall: float = measure("share of marked rows among as many that come first", optional=True)


class PermutedRow(DrawRow):
    """A row per permutation of the marks and method, or per selection of random rows."""

    method: str = key("method")
    recall: float = measure("share of marked rows among as many that come first")


@dataclass(frozen=True)
class Settings:
    """``epsilon`` of optimal transport, ``scale`` of codes, ``k1`` and ``b`` of BM25."""

    epsilon: float
    scale: str
    k1: float
    b: float


@dataclass(frozen=True)
class Scores:
    """Scores [n] by method, and how far optimal transport was from its solution."""

    values: dict[str, Float[np.ndarray, " n"]]
    error: float = 0.0

    def ranks(self, method: str) -> Int[np.ndarray, " n"]:
        """Places from 1: of optimal transport the smallest come first."""
        return places(self.values[method], smallest_first=method == GOT_D)


def score_rows(
    methods: Sequence[str], pool: ReadRows, target: ReadRows, settings: Settings
) -> Scores:
    """The scores of the pool's rows for a target."""
    values, error = {}, 0.0
    for method in methods:
        if method == GOT_D:
            plan = transport(squared_distances(pool.streams, target.streams), settings.epsilon)
            values[method], error = calibrated_gradients(plan.pool), plan.error
        elif method == MONA:
            both = scaled_codes(stacked(pool.codes, target.codes), settings.scale)
            n = len(pool.texts)
            values[method] = jaccard(both[:n], np.asarray(both[n:].mean(0)).ravel())
        else:
            texts, queries = ([words(one) for one in part.texts] for part in (pool, target))
            values[method] = bm25(texts, queries, settings.k1, settings.b)
    return Scores(values, error)


def selection_table(
    scores: Scores, rows: PromptSet, read: ReadRows, taken: int, marked: Sequence[bool]
) -> Table:
    """One row per row of the pool, ordered by the first method."""
    first = next(iter(scores.values))
    order, prompts = np.argsort(scores.ranks(first)), list(rows)
    columns = {
        "row_id": np.array([row.id for row in prompts])[order],
        "cluster": np.array([row.cluster for row in prompts])[order],
        "selected": scores.ranks(first)[order] <= taken,
        "evidence": [_excerpt(prompts[at].text) for at in order.tolist()],
        "length": read.lengths[order],
    }
    if len(marked):
        columns["marked"] = np.array(marked, bool)[order]
    for method, values in scores.values.items():
        name = method.replace("-", "_")
        columns |= {name: values[order], f"rank_{name}": scores.ranks(method)[order]}
    return rows_table(SelectionRow, "", columns)


def recall_tables(
    scores: Scores,
    rows: PromptSet,
    lengths: Int[np.ndarray, " n"],
    marked: Bool[np.ndarray, " n"],
    draws: tuple[int, int],
    seed: int,
) -> tuple[dict[str, Table], float]:
    """``recall``, ``found`` and ``permuted``, and the number of distinct permutations of the marks.

    ``draws``: permutations of the marks, and selections of random rows. Marks are permuted among
    clusters; of a cluster with marked and other rows these are permuted as two.
    """
    methods, ids = list(scores.values), np.array([row.id for row in rows])
    clusters = np.array(rows.clusters)
    names = [f"{name} {mark}" for name, mark in zip(clusters, marked, strict=True)]
    units = np.unique(names, return_inverse=True)[1]
    strata = np.zeros(units.max() + 1, np.int64)
    shuffled = list(shuffled_labels(marked, units, strata, draws[0], seed))
    generator = np.random.default_rng(seed)
    random = [recall(generator.permutation(len(marked)) + 1, marked) for _ in range(draws[1])]
    null = {
        method: [recall(scores.ranks(method), each) for each in shuffled] for method in methods
    } | {RANDOM: random}
    chance = random_recall(len(marked), int(marked.sum()))
    by_method = [*methods, RANDOM, LENGTH]
    values = scores.values | {LENGTH: lengths.astype(np.float64)}
    tables = {
        "recall": rows_table(
            RecallRow,
            "",
            {
                "method": by_method,
                "recall": [
                    *(recall(scores.ranks(method), marked) for method in methods),
                    float(np.mean(random)),
                    recall(places(values[LENGTH]), marked),
                ],
                "auc": [
                    np.nan
                    if method == RANDOM
                    else roc_auc(marked, (-1 if method == GOT_D else 1) * values[method])
                    for method in by_method
                ],
                **{
                    name: np.full(len(by_method), number)
                    for name, number in zip(
                        ("random", "random_low", "random_high"), chance, strict=True
                    )
                },
            },
        ),
        "found": rows_table(
            FoundRow,
            "",
            {
                "method": np.repeat(methods, marked.sum()),
                "row_id": np.tile(ids[marked], len(methods)),
                "cluster": np.tile(clusters[marked], len(methods)),
                "found": np.concatenate(
                    [scores.ranks(one)[marked] <= marked.sum() for one in methods]
                ),
            },
        ),
        "permuted": rows_table(
            PermutedRow,
            "",
            {
                "draw": np.concatenate([np.arange(len(part)) for part in null.values()]),
                "method": [method for method, part in null.items() for _ in part],
                "recall": np.concatenate(list(null.values())),
            },
        ),
    }
    return tables, float(count_label_arrangements(marked, units, strata))


def ordinary_table(
    score: Callable[[ReadRows, ReadRows], Scores],
    scores: Scores,
    pool: ReadRows,
    n_target: int,
    taken: int,
    marked: Bool[np.ndarray, " n"],
    draws: Iterable[int],
    seed: int,
) -> Table:
    """Scores for targets drawn from the pool's rows that are not marked, as many rows as the target
    has or half of those there are; the drawn rows are taken out of the pool.
    """
    ordinary = np.flatnonzero(~marked)
    size = max(1, min(n_target, len(ordinary) // 2))
    given = {method: scores.ranks(method) for method in scores.values}
    columns: dict[str, list] = {"draw": [], "method": [], "overlap": [], "recall": []}
    generator = np.random.default_rng([seed, 1])
    for draw in draws:
        drawn = generator.choice(ordinary, size, replace=False)
        left = np.setdiff1d(np.arange(len(marked)), drawn)
        made = score(pool.keep(left), pool.keep(drawn))
        for method in made.values:
            ranks = made.ranks(method)
            columns["draw"].append(draw)
            columns["method"].append(method)
            columns["overlap"].append(float((given[method][left][ranks <= taken] <= taken).mean()))
            columns["recall"].append(recall(ranks, marked[left]) if marked.any() else np.nan)
    if not marked.any():
        del columns["recall"]
    return rows_table(OrdinaryRow, "", columns)


def claims_of(
    methods: Sequence[str], n_rows: int, n_marked: int, arrangements: float
) -> list[Claim]:
    """By method: it finds marked rows, and with an ordinary target it does not; without marks, that
    what it takes depends on the target, which is not tested.
    """
    if not n_marked:
        return [_depends(method) for method in methods]
    share, _, high = random_recall(n_rows, n_marked)
    claims = []
    for method in methods:
        chosen = {"method": method}
        claims += [
            Claim(
                name=f"{method}-finds-marked",
                estimate=mean("found", table="found", where=chosen),
                at_least=share,
                null=Draws("permuted", "recall", where=chosen, arrangements=arrangements),
                control="marks permuted among the pool's rows",
                text=(
                    f"Of the {n_marked} marked rows {{value:.0%}} [{{low:.0%}}, {{high:.0%}}] are"
                    f" among the first {n_marked} of {n_rows} by {NAMES[method]}; of as many random"
                    f" rows {share:.0%} would be; with permuted marks {{control_low:.0%}} to"
                    " {control_high:.0%} (95 %), p = {p:.2g}."
                ),
            ),
            Claim(
                name=f"{method}-ordinary-finds-none",
                estimate=mean("recall", table="ordinary", where=chosen, cluster="draw"),
                at_most=high,
                reference=share,
                control="as many rows taken at random",
                text=(
                    f"For targets drawn from rows that are not marked, {NAMES[method]} finds"
                    f" {{value:.0%}} of the marked rows; random rows give {share:.0%}, at most"
                    f" {high:.0%} in 95 % of selections."
                ),
            ),
        ]
    return claims


def _depends(method: str) -> Claim:
    chosen = {"method": method}
    return Claim(
        name=f"{method}-depends-on-target",
        estimate=mean("overlap", table="ordinary", where=chosen, cluster="draw"),
        at_most=0.5,
        missing="no row was said to be wanted (--marks)",
        text=(
            f"Of the rows that {NAMES[method]} takes for a target drawn from the pool itself,"
            " {value:.0%} [{low:.0%}, {high:.0%}] are also taken for the given target."
        ),
    )


def _excerpt(row: str) -> str:
    line = " ".join(row.split())
    return line if len(line) <= EXCERPT else f"{line[: EXCERPT - 1]}…"
