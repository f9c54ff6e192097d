"""Scores of data selection: oracles by linear programming and plain loops, invariants, known toys."""

import math
from collections import Counter

import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import linprog
from scipy.stats import hypergeom

from interp.maths.data_selection import (
    bm25,
    calibrated_gradients,
    jaccard,
    places,
    random_recall,
    recall,
    scaled_codes,
    squared_distances,
    transport,
    words,
)

GENERATOR = np.random.default_rng(0)


def exact_transport(cost):
    """Optimal value and potentials of the rows, by a dense linear program."""
    n, m = cost.shape
    sums = np.vstack([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
    weights = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
    solved = linprog(cost.ravel(), A_eq=sums, b_eq=weights)
    return solved.fun, solved.eqlin.marginals[:n]


def gradients(pool, target, epsilon=0.05):
    return calibrated_gradients(transport(squared_distances(pool, target), epsilon).pool)


def test_small_epsilon_gives_value_and_potentials_of_the_linear_program():
    cost = squared_distances(GENERATOR.normal(size=(6, 3)), GENERATOR.normal(size=(5, 3)))
    value, potentials = exact_transport(cost)
    made = transport(cost, epsilon=0.002, max_iterations=20000)
    assert made.error <= 1e-6
    assert (made.plan * cost).sum() == pytest.approx(value, rel=1e-3)
    np.testing.assert_allclose(
        calibrated_gradients(made.pool), calibrated_gradients(potentials), atol=0.02
    )


def test_plan_has_uniform_sums_and_potentials_are_the_derivative_of_the_cost():
    cost = squared_distances(GENERATOR.normal(size=(7, 2)), GENERATOR.normal(size=(4, 2)))
    made = transport(cost, 0.1, 1e-12)
    np.testing.assert_allclose(made.plan.sum(0), 1 / 4, rtol=1e-9)
    np.testing.assert_allclose(made.plan.sum(1), 1 / 7, rtol=1e-9)
    # duality: at the optimum the regularised cost is the mean of both potentials
    entropy = 0.1 * (made.plan * np.log(made.plan * 28)).sum()
    assert (made.plan * cost).sum() + entropy == pytest.approx(
        made.pool.mean() + made.target.mean(), rel=1e-8
    )


def test_gradients_sum_to_zero_and_ignore_constants_order_and_scale():
    pool, target = GENERATOR.normal(size=(20, 4)), GENERATOR.normal(size=(6, 4)) + 1
    made = gradients(pool, target)
    assert made.sum() == pytest.approx(0.0, abs=1e-9)
    potentials = transport(squared_distances(pool, target)).pool
    np.testing.assert_allclose(calibrated_gradients(potentials + 5.0), made, atol=1e-9)
    by_hand = [f - np.delete(potentials, at).mean() for at, f in enumerate(potentials)]
    np.testing.assert_allclose(made, by_hand, atol=1e-12)
    order = GENERATOR.permutation(20)
    np.testing.assert_allclose(gradients(pool[order], target[::-1]), made[order], atol=1e-4)
    # the cost is over its median, and of distances
    np.testing.assert_allclose(gradients(100 * pool + 1e3, 100 * target + 1e3), made, atol=1e-4)


def test_duplicates_get_equal_gradients():
    pool, target = GENERATOR.normal(size=(12, 3)), GENERATOR.normal(size=(5, 3))
    pool[7] = pool[2]
    made = gradients(pool, target)
    assert made[7] == pytest.approx(made[2], abs=1e-12)


def test_a_pool_that_is_the_target_lacks_nothing():
    pool = GENERATOR.normal(size=(40, 3))
    made = transport(squared_distances(pool, pool))
    np.testing.assert_allclose(made.pool, made.target, rtol=1e-12)
    # a row that is far from all others gets epsilon log(n) / 2, and no row gets more
    assert np.ptp(made.pool) <= 0.05 * np.log(40) / 2
    assert np.ptp(calibrated_gradients(made.pool)) < 0.1 * np.ptp(gradients(pool, pool + 2.0))


def test_rare_rows_are_found_that_the_target_has_and_the_pool_lacks():
    """190 known, 10 rare and 20 foreign rows; half of the target is rare. Nearest to the mean of
    the target finds none of them.
    """
    known, rare, foreign = (np.zeros(8) for _ in range(3))
    rare[0], foreign[1] = 6.0, 6.0
    pool = np.concatenate(
        [
            centre + 0.5 * GENERATOR.normal(size=(count, 8))
            for centre, count in ((known, 190), (rare, 10), (foreign, 20))
        ]
    )
    target = np.concatenate(
        [centre + 0.5 * GENERATOR.normal(size=(20, 8)) for centre in (known, rare)]
    )
    made = gradients(pool, target)
    is_rare = np.arange(220) // 10 == 19
    assert recall(places(made, smallest_first=True), is_rare) == 1.0
    assert made[200:].mean() > made[:190].mean() > made[is_rare].mean()
    nearest = np.linalg.norm(pool - target.mean(0), axis=1)
    assert recall(places(nearest, smallest_first=True), is_rare) < 0.5


def test_epsilon_has_to_be_positive_and_no_iteration_means_an_error_is_reported():
    cost = squared_distances(GENERATOR.normal(size=(6, 3)), GENERATOR.normal(size=(5, 3)) + 3)
    with pytest.raises(ValueError, match="epsilon is 0"):
        transport(cost, 0.0)
    assert transport(cost, 0.001, 1e-9, 2).error > 1e-9
    assert not squared_distances(np.ones((3, 2)), np.ones((2, 2))).any()


def dense_jaccard(row, other):
    larger = np.maximum(row, other).sum()
    return np.minimum(row, other).sum() / larger if larger else 1.0


def test_jaccard_is_that_of_a_plain_loop_and_has_its_invariants():
    codes = GENERATOR.random((9, 15)) * (GENERATOR.random((9, 15)) < 0.3)
    codes[4] = 0.0
    prototype = codes[:3].mean(0)
    made = jaccard(sparse.csr_matrix(codes), prototype)
    np.testing.assert_allclose(made, [dense_jaccard(row, prototype) for row in codes], rtol=1e-12)
    assert (made >= 0).all()
    assert (made <= 1).all()
    assert jaccard(sparse.csr_matrix(codes[:1]), codes[0])[0] == pytest.approx(1.0)
    assert jaccard(sparse.csr_matrix(codes[4:5]), np.zeros(15))[0] == 1.0
    both = [jaccard(sparse.csr_matrix(codes[[a]]), codes[b])[0] for a, b in ((0, 1), (1, 0))]
    assert both[0] == pytest.approx(both[1], rel=1e-12)
    scaled = jaccard(sparse.csr_matrix(3 * codes), 3 * prototype)
    np.testing.assert_allclose(scaled, made, rtol=1e-12)


def test_codes_are_scaled_by_row_or_by_latent():
    codes = sparse.csr_matrix(np.array([[0.0, 2.0, 6.0], [0.0, 0.0, 0.0], [0.0, 4.0, 0.0]]))
    assert scaled_codes(codes, "none") is codes
    rows = scaled_codes(codes, "row").toarray()
    np.testing.assert_array_equal(rows, [[0, 0.25, 0.75], [0, 0, 0], [0, 1, 0]])
    latents = scaled_codes(codes, "latent").toarray()
    np.testing.assert_array_equal(latents, [[0, 0.5, 1], [0, 0, 0], [0, 1, 0]])


def test_bm25_is_that_of_a_plain_loop():
    pool = [words(t) for t in ("The cat, the cat.", "a dog and a cat", "nothing here", "DOG dog")]
    target = [words(t) for t in ("cat dog", "the dog dog", "unknown words")]
    mean_length = sum(map(len, pool)) / 4
    expected = []
    for row in pool:
        counts, total = Counter(row), 0.0
        for query in target:
            for word in query:
                d = sum(word in other for other in pool)
                idf = math.log(1 + (4 - d + 0.5) / (d + 0.5))
                norm = 1.5 * (1 - 0.75 + 0.75 * len(row) / mean_length)
                total += idf * counts[word] * 2.5 / (counts[word] + norm)
        expected.append(total / 3)
    np.testing.assert_allclose(bm25(pool, target), expected, rtol=1e-12)
    assert not bm25([[], []], target).any()
    assert words("Ångström_1 don't") == ["ångström_1", "don", "t"]


def test_places_recall_and_what_random_rows_give():
    scores = np.array([0.1, 0.9, 0.9, 0.2])
    np.testing.assert_array_equal(places(scores), [4, 1, 2, 3])
    np.testing.assert_array_equal(places(scores, smallest_first=True), [1, 3, 4, 2])
    marked = np.array([False, True, False, True])
    assert recall(places(scores), marked) == 0.5
    mean, low, high = random_recall(100, 10)
    assert mean == 0.1
    shares = np.array([hypergeom.cdf(count, 100, 10, 10) for count in range(11)])
    assert (low, high) == (0.0, np.searchsorted(shares, 0.975) / 10)
