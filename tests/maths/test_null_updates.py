"""Random updates keep what they say they keep; corrections and the p of an observation beside scipy."""

import numpy as np
import pytest
import torch
from scipy import stats

from interp.maths.null_updates import permuted_update, rotated_update, seeded
from interp.maths.prediction import observation_interval, observation_p
from interp.maths.statistics import holm


def low_rank(rows, columns, rank=1):
    generator = torch.Generator().manual_seed(0)
    left, right = (
        torch.randn(size, generator=generator, dtype=torch.float64)
        for size in ((rows, rank), (rank, columns))
    )
    return left @ right


def test_a_rotation_keeps_the_spectrum_and_a_permutation_destroys_the_rank():
    """At 128 x 128 the spectral norm of rank 1 falls to 0.18, as docs/patch-weights.md says."""
    change = low_rank(128, 128)
    change /= change.norm()
    rotated = rotated_update(change, seeded(0, "a"))
    values = torch.linalg.svdvals(rotated)
    torch.testing.assert_close(values, torch.linalg.svdvals(change), atol=1e-12, rtol=0)
    assert torch.cosine_similarity(rotated.flatten(), change.flatten(), 0).abs() < 0.05
    permuted = permuted_update(change, seeded(0, "a"))
    assert sorted(permuted.flatten().tolist()) == sorted(change.flatten().tolist())
    assert torch.linalg.svdvals(permuted)[0] == pytest.approx(0.18, abs=0.01)


def test_rows_stay_apart_without_the_left_rotation():
    change = torch.zeros(50, 16, dtype=torch.float64)
    change[7] = 1
    rotated = rotated_update(change, seeded(0), left=False)
    assert rotated[7].norm() == pytest.approx(4)
    assert not rotated[[row for row in range(50) if row != 7]].any()
    assert (rotated_update(change, seeded(0)) != 0).any(1).sum() > 40


@pytest.mark.parametrize("shape", [(9,), (4, 5), (3, 4, 5)])
def test_norms_and_shapes_stay(shape):
    change = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    for update in (rotated_update, permuted_update):
        changed = update(change, seeded(3))
        assert changed.shape == change.shape
        assert changed.norm() == pytest.approx(change.norm().item(), rel=1e-5)
        assert not torch.equal(changed, change)
        assert torch.equal(changed, update(change, seeded(3)))
        assert not torch.equal(changed, update(change, seeded(3, "other")))


def test_holm_is_stepwise_and_never_below_p():
    p = np.array([0.01, 0.04, np.nan, 0.03, 0.005])
    np.testing.assert_allclose(holm(p), [0.03, 0.06, np.nan, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.5, 0.9]), [1.0, 1.0])
    assert holm([]).shape == (0,)


def test_the_p_of_an_observation_agrees_with_its_interval():
    draws = np.random.default_rng(0).normal(size=19)
    low, high = observation_interval(draws)
    assert observation_p(high, draws) == pytest.approx(0.025)
    assert observation_p(low, draws) == pytest.approx(0.975)
    scale = draws.std(ddof=1) * (1 + 1 / 19) ** 0.5
    assert observation_p(2.0, draws) == pytest.approx(stats.t.sf((2.0 - draws.mean()) / scale, 18))
    assert (observation_p(1.0, [0.0, 0.0]), observation_p(0.0, [0.0, 0.0])) == (0.0, 1.0)
    assert np.isnan([observation_p(np.nan, draws), observation_p(1.0, [2.0])]).all()
