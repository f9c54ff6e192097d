"""Nested rules against exact integrals, numpy's Gauss-Legendre rule and scipy's adaptive one."""

import itertools

import numpy as np
import pytest
from numpy.polynomial import legendre
from scipy import integrate

from interp.maths.quadrature import END_POINT, STEPS, mean_over_interval, nested_rules, rule

DEGREES = dict(zip(STEPS, (5, 11, 23, 47), strict=True))
EVERY = pytest.mark.parametrize("steps", STEPS)


def on(steps, function):
    return mean_over_interval(rule(steps), function(np.array(rule(steps).nodes)))


@EVERY
def test_polynomials_up_to_the_degree_are_exact_and_the_next_even_one_is_not(steps):
    # Legendre polynomials of [0, 1]: the mean of all but the constant one is zero
    for degree in range(1, DEGREES[steps] + 1):
        found = on(
            steps, lambda x, degree=degree: legendre.legval(2 * x - 1, np.eye(degree + 1)[degree])
        )
        assert abs(found) < 1e-12  # rounding of a node, times the slope at the ends
    above = DEGREES[steps] + 1
    assert abs(on(steps, lambda x: legendre.legval(2 * x - 1, np.eye(above + 1)[above]))) > 1e-6
    for power in (0, 1, 4, 5):
        assert on(steps, lambda x, power=power: x**power) == pytest.approx(
            1 / (power + 1), abs=4e-15
        )


def test_the_coarsest_rule_is_gausss():
    nodes, weights = legendre.leggauss(3)
    np.testing.assert_allclose(rule(3).nodes, (nodes + 1) / 2, atol=1e-16)
    np.testing.assert_allclose(list(rule(3).weights.values()), weights / 2, atol=1e-16)


@EVERY
def test_nodes_lie_inside_in_order_and_weights_are_positive(steps):
    nodes, weights = np.array(rule(steps).nodes), np.array(list(rule(steps).weights.values()))
    assert len(rule(steps)) == len(nodes) == steps
    assert nodes[0] > 0
    assert (np.diff(nodes) > 0).all()
    assert nodes[-1] < 1
    assert (weights > 0).all()
    assert weights.sum() == pytest.approx(1, abs=4e-15)
    np.testing.assert_allclose(nodes, 1 - nodes[::-1], atol=1e-16)
    np.testing.assert_allclose(weights, weights[::-1], atol=1e-16)


def test_each_rule_has_the_nodes_of_the_one_before():
    rules = nested_rules(31)
    assert [len(one) for one in rules] == list(STEPS)
    assert [len(one) for one in nested_rules(20)] == [3, 7, 15]
    for coarse, fine in itertools.pairwise(rules):
        assert set(coarse.nodes) < set(fine.nodes)
        assert coarse.nodes == fine.nodes[1::2]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: np.exp(2 * x),
        lambda x: 1 / (1 + np.exp(-8 * (x - 0.4))),
        lambda x: np.sin(7 * x),
        np.sqrt,
    ],
)
def test_smooth_functions_as_scipy_integrates_them(function):
    expected = integrate.quad(function, 0, 1, epsabs=1e-13, epsrel=1e-13)[0]
    errors = [abs(on(steps, function) - expected) for steps in STEPS]
    assert errors[-1] < (1e-12 if function is not np.sqrt else 1e-4)
    assert all(fine < coarse / 4 or fine < 1e-12 for coarse, fine in itertools.pairwise(errors))


def test_values_may_be_arrays_and_other_numbers_of_nodes_have_no_rule():
    values = np.stack([[node, node**2] for node in rule(7).nodes])
    np.testing.assert_allclose(mean_over_interval(rule(7), values), [1 / 2, 1 / 3])
    assert mean_over_interval(END_POINT, np.array([3.0])) == 3.0
    with pytest.raises(ValueError, match="20"):
        rule(20)
