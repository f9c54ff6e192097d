"""Singular vectors of two matrices: every invariant of the definition, and numpy's float64
decomposition as oracle.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.maths.subspaces import (
    compare_leading_vectors,
    compare_with_basis,
    effective_rank,
    leading_triplets,
    left_basis,
    product_values,
    random_rotation,
    singular_values,
)

SHAPES = [(96, 96), (200, 96), (96, 200), (7, 5)]


def orthogonal(size, seed):
    return torch.linalg.qr(
        torch.randn(size, size, generator=torch.Generator().manual_seed(seed)).double()
    ).Q


def spectrum(rows, columns, seed=0, slow=0.7):
    """A matrix with separated singular values."""
    p = min(rows, columns)
    values = 10 / torch.arange(1, p + 1).double() ** slow
    return (orthogonal(rows, seed)[:, :p] * values) @ orthogonal(columns, seed + 1)[:, :p].T


def pair(rows=96, columns=96, size=3.0, seed=0):
    """A matrix and a child with four strong new directions."""
    generator = torch.Generator().manual_seed(seed + 5)
    update = (
        torch.randn(rows, 4, generator=generator).double()
        @ torch.randn(4, columns, generator=generator).double()
    )
    base = spectrum(rows, columns, seed)
    return base.float(), (base + size * update / (rows * columns) ** 0.5).float()


def oracle(base, tuned, k):
    """Largest cosines by numpy in float64, and which of them are of vectors well apart from their
    neighbours.
    """
    mine, theirs = (np.linalg.svd(m.double().numpy(), full_matrices=False) for m in (tuned, base))
    cosines = np.abs(mine[0][:, :k].T @ theirs[0])
    best = cosines.argmax(1)

    def lonely(values, at):
        return np.array(
            [
                np.abs(np.delete(values, i) - values[i]).min(initial=np.inf) > 1e-3 * values[0]
                for i in at
            ]
        )

    return (
        mine[1][:k],
        cosines.max(1),
        lonely(mine[1], range(len(cosines))) & lonely(theirs[1], best),
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("k", [1, 5, 10])
@pytest.mark.parametrize("seed", [0, 1])
def test_cosines_and_values_are_those_of_a_float64_decomposition(shape, k, seed):
    base, tuned = pair(*shape, seed=seed)
    found, compared = compare_leading_vectors(base, tuned, k)
    sigma, cosine, separated = oracle(base, tuned, k)
    np.testing.assert_allclose(found.values, sigma, rtol=1e-6)
    assert separated.any()
    np.testing.assert_allclose(compared.cosine[separated], cosine[separated], atol=1e-4)
    clear = np.abs(cosine - 0.5) > 1e-4
    assert (compared.intruder.numpy() == (cosine < 0.5))[clear & separated].all()


@pytest.mark.parametrize(
    "shape", [(300, 260), (260, 300), pytest.param((1100, 1030), marks=pytest.mark.slow)]
)
def test_leading_vectors_are_singular_triplets(shape):
    """Also of a flat spectrum, and of one beyond the size up to which the square is formed."""
    generator = torch.Generator().manual_seed(3)
    for matrix in (torch.randn(*shape, generator=generator), spectrum(*shape).float()):
        found = leading_triplets(matrix, 6)
        exact = np.linalg.svd(matrix.double().numpy(), compute_uv=False)[:6]
        np.testing.assert_allclose(found.values, exact, rtol=1e-5)
        for one, other, turn in (
            (matrix, found.right, found.left),
            (matrix.T, found.left, found.right),
        ):
            residual = (one.double() @ other - turn * found.values).norm(dim=0)
            assert (residual <= 2e-3 * found.values[0]).all()
        eye = torch.eye(6).double()
        torch.testing.assert_close(found.left.T @ found.left, eye, atol=1e-6, rtol=0)


def test_a_start_does_not_hide_a_new_direction():
    """Started from the base's vectors, a new strongest one is still found."""
    base = spectrum(300, 300).float()
    new = 12 * torch.outer(orthogonal(300, 9)[:, 0], orthogonal(300, 8)[:, 0]).float()
    found = leading_triplets(base + new, 10, left_basis(base).vectors[:, :10])
    np.testing.assert_allclose(
        found.values, np.linalg.svd((base + new).double().numpy(), compute_uv=False)[:10], 1e-6
    )


def test_all_left_vectors_span_what_the_matrix_does():
    for shape in SHAPES:
        matrix = spectrum(*shape)
        basis = left_basis(matrix)
        p = min(shape)
        assert basis.vectors.shape == (shape[0], p)
        torch.testing.assert_close(basis.vectors.T @ basis.vectors, torch.eye(p), atol=1e-5, rtol=0)
        np.testing.assert_allclose(
            basis.values, np.linalg.svd(matrix.numpy(), compute_uv=False), rtol=1e-6
        )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_same_matrix_has_no_intruders(shape, side):
    base = spectrum(*shape).float()
    _, compared = compare_leading_vectors(base, base.clone(), 10, side=side)
    assert (compared.cosine == 1).all()
    assert not compared.intruder.any()
    # and by computing it, not by definition
    basis = left_basis(base)
    found = leading_triplets(base, 10)
    np.testing.assert_allclose(
        compare_with_basis(basis, found.left, found.values).cosine, 1, atol=1e-5
    )


@pytest.mark.parametrize("factor", [2.0, 0.1, -3.0])
def test_scaling_makes_no_intruders(factor):
    base = spectrum(96, 80).float()
    _, compared = compare_leading_vectors(base, factor * base)
    np.testing.assert_allclose(compared.cosine, 1, atol=1e-5)


def test_the_count_does_not_fall_with_eps_or_k():
    base, tuned = pair()
    counts = [
        [
            int(compare_leading_vectors(base, tuned, k, eps)[1].intruder.sum())
            for eps in (0.2, 0.4, 0.6, 0.9)
        ]
        for k in (2, 5, 12)
    ]
    assert counts[-1][-1] > counts[0][0]
    for row in (*counts, *zip(*counts, strict=True)):
        assert list(row) == sorted(row)


def test_rotating_both_alike_changes_nothing():
    base, tuned = pair()
    turn = orthogonal(96, 4).float()
    one, other = (
        compare_leading_vectors(base, tuned)[1],
        compare_leading_vectors(turn @ base, turn @ tuned)[1],
    )
    torch.testing.assert_close(one.cosine, other.cosine, atol=1e-4, rtol=0)
    torch.testing.assert_close(one.subspace, other.subspace, atol=1e-4, rtol=0)


def test_left_of_the_transpose_is_right():
    base, tuned = pair(96, 120)
    one, other = (
        compare_leading_vectors(base, tuned, side="right"),
        compare_leading_vectors(base.T, tuned.T),
    )
    torch.testing.assert_close(one[1].cosine, other[1].cosine)
    assert one[0].left.shape == (120, 10)


@pytest.mark.parametrize(("strength", "expected"), [(0.5, 0), (1.5, 1), (3.0, 1), (10.0, 1)])
def test_a_planted_direction_is_an_intruder_when_it_is_strong(strength, expected):
    """As the paper's toy case: a random rank-one update beside the largest singular value."""
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(128, 128, generator=generator) / 128**0.5
    new = torch.randn(128, generator=generator)
    new = new / new.norm()
    found, compared = compare_leading_vectors(base, base + strength * 2 * torch.outer(new, new))
    assert int(compared.subspace_intruder.sum()) == expected
    if expected:
        first = int(compared.subspace_intruder.nonzero()[0])
        assert first == 0
        assert float((found.left[:, 0].float() @ new).abs()) > 0.9


def test_a_rotated_cluster_is_an_intruder_by_one_vector_and_not_by_the_subspace():
    base = torch.eye(100)
    tuned = orthogonal(100, 2).float() @ base
    _, compared = compare_leading_vectors(base, tuned)
    assert compared.intruder.all()
    assert not compared.subspace_intruder.any()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=8), st.floats(0.1, 10))
def test_effective_rank(values, factor):
    values = torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
    found = effective_rank(values)
    assert 1 - 1e-9 <= found <= len(values) + 1e-9
    assert effective_rank(values * factor) == pytest.approx(found)


def test_effective_rank_of_known_spectra():
    assert effective_rank(torch.ones(8).double()) == pytest.approx(8)
    assert effective_rank(torch.tensor([3.0, 1.0]).double()) == pytest.approx(1.7548, abs=1e-4)
    assert effective_rank(torch.zeros(4).double()) == 0


def test_singular_values_of_a_product_come_from_its_factors():
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(80, 3, generator=generator), torch.randn(3, 60, generator=generator)
    torch.testing.assert_close(
        product_values(left, right), singular_values(left @ right)[:3], rtol=1e-5, atol=1e-6
    )
    assert effective_rank(singular_values(left @ right)) <= 3 + 1e-4


def test_a_random_update_has_the_same_singular_values_and_other_vectors():
    matrix = spectrum(90, 70).float()
    update = random_rotation(
        random_rotation(matrix, torch.Generator().manual_seed(0)).T,
        torch.Generator().manual_seed(1),
    ).T
    torch.testing.assert_close(
        singular_values(update), singular_values(matrix), rtol=1e-4, atol=1e-4
    )
    cosines = (leading_triplets(update, 5).left.T @ leading_triplets(matrix, 5).left).abs()
    assert float(cosines.max()) < 0.5


def test_random_updates_are_as_far_from_everything_as_random_vectors():
    """The largest of 128 cosines of a random direction: 0.25 in the mean, 0.34 at most in 99 of
    100.
    """
    base = torch.randn(128, 128, generator=torch.Generator().manual_seed(0))
    basis, start = left_basis(base), torch.eye(128)[:, :1]
    found = [
        float(
            compare_with_basis(
                basis,
                random_rotation(start, torch.Generator().manual_seed(seed)).double(),
                torch.ones(1).double(),
            ).cosine
        )
        for seed in range(200)
    ]
    assert np.mean(found) == pytest.approx(0.25, abs=0.02)
    assert np.quantile(found, 0.95) < 0.36
