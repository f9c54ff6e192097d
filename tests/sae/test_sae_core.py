"""Dictionaries: gradients by active rows equal plain autograd's, folds change nothing, files come
back as they went.
"""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from interp.errors import DictionaryError, OptionError
from interp.sae import DictionaryConfig, fold_decoder_norm, fold_scale, load, save
from interp.sae.core.config import ARCHITECTURES, BATCHTOPK_ARCHITECTURES, TOPK_ARCHITECTURES
from interp.sae.core.dictionary import Dictionary
from interp.sae.core.matching_pursuit import pursue
from interp.sae.core.sparse_products import Codes, autoencode, topk_per_batch, topk_per_row
from interp.sae.core.straight_through import heaviside, jumprelu
from interp.sae.training.losses import RECONSTRUCTIONS, auxiliary_loss, training_loss

D, F, K, N = 10, 24, 3, 32


def config(architecture, **more):
    more.setdefault("k", K if architecture in TOPK_ARCHITECTURES else None)
    if architecture == "matryoshka":
        more.setdefault("prefixes", (6, 12, F))
    return DictionaryConfig(architecture, D, F, **more)


def made(architecture, dtype=torch.float64, **more):
    """A dictionary whose parameters are all in play."""
    dictionary = Dictionary(config(architecture, **more), seed=3).to(dtype)
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, value in dictionary.named_parameters():
            if name not in ("W_dec", "W_enc"):
                value.add_(0.3 * torch.rand(value.shape, generator=generator).to(value))
        if architecture != "matching_pursuit":
            noise = torch.rand(F, generator=generator).to(dictionary.W_dec) + 0.5
            dictionary.W_dec.mul_(
                noise[:, None]
                if architecture not in TOPK_ARCHITECTURES or more.get("rank_by") == "norm"
                else 1
            )
        if architecture in BATCHTOPK_ARCHITECTURES:
            dictionary.threshold.fill_(0.4)
    return dictionary


@pytest.fixture
def x():
    return torch.randn(N, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def written_out(dictionary, x):
    """Codes and output by numpy, from the formulas."""
    c = dictionary.config
    p = {name: value.detach().numpy() for name, value in dictionary.state_dict().items()}
    v = x.numpy() - (p["b_dec"] if c.input_bias or c.architecture == "matching_pursuit" else 0)
    if c.architecture == "matching_pursuit":
        codes = np.zeros((len(v), F))
        for row in range(len(v)):
            rest, seen = v[row].copy(), set()
            for _ in range(D if c.steps is None else c.steps):
                scores = p["W_dec"] @ rest
                best = int(scores.argmax())
                if np.linalg.norm(rest) < c.residual_threshold or scores[best] <= 0:
                    break
                codes[row, best] += scores[best]
                rest = rest - scores[best] * p["W_dec"][best]
                if best in seen:
                    break
                seen.add(best)
        return codes, codes @ p["W_dec"] + p["b_dec"]
    if c.architecture == "gated":
        h = v @ p["W_enc"]
        codes = (h + p["b_gate"] > 0) * np.maximum(h * np.exp(p["r_mag"]) + p["b_mag"], 0)
    else:
        pre = v @ p["W_enc"] + p["b_enc"]
        codes = np.maximum(pre, 0)
        rank = codes * (np.linalg.norm(p["W_dec"], axis=1) if c.rank_by == "norm" else 1)
        if c.architecture == "topk":
            kept = np.argsort(-rank, 1)[:, :K]
            mask = np.zeros_like(codes, bool)
            np.put_along_axis(mask, kept, True, 1)
            codes = codes * mask
        elif c.architecture == "jumprelu" or c.architecture in BATCHTOPK_ARCHITECTURES:
            codes = codes * (rank > p["threshold"])
    return codes, codes @ p["W_dec"] + p["b_dec"]


CASES = (
    [(name, {}) for name in ARCHITECTURES]
    + [(name, {"rank_by": "norm"}) for name in TOPK_ARCHITECTURES]
    + [(name, {"input_bias": False}) for name in ("standard", "topk", "jumprelu")]
)


@pytest.mark.parametrize(("architecture", "more"), CASES)
def test_codes_and_output_are_the_formulas(x, architecture, more):
    dictionary = made(architecture, **more)
    codes, output = written_out(dictionary, x)
    found = dictionary.reconstruct(x)
    np.testing.assert_allclose(found.codes.dense().detach(), codes, atol=1e-12)
    np.testing.assert_allclose(found.output.detach(), output, atol=1e-12)
    np.testing.assert_allclose(dictionary.decode(found.codes).detach(), output, atol=1e-12)
    np.testing.assert_allclose(dictionary.decode(dictionary.encode(x)).detach(), output, atol=1e-12)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_input_is_encoded_alike_alone_and_in_any_batch(x, architecture):
    dictionary = made(architecture)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(2))
    whole = dictionary.encode(x)
    torch.testing.assert_close(dictionary.encode(x[order]), whole[order])
    torch.testing.assert_close(torch.cat([dictionary.encode(row[None]) for row in x]), whole)


@pytest.mark.parametrize("choose", [topk_per_row, topk_per_batch])
@pytest.mark.parametrize("subtract", [True, False])
def test_gradients_by_active_rows_equal_plain_autograd(x, choose, subtract):
    dictionary = made("topk")
    given = [x.clone(), dictionary.W_enc, dictionary.b_enc, dictionary.W_dec, dictionary.b_dec]
    given = [value.detach().clone().requires_grad_() for value in given]
    out, codes = autoencode(*given, subtract_bias=subtract, selector=lambda pre: choose(pre, K))
    slope = torch.randn(out.shape, generator=torch.Generator().manual_seed(3), dtype=out.dtype)
    ours = torch.autograd.grad((out * slope).sum() + codes.values.square().sum(), given)
    v, w_enc, b_enc, w_dec, b_dec = given
    pre = (v - b_dec if subtract else v) @ w_enc + b_enc
    mask = codes._replace(values=torch.ones_like(codes.values)).dense().detach()
    plain = ((pre * mask) @ w_dec + b_dec) * slope
    theirs = torch.autograd.grad(plain.sum() + (pre * mask).square().sum(), given)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)


def test_a_batch_gives_its_largest_wherever_they_are():
    generator = torch.Generator().manual_seed(4)
    for heavy in (0, 1, 5):
        pre = torch.rand(16, 200, generator=generator)
        pre[:heavy] += 3  # rows that take more than their share
        pattern = topk_per_batch(pre, 4)
        kept = set(zip(pattern.rows.tolist(), pattern.latents.tolist(), strict=True))
        best = pre.flatten().topk(64).indices
        assert kept == {(int(i) // 200, int(i) % 200) for i in best}
    few = torch.where(torch.rand(16, 200, generator=generator) < 0.005, 1.0, -1.0)
    assert len(topk_per_batch(few, 4).latents) == int((few > 0).sum())
    assert len(topk_per_row(-pre, 4).latents) == 0
    ties = torch.ones(8, 50)
    assert len(topk_per_batch(ties, 3).latents) == 24


@pytest.mark.parametrize(
    "architecture", ["standard", "gated", "topk", "batchtopk", "matryoshka", "matching_pursuit"]
)
@pytest.mark.parametrize("convention", RECONSTRUCTIONS)
def test_slopes_of_losses_by_finite_differences(x, architecture, convention):
    dictionary = made(architecture, loss=convention)
    loss = training_loss(dictionary, x, sparsity=0.1)
    names = [name for name, value in dictionary.named_parameters() if name != "threshold"]
    slopes = torch.autograd.grad(
        loss.total, [getattr(dictionary, name) for name in names], allow_unused=True
    )
    generator = torch.Generator().manual_seed(5)
    for name, slope in zip(names, slopes, strict=True):
        # a gate is straight between steps, and its decoder held still in the second term of its
        # loss
        if slope is None or (architecture == "gated" and name in ("W_dec", "b_dec")):
            continue
        value = getattr(dictionary, name)
        way = torch.randn(value.shape, generator=generator, dtype=value.dtype)
        size, ends = 1e-6, []
        for sign in (1, -1):
            with torch.no_grad():
                value.add_(sign * size * way)
                ends.append(training_loss(dictionary, x, sparsity=0.1).total.item())
                value.sub_(sign * size * way)
        assert (ends[0] - ends[1]) / (2 * size) == pytest.approx(
            float((slope * way).sum()), rel=1e-4, abs=1e-6
        )


def test_slopes_through_thresholds_are_the_closed_form():
    generator = torch.Generator().manual_seed(6)
    value = torch.rand(200, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    threshold = torch.full((5,), 0.5, dtype=torch.float64, requires_grad=True)
    slope, width = torch.rand(200, 5, generator=generator, dtype=torch.float64), 0.2
    near = ((value - threshold).abs() / width < 0.5).double()
    for_x, for_threshold = torch.autograd.grad(
        (jumprelu(value, threshold, width) * slope).sum(), (value, threshold)
    )
    torch.testing.assert_close(for_x, (value > threshold) * slope)
    torch.testing.assert_close(for_threshold, (-(threshold / width) * near * slope).sum(0))
    for_x, for_threshold = torch.autograd.grad(
        (heaviside(value, threshold, width, True) * slope).sum(), (value, threshold)
    )
    torch.testing.assert_close(for_x, near * slope / width)
    torch.testing.assert_close(for_threshold, (-near * slope / width).sum(0))


def test_matryoshka_of_one_prefix_is_batchtopk(x):
    one, other = made("matryoshka", prefixes=(F,)), made("batchtopk")
    other.load_state_dict(one.state_dict())
    assert torch.equal(training_loss(one, x).total, training_loss(other, x).total)


class TestDeadLatents:
    """AuxK, for the four things that libraries get wrong."""

    def pieces(self, x, dead, **more):
        dictionary = made("topk", **more)
        error = (x - dictionary(x)).detach()
        loss = auxiliary_loss(dictionary, x, error, dead, 4)
        return dictionary, error, loss

    def test_none_dead_gives_exactly_nothing(self, x):
        assert self.pieces(x, torch.zeros(F, dtype=torch.bool))[2].item() == 0

    def test_gradients_reach_encoder_columns_of_dead_latents_only(self, x):
        dead = torch.zeros(F, dtype=torch.bool)
        dead[[2, 5, 17]] = True
        dictionary, _, loss = self.pieces(x, dead)
        enc, bias, dec = torch.autograd.grad(
            loss, (dictionary.W_enc, dictionary.b_enc, dictionary.W_dec)
        )
        assert (enc.norm(dim=0)[dead] > 0).all()
        assert (dec.norm(dim=1)[dead] > 0).all()
        assert (bias[dead] != 0).all()
        for rest in (enc[:, ~dead], dec[~dead], bias[~dead]):
            assert (rest == 0).all()

    def test_all_dead_is_finite(self, x):
        assert torch.isfinite(self.pieces(x, torch.ones(F, dtype=torch.bool))[2])

    @pytest.mark.parametrize("value", [0.0, 1.5])
    def test_inputs_that_do_not_vary_give_no_slope(self, value):
        """Differences of two equal models: nothing is left to explain, and no gradient may be NaN."""
        dictionary, x = made("topk"), torch.full((N, D), value, dtype=torch.float64)
        with torch.no_grad():
            dictionary.b_dec.fill_(value)
            dictionary.b_enc.fill_(-1.0)
        training_loss(dictionary, x, dead=torch.arange(F) < 6, auxiliary=1.0).total.backward()
        for name, parameter in dictionary.named_parameters():
            assert torch.isfinite(parameter.grad).all(), name

    def test_what_no_input_excites_is_raised_and_nothing_else(self, x):
        """Independent oracle: its mean distance below 0 in numpy; AuxK alone would never reach it."""
        dictionary, dead = made("topk", rank_by="norm"), torch.zeros(F, dtype=torch.bool)
        dead[[2, 5, 17]] = True
        with torch.no_grad():
            dictionary.W_dec.mul_(torch.linspace(0.5, 2, F, dtype=x.dtype)[:, None])
            dictionary.b_enc[[2, 9]] = -50.0
        error = (x - dictionary(x)).detach()
        loss = {
            weight: auxiliary_loss(dictionary, x, error, dead, 4, weight)
            for weight in (0.0, 0.5, 1.0)
        }
        inside = (x - dictionary.b_dec).detach().numpy()
        pre = inside @ dictionary.W_enc[:, 2].detach().numpy() - 50.0
        size = np.sqrt(np.square(inside - inside.mean(0)).mean())
        expected = -pre.mean() * np.linalg.norm(dictionary.W_dec[2].detach().numpy()) / size
        assert loss[1.0].item() - loss[0.0].item() == pytest.approx(expected)
        assert loss[0.5].item() - loss[0.0].item() == pytest.approx(0.5 * expected)
        slope = {
            weight: torch.autograd.grad(found, dictionary.b_enc)[0]
            for weight, found in loss.items()
        }
        assert slope[0.0][2] == 0
        assert slope[1.0][2] < 0
        assert torch.equal(slope[1.0].index_fill(0, torch.tensor(2), 0), slope[0.0])

    def test_the_largest_are_ranked_as_codes_are(self, x):
        """By value times norm where the dictionary ranks so: which of two alike latents gets a
        slope is the norm's.
        """
        for name, by_norm in (("value", False), ("norm", True)):
            dictionary, dead = made("topk", rank_by=name), torch.zeros(F, dtype=torch.bool)
            dead[[2, 5]] = True
            with torch.no_grad():
                dictionary.W_enc[:, 5] = 0.9 * dictionary.W_enc[:, 2]
                dictionary.b_enc[[2, 5]] = torch.tensor([10.0, 9.0], dtype=x.dtype)
                dictionary.W_dec[5] *= 3
            loss = auxiliary_loss(dictionary, x, (x - dictionary(x)).detach(), dead, 1)
            slope = torch.autograd.grad(loss, dictionary.b_enc)[0]
            assert [bool(slope[2] != 0), bool(slope[5] != 0)] == [not by_norm, by_norm]

    def test_scale_of_inputs_leaves_it(self, x):
        dead = torch.arange(F) < 6
        dictionary, error, loss = self.pieces(x, dead)
        with torch.no_grad():
            dictionary.b_enc.mul_(7)
            dictionary.b_dec.mul_(7)
        assert auxiliary_loss(dictionary, 7 * x, 7 * error, dead, 4).item() == pytest.approx(
            loss.item()
        )

    def test_its_coefficient_means_the_same_by_every_convention(self, x):
        dead = torch.arange(F) < 6
        shares = []
        for name in ("sum", "mean", "fraction"):
            dictionary = made("topk", loss=name)
            loss = training_loss(dictionary, x, dead=dead, auxiliary=0.5)
            shares.append(loss.auxiliary.item() / loss.reconstruction.item())
        assert shares == pytest.approx([shares[0]] * 3)
        assert shares[0] > 0

    def test_revives_what_plain_training_leaves_dead(self):
        """Intervention: latents too weak to be among the largest come back with AuxK far more often
        than without.
        """
        data = torch.randn(512, D, generator=torch.Generator().manual_seed(7))
        alive = {}
        for coefficient in (0.0, 1 / 32):
            dictionary = Dictionary(config("topk"), seed=1)
            with torch.no_grad():
                dictionary.W_enc[:, :12] *= 1e-3
            optimiser = torch.optim.Adam(dictionary.parameters(), 0.01)
            dead = torch.arange(F) < 12
            for _ in range(60):
                optimiser.zero_grad()
                training_loss(dictionary, data, dead=dead, auxiliary=coefficient).total.backward()
                optimiser.step()
                dead = dead & (dictionary.encode_sparse(data).counts() == 0)
            alive[coefficient] = 12 - int(dead.sum())
        assert alive[1 / 32] >= alive[0.0] + 4, alive


class TestPursuit:
    def test_every_step_is_orthogonal_and_takes_what_it_says(self, x):
        atoms = torch.nn.functional.normalize(made("matching_pursuit").W_dec.detach())
        rest = [x] + [pursue(x, atoms, threshold=0.0, steps=t)[1] for t in range(1, 5)]
        for before, after in pairwise(rest):
            taken = before - after
            torch.testing.assert_close(
                (taken * after).sum(1), torch.zeros(N, dtype=x.dtype), atol=1e-12, rtol=0
            )
            torch.testing.assert_close(
                after.square().sum(1),
                before.square().sum(1) - taken.square().sum(1),
                atol=1e-12,
                rtol=0,
            )

    def test_codes_and_rest_add_up_at_every_step(self, x):
        atoms = made("matching_pursuit").W_dec.detach()
        for steps in (1, 2, 5, None):
            codes, rest = pursue(x, atoms, threshold=1e-2, steps=steps)
            torch.testing.assert_close(codes.dense() @ atoms + rest, x)

    def test_an_orthonormal_dictionary_is_recovered_in_as_many_steps_as_codes(self):
        generator = torch.Generator().manual_seed(8)
        atoms = torch.linalg.qr(torch.randn(D, D, generator=generator, dtype=torch.float64))[0]
        codes = torch.rand(N, D, generator=generator, dtype=torch.float64) + 0.5
        codes[torch.rand(N, D, generator=generator) < 0.6] = 0
        found, rest = pursue(
            codes @ atoms, atoms, threshold=1e-9, steps=int((codes > 0).sum(1).max())
        )
        torch.testing.assert_close(found.dense(), codes)
        assert float(rest.norm()) < 1e-9


FOLDS = [(name, {}) for name in ARCHITECTURES] + [
    (name, {"rank_by": "norm"}) for name in TOPK_ARCHITECTURES
]


@pytest.mark.parametrize(("architecture", "more"), FOLDS)
def test_folding_norms_and_scales_changes_nothing(x, architecture, more):
    dictionary = made(architecture, **more)
    unit = fold_decoder_norm(dictionary)
    torch.testing.assert_close(unit(x), dictionary(x))
    torch.testing.assert_close(unit.W_dec.norm(dim=1), torch.ones(F, dtype=x.dtype))
    norms = 1.0 if architecture == "matching_pursuit" else dictionary.decoder_norms.sum(1)
    torch.testing.assert_close(unit.encode(x), dictionary.encode(x) * norms)
    twice = fold_decoder_norm(unit)
    torch.testing.assert_close(twice(x), unit(x))
    scaled = made(architecture, normalisation="scale", **more)
    scaled.scale.fill_(2.5)
    plain = fold_scale(scaled)
    torch.testing.assert_close(plain(x), scaled(x))
    own = scaled.encode(x) / (2.5 if architecture == "matching_pursuit" else 1)
    torch.testing.assert_close(plain.encode(x), own)


def test_folding_that_would_choose_others_is_refused(x):
    dictionary = made("topk")
    with torch.no_grad():
        dictionary.W_dec[3].mul_(4)
    with pytest.raises(OptionError, match="would select other codes"):
        fold_decoder_norm(dictionary)
    with pytest.raises(OptionError, match="cannot be folded"):
        fold_scale(made("standard", normalisation="layer-norm"))


@pytest.mark.parametrize("normalisation", ["layer-norm", "constant-norm"])
def test_inputs_normalised_one_by_one_are_given_back_in_their_units(x, normalisation):
    dictionary = made("standard", normalisation=normalisation)
    torch.testing.assert_close(dictionary.encode(5 * x), dictionary.encode(x), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(dictionary(5 * x), 5 * dictionary(x), atol=1e-3, rtol=1e-4)


def test_a_crosscoder_of_one_model_is_the_autoencoder_and_swapped_models_swap(x):
    two = Dictionary(DictionaryConfig("topk", D, F, models=2, k=K), seed=4).double()
    both = torch.cat([x, x.flip(0)], 1)
    swapped = Dictionary(two.config).double()
    state = {name: value.clone() for name, value in two.state_dict().items()}
    half = torch.cat([torch.arange(D, 2 * D), torch.arange(D)])
    state |= {
        "W_enc": state["W_enc"][half],
        "W_dec": state["W_dec"][:, half],
        "b_dec": state["b_dec"][half],
    }
    swapped.load_state_dict(state)
    torch.testing.assert_close(swapped(both[:, half]), two(both)[:, half])
    norms, other = two.decoder_norms, swapped.decoder_norms
    difference = [(n[:, 1] - n[:, 0]) / n.max(1).values for n in (norms, other)]
    torch.testing.assert_close((1 + difference[0]) / 2, 1 - (1 + difference[1]) / 2)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_files_come_back_bit_for_bit(x, tmp_path, architecture):
    dictionary = made(architecture, torch.float32)
    save(dictionary, tmp_path / "one", {"site": "blocks.2.hook_resid_post"})
    again, about = load(tmp_path / "one")
    assert about == {"site": "blocks.2.hook_resid_post"}
    assert again.config == dictionary.config
    for name, value in dictionary.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    assert torch.equal(again(x.float()), dictionary(x.float()))


def test_broken_files_are_one_clear_line(tmp_path):
    whole = save(made("topk", torch.float32), tmp_path / "whole")
    with pytest.raises(DictionaryError, match="exists already"):
        save(made("topk", torch.float32), whole)
    broken = made("topk", torch.float32)
    with torch.no_grad():
        broken.W_dec[0, 0] = math.nan
    with pytest.raises(DictionaryError, match="1 values of W_dec are not finite"):
        save(broken, tmp_path / "nan")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole"]
    weights = (whole / "weights.safetensors").read_bytes()
    (whole / "weights.safetensors").write_bytes(weights[:-100])
    with pytest.raises(DictionaryError, match="not a complete safetensors file"):
        load(whole)
    (whole / "weights.safetensors").unlink()
    with pytest.raises(DictionaryError, match="is missing"):
        load(whole)
    with pytest.raises(DictionaryError, match="contains no dictionary"):
        load(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"architecture": "relu"}, "unknown architecture 'relu'"),
        ({"architecture": "topk"}, "needs k from 1"),
        ({"architecture": "topk", "k": 99}, "not 99"),
        ({"architecture": "matryoshka", "k": 2, "prefixes": (4, 4, 24)}, "increasing prefixes"),
        ({"architecture": "standard", "prefixes": (24,)}, "are for matryoshka"),
        ({"architecture": "standard", "d_out": 5}, "input_bias=False"),
        ({"architecture": "matching_pursuit", "skip": True}, "cannot be a transcoder"),
        ({"architecture": "standard", "normalisation": "layer-norm", "models": 2}, "use scale"),
    ],
)
def test_configurations_that_mean_nothing_are_refused(given, said):
    with pytest.raises(OptionError, match=said):
        DictionaryConfig(**{"d_in": D, "width": F, **given})


def test_a_threshold_that_was_never_set_is_said(x):
    dictionary = Dictionary(config("batchtopk")).double()
    with pytest.raises(OptionError, match="no threshold"):
        dictionary.encode(x)
    assert len(dictionary.reconstruct(x, training=True).codes.values) <= K * N


def test_configurations_come_back():
    made_config = config("matryoshka", rank_by="norm")
    assert DictionaryConfig.from_json(made_config.to_json()) == made_config
    with pytest.raises(OptionError, match="unknown field 'colour'"):
        DictionaryConfig.from_json({**made_config.to_json(), "colour": 1})
    assert replace(made_config, k=2).k == 2
    assert Codes.from_dense(torch.eye(3)).dense().equal(torch.eye(3))
