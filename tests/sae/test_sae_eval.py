"""Judging dictionaries of several sites or models: numbers by hand in float64, what is perfect
costs nothing.
"""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from scipy import stats

from interp import claims
from interp.analyzers.sae_eval import SaeEval
from interp.analyzers.sae_eval.compute import EvaluationPasses, EvaluationSums
from interp.analyzers.sae_eval.findings import claims_of, wording_for
from interp.analyzers.sae_eval.tables import prompts_table, splice_table
from interp.errors import OptionError
from interp.figures import plot
from interp.models.pair import Pair
from interp.prompts import OneClass, Prompt, PromptSet, encode
from interp.sae import Dictionary, DictionaryConfig, save
from interp.sae.analysis.baselines import Covariance, least_squares_baseline, principal_components
from interp.sae.analysis.input_output import InputOutput
from interp.sae.analysis.scores import score
from interp.sae.analysis.token_groups import with_token_codes
from interp.sites import BLOCK_HOOKS, HOOK_ORDER, Site
from interp.study import Study
from interp.table import table
from tests import tiny
from tests.claim_makers import require_remeasured

RESID, INTO, OUT = "blocks.1.hook_resid_post", "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out"
POST, DOWN = "blocks.1.mlp.hook_post", "blocks.1.mlp.out.hook_out"
D, K = 32, 5
KINDS = {
    "crosscoder": ("both", RESID, RESID, {"models": 2}),
    "difference": ("difference", RESID, RESID, {}),
    "transcoder": ("tuned", INTO, OUT, {"d_out": D, "input_bias": False}),
    "skip": ("tuned", INTO, OUT, {"d_out": D, "input_bias": False, "skip": True}),
}
EVERY = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def modules():
    base = tiny.llama()
    return tiny.exact(base), tiny.exact(tiny.perturbed(base, 0.05))


@pytest.fixture(scope="module")
def pair(modules):
    return Pair.from_modules(modules[1], modules[0], tiny.tokenizer())


def study_of(pair, kind=Study, **more):
    prompts = tuple(Prompt(i, text, str(i)) for i, text in enumerate(tiny.PROMPTS))
    return kind(pair, OneClass(PromptSet(prompts, "memory")), None, **more)


def dictionary_of(kind, seed=1, width=40):
    """Random rows, another encoder, biases that are not zero."""
    own = (
        Dictionary(DictionaryConfig("topk", D, width, k=K, **KINDS[kind][3]))
        .double()
        .requires_grad_(False)
    )
    generator = torch.Generator().manual_seed(seed)
    for parameter in own.parameters():
        parameter.copy_(
            0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        )
    return own


def analyzer_of(dictionary, kind, **more):
    of, site, target, _ = KINDS[kind]
    return SaeEval(dictionary, site, target=target, model_role=of, **more)


@pytest.fixture(scope="module")
def kept(pair):
    found = {}

    def get(kind):
        if kind not in found:
            found[kind] = analyzer_of(dictionary_of(kind), kind)(study_of(pair))
        return found[kind]

    return get


# ------------------------------------------------------------------ by hand


def passed(module, ids, site, new=None):
    """Value at a site of block 1 of one unpadded text, and the logits, with ``new`` in its place."""
    block, kept = module.model.layers[1], {}

    def after(_, __, output):
        value = output[0] if isinstance(output, tuple) else output
        kept["value"] = value[0]
        if new is None:
            return None
        return (new[None], *output[1:]) if isinstance(output, tuple) else new[None]

    def before(_, inputs):
        kept["value"] = inputs[0][0]

    where = {RESID: (block, after), OUT: (block.mlp, after), INTO: (block.mlp, before)}[site]
    handle = (
        where[0].register_forward_pre_hook(before)
        if site == INTO
        else where[0].register_forward_hook(after)
    )
    with torch.no_grad():
        logits = module(torch.tensor([ids])).logits[0]
    handle.remove()
    return kept["value"].numpy(), logits.numpy()


def reconstructed(dictionary, x):
    """Of a topk dictionary, by numpy."""
    own = {name: value.numpy() for name, value in dictionary.state_dict().items()}
    pre = (x - own["b_dec"] if dictionary.config.input_bias else x) @ own["W_enc"] + own["b_enc"]
    codes = np.zeros_like(pre)
    for row, order in enumerate(np.argsort(-pre, axis=1)[:, : dictionary.config.k]):
        codes[row, order] = np.maximum(pre[row, order], 0)
    out = codes @ own["W_dec"] + own["b_dec"]
    return out + x @ own["W_skip"].T if dictionary.config.skip else out


def components(y, seen, k):
    """Of every row of ``seen`` the k largest components along the principal axes of ``seen``
    itself.
    """
    mean = y.mean(0)
    axes = np.linalg.eigh(np.cov(seen.T))[1]
    parts = (seen - mean) @ axes
    small = np.argsort(-np.abs(parts), axis=1)[:, k:]
    np.put_along_axis(parts, small, 0.0, axis=1)
    return mean + parts @ axes.T


def log_softmax(x):
    return (
        x
        - np.log(np.exp(x - x.max(1, keepdims=True)).sum(1, keepdims=True))
        - x.max(1, keepdims=True)
    )


def costs(clean, logits, ids):
    one, other = log_softmax(clean), log_softmax(logits)
    return -other[np.arange(len(ids) - 1), ids[1:]].sum(), (np.exp(one) * (one - other)).sum()


def by_hand(modules, kind):
    """Explained variance and summed costs of every condition, each text alone and unpadded."""
    of, site, target, _ = KINDS[kind]
    models = dict(zip(("base", "tuned"), modules, strict=True))
    texts = [list(encode(tiny.tokenizer(), text).ids) for text in tiny.PROMPTS]
    lengths = np.cumsum([len(ids) for ids in texts])[:-1]

    def rows(where):
        each = {
            role: np.concatenate([passed(m, ids, where)[0] for ids in texts])
            for role, m in models.items()
        }
        joint = np.concatenate([each["base"], each["tuned"]], 1)
        return (
            each,
            {
                "both": joint,
                "difference": each["tuned"] - each["base"],
                "tuned": each["tuned"],
            }[of],
        )

    (_, x), (each, y) = rows(site), rows(target)
    dictionary = dictionary_of(kind)
    seen = y
    if kind in ("transcoder", "skip"):
        design = np.concatenate([x, np.ones((len(x), 1))], 1)
        seen = design @ np.linalg.lstsq(design, y, rcond=1e-10)[0]
    made = {
        "dictionary": reconstructed(dictionary, x),
        "pca": components(y, seen, D if kind == "skip" else K),
        "zero": np.zeros_like(y),
        "mean": np.broadcast_to(y.mean(0), y.shape),
    }

    def fvu(take, name):
        return ((take(y) - take(made[name])) ** 2).sum() / ((take(y) - take(y).mean(0)) ** 2).sum()

    halves = {
        "base": lambda r: r[:, :D],
        "tuned": lambda r: r[:, D:],
        "difference": lambda r: r[:, D:] - r[:, :D],
    }
    views = {"all": lambda r: r} | (halves if of == "both" else {})
    explained = {
        (name, part): 1 - fvu(take, name)
        for name in ("dictionary", "pca")
        for part, take in views.items()
    }
    if of == "both":
        own = halves["difference"](y)
        spread = ((own - own.mean(0)) ** 2).sum()
        explained["alone", "difference"] = 1 - ((own - components(own, own, K)) ** 2).sum() / spread
    total = {}
    for role in ("tuned", "base") if of == "both" else ("tuned",):
        for name, out in made.items():
            put = each["base"] + out if of == "difference" else out
            put = put[:, :D] if (of, role) == ("both", "base") else put[:, -D:]
            spent = [
                costs(
                    passed(models[role], ids, target)[1],
                    passed(models[role], ids, target, torch.tensor(part))[1],
                    ids,
                )
                for ids, part in zip(texts, np.split(put, lengths), strict=True)
            ]
            total[role, name] = np.array(spent)
    return explained, total


@EVERY
def test_numbers_are_those_by_hand(modules, kept, kind):
    told = kept(kind)
    explained, total = by_hand(modules, kind)
    if kind == "crosscoder":
        alone = explained.pop(("alone", "difference"))
        assert told.summary["pca_alone_difference_explained_variance"] == pytest.approx(
            alone, abs=1e-9
        )
        assert alone > explained["pca", "difference"]
    for (name, part), value in explained.items():
        (row,) = np.flatnonzero((told["dictionary"] == name) & (told["part"] == part))
        assert told["explained_variance"][row] == pytest.approx(value, abs=1e-9), (name, part)
    spliced, recovered = told.tables["splice"], told.tables["recovered"]
    models = spliced.data.get("model", np.full(len(spliced), "tuned"))
    for (role, name), spent in total.items():
        rows = (spliced["condition"] == name) & (models == role)
        np.testing.assert_allclose(spliced["loss"][rows], spent[:, 0], rtol=1e-9)
        np.testing.assert_allclose(spliced["kl"][rows], spent[:, 1], rtol=1e-7, atol=1e-9)
    models = recovered.data.get("model", np.full(len(recovered), "tuned"))
    for role in set(models):
        for over in ("mean", "zero"):
            (row,) = np.flatnonzero(
                (recovered["dictionary"] == "dictionary")
                & (recovered["cost"] == "kl")
                & (models == role)
                & (recovered["ablation"] == over)
            )
            share = 1 - total[role, "dictionary"][:, 1].sum() / total[role, over][:, 1].sum()
            assert recovered["recovered"][row] == pytest.approx(share, rel=1e-7)
    assert told.summary["baseline_codes"] == (D if kind == "skip" else K)


class Padded(Study):
    pad_id = 77


@EVERY
def test_neither_batches_nor_padding_count_and_claims_are_measured_again(pair, kept, kind):
    told = kept(kind)
    again = analyzer_of(dictionary_of(kind), kind)(study_of(pair, Padded, batch_size=2))
    for name, one in {"": told, **told.tables}.items():
        other = again if not name else again.tables[name]
        for column in one.columns:
            if column.role == "measure" and name not in ("density", "claims"):
                np.testing.assert_allclose(
                    one[column.name], other[column.name], rtol=1e-7, atol=1e-9, err_msg=name
                )
    made = require_remeasured(told)
    wanted = {"explains-more-than-pca", "explains-more-than-random"}
    assert wanted <= set(made)
    assert ("explains-more-of-the-difference-than-pca" in made) == (kind == "crosscoder")
    # rows at random explain nothing
    assert not told.summary["supported"]
    json.dumps(told.summary, allow_nan=False)
    for part in (told, told.tables["recovered"]):
        json.loads(plot(part).to_json())
    prompts = told.tables["prompts"]
    for part, prefix in (("all", ""), ("difference", "difference_")):
        rows = (told["dictionary"] == "dictionary") & (told["part"] == part)
        if rows.any():
            share = 1 - prompts[f"{prefix}dictionary"].sum() / prompts[f"{prefix}deviation"].sum()
            assert told["explained_variance"][rows][0] == pytest.approx(share, abs=1e-9)


# ------------------------------------------------------------------ claims of known sums


def run_of(errors, loss, kl, clusters):
    """A run whose sums per prompt are given: squared errors by name, costs by condition."""
    ids, count = np.arange(len(clusters)), len(clusters)
    costs = {("tuned", name): np.stack([loss[name], kl[name]]) for name in loss}
    sums = EvaluationSums(errors, {}, costs, np.full((2, count), 10))
    place = InputOutput(Site.parse(RESID), Site.parse(RESID), "tuned")
    made = claims_of(sums, K, wording_for(place, DictionaryConfig("topk", D, 40, k=K)))
    parts = {
        "prompts": prompts_table(sums, ids, clusters),
        "splice": splice_table(sums, ids, clusters),
    }
    whole = table(
        "sae-eval",
        {
            "dictionary": (["dictionary", "pca", "random"], "key", "which"),
            "part": (["all"] * 3, "key", "part"),
            "l0": (np.array([4.5, 5.0, 5.0]), "measure", "codes"),
        },
        tables=parts,
    )
    return claims.conclude(whole, made)


def sums_of(generator, gap, prompts=48, ablation=2.0):
    """Errors and costs per prompt, of which the dictionary's are smaller than the baseline's by
    ``gap`` on average.
    """
    size = generator.gamma(4, size=prompts)
    noise = {
        name: 0.2 * size * generator.normal(size=prompts)
        for name in ("dictionary", "pca", "loss", "kl")
    }
    errors = {
        "deviation": size,
        "pca": 0.5 * size + noise["pca"],
        "random": 0.9 * size,
        "dictionary": (0.5 - gap) * size + noise["dictionary"],
    }
    spent = {
        name: {
            "clean": 3 * size,
            "pca": 4 * size,
            "dictionary": (4 - gap) * size + noise[name],
            "mean": (3 + ablation) * size,
            "zero": 9 * size,
            "random": 5 * size,
        }
        for name in ("loss", "kl")
    }
    return errors, spent["loss"], {**spent["kl"], "clean": 0 * size}


def leave_one_out(top, bottom, clusters):
    """Ratio of sums with the jackknife's interval over clusters of equal size, by scipy's t."""
    names = np.unique(clusters)
    value = top.sum() / bottom.sum()
    others = np.array([top[clusters != one].sum() / bottom[clusters != one].sum() for one in names])
    error = np.sqrt((len(names) - 1) / len(names) * np.square(others - value).sum())
    return value, *(value + error * stats.t.ppf([0.025, 0.975], len(names) - 1))


def test_a_claim_is_the_paired_gap_as_a_ratio_of_sums():
    errors, loss, kl = sums_of(np.random.default_rng(0), 0.3)
    clusters = np.array([f"c{row // 3}" for row in range(48)], object)
    found = require_remeasured(run_of(errors, loss, kl, clusters))
    for name, value in (("pca", errors["pca"]), ("random", errors["random"])):
        wanted = leave_one_out(value - errors["dictionary"], errors["deviation"], clusters)
        one = found[f"explains-more-than-{name}"]
        np.testing.assert_allclose((one.value, one.low, one.high), wanted)
        assert one.control_value == pytest.approx(1 - value.sum() / errors["deviation"].sum())
        assert one.supported
    for name, spent in (("loss", loss), ("divergence", kl)):
        wanted = leave_one_out(
            spent["pca"] - spent["dictionary"], spent["mean"] - spent["clean"], clusters
        )
        one = found[f"recovers-more-{name}-than-pca"]
        np.testing.assert_allclose((one.value, one.low, one.high), wanted)
        assert one.supported
        assert one.clusters == 16
    level = 1 - errors["dictionary"].sum() / errors["deviation"].sum()
    assert (
        f"explains {level:.3f} of the variance with 4.5 codes"
        in found["explains-more-than-pca"].sentence
    )


def test_no_better_than_its_baseline_is_silent_at_the_nominal_rate():
    generator, hits, n = np.random.default_rng(1), np.zeros(3), 120
    names = [
        "explains-more-than-pca",
        "recovers-more-loss-than-pca",
        "recovers-more-divergence-than-pca",
    ]
    clusters = np.array([f"c{row // 3}" for row in range(48)], object)
    for _ in range(n):
        verdicts = run_of(*sums_of(generator, 0.0), clusters).summary["verdicts"]
        hits += [verdicts[name] == "supported" for name in names]
    assert (hits <= stats.binom.ppf(0.999, n, 0.025)).all(), hits / n


def test_of_an_ablation_that_may_cost_nothing_no_share_is_given():
    errors, loss, kl = sums_of(np.random.default_rng(2), 0.3)
    loss["mean"] = loss["clean"] + np.tile([3.0, -2.9], 24)
    run = run_of(errors, loss, kl, np.array([f"c{row}" for row in range(48)], object))
    one = require_remeasured(run)["recovers-more-loss-than-pca"]
    assert np.isnan(one.value)
    assert one.verdict == "not tested"
    assert "does not differ significantly from 0" in one.sentence
    few = run_of(errors, loss, kl, np.array([f"c{row % 5}" for row in range(48)], object))
    assert few.summary["verdicts"]["explains-more-than-pca"] == "too few clusters"


# ------------------------------------------------------------------ what is perfect, and what is nothing


def whole_of(pair, of):
    """A dictionary that gives back what it reads: all components."""
    study, site = study_of(pair), Site.parse(RESID)
    config = DictionaryConfig("topk", D, 8, k=1, models=2 if of == "both" else 1)
    encoded = [with_token_codes(tiny.tokenizer(), coded) for coded in study.encoded("positive")]
    place = InputOutput(site, site, of)
    rows = torch.cat(
        [batch.y for batch in EvaluationPasses(study, place, config, encoded, ()).read_rows()]
    )
    found = principal_components(
        Covariance.empty(rows.shape[1]).update(rows), rows.shape[1], torch.float64
    )
    made = Dictionary(dataclasses.replace(found.config, d_in=D, models=config.models)).double()
    made.load_state_dict({**found.state_dict(), "scale": made.scale})
    return made.requires_grad_(False)


def spent(told, name, role="tuned", column="kl"):
    spliced = told.tables["splice"]
    rows = spliced["condition"] == name
    if "model" in spliced.data:
        rows = rows & (spliced["model"] == role)
    return spliced[column][rows].sum()


def test_a_dictionary_of_everything_costs_nothing(pair):
    told = analyzer_of(whole_of(pair, "difference"), "difference")(study_of(pair))
    assert told.summary["explained_variance"] == pytest.approx(1)
    assert spent(told, "dictionary") == pytest.approx(0, abs=1e-9)
    assert spent(told, "zero") > 1e-3
    assert told.summary["kl_recovered_zero"] == pytest.approx(1)


def test_each_half_of_a_crosscoder_goes_into_its_own_model(pair):
    """Intervention: with its half of the decoder at zero the base loses what zero there costs, the
    tuned nothing.
    """
    own = whole_of(pair, "both")
    told = analyzer_of(own, "crosscoder")(study_of(pair))
    for part in ("all", "base", "tuned", "difference"):
        rows = (told["dictionary"] == "dictionary") & (told["part"] == part)
        assert told["explained_variance"][rows][0] == pytest.approx(1)
    assert spent(told, "dictionary") == pytest.approx(0, abs=1e-9)
    assert spent(told, "dictionary", "base") == pytest.approx(0, abs=1e-9)
    cut = (
        Dictionary(dataclasses.replace(own.config, input_bias=False)).double().requires_grad_(False)
    )
    cut.load_state_dict({**own.state_dict(), "b_enc": -own.b_dec @ own.W_enc})
    cut.W_dec[:, :D], cut.b_dec[:D] = 0, 0
    told = analyzer_of(cut, "crosscoder")(study_of(pair))
    assert spent(told, "dictionary") == pytest.approx(0, abs=1e-9)
    assert spent(told, "dictionary", "base") == pytest.approx(spent(told, "zero", "base"), rel=1e-9)
    assert spent(told, "zero", "base") > 1e-3


def test_a_skip_connection_that_is_the_model_s_own_matrix_costs_nothing(pair, modules):
    """And so does the baseline: least squares of a linear target."""
    config = DictionaryConfig("topk", 48, 40, d_out=D, k=1, skip=True, input_bias=False)
    own = Dictionary(config).double().requires_grad_(False)
    own.W_dec[:], own.b_dec[:] = 0, 0
    own.W_skip.copy_(modules[1].model.layers[1].mlp.down_proj.weight)
    told = SaeEval(own, POST, target=DOWN)(study_of(pair))
    assert told.summary["explained_variance"] == pytest.approx(1)
    assert told.summary["pca_explained_variance"] == pytest.approx(1)
    assert spent(told, "dictionary") == pytest.approx(0, abs=1e-9)
    assert spent(told, "pca") == pytest.approx(0, abs=1e-9)
    assert spent(told, "zero") > 1e-3


@pytest.mark.parametrize("kind", ["difference", "crosscoder"])
def test_an_identical_pair_is_silent_and_says_so(modules, kind):
    same = Pair.from_modules(modules[1], copy.deepcopy(modules[1]), tiny.tokenizer())
    told = analyzer_of(dictionary_of(kind), kind)(study_of(same))
    json.dumps(told.summary, allow_nan=False)
    name = "explained_variance" if kind == "difference" else "difference_explained_variance"
    assert told.summary[name] is None
    assert told.summary["supported"] is False
    assert any("are the models identical?" in said for said in told.summary["limits"])
    made = claims.from_table(told.tables["claims"])
    assert not any(claim.supported for claim in made)
    assert not any("difference" in claim.name for claim in made)
    if kind == "difference":
        assert not made
        assert told.summary["kl_recovered_mean"] is None
        assert any(
            "Replacing the site by the base's value costs no kl" in s
            for s in told.summary["limits"]
        )
    for part in (told, told.tables["recovered"]):
        plot(part)


# ------------------------------------------------------------------ the baseline of a transcoder


def test_predicted_components_are_an_autoencoders_where_the_target_is_the_input_and_beat_reduced_rank():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 8, generator=generator, dtype=torch.float64) * torch.arange(1, 9) + 3
    y = x @ torch.randn(8, 6, generator=generator, dtype=torch.float64) + torch.randn(
        600, 6, generator=generator
    )
    for k in (1, 2, 6):
        itself = Covariance.empty(16).update(torch.cat([x, x], 1))
        mine = least_squares_baseline(
            itself, 8, lambda of, k=k: principal_components(of, k, torch.float64), torch.float64
        )
        alone = principal_components(Covariance.empty(8).update(x), k, torch.float64)
        torch.testing.assert_close(mine.reconstruct(x).output, alone.reconstruct(x).output)
        seen = Covariance.empty(14).update(x_y := torch.cat([x, y], 1))
        found = least_squares_baseline(
            seen, 8, lambda of, k=k: principal_components(of, k, torch.float64), torch.float64
        )
        out = found.reconstruct(x).output.numpy()
        design = np.concatenate([x.numpy(), np.ones((600, 1))], 1)
        fit = design @ np.linalg.lstsq(design, y.numpy(), rcond=None)[0]
        axes = np.linalg.svd(fit - fit.mean(0), full_matrices=False)[2][:k]
        reduced = fit.mean(0) + (fit - fit.mean(0)) @ axes.T @ axes
        assert ((fit - out) ** 2).sum() <= ((fit - reduced) ** 2).sum() + 1e-9
        if k == 6:
            np.testing.assert_allclose(out, fit, atol=1e-8)
        assert x_y.shape == (600, 14)
    # a column that never varies has no say
    flat = torch.cat([x, torch.full((600, 1), 5.0, dtype=torch.float64)], 1)
    seen = Covariance.empty(15).update(torch.cat([flat, y], 1))
    found = least_squares_baseline(
        seen, 9, lambda of: principal_components(of, 6, torch.float64), torch.float64
    )
    np.testing.assert_allclose(found.reconstruct(flat).output, fit, atol=1e-8)
    assert score(alone, [x]).summary()["explained_variance"] <= 1


# ------------------------------------------------------------------ at the door


def test_every_site_has_its_place_in_a_pass():
    assert set(HOOK_ORDER) == set(BLOCK_HOOKS)


CROSS = DictionaryConfig("topk", 8, 8, models=2, k=2)
ACROSS = DictionaryConfig("topk", 8, 8, d_out=8, k=2, input_bias=False)
PLAIN = DictionaryConfig("topk", 8, 8, k=2)


@pytest.mark.parametrize(
    ("config", "target", "of", "based", "said"),
    [
        (CROSS, "", "both", False, "a crosscoder needs the base's activations .*add --base"),
        (
            PLAIN,
            "",
            "difference",
            False,
            "a dictionary of differences needs the base's activations .*add --base",
        ),
        (CROSS, "", "tuned", True, "2 models cannot read 'tuned'"),
        (PLAIN, "", "other", True, "unknown model role 'other'"),
        (ACROSS, "", "tuned", True, "do not name its target site; add --target"),
        (ACROSS, "blocks.0.hook_mlp_out", "tuned", True, "comes after blocks.0.hook_mlp_out"),
        (PLAIN, OUT, "tuned", True, "leave --target out"),
    ],
)
def test_what_cannot_be_judged_is_refused(config, target, of, based, said):
    with pytest.raises(OptionError, match=said):
        InputOutput.from_config(config, INTO, target, of, based)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pair and a dictionary of every kind on disk."""
    where = tmp_path_factory.mktemp("judged")
    base = tiny.llama()
    tiny.save(base, where / "base")
    tiny.save(tiny.perturbed(base, 0.05), where / "tuned")
    (where / "text.txt").write_text("\n".join(tiny.PROMPTS))
    for kind, (of, site, target, _) in KINDS.items():
        about = {"site": site, "of": of, "target": target if target != site else None}
        save(dictionary_of(kind).float(), where / kind, about)
    return where


def command_of(folder, kind, tmp_path, *more):
    return [
        "sae",
        "eval",
        folder / kind,
        "--model",
        folder / "tuned",
        "--data",
        folder / "text.txt",
        "--store",
        tmp_path / "runs",
        "--json",
        *more,
    ]


@pytest.mark.parametrize("kind", [*list(KINDS)[:3], pytest.param("skip", marks=pytest.mark.slow)])
def test_a_command_judges_every_kind(folder, tmp_path, run, kept, kind):
    base = ["--base", folder / "base"] if KINDS[kind][0] != "tuned" else []
    code, out, err = run(*command_of(folder, kind, tmp_path, *base))
    assert code == 0, err
    told = json.loads(out)["summary"]
    wanted = kept(kind).summary
    assert told["explained_variance"] == pytest.approx(wanted["explained_variance"], abs=1e-3)
    assert told["kl_recovered_zero"] == pytest.approx(wanted["kl_recovered_zero"], abs=1e-2)
    assert told.keys() - {"path"} == wanted.keys()


@pytest.mark.parametrize(
    ("kind", "more", "said"),
    [
        ("crosscoder", [], "a crosscoder needs the base's activations"),
        ("difference", [], "a dictionary of differences needs the base's activations"),
        ("transcoder", ["--target", "blocks.0.hook_mlp_out"], "comes after"),
        ("difference", ["--base", "nowhere", "--target", OUT], "leave --target out"),
    ],
)
def test_the_command_refuses_in_one_line_before_models_are_loaded(
    folder, tmp_path, run, only_line, monkeypatch, kind, more, said
):
    def never(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(Pair, "load", never)
    code, _, err = run(*command_of(folder, kind, tmp_path, "--quiet", *more))
    assert code == 2
    assert said in only_line(err)
    assert not (tmp_path / "runs").exists()


def test_a_target_of_another_width_is_one_line(folder, tmp_path, run, only_line):
    code, _, err = run(*command_of(folder, "transcoder", tmp_path, "--quiet", "--target", POST))
    assert code == 2
    assert f"width 32 and {POST} has 48" in only_line(err)
