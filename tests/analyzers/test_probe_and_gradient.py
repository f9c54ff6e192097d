"""``probe``, ``gradient`` and ``integrated-zero`` against scikit-learn, per-sample autograd and a
hand-written path.
"""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from interp.analyzers.framework import Known
from interp.analyzers.locate_neurons import LocateNeurons
from interp.analyzers.locate_neurons.probes import FITS, fit_optimum, fit_published
from interp.errors import OptionError
from interp.maths.statistics import roc_auc
from interp.models.pair import Pair
from interp.prompts import CONTENT, Contrast, Prompt, PromptSet
from interp.study import Study
from tests import tiny


@pytest.fixture(scope="module", params=["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def family(request):
    return request.param


@pytest.fixture(scope="module")
def modules(family):
    base = tiny.exact(tiny.FAMILIES[family](seed=3, tie_word_embeddings=False))
    return base, tiny.exact(tiny.perturbed(base, 0.05))


@pytest.fixture(scope="module")
def study(modules):
    return tiny.study(modules[1], modules[0], pairs=4)


def scores(study, method, **options):
    table = LocateNeurons(method=method, top="5", **options)(study)
    return table["score"].reshape(3, 48), table


def blocks(module):
    return module.transformer.h if hasattr(module, "transformer") else module.model.layers


# ---------------------------------------------------------------------------------------------- gradient


def matrices(module, layer):
    """Rows ``[N, D]`` as parameters to differentiate, and the down matrix ``[D, N]``, with how to
    read each.
    """
    mlp = blocks(module)[layer].mlp
    if hasattr(mlp, "c_fc"):
        return {"up": (mlp.c_fc.weight, lambda g: g.T), "down": (mlp.c_proj.weight, lambda g: g)}
    return {
        "gate": (mlp.gate_proj.weight, lambda g: g),
        "up": (mlp.up_proj.weight, lambda g: g),
        "down": (mlp.down_proj.weight, lambda g: g.T),
    }


@pytest.mark.parametrize("method", ["gradient", "gradient-counterfactual"])
def test_row_gradients_are_those_of_autograd_on_the_weights(study, modules, method):
    module = modules[1]
    found, table = scores(study, method)
    expected = {part: np.zeros((3, 48)) for part in (*matrices(module, 0), "all")}
    losses = []
    answers = study.answers("base", "positive")
    for coded, answer in zip(study.encoded("positive"), answers, strict=True):
        parameters = [
            (layer, part, *found)
            for layer in range(3)
            for part, found in matrices(module, layer).items()
        ]
        for _, _, parameter, _ in parameters:
            parameter.requires_grad_(True)
        logits = module(input_ids=torch.tensor([list(coded.ids)])).logits[:, -1]
        loss = (
            study.metric.log_odds(logits)[0]
            if method == "gradient"
            else -logits[0].log_softmax(-1)[answer[0]]
        )
        gradients = torch.autograd.grad(loss, [parameter for _, _, parameter, _ in parameters])
        losses.append(float(loss.detach()))
        whole = np.zeros((3, 48))
        for (layer, part, parameter, rows), gradient in zip(parameters, gradients, strict=True):
            parameter.requires_grad_(False)
            square = rows(gradient).square().sum(1).numpy()
            expected[part][layer] += np.sqrt(square) / 4
            whole[layer] += square
        expected["all"] += np.sqrt(whole) / 4
    np.testing.assert_allclose(found, expected["all"], rtol=1e-9)
    for part in matrices(module, 0):
        np.testing.assert_allclose(
            table[f"gradient_{part}"].reshape(3, 48), expected[part], rtol=1e-9
        )
    assert table.summary["mean_loss"] == pytest.approx(np.mean(losses))


def test_without_a_base_the_other_answer_is_the_twins(modules):
    alone = tiny.study(modules[1], None, pairs=4)
    _, table = scores(alone, "gradient-counterfactual")
    answers, losses = alone.answers("tuned", "negative"), []
    for row, coded in enumerate(alone.encoded("positive")):
        with torch.no_grad():
            logits = modules[1](input_ids=torch.tensor([list(coded.ids)])).logits[0, -1]
        losses.append(-float(logits.log_softmax(-1)[answers[row][0]]))
    assert table.summary["mean_loss"] == pytest.approx(np.mean(losses))


# ---------------------------------------------------------------------------------------------- integrated from zero


def test_from_zero_is_complete_and_needs_no_base(study, modules):
    errors = []
    for steps in (3, 15):
        found, table = scores(study, "integrated-zero", steps=steps)
        paths = table.tables["paths"]
        told = found.sum() + table.summary["attributed_to_biases"]
        errors.append(abs(told - (paths["log_odds_tuned"] - paths["log_odds_start"]).mean()))
        assert paths["attributed"].mean() == pytest.approx(told)
    assert errors[1] < 0.02 * abs(told)
    assert errors[1] < errors[0] / 10
    alone = tiny.study(modules[1], None, pairs=4)
    np.testing.assert_array_equal(
        scores(alone, "integrated")[0], scores(study, "integrated-zero")[0]
    )


def test_from_zero_starts_at_mlps_that_write_nothing(study, modules):
    module = modules[1]
    handles = [
        block.mlp.register_forward_hook(lambda _, __, out: torch.zeros_like(out))
        for block in blocks(module)
    ]
    expected = []
    for coded in study.encoded("positive"):
        with torch.no_grad():
            expected.append(
                float(
                    study.metric.log_odds(
                        module(input_ids=torch.tensor([list(coded.ids)])).logits[:, -1]
                    )
                )
            )
    for handle in handles:
        handle.remove()
    paths = scores(study, "integrated-zero", steps=3)[1].tables["paths"]
    np.testing.assert_allclose(paths["log_odds_start"], expected, rtol=1e-10)


def test_an_identical_pair_moves_nothing_but_from_zero_everything_writes(modules):
    same = tiny.study(modules[1], modules[1], pairs=2)
    assert not scores(same, "integrated")[0].any()
    assert (scores(same, "integrated-zero")[0] != 0).mean() > 0.9


# ---------------------------------------------------------------------------------------------- probe


def pooled(module, study, layer, path):
    """The largest content-token output of a submodule by hand, every prompt alone."""
    rows = []
    for group in ("positive", "negative"):
        for coded in study.encoded(group):
            kept: list[torch.Tensor] = []
            module_read = blocks(module)[layer].get_submodule(path)
            handle = module_read.register_forward_hook(
                lambda _, __, out, kept=kept: kept.append(out)
            )
            with torch.no_grad():
                module(input_ids=torch.tensor([list(coded.ids)]))
            handle.remove()
            content = torch.tensor([role == CONTENT for role in coded.roles])
            rows.append(kept[0][0][content].amax(0).numpy())
    return np.array(rows)


def test_probes_are_scikit_learns_on_pooled_outputs(study, modules, family):
    paths = (
        {"gate": "mlp.gate_proj", "up": "mlp.up_proj"} if family == "llama" else {"up": "mlp.c_fc"}
    )
    found, table = scores(study, "probe")
    labels = np.repeat([1, 0], 4)
    for layer in range(3):
        expected = {}
        for branch, path in paths.items():
            features = pooled(modules[1], study, layer, path)
            model = LogisticRegression(C=1 / (1e-3 * 8), tol=1e-10, max_iter=100_000).fit(
                features, labels
            )
            expected[branch] = (model.coef_[0] - model.coef_[0].mean()) / model.coef_[0].std()
            np.testing.assert_allclose(
                table[f"z_{branch}"].reshape(3, 48)[layer], expected[branch], atol=1e-3
            )
        np.testing.assert_allclose(found[layer], np.max(list(expected.values()), 0), atol=1e-3)
    chosen = table["selected"].reshape(3, 48)
    assert (found[chosen] > 3).all()
    assert table.summary["n_beyond"] == (found > 3).sum()


def test_a_planted_direction_is_found_and_noise_is_not():
    """Held-out AUC near one half on noise, near one where one feature tells; its weight stands out."""
    generator = np.random.default_rng(0)
    labels = np.tile([0, 1], 60)
    noise = generator.normal(size=(120, 400))
    parts = np.arange(120) % 5
    folds = [(np.flatnonzero(parts != part), np.flatnonzero(parts == part)) for part in range(5)]
    _, auc = fit_optimum(noise, labels, folds)
    assert 0.3 < auc < 0.7
    told = noise.copy()
    told[:, 7] += 6 * labels
    weights, auc = fit_optimum(told, labels, folds)
    assert auc > 0.95
    assert np.argmax(weights) == 7
    assert (weights[7] - weights.mean()) / weights.std() > 3
    # the training rows of noise are told apart perfectly: an area that is not held out says nothing
    weights, none = fit_optimum(noise, labels, [])
    assert none is None
    assert roc_auc(labels, noise @ weights) == 1.0


def by_hand(features, labels, epochs):
    """Weights [N] of NeuroStrike's probe: a linear layer of torch's own start, Adam by its
    formulas, in float64.
    """
    with torch.random.fork_rng():
        torch.manual_seed(1234)
        layer = torch.nn.Linear(features.shape[1], 1)
    at = np.append(layer.weight.detach().numpy()[0], layer.bias.detach().numpy()).astype(np.float64)
    inputs = np.column_stack([features, np.ones(len(features))])
    first, second = np.zeros_like(at), np.zeros_like(at)
    for step in range(1, epochs + 1):
        slope = inputs.T @ (1 / (1 + np.exp(-inputs @ at)) - labels) / len(labels) + 1e-3 * at
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        at -= 1e-3 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return at[:-1]


def test_the_published_fit_is_adams_by_hand_in_float64():
    generator = np.random.default_rng(2)
    labels = np.tile([0, 1], 40)
    features = generator.normal(size=(80, 120)) * np.exp(generator.normal(size=120))
    features[:, 5] += labels
    weights, none = fit_published(features, labels, [])
    assert none is None
    np.testing.assert_allclose(weights, by_hand(features, labels, 5000), atol=2e-4)
    # every fold is fitted on its own rows, as if alone
    test = np.arange(80) % 5 == 1
    folds = [(np.flatnonzero(~test), np.flatnonzero(test))]
    held_out = features[test] @ by_hand(features[~test], labels[~test], 5000)
    assert fit_published(features, labels, folds)[1] == pytest.approx(
        roc_auc(labels[test], held_out)
    )
    # at its optimum the same loss has other weights: the published steps end before
    best = fit_optimum(features, labels, [])[0]
    assert np.linalg.norm(weights - best) > 0.02 * np.linalg.norm(best)


def test_rows_that_are_the_same_in_both_classes_have_no_weights():
    """Scikit-learn's Newton solver gives up on these lengths, and goes on with another one."""
    lengths = np.tile([11.0, 4, 7, 6, 11, 4, 0, 7, 11, 1], 2)[:, None]
    weights, _ = fit_optimum(lengths, np.repeat([1, 0], 10), [])
    assert weights == pytest.approx([0], abs=1e-8)


def test_the_published_fit_is_an_option_of_the_probe(study, modules):
    tables = {fit: LocateNeurons(method="probe", top="5", probe_fit=fit)(study) for fit in FITS}
    assert {fit: table.summary["probe_fit"] for fit, table in tables.items()} == {
        fit: fit for fit in FITS
    }
    assert tables["optimum"].provenance.key != tables["published"].provenance.key
    path = (
        "mlp.up_proj"
        if "mlp.up_proj" in dict(blocks(modules[1])[0].named_modules())
        else "mlp.c_fc"
    )
    weights = by_hand(pooled(modules[1], study, 0, path), np.repeat([1, 0], 4), 5000)
    expected = (weights - weights.mean()) / weights.std()
    np.testing.assert_allclose(tables["published"]["z_up"].reshape(3, 48)[0], expected, atol=1e-3)
    assert np.abs(tables["optimum"]["z_up"].reshape(3, 48)[0] - expected).max() > 0.01
    with pytest.raises(OptionError, match=r"probe_fit of \w+ is 'best'; use optimum or published"):
        LocateNeurons(method="probe", probe_fit="best")
    with pytest.raises(OptionError, match=r"--probe-fit applies to the method probe, not to cross"):
        LocateNeurons(method="cross", probe_fit="published").check(Known(has_base=True))


def test_longer_prompts_are_named_as_what_the_length_tells(modules):
    rows = [
        (f"please {'please ' * (3 * (row % 4) + 12 * side)}paint the door", f"c{row}")
        for side in (0, 1)
        for row in range(10)
    ]
    sets = [
        PromptSet(tuple(Prompt(i, t, c) for i, (t, c) in enumerate(part)), name)
        for part, name in ((rows[10:], "long"), (rows[:10], "short"))
    ]
    # every text a cluster of its own class, so that clusters hold both classes
    pair = Pair.from_modules(modules[1], modules[0], tiny.tokenizer())
    table = LocateNeurons(method="probe", top="5")(Study(pair, Contrast(*sets), tiny.metric()))
    assert table.summary["length_auc"] == 1.0
    assert "length alone: 1.00" in table.summary["sentence"]


def test_positions_that_a_prompt_lacks_are_refused(modules):
    sets = [
        PromptSet((Prompt(0, text, "c"),), name)
        for text, name in (("a", "short"), ("open the door", "long"))
    ]
    pair = Pair.from_modules(modules[1], None, tiny.tokenizer(False))
    with pytest.raises(
        OptionError, match=r"short, row 0 has no content tokens to probe; use --positions prompt"
    ):
        LocateNeurons(method="probe", top="5")(Study(pair, Contrast(*sets), tiny.metric()))


# ---------------------------------------------------------------------------------------------- subtract


def test_what_is_located_on_utility_prompts_too_is_left_out(modules):
    study = tiny.study(modules[1], modules[0], pairs=4)
    utility = study.with_prompts(
        Contrast(
            PromptSet((Prompt(0, "tell me of the old gate", "u"),), "u"), study.contrast.negative
        )
    )
    made = LocateNeurons(method="cross", top="30")
    plain, other = made(study), made(utility)
    less = made.minus(other)(study)
    taken = plain["selected"] & other["selected"]
    assert 0 < taken.sum() < plain["selected"].sum()
    np.testing.assert_array_equal(less["selected"], plain["selected"] & ~other["selected"])
    np.testing.assert_array_equal(less["subtracted"], taken)
    np.testing.assert_array_equal(less["score"], plain["score"])
    assert less.provenance.parent == other.provenance.key
    assert less.provenance.key != plain.provenance.key
    assert less.summary["n_subtracted"] == taken.sum()
    assert f"{taken.sum()} that it also selects on the utility prompts" in less.summary["sentence"]
    # subtracted from itself nothing is left; other units cannot be subtracted
    assert not made.minus(plain)(study)["selected"].any()
    with pytest.raises(
        OptionError, match="units of kind neuron cannot be subtracted from units of kind head"
    ):
        LocateNeurons(unit="head", top="2").minus(other)
