"""The methods of ``locate-neurons`` against independent oracles, identities, planted neurons and
silence.
"""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from interp import capture as capture_room
from interp.analyzers.framework import Known
from interp.analyzers.locate_neurons import METHODS, LocateNeurons, Top
from interp.analyzers.locate_neurons import activations as activations_room
from interp.analyzers.locate_neurons.methods import resolve
from interp.analyzers.locate_neurons.scores import position_mask
from interp.analyzers.locate_neurons.selection import rank, select
from interp.engines import Batch
from interp.errors import OptionError
from interp.interventions.edits import Scale
from interp.maths.quadrature import rule
from interp.models.pair import Pair
from interp.prompts import COMPLETION, CONTENT, DECISION, OTHER, Contrast, PromptSet
from interp.sites import neurons
from interp.study import Study
from tests import tiny

BASED = [name for name, method in METHODS.items() if method.needs_base]
PLANTED = {(1, 5), (1, 17), (1, 30)}


def build(family, **changes):
    return tiny.exact(tiny.FAMILIES[family](seed=3, tie_word_embeddings=False, **changes))


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def family(request):
    return request.param


@pytest.fixture(scope="module")
def modules(family):
    """A base and a child with every weight moved, both in float64 throughout."""
    base = build(family)
    return base, tiny.exact(tiny.perturbed(base, 0.05))


@pytest.fixture(scope="module")
def study(modules):
    return tiny.study(modules[1], modules[0], pairs=3)


def locate(study, method, **options):
    table = LocateNeurons(method=method, top="5", **options)(study)
    assert table["layer"].tolist() == np.repeat(range(3), 48).tolist()
    assert table["neuron"].tolist() == [*range(48)] * 3
    return table


def scores(study, method, **options):
    return locate(study, method, **options)["score"].reshape(3, 48)


# ---------------------------------------------------------------------------------------------- naive oracles


def down(module):
    if hasattr(module, "transformer"):
        return [block.mlp.c_proj for block in module.transformer.h]
    return [block.mlp.down_proj for block in module.model.layers]


def write(module):
    return [matrices["mlp.out"] for matrices in tiny.mlps(module)]


def log_odds(logits):
    ids = list(tiny.metric().token_ids)
    rest = [index for index in range(logits.shape[-1]) if index not in ids]
    return logits[ids].logsumexp(0) - logits[rest].logsumexp(0)


def naive(module, ids, replace=None):
    """One prompt by hand: ``replace(layer, h, out)`` gives the MLP output to go on with; keeps h,
    out and F.
    """
    kept = {"h": [], "out": []}

    def hook(layer):
        def after(_, args, out):
            h = args[0]
            out = out if replace is None else replace(layer, h, out)
            out = out if out.requires_grad else out.detach().requires_grad_()
            kept["h"].append(h)
            kept["out"].append(out)
            return out

        return after

    handles = [
        linear.register_forward_hook(hook(layer)) for layer, linear in enumerate(down(module))
    ]
    logits = module(input_ids=torch.tensor([list(ids)])).logits[0, -1]
    for handle in handles:
        handle.remove()
    kept["F"] = log_odds(logits)
    return kept


def naive_attribution(base, tuned, prompts, path, steps, mask=None):
    """Contributions c = h W of every neuron by hand: mean over prompts of the integral of (c -
    c_base) . dF/dc.
    """
    total = torch.zeros(3, 48, dtype=torch.float64)
    for number, ids in enumerate(prompts):
        before, after = naive(base, ids), naive(tuned, ids)
        weights = {1.0: 1.0} if path == "cross" else rule(steps).weights
        for alpha, weight in weights.items():

            def replace(layer, h, out, alpha=alpha, before=before, after=after):
                start = before["out"][layer].detach()
                end = after["out"][layer].detach() if path == "integrated-fixed" else out
                return out if path == "cross" else start + alpha * (end - start)

            here = naive(tuned, ids, replace)
            gradients = torch.autograd.grad(here["F"], here["out"])
            for layer, gradient in enumerate(gradients):
                h = (after if path == "integrated-fixed" else here)["h"][layer].detach()[0]
                now = h[:, None, :] * write(tuned)[layer]
                then = before["h"][layer].detach()[0][:, None, :] * write(base)[layer]
                share = torch.einsum("td,tdn->tn", gradient[0], now - then)
                keep = slice(None) if mask is None else torch.tensor(mask[number])
                total[layer] += weight * share[keep].sum(0) / len(prompts)
    return total.numpy()


@pytest.mark.parametrize("path", ["integrated", "integrated-fixed", "cross"])
def test_attributions_are_those_of_a_naive_loop(study, modules, path):
    prompts = [item.ids for item in study.encoded("positive")]
    expected = naive_attribution(*modules, prompts, path, 3)
    np.testing.assert_allclose(scores(study, path, steps=3), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("positions", ["content", "decision", "last"])
def test_attributions_at_positions(study, modules, positions):
    coded = study.encoded("positive")
    role = {"content": CONTENT, "decision": DECISION}.get(positions)
    mask = [
        [r == role if role else at == len(item.ids) - 1 for at, r in enumerate(item.roles)]
        for item in coded
    ]
    expected = naive_attribution(*modules, [item.ids for item in coded], "integrated", 3, mask)
    found = scores(study, "integrated", steps=3, positions=positions)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------------------------------------- completeness


@pytest.mark.parametrize("path", ["integrated", "integrated-fixed"])
def test_completeness(study, path):
    """Attributions of each prompt come to F(1) - F(0), from one nested rule to the next by orders
    of magnitude.
    """
    errors = []
    for steps in (3, 7, 15):
        table = locate(study, path, steps=steps)
        paths, summary = table.tables["paths"], table.summary
        rise = paths["log_odds_tuned"] - paths["log_odds_start"]
        errors.append(np.abs(paths["attributed"] - rise).mean())
        assert summary["completeness_error"] == pytest.approx(errors[-1], rel=1e-6, abs=1e-15)
        whole = table["score"].sum() + summary["attributed_to_biases"]
        assert whole == pytest.approx(paths["attributed"].mean(), rel=1e-9)
        assert summary["steps"] == steps
        assert not summary["steps_at_cap"]
    size = np.abs(rise).mean()
    assert errors[1] < max(errors[0] / 20, 1e-11 * size)
    assert errors[2] < max(errors[1] / 20, 1e-11 * size)
    assert errors[2] < 1e-7 * size


def test_ends_of_the_path_and_the_share_of_the_mlps(study, modules, family):
    summary = locate(study, "integrated", steps=3).summary
    base, tuned = modules
    ends = {"base": [], "start": [], "end": []}
    for item in study.encoded("positive"):
        before = naive(base, item.ids)
        ends["base"].append(before["F"].item())
        ends["end"].append(naive(tuned, item.ids)["F"].item())
        held = naive(
            tuned, item.ids, lambda layer, h, out, before=before: before["out"][layer].detach()
        )
        ends["start"].append(held["F"].item())
    mean = {name: np.mean(values) for name, values in ends.items()}
    assert summary["log_odds_base"] == pytest.approx(mean["base"])
    assert summary["log_odds_tuned"] == pytest.approx(mean["end"])
    assert summary["log_odds_tuned_with_base_mlp_outputs"] == pytest.approx(mean["start"])
    biases = summary["attributed_to_biases"]
    assert abs(biases) > 1e-6 if family == "gpt2" else abs(biases) < 1e-12


# ---------------------------------------------------------------------------------------------- act-grad


def test_activation_gradient_is_the_effect_of_scaling_a_neuron(study):
    found = scores(study, "act-grad")
    tuned, step = study.pair.tuned, 1e-5
    batch = Batch.pad([item.ids for item in study.encoded("positive")], 0)
    for layer, neuron in [(0, 1), (0, 40), (1, 7), (2, 3), (2, 47)]:
        ends = [
            study.metric.log_odds(
                study.engine.run(
                    tuned,
                    batch,
                    edits=[Scale(neurons(layer), torch.tensor([neuron]), 1 + sign * step)],
                ).logits[:, -1]
            ).mean()
            for sign in (1, -1)
        ]
        assert found[layer, neuron] == pytest.approx(
            float(ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-8
        )


def test_activation_gradient_needs_no_base_and_does_not_read_it(study):
    alone = Study(
        Pair.from_modules(study.pair.tuned.module, None, study.pair.tokenizer),
        study.contrast,
        study.metric,
    )
    np.testing.assert_array_equal(scores(alone, "act-grad"), scores(study, "act-grad"))
    assert "weight_change" not in locate(alone, "act-grad").data
    assert "weight_change" in locate(study, "act-grad").data


# ---------------------------------------------------------------------------------------------- activations


def activations(module, item):
    with torch.no_grad():
        # [T, L, N]
        return torch.stack([h[0] for h in naive(module, item.ids)["h"]], 1).detach().numpy()


def test_change_is_numpys(study, modules):
    base, tuned = modules
    for positions, role in (("prompt", None), ("content", CONTENT), ("decision", DECISION)):
        squares, rows = {}, {}
        for group in ("positive", "negative"):
            squares[group], rows[group] = np.zeros((3, 48)), 0
            for item in study.encoded(group):
                keep = [role is None or r == role for r in item.roles]
                moved = (activations(tuned, item) - activations(base, item))[keep]
                squares[group] += (moved**2).sum(0)
                rows[group] += len(moved)
        rms = {group: np.sqrt(squares[group] / rows[group]) for group in squares}
        np.testing.assert_allclose(
            scores(study, "change", positions=positions), rms["positive"], rtol=1e-9
        )
        difference = rms["positive"] - rms["negative"]
        np.testing.assert_allclose(
            scores(study, "change-difference", positions=positions),
            difference,
            rtol=1e-6,
            atol=1e-12,
        )


def test_change_over_completions_reads_the_bases_answers(study, modules):
    base, tuned = modules
    squares, rows = np.zeros((3, 48)), 0
    for item, answer in zip(
        study.encoded("positive"), study.answers("base", "positive"), strict=True
    ):
        whole = item.with_completion(answer)
        keep = [role == COMPLETION for role in whole.roles]
        moved = (activations(tuned, whole) - activations(base, whole))[keep]
        squares += (moved**2).sum(0)
        rows += len(moved)
    assert rows == sum(map(len, study.answers("base", "positive")))
    np.testing.assert_allclose(
        scores(study, "change", positions="completion"), np.sqrt(squares / rows), rtol=1e-8
    )


def test_contrast_is_scipys_t_test(study, modules):
    _, tuned = modules
    sides = [
        np.stack([activations(tuned, item)[-1] for item in study.encoded(group)])
        for group in ("positive", "negative")
    ]
    table = locate(study, "contrast")
    a, b = sides
    pooled = np.sqrt((a.var(0, ddof=1) + b.var(0, ddof=1)) / 2)
    np.testing.assert_allclose(
        table["score"].reshape(3, 48), (a.mean(0) - b.mean(0)) / pooled, rtol=1e-7
    )
    p = stats.ttest_rel(a, b).pvalue
    np.testing.assert_allclose(table["q"], stats.false_discovery_control(p.ravel()), rtol=1e-6)
    assert not table["selected"][table["q"] > 0.05].any()
    assert table.summary["n_significant"] == (table["q"] <= 0.05).sum()
    assert table.summary["test"] == "paired by twin"

    nameless = (
        PromptSet(tuple(replace(p, twin=None) for p in study.prompts(g)), g)
        for g in ("positive", "negative")
    )
    table = locate(study.with_prompts(Contrast(*nameless)), "contrast")
    p = stats.ttest_ind(a, b).pvalue
    np.testing.assert_allclose(table["q"], stats.false_discovery_control(p.ravel()), rtol=1e-6)
    assert table.summary["test"] == "of two independent classes"


def test_contrast_finds_each_twin_in_whatever_order_the_files_are(study):
    negative = study.contrast.negative
    shuffled = PromptSet(
        tuple(np.random.default_rng(2).permutation(np.array(negative.prompts, object))),
        negative.source,
    )
    one, two = (
        locate(study, "contrast"),
        locate(study.with_prompts(Contrast(study.contrast.positive, shuffled)), "contrast"),
    )
    np.testing.assert_allclose(two["q"], one["q"], rtol=1e-7)
    np.testing.assert_allclose(two["score"], one["score"], rtol=1e-7)


def test_contrast_batches_by_the_longer_twin(study, monkeypatch):
    """A short prompt beside a long twin must not make a batch of long ones."""
    short = [replace(p, text="open") for p in study.contrast.positive]
    long = [replace(p, text=f"{p.text} " + "please " * 40) for p in study.contrast.negative]
    seen = []
    monkeypatch.setattr(capture_room, "_TOKENS_ON_CPU", 300)

    def capture(engine, models, encoded, groups, *rest, **options):
        seen.append([*groups])
        return capture_room.capture(engine, models, encoded, seen[-1], *rest, **options)

    monkeypatch.setattr(activations_room, "capture", capture)
    found = study.with_prompts(Contrast(PromptSet(tuple(short), "p"), PromptSet(tuple(long), "n")))
    locate(found, "contrast")
    longest = max(len(item.ids) for item in found.encoded("negative"))
    assert max(len(rows) for groups in seen for rows in groups) <= max(1, 300 // longest)


def test_equal_values_of_a_coarse_dtype_are_not_a_certain_difference():
    tuned = tiny.llama(seed=7).bfloat16()
    study = tiny.study(tuned, None, 2, template=False)
    assert (locate(study, "contrast")["q"] > 0).all()


def test_contrast_over_content_is_of_means_per_prompt(study, modules):
    _, tuned = modules
    a, b = (
        np.stack(
            [
                activations(tuned, item)[[role == CONTENT for role in item.roles]].mean(0)
                for item in study.encoded(group)
            ]
        )
        for group in ("positive", "negative")
    )
    d = (a.mean(0) - b.mean(0)) / np.sqrt((a.var(0, ddof=1) + b.var(0, ddof=1)) / 2)
    np.testing.assert_allclose(scores(study, "contrast", positions="content"), d, rtol=1e-7)


def test_contrast_needs_two_prompts_of_each_class(study):
    with pytest.raises(OptionError, match="method contrast needs two positive prompts and got one"):
        LocateNeurons(method="contrast", top="5")(study.with_prompts(study.contrast.limit(1)))


def test_swapping_the_classes_turns_contrast_round(study):
    swapped = study.with_prompts(Contrast(study.contrast.negative, study.contrast.positive))
    np.testing.assert_allclose(scores(swapped, "contrast"), -scores(study, "contrast"), rtol=1e-9)


def test_contrast_is_silent_when_labels_are_swapped_within_twins(family):
    """The same prompts with labels drawn by coin within every twin pair: significance at the
    nominal rate or less.
    """
    study = tiny.planted_study(family, with_base=False)
    assert locate(study, "contrast").summary["n_significant"] >= 3
    found = 0
    for swaps in np.random.default_rng(1).random((12, 16)) < 0.5:
        rows = zip(study.contrast.positive, study.contrast.negative, swaps, strict=True)
        sides = list(zip(*((b, a) if swap else (a, b) for a, b, swap in rows), strict=True))
        permuted = study.with_prompts(Contrast(*(PromptSet(side, "permuted") for side in sides)))
        found += locate(permuted, "contrast").summary["n_significant"] > 0
    # at 5 % of 12 draws, more than three has a chance of 0.2 %
    assert found <= 3


# ---------------------------------------------------------------------------------------------- weight


def test_weight_is_numpys(study, modules):
    expected = np.zeros((3, 48))
    for layer in range(3):
        left, right = (tiny.mlps(module)[layer] for module in modules)
        for name in left:
            change = (right[name] - left[name]).numpy() ** 2
            expected[layer] += change.sum(0 if name == "mlp.out" else 1)
    np.testing.assert_allclose(scores(study, "weight"), np.sqrt(expected), rtol=1e-12)
    np.testing.assert_allclose(
        locate(study, "change")["weight_change"].reshape(3, 48), np.sqrt(expected), rtol=1e-12
    )


def test_an_adapter_on_attention_moves_no_neurons_weights_but_their_activations(tmp_path, family):
    base = tiny.FAMILIES[family](seed=3)
    tiny.lora(family, base, tmp_path / "a", tiny.save(base, tmp_path / "b"), "attention")
    study = Study(Pair.load(str(tmp_path / "a")), tiny.contrast(3), tiny.metric())
    weight = locate(study, "weight")
    assert not weight["score"].any()
    assert not weight["selected"].any()
    change = locate(study, "change")
    assert (change["score"] > 0).all()
    assert change.summary["n_tuned"] == 0
    assert "fine-tuning changed the weights of 0 neurons" in change.summary["sentence"]
    table = locate(study, "integrated", steps=3)
    assert table.summary["n_selected"] == 5
    assert table.summary["mlp_share"] != 0


def test_a_switched_adapter_scores_as_the_merged_model_does(tmp_path, family):
    base = tiny.FAMILIES[family](seed=3)
    wrapped = tiny.lora(family, base, tmp_path / "a", tiny.save(base, tmp_path / "b"), fill=0.05)
    switched = Study(Pair.load(str(tmp_path / "a")), tiny.contrast(3), tiny.metric())
    merged = tiny.study(wrapped.merge_and_unload(), base, pairs=3)
    for method in ("integrated", "weight"):
        one, two = (scores(study, method, steps=3) for study in (switched, merged))
        np.testing.assert_allclose(
            one, two, rtol=1e-2, atol=2e-4 * np.abs(two).max(), err_msg=method
        )


# ---------------------------------------------------------------------------------------------- invariance


def permuted(module, order):
    """The same function with its neurons in another order."""
    child = copy.deepcopy(module)
    for layer, matrices in enumerate(tiny.mlps(child)):
        for name, matrix in matrices.items():
            matrix.copy_(
                matrix[:, order[layer]].clone()
                if name == "mlp.out"
                else matrix[order[layer]].clone()
            )
        if hasattr(child, "transformer"):
            bias = child.transformer.h[layer].mlp.c_fc.bias.data
            bias.copy_(bias[order[layer]].clone())
    return child


def test_permuted_neurons_have_permuted_scores(study, modules):
    generator = torch.Generator().manual_seed(0)
    order = [torch.randperm(48, generator=generator) for _ in range(3)]
    base, tuned = (permuted(module, order) for module in modules)
    ids = torch.tensor([study.encoded("positive")[0].ids])
    torch.testing.assert_close(tuned(input_ids=ids).logits, modules[1](input_ids=ids).logits)
    other = tiny.study(tuned, base, pairs=3)
    for method in ("integrated", "integrated-fixed", "act-grad", "change", "contrast", "weight"):
        one, two = (scores(s, method, steps=3) for s in (study, other))
        for layer in range(3):
            np.testing.assert_allclose(
                two[layer], one[layer][order[layer]], rtol=1e-7, atol=1e-10, err_msg=method
            )


@pytest.mark.parametrize("method", BASED)
def test_an_identical_pair_is_exactly_zero(family, method):
    """In bfloat16; the contract of all analyzers has it in float64."""
    model = tiny.FAMILIES[family]().bfloat16()
    table = locate(tiny.study(model, copy.deepcopy(model), pairs=2), method, steps=3)
    assert not table["score"].any()
    assert not table["selected"].any()
    assert table.summary["n_selected"] == 0
    assert "every score is zero" in table.summary["sentence"]
    assert len(table.tables["tokens"]) == 0


# ---------------------------------------------------------------------------------------------- planted truth


@pytest.fixture(scope="module")
def truth(family):
    """Positive control included: the child says sorry to positive prompts, and grafting its neurons
    back undoes it.
    """
    return tiny.planted_study(family)


def first(table, count=3):
    order = np.argsort(table["rank"])[:count]
    return set(zip(table["layer"][order].tolist(), table["neuron"][order].tolist(), strict=True))


def test_the_planted_behaviour_is_there(truth):
    said = {
        (role, group): [truth.decode(answer) for answer in truth.answers(role, group)]
        for role in ("base", "tuned")
        for group in ("positive", "negative")
    }
    assert set(said["tuned", "positive"]) == {"Sorry"}
    assert (
        "Sorry"
        not in said["base", "positive"] + said["base", "negative"] + said["tuned", "negative"]
    )
    assert said["tuned", "negative"] == said["base", "negative"]


@pytest.mark.parametrize("method", [name for name in BASED if name != "cross"])
def test_planted_neurons_are_found(truth, method):
    table = locate(truth, method, steps=3)
    assert first(table) == PLANTED
    assert (
        set(zip(table["layer"][table["selected"]], table["neuron"][table["selected"]], strict=True))
        >= PLANTED
    )


def test_all_of_a_behaviour_in_mlps_runs_through_them(truth):
    assert locate(truth, "integrated", steps=3).summary["mlp_share"] == pytest.approx(1.0, abs=1e-3)


def test_nothing_but_the_planted_neurons_was_tuned(truth):
    table = locate(truth, "weight")
    assert table.summary["n_selected"] == table.summary["n_tuned"] == 3


def test_top_tokens_are_where_the_neurons_are_most_active(truth):
    table = locate(truth, "integrated", steps=3)
    tokens = table.tables["tokens"]
    planted = tokens.select((tokens["layer"] == 1) & (tokens["neuron"] == 30))
    assert set(planted["group"]) == {"positive"}
    assert {token.strip() for token in planted["token"]} <= {"paint", "lock"}
    best = []
    for group in ("positive", "negative"):
        for row, item in enumerate(truth.encoded(group)):
            h = activations(truth.pair.tuned.module, item)[:, 1, 30]
            best += [(-value, group, row, at) for at, value in enumerate(h.tolist())]
    best = sorted(best)[: len(planted)]
    np.testing.assert_allclose(planted["value"], [-item[0] for item in best], rtol=1e-4)
    assert planted["prompt_id"].tolist() == [item[2] for item in best]
    assert planted["position"].tolist() == [item[3] for item in best]
    assert planted["order"].tolist() == list(range(len(planted)))


# ---------------------------------------------------------------------------------------------- selection


@pytest.mark.parametrize(
    ("text", "total", "count"),
    [
        ("30", 1000, 30),
        ("0.5%", 1000, 5),
        ("100%", 1000, 1000),
        ("0.01%", 1000, 1),
        ("1000", 1000, 1000),
        (" 3 ", 10, 3),
        ("2.5%", 1000, 25),
        ("z3", 10, None),
        ("z0.5", 10, None),
    ],
)
def test_top(text, total, count):
    top = Top.parse(text)
    assert top.count(total) == count
    assert Top.parse(str(top)) == top


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0", "selects nothing"),
        ("0%", "selects nothing"),
        ("z0", "selects nothing"),
        ("101%", "more than all"),
        ("2.5", "not a whole number"),
        ("-3", "not understood"),
        ("", "not understood"),
        ("many", "not understood"),
        ("z3%", "not understood"),
        ("1e3", "not understood"),
        ("nan", "not understood"),
        ("3\n4", "not understood"),
    ],
)
def test_tops_that_mean_nothing(text, said):
    with pytest.raises(OptionError, match=said):
        Top.parse(text)


def test_more_than_there_are():
    with pytest.raises(OptionError, match="--top 11 is more than the 10 neurons there are"):
        Top.parse("11").count(10)


def test_ranks_are_by_signed_score_and_keep_the_negative_tail():
    score = np.array([[0.5, -3.0, 0.0], [2.0, 0.5, -1.0]])
    assert rank(score).tolist() == [[2, 6, 4], [1, 3, 5]]


def test_selected_are_above_zero_and_above_rounding():
    score = np.array([[5.0, 4.0, 3.0, 0.0, -1.0]])
    floor = np.array([[0.0, 9.0, 0.0, 0.0, 0.0]])
    assert select(score, floor, Top.parse("4")).tolist() == [[True, False, True, False, False]]
    eligible = np.array([[False, True, True, True, True]])
    assert select(score, 0 * floor, Top.parse("2"), eligible).tolist() == [
        [False, True, False, False, False]
    ]
    assert not select(0 * score, floor, Top.parse("5")).any()
    assert not select(0 * score, floor, Top.parse("z3")).any()
    spiked = np.array([[0.0] * 99 + [10.0]])
    assert select(spiked, 0 * spiked, Top.parse("z3")).sum() == 1


def test_positions_of_roles():
    roles = torch.tensor(
        [
            [-1, -1, OTHER, CONTENT, DECISION, DECISION, COMPLETION],
            [OTHER, CONTENT, CONTENT, CONTENT, DECISION, -1, -1],
        ]
    )
    found = {
        name: position_mask(roles, name).long().tolist()
        for name in ("prompt", "content", "decision", "last", "completion")
    }
    assert found["prompt"] == [[0, 0, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 0, 0]]
    assert found["content"] == [[0, 0, 0, 1, 0, 0, 0], [0, 1, 1, 1, 0, 0, 0]]
    assert found["decision"] == [[0, 0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 1, 0, 0]]
    assert found["last"] == [[0, 0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 1, 0, 0]]
    assert found["completion"] == [[0, 0, 0, 0, 0, 0, 1], [0] * 7]
    with pytest.raises(OptionError, match="unknown positions 'nowhere'"):
        position_mask(roles, "nowhere")


def test_methods_by_name():
    assert resolve("auto", "auto", True)[0] == "integrated"
    assert resolve("auto", "auto", False)[0] == "act-grad"
    with pytest.raises(OptionError, match=r"method of \w+ is 'magic'; use auto, integrated"):
        LocateNeurons(method="magic")
    with pytest.raises(OptionError, match="cannot read positions 'completion'"):
        resolve("integrated", "completion", True)
    for name in METHODS:
        if METHODS[name].needs_base:
            said = (
                f"method {name} needs a base model; add --base MODEL, or use integrated,"
                " integrated-zero, act-grad"
            )
            with pytest.raises(OptionError, match=said):
                resolve(name, "auto", False)
        assert METHODS[name].positions in METHODS[name].allowed


def test_options_are_checked_before_a_model_is_needed():
    LocateNeurons().check(Known(has_base=True, shape=(10, 100)))
    with pytest.raises(OptionError):
        LocateNeurons(top="2000").check(Known(has_base=True, shape=(10, 100)))
    with pytest.raises(OptionError):
        LocateNeurons(method="change").check(Known(has_base=False))
    with pytest.raises(OptionError):
        LocateNeurons().check(Known(differentiable=False))


@pytest.mark.parametrize("steps", [0, -3, 20, "many"])
def test_an_integral_needs_a_rule(study, steps):
    with pytest.raises(OptionError, match=r"--steps .* has no nested rule; use auto, 3, 7, 15, 31"):
        LocateNeurons(method="integrated", top="5", steps=steps)(study)
