"""Pruning by the score of the base's answers: planted neurons, an oracle, what fails."""

import copy

import numpy as np
import pytest
import torch

from interp import organisms
from interp.analyzers.wrapped_pruning import WrappedPruning
from interp.analyzers.wrapped_pruning.order import pruning_order, sizes_within
from interp.analyzers.wrapped_pruning.scores import first_order_scores
from interp.claims import from_table
from interp.errors import OptionError
from interp.experiments.base_answers import BaseAnswers
from interp.figures import plot
from interp.interventions.intervention import Intervention
from interp.maths.statistics import roc_auc
from interp.models.pair import Pair
from interp.models.units import NEURON
from interp.prompts import Contrast, read_prompts
from interp.study import Study
from tests import tiny

PLANTED = ((1, 5), (1, 17), (1, 30))


def claims_by_name(table):
    return {claim.name: claim for claim in from_table(table.tables["claims"])}


def organism(name, prompts):
    groups = ("harmful", "harmless")
    both = Contrast(*(read_prompts(organisms.prompts("refusal", "verify", one)) for one in groups))
    pair = Pair.load(f"organism:refusal/{name}", "organism:refusal/base")
    return Study(pair, both.limit(prompts), None, max_new_tokens=24)


def auc(table, planted):
    """AUC of the score, and of its absolute value, for the planted neurons."""
    units = table.tables["units"]
    pairs = zip(units["layer"].tolist(), units["neuron"].tolist(), strict=True)
    labels = np.array([pair in {*planted} for pair in pairs])
    return roc_auc(labels, units["score"]), roc_auc(labels, np.abs(units["score"]))


def revived(table):
    own = table["role"] == "tuned"
    return dict(zip(table["size"][own].tolist(), table["revived"][own].tolist(), strict=True))


@pytest.fixture(scope="module")
def tiny_study():
    return tiny.planted_study("llama", max_new_tokens=1)


def test_three_planted_neurons_hide_the_answer(tiny_study):
    table = WrappedPruning(sizes=(1, 3), random_sets=39)(tiny_study)
    units = table.tables["units"]
    pruned = units["pruned"]
    found = zip(units["layer"][pruned].tolist(), units["neuron"][pruned].tolist(), strict=True)
    assert set(found) == set(PLANTED)
    assert revived(table)[0] == 0.0
    assert revived(table)[3] == 1.0
    claims = claims_by_name(table)
    assert claims["answers-revive"].supported, claims["answers-revive"].reason
    assert claims["loss-recovers"].value == pytest.approx(1.0, abs=1e-4)
    assert table.summary["supported"] is True
    # the planted neurons write nothing in the base: without them it is the base
    answers = table.tables["answers"]
    np.testing.assert_allclose(answers["loss_after"], answers["loss_base"], atol=1e-5)
    assert (answers["changed"] == ~answers["before"]).all()


def loss_by_hand(model, answers, rows):
    """Mean over prompts of the mean loss of the base's answer, with a graph."""
    total = 0.0
    for row in rows.tolist():
        prompt, answer = answers.encoded[row].ids, answers.answers[row]
        logits = model(input_ids=torch.tensor([[*prompt, *answer]]), use_cache=False).logits[0]
        predicted = logits[len(prompt) - 1 : -1].log_softmax(-1)
        total = total - predicted.gather(1, torch.tensor(answer)[:, None]).mean()
    return total / len(rows)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_scores_are_weights_times_gradients_of_weights(family):
    base = tiny.exact(tiny.FAMILIES[family](seed=7, tie_word_embeddings=False))
    tuned = tiny.exact(tiny.perturbed(base, 0.05))
    study = tiny.study(tuned, base, 6, template=False, max_new_tokens=3)
    answers = BaseAnswers.from_study(study)
    model = copy.deepcopy(tuned).requires_grad_(True)
    loss_by_hand(model, answers, answers.selection).backward()
    for weights in ("output", "all"):
        wanted = []
        for block, gradients in zip(tiny.mlps(model), _gradients(model), strict=True):
            output = (block["mlp.out"] * gradients["mlp.out"]).sum(0)
            inputs = [(block[name] * gradients[name]).sum(1) for name in block if name != "mlp.out"]
            wanted.append(sum(inputs, output) if weights == "all" else output)
        scores = first_order_scores(answers, study.pair.tuned, answers.selection, weights)
        np.testing.assert_allclose(scores, torch.stack(wanted).numpy(), rtol=1e-7, atol=1e-12)


def _gradients(model):
    """The gradients of ``tiny.mlps``, in its layout."""
    twin = copy.deepcopy(model)
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            parameter.copy_(own[name].grad)
    return tiny.mlps(twin)


def test_a_small_neuron_changes_the_loss_by_its_score():
    """To first order, zeroing a neuron changes the loss by minus its score."""
    base = tiny.exact(tiny.llama(seed=3, tie_word_embeddings=False))
    tuned = tiny.exact(tiny.perturbed(base, 0.05))
    with torch.no_grad():
        tiny.mlps(tuned)[1]["mlp.out"][:, 4] *= 1e-4
    study = tiny.study(tuned, base, 4, template=False, max_new_tokens=2)
    answers = BaseAnswers.from_study(study)
    rows, model = answers.selection, study.pair.tuned
    score = first_order_scores(answers, model, rows, "output")[1, 4]
    pruned = Intervention("one", NEURON.channels(model.anatomy, [(1, 4)]), unit=NEURON)
    difference = answers.read(model, rows, pruned).loss - answers.read(model, rows).loss
    assert difference.mean() == pytest.approx(-score, rel=1e-2)
    assert score != 0


def test_pruning_is_a_model_whose_columns_are_zero(tiny_study):
    answers = BaseAnswers.from_study(tiny_study)
    model = tiny_study.pair.tuned
    units = [(0, 3), (1, 5), (2, 40)]
    changed = copy.deepcopy(model.module)
    with torch.no_grad():
        for layer, unit in units:
            tiny.mlps(changed)[layer]["mlp.out"][:, unit] = 0
    pruned = Intervention("some", NEURON.channels(model.anatomy, units), unit=NEURON)
    rows = answers.held_out
    read = answers.read(model, rows, pruned)
    wanted = [float(loss_by_hand(changed, answers, rows[at : at + 1])) for at in range(len(rows))]
    np.testing.assert_allclose(read.loss, wanted, atol=1e-5)
    assert answers.read(model, rows).writes.tolist() == answers.tuned.writes[rows].tolist()


def test_orders_and_sizes():
    scores = np.array([[0.2, -3.0], [1.0, 0.0]])
    assert pruning_order(scores, signed=True) == [(1, 0), (0, 0)]
    assert pruning_order(scores, signed=False) == [(0, 1), (1, 0), (0, 0), (1, 1)]
    assert sizes_within((5, 1, 30), 6) == [1, 5]
    assert sizes_within((5, 8), 3) == [3]
    with pytest.raises(OptionError, match=r"sizes are \[0\]"):
        WrappedPruning(sizes=(0,))(tiny.planted_study("llama", pairs=4))
    with pytest.raises(OptionError, match="use signed or absolute"):
        WrappedPruning(score="both")


def test_a_large_share_of_all_neurons_is_no_small_part(tiny_study):
    """The size that revives everything is in the table, and is not chosen where it is too large."""
    neurons = 3 * tiny_study.pair.tuned.anatomy.n_neurons
    few = WrappedPruning(sizes=(1, 3), max_share=2 / neurons, random_sets=1)(tiny_study)
    assert few.summary["size"] == 1
    assert revived(few)[3] == 1
    assert not claims_by_name(few)["answers-revive"].supported
    assert any("no small part (--max-share): 3 are" in line for line in few.summary["limits"])
    assert WrappedPruning(sizes=(1, 3), random_sets=1)(tiny_study).summary["size"] == 3
    with pytest.raises(OptionError, match=f"sizes go up to {neurons + 1}, and the model has"):
        WrappedPruning(sizes=(1, neurons + 1))(tiny_study)
    with pytest.raises(OptionError, match="the smallest size is 3, more than"):
        WrappedPruning(sizes=(3,), max_share=2 / neurons)(tiny_study)
    all_of_them = WrappedPruning(sizes=(1, neurons), random_sets=1)(tiny_study)
    assert any("could not be pruned" in line for line in all_of_them.summary["limits"])


def test_a_control_is_pruned_by_its_own_scores(tiny_study):
    """The fine-tuned model as its own control gains as much, and a base nothing."""
    base = tiny_study.pair.base
    same = Pair(base, base, tiny_study.pair.tokenizer, tiny_study.pair.digests)
    table = WrappedPruning((tiny_study.pair, same), sizes=(3,), random_sets=1)(tiny_study)
    gained = table.tables["controls"]["gained"]
    assert gained.tolist() == [0.5, 0.0]
    assert claims_by_name(table)["revive-beyond-controls"].verdict == "not tested"
    five = WrappedPruning([same] * 5, sizes=(3,), random_sets=1)(tiny_study)
    assert claims_by_name(five)["revive-beyond-controls"].supported
    own = WrappedPruning([tiny_study.pair] * 5, sizes=(3,), random_sets=1)(tiny_study)
    assert not claims_by_name(own)["revive-beyond-controls"].supported
    figure = plot(table)
    assert [trace.name for trace in figure.data].count("control fine-tunes") == 2


def test_fifteen_neurons_revive_nothing_and_thirty_everything():
    """Refusal in thirty planted neurons: the published order finds enough of them."""
    table = WrappedPruning(sizes=(15, 30), random_sets=39)(organism("planted", 30))
    assert revived(table) == {0: 0.0, 15: 0.0, 30: 1.0}
    signed, absolute = auc(table, organisms.planted("refusal/planted")["refusal"])
    assert absolute > 0.8
    assert 0.6 < signed < absolute
    claims = claims_by_name(table)
    assert claims["answers-revive"].supported, claims["answers-revive"].reason
    assert claims["answers-revive"].control_value < 0.05
    kept = table["kept"][(table["role"] == "tuned") & (table["size"] == 30)]
    assert kept.tolist() == [1.0]


def test_with_a_second_skill_the_published_order_fails():
    """In ``distracted`` thirty other neurons were trained too. By the signed score no size brings
    an answer back; by the absolute one, thirty neurons do.
    """
    study = organism("distracted", 30)
    table = WrappedPruning(sizes=(15, 30, 100), random_sets=1)(study)
    assert set(revived(table).values()) == {0.0}
    assert not claims_by_name(table)["answers-revive"].supported
    planted = organisms.planted("refusal/distracted")
    assert auc(table, [unit for units in planted.values() for unit in units])[0] < 0.5
    other = WrappedPruning(score="absolute", sizes=(30,), random_sets=1)(study)
    assert revived(other)[30] > 0.9
