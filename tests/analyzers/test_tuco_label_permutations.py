"""Permutations of labels: p counts ties, clusters stay whole, few arrangements are said."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import mannwhitneyu
from sklearn.metrics import roc_auc_score

from interp import claims
from interp.analyzers.tuco import Tuco
from interp.analyzers.tuco.findings import claims_of, permuted_aucs
from interp.errors import ClaimError
from interp.experiments.label_permutations import LabelPermutations
from interp.maths.auc import auc_difference_interval, pairwise_order
from interp.table import table as make_table
from tests.tuco_pairs import findings


def by_class(values, clusters=None, lengths=None, asked=None, seed=0):
    """A run of two classes made of numbers: positive ``values[0]``, negative ``values[1]``."""
    labels = [True] * len(values[0]) + [False] * len(values[1])
    clusters = (
        [f"c{row}" for row in range(len(labels))]
        if clusters is None
        else [*clusters[0], *clusters[1]]
    )
    lengths = np.full(len(labels), 5.0) if lengths is None else np.concatenate(lengths)
    asked = asked or Tuco(output=False)
    shuffles = LabelPermutations.from_clusters(labels, clusters, lengths)
    both = np.concatenate(values)
    columns = {
        "group": (["positive" if label else "negative" for label in labels], "key", ""),
        "cluster": (clusters, "key", ""),
        "tokens": (lengths, "measure", ""),
        "tuco": (both, "measure", ""),
        "base_own": (both[::-1].copy(), "measure", ""),
    }
    run = make_table(
        "tuco", columns, tables={"permuted": permuted_aucs(shuffles, asked, both, seed)}
    )
    return (
        claims.conclude(run, claims_of(asked, 0.0, len(labels), ("a", "b"), False, shuffles)),
        shuffles,
    )


@pytest.mark.parametrize("seed", range(30))
def test_p_counts_draws_that_equal_the_observed_auc(seed):
    """The AUC is discrete: one last bit between the value and its null would lose every tie.
    Counted by scipy here.
    """
    generator = np.random.default_rng(seed)
    counts = generator.integers(5, 9, 2)
    values = [generator.normal(0.8 * (not side), 1, counts[side]) for side in range(2)]
    run, _ = by_class(values)
    pairs = counts[0] * counts[1]
    above = [round(float(draw) * pairs) for draw in run.tables["permuted"]["auc"]]
    observed = mannwhitneyu(*values).statistic
    for name in ("separates", "separates-at-equal-length"):
        found = findings(run)[name]
        claims.check(found, run)
        assert found.value == observed / pairs
        b = sum(
            round(float(draw) * pairs) >= observed
            for draw in run.tables["permuted"][_column(found)]
        )
        assert found.p == (1 + b) / 201
    assert len(set(above)) < 200  # ties there are


def _column(found):
    return found.claim.null.column


def test_every_arrangement_drawn_gives_the_exact_p():
    """Of four and four clusters 70 arrangements: p over very many draws nears scipy's exact one."""
    values = [np.array([1.0, 2, 3, 7]), np.array([0.0, 0.5, 4, 5])]
    run, shuffles = by_class(values, asked=Tuco(output=False, permutations=4000))
    assert shuffles.n_permutations == 70
    exact = mannwhitneyu(*values, alternative="greater", method="exact").pvalue
    assert findings(run)["separates"].p == pytest.approx(exact, abs=0.03)
    assert findings(run)["separates"].verdict == claims.TOO_FEW


@pytest.mark.parametrize("twins", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_permutations_keep_clusters_whole(twins):
    """Eight clusters of eight a class, alike within and with no effect between: p is seldom small."""
    small, found = np.zeros(2), np.zeros(2)
    names = [[f"{sign * (not twins)}{row // 8}" for row in range(64)] for sign in "pn"]
    for draw in range(60):
        generator = np.random.default_rng(draw)
        values = [
            generator.normal(0, 1, 8).repeat(8) + generator.normal(0, 1, 64) for _ in range(2)
        ]
        for shift, counted in ((0, small), (4, found)):
            run, _ = by_class(
                [values[0] + shift, values[1]], names, asked=Tuco(output=False, permutations=60)
            )
            counted += [
                each.p <= 0.05
                for name, each in findings(run).items()
                if name.startswith("separates")
            ]
    assert (small <= 7).all()
    assert (found >= 50).all()


def test_with_few_clusters_nothing_is_tested_and_the_sentence_says_why():
    names = [["p0"] * 6 + ["p1"] * 6, ["n0"] * 6 + ["n1"] * 6]
    run, _ = by_class([np.arange(12) + 20.0, np.arange(12.0)], names)
    for name in ("separates", "separates-at-equal-length"):
        found = findings(run)[name]
        assert "in only 6 ways: too few for p of 5 %" in found.sentence
        assert found.verdict == claims.NOT_TESTED
    # a cluster of both classes exchanges the labels of its two sides
    assert (
        by_class([np.arange(4.0)] * 2, [["one", "one", "two", "two"]] * 2)[1].n_permutations == 2**2
    )


def test_the_control_that_no_tuning_touches_is_taken_in_the_direction_that_tells_more_apart():
    values = [np.linspace(1, 2, 8), np.linspace(0, 1.2, 8)]
    run, _ = by_class(values, asked=Tuco())
    found = findings(run)["separates-beyond-base"]
    plain_auc = roc_auc_score([1] * 8 + [0] * 8, np.concatenate(values)[::-1])
    assert plain_auc < 0.5
    assert found.control_value == pytest.approx(1 - plain_auc)
    assert found.value == pytest.approx(
        findings(run)["separates-at-equal-length"].value - (1 - plain_auc)
    )
    order = [
        pairwise_order(*values),
        1 - pairwise_order(*np.split(np.concatenate(values)[::-1], 2)),
    ]
    wanted = auc_difference_interval(*order, range(8), range(8, 16))
    assert found.interval == pytest.approx(wanted[1:])
    moved = replace(found, control_value=plain_auc)
    with pytest.raises(ClaimError, match="control_value"):
        claims.check(moved, run)
