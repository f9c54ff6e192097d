"""Slopes of rows on codes: the oracle's numbers, without noise's length, and what classes gain by
them.
"""

import numpy as np
import pytest
import torch

from benchmarks.dictionaries_diff import held_out
from benchmarks.worlds.planted_pair import planted_pair
from interp.sae.analysis.activation_slopes import MAX_WIDTH, ActivationSlopes
from interp.sae.analysis.diff import compare_models
from interp.sae.analysis.jackknife import jackknife_estimate
from interp.sae.core.sparse_products import Codes
from tests.sae.test_cross_model_dictionaries import known

N, F, FOLDS = 400, 3, 5


def drawn(width=6, noise=0.1, seed=0):
    """Codes and two models' rows that hold them along given directions, with noise of their own."""
    generator = torch.Generator().manual_seed(seed)
    f = torch.rand(N, F, generator=generator) * (torch.rand(N, F, generator=generator) < 0.3)
    directions = [torch.randn(F, width, generator=generator) for _ in range(2)]
    rows = [
        f @ one + noise * torch.randn(N, width, generator=generator) + 0.5 for one in directions
    ]
    return f, directions, rows, torch.arange(N) % FOLDS


def lines(f, rows, folds, parts=1):
    made = ActivationSlopes(F, rows[0].shape[1], FOLDS, len(rows))
    for piece in torch.arange(N).chunk(parts):
        made.add(folds[piece], Codes.from_dense(f[piece]), *(part[piece] for part in rows))
    return made


def test_products_are_those_of_an_oracle_in_numpy():
    f, _, rows, folds = drawn()
    found = lines(f, rows, folds, parts=7).products({"bt": (0, 1), "tt": (1, 1)})
    codes, (base, tuned), fold = (
        f.double().numpy(),
        (part.double().numpy() for part in rows),
        folds.numpy(),
    )
    for name, (one, other) in {"bt": (base, tuned), "tt": (tuned, tuned)}.items():
        slopes = [
            np.stack([codes[fold == k].T @ (x[fold == k] - x.mean(0)) for k in range(FOLDS)])
            for x in (one, other)
        ]
        for row, without in enumerate([None, *range(FOLDS)]):
            expected = sum(
                (slopes[0][k] * slopes[1][j]).sum(1)
                for k in range(FOLDS)
                for j in range(FOLDS)
                if k != j and without not in (k, j)
            )
            np.testing.assert_allclose(found[name][row], expected, rtol=1e-9)


@pytest.mark.parametrize("parts", [1, 13])
def test_batches_do_not_matter_and_equal_rows_have_a_cosine_of_exactly_one(parts):
    f, _, rows, folds = drawn()
    found = lines(f, [rows[0], rows[0]], folds, parts).products({"bb": (0, 0), "bt": (0, 1)})
    np.testing.assert_array_equal(found["bb"], found["bt"])
    np.testing.assert_allclose(
        found["bb"], lines(f, [rows[0]], folds).products({"": (0, 0)})[""], rtol=1e-9
    )


def test_noise_has_no_length():
    """Two noisy copies of one direction: plain slopes are at an angle, products across folds are
    not.
    """
    misses, plain = 0, []
    for seed in range(20):
        f, directions, _, folds = drawn(40, seed=seed)
        generator = torch.Generator().manual_seed(100 + seed)
        rows = [f @ directions[0] + 2 * torch.randn(N, 40, generator=generator) for _ in range(2)]
        made = lines(f, rows, folds)
        one, other = made.slopes().sum(0).chunk(2, 1)
        plain.append(float(torch.cosine_similarity(one, other).mean()))
        got = made.products({"bb": (0, 0), "bt": (0, 1), "tt": (1, 1)})
        cosine = jackknife_estimate(got["bt"] / np.sqrt(got["bb"] * got["tt"]))
        misses += int(((cosine.low > 1) | (cosine.high < 1)).sum())
    assert np.mean(plain) < 0.9
    assert misses <= 10  # of 60 intervals of 95 %


def test_wide_rows_are_projected_and_angles_stay():
    f, (one, _), _, folds = drawn(8 * MAX_WIDTH)
    turned = one + 0.5 * one.roll(1, 1)
    rows = [f @ one, f @ turned]
    made = lines(f, rows, folds)
    assert made.slopes().shape == (FOLDS, F, 2 * MAX_WIDTH)
    got = made.products({"bb": (0, 0), "bt": (0, 1), "tt": (1, 1)})
    whole = [part.double().sub(part.double().mean(0)) for part in rows]
    slopes = [f.double().T @ part for part in whole]
    expected = torch.cosine_similarity(*slopes).numpy()
    np.testing.assert_allclose((got["bt"] / np.sqrt(got["bb"] * got["tt"]))[0], expected, atol=0.05)


def test_halves_of_a_split_feature_are_not_rotated():
    """Two latents share a feature and take off what they have of another: decoders turn and rows do
    not.
    """
    pair = planted_pair(48, seed=2)
    dictionary = known(pair, "crosscoder")
    shared, own, rotated = (pair.kinds.index(kind) for kind in ("shared", "easy", "rotated"))
    other = shared + 1
    assert pair.kinds[other] == "shared"
    with torch.no_grad():
        for part in (dictionary.b_enc, dictionary.threshold, dictionary.W_enc.T):
            part[other] = part[shared]
        dictionary.W_dec[other] = dictionary.W_dec[shared] / 2
        dictionary.W_dec[shared] /= 2
        dictionary.W_dec[shared, 48:] += 0.25 * pair.tuned[own]
        dictionary.W_dec[other, 48:] -= 0.25 * pair.tuned[own]
    found = compare_models(dictionary, "crosscoder", held_out(pair, 8))
    for half in (shared, other):
        assert found["part_cosine_high"][half] < 0.95
        assert found["cosine_low"][half] > 0.95
        assert found["class"][half] == "unclear"
    assert found["class"][rotated] == "rotated"
    assert found["cosine"][rotated] == pytest.approx(np.cos(np.pi / 6), abs=0.01)


def test_a_difference_whose_row_points_elsewhere_is_not_claimed():
    pair = planted_pair(48, seed=2)
    own, junk = (
        pair.kinds.index("easy"),
        torch.randn(48, generator=torch.Generator().manual_seed(3)),
    )
    junk = junk / junk.norm()
    for amount, named in ((0.3, "tuned-only"), (2.0, "unclear")):
        dictionary = known(pair, "difference")
        with torch.no_grad():
            dictionary.W_dec[own] += amount * junk
        found = compare_models(dictionary, "difference", held_out(pair, 8))
        row = dictionary.W_dec[own].detach()
        expected = float(torch.cosine_similarity(row, pair.tuned[own], dim=0))
        assert found["row_cosine"][own] == pytest.approx(expected, abs=0.05)
        assert (found["class"][own], bool(found["claimed"][own])) == (named, named == "tuned-only")
