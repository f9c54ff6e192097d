"""Ratios of norms: the toy cases and the bound of the paper, and what changes no ratio."""

import numpy as np
import pytest
import torch

from interp.maths.contribution_ratios import CumulativeContributions, norm, ratio


def test_the_toy_cases_of_the_paper():
    """FTC (h, -h/2, 0, 0), PTC (0, 0, h, -h/2): shares 1, 1, 1/3, 1/2; and f_PT (h, x), f_FT (2h,
    0): 1/4.
    """
    h, none = torch.rand(2, 1, 8).double() + 0.1, torch.zeros(2, 1, 8).double()
    running = CumulativeContributions()
    for base, tuned in ((none, h), (none, -h / 2), (h, none), (-h / 2, none)):
        running.add(base, tuned)
    np.testing.assert_allclose(torch.stack(running.betas)[:, 0], [1, 1, 1 / 3, 1 / 2], rtol=1e-12)
    running = CumulativeContributions()
    for base, tuned in ((h, 2 * h), (2 * h, none)):  # on the tuned stream, from x_0 = 0: x_1 = 2h
        running.add(base, tuned - base)
    assert running.betas[-1].tolist() == pytest.approx([1 / 4] * 2)
    assert ratio(*[torch.zeros(3)] * 2).tolist() == [0, 0, 0]


def test_shares_follow_the_norm():
    """Ratios: no matter how large both are, nor in which order coordinates stand; a turn changes L1
    and leaves L2.
    """
    generator = torch.Generator().manual_seed(0)
    base, tuned = torch.randn(2, 4, 1, 16, generator=generator, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(16, 16, generator=generator, dtype=torch.float64)).Q
    order = torch.randperm(16, generator=generator)

    def tuco(change, p):
        return ratio(norm(change(tuned), p), norm(change(base), p))

    for p in (1, 2):
        same = tuco(lambda value: value, p)
        torch.testing.assert_close(tuco(lambda value: 7 * value, p), same)
        torch.testing.assert_close(tuco(lambda value: value[..., order], p), same)
    torch.testing.assert_close(tuco(lambda value: value @ turn, 2), tuco(lambda value: value, 2))
    assert (tuco(lambda value: value @ turn, 1) - tuco(lambda value: value, 1)).abs().max() > 1e-3


def test_the_bound_of_the_paper_with_the_last_block_in_it():
    """|x_L^FT - x_L^PT| <= (1+B)^L max |FTCbar_l| <= L M (1+B)^L beta/(1-beta), over l = 1..L, on
    tanh nets.
    """
    generator = torch.Generator().manual_seed(0)
    blocks, width = 3, 6
    for number in range(60):
        first = 0.3 * torch.randn(blocks, width, width, generator=generator, dtype=torch.float64)
        second = first.clone()
        if number:  # the first: only the last block changed, where beta over l < L would be 0
            second += 0.1 * torch.randn(first.shape, generator=generator, dtype=torch.float64)
        else:
            second[-1] += 0.5
        x = y = torch.randn(width, generator=generator, dtype=torch.float64)
        running = CumulativeContributions()
        for base, tuned in zip(first, second, strict=True):
            ptc, update = torch.tanh(base @ x), torch.tanh(tuned @ x)
            running.add(ptc[None, None], (update - ptc)[None, None])
            x, y = x + update, y + torch.tanh(base @ y)
            largest = (
                norm(running.tuned).max()
                if not number or len(running.betas) == 1
                else max(largest, norm(running.tuned).max())
            )
        lipschitz = float(torch.stack([first, second]).abs().sum(2).max())
        beta = float(torch.stack(running.betas).max())
        assert beta > 0
        gap = float((x - y).abs().sum())
        assert gap <= (1 + lipschitz) ** blocks * float(largest) + 1e-12
        assert gap <= blocks * width * (1 + lipschitz) ** blocks * beta / (1 - beta) + 1e-12
