"""Streaming accumulators against numpy in float64, however the rows are parted and merged."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.maths.host import to_host
from interp.maths.moments import Moments, TopK, float64_blocks, float64_sum
from interp.maths.precision import widen


def parts(rows, cuts):
    edges = [0, *sorted(cut % (len(rows) + 1) for cut in cuts), len(rows)]
    return [rows[a:b] for a, b in itertools.pairwise(edges)]


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 40),
    st.lists(st.integers(0, 50), max_size=4),
    st.integers(0, 99),
    st.sampled_from([0.0, 1e4]),
)
def test_moments_in_pieces_are_numpys_of_the_whole(count, cuts, seed, offset):
    rows = torch.randn(count, 2, 3, generator=torch.Generator().manual_seed(seed)) + offset
    merged = Moments.empty((2, 3))
    for piece in parts(rows, cuts):
        merged.merge(Moments.empty((2, 3)).update(piece))
    exact = rows.double().numpy()
    assert merged.count == count
    np.testing.assert_allclose(merged.mean, exact.mean(0), rtol=1e-13, atol=1e-12)
    np.testing.assert_allclose(merged.root_mean_square, np.sqrt((exact**2).mean(0)), rtol=1e-13)
    spread = exact.var(0, ddof=1) if count > 1 else np.zeros((2, 3))
    np.testing.assert_allclose(merged.variance, spread, rtol=1e-9, atol=1e-9)


def test_a_large_mean_does_not_swallow_a_small_variance():
    rows = 1e8 + torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    found = Moments.empty((1,))
    for row in rows:
        found.update(row[None])
    assert found.variance.item() == pytest.approx(1.0, abs=1e-6)


def test_many_rows_at_once_are_numpys_of_the_whole_and_stay_as_they_were():
    rows = (
        torch.randn(75, 3000, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) + 7
    )
    before = rows.clone()
    assert len(list(float64_blocks(rows))) > 3
    seen = Moments.empty((3000,)).update(rows)
    assert torch.equal(rows, before)
    np.testing.assert_allclose(seen.mean, rows.numpy().mean(0), rtol=1e-14)
    np.testing.assert_allclose(seen.variance, rows.numpy().var(0, ddof=1), rtol=1e-12)
    np.testing.assert_allclose(float64_sum(rows), rows.numpy().sum(0), rtol=1e-13)
    assert not Moments.empty((3000,)).update(torch.full((75, 3000), 0.1)).deviation.any()


def test_nothing_seen_is_zero_and_changes_nothing():
    empty = Moments.empty((4,)).update(torch.ones(0, 4)).merge(Moments.empty((4,)))
    assert empty.count == 0
    assert not empty.mean.any()
    assert not empty.variance.any()
    assert not empty.root_mean_square.any()
    one = Moments.empty((4,)).update(torch.ones(1, 4))
    assert not one.variance.any()
    assert torch.equal(one.merge(Moments.empty((4,))).mean, torch.ones(4).double())


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 30),
    st.lists(st.integers(0, 50), max_size=4),
    st.integers(1, 5),
    st.integers(0, 99),
)
def test_top_k_in_pieces_is_a_stable_sort_of_the_whole(count, cuts, k, seed):
    generator = torch.Generator().manual_seed(seed)
    # few distinct values, so that ties happen
    values = torch.randint(0, 6, (count, 3), generator=generator).float()
    numbers = torch.arange(100, 100 + count)
    found = TopK.empty(3, k)
    for piece, names in zip(parts(values, cuts), parts(numbers, cuts), strict=True):
        found.update(piece, names)
    for feature in range(3):
        order = np.argsort(-values[:, feature].numpy(), kind="stable")[:k]
        assert found.rows[feature, : len(order)].tolist() == (100 + order).tolist()
        assert found.values[feature, : len(order)].tolist() == values[order, feature].tolist()
    assert (found.rows[:, count:] == -1).all()
    assert torch.isneginf(found.values[:, count:]).all()


def test_rows_that_are_not_kept_never_count():
    found = TopK.empty(1, 2).update(
        torch.tensor([[9.0], [1.0], [5.0]]), torch.arange(3), torch.tensor([False, True, True])
    )
    assert found.rows.tolist() == [[2, 1]]


def test_memory_does_not_depend_on_rows():
    few, many = (TopK.empty(2, 3).update(torch.randn(n, 2), torch.arange(n)) for n in (5, 5000))
    assert few.values.shape == many.values.shape == few.rows.shape


def test_shapes_are_checked_when_tests_run():
    """The annotations are executed: a wrong shape raises here, and costs users nothing."""
    with pytest.raises(TypeError, match="rows"):
        TopK.empty(2, 3).update(torch.zeros(4, 2), torch.zeros(5, dtype=torch.int64))


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int64]
)
def test_to_host_keeps_values(dtype):
    value = torch.tensor([[1.5, -2.0]]).to(dtype).requires_grad_(dtype.is_floating_point)
    found = to_host(value)
    assert found.tolist() == value.tolist()
    assert found.dtype == (np.float32 if dtype.itemsize == 2 else str(dtype).removeprefix("torch."))
    assert widen(value.detach()).dtype == (torch.float32 if dtype.itemsize == 2 else dtype)
