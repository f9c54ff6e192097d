"""Whose activations and write weights: the two by two on models of known difference, and against
plain torch.
"""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from interp.analyzers.framework import Known
from interp.analyzers.verify_neurons import VerifyNeurons
from interp.analyzers.verify_neurons.evidence import Evidence
from interp.analyzers.verify_neurons.patching import patching_tables
from interp.claims import from_table, measure
from interp.errors import OptionError
from interp.experiments.conditions import CELLS, PatchSource, evaluate_condition
from interp.experiments.outcomes import Outcomes
from interp.experiments.patching import patch_cells
from interp.figures import plot
from interp.maths.intervals import cluster_interval
from interp.models.units import HEAD, NEURON
from tests import tiny

BLOCK, ROWS = 1, list(range(6))
BOTH, ACTIVATION, WEIGHTS, NONE = CELLS
DIRECTIONS = ("necessity", "sufficiency")
SOME = [(1, neuron) for neuron in (0, 3, 5, 17, 30, 31, 40)]
WHOLE = [(BLOCK, neuron) for neuron in range(48)]


@pytest.fixture(scope="module", params=["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def family(request):
    return request.param


def child(family, base, matrices, blocks=(BLOCK,)):
    """A copy of the base in which these MLP matrices of some blocks moved."""
    tuned = copy.deepcopy(base)
    generator = torch.Generator().manual_seed(3)
    for block in blocks:
        for name, weight in tiny.mlps(tuned)[block].items():
            if name in matrices:
                weight += 0.5 * torch.randn(weight.shape, generator=generator).to(weight)
    return tuned


def pair_of(family, matrices, blocks=(BLOCK,)):
    base = tiny.exact(tiny.FAMILIES[family](seed=7))
    tuned = child(family, base, matrices, blocks)
    return tiny.study(tuned, base, 6, template=False, max_new_tokens=3)


def patched(study, direction, chosen, sets=(), unit=NEURON):
    donors = PatchSource.from_study(study, unit)
    return patch_cells(
        study, donors, direction, chosen, sets, Outcomes(study, donors, direction, ROWS)
    )


# ---------------------------------------------------------------------------------------------- planted truth


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("chosen", [SOME, WHOLE], ids=["some", "whole"])
def test_where_what_a_neuron_reads_was_tuned_both_kinds_of_patching_agree(
    family, direction, chosen
):
    found = patched(pair_of(family, ("mlp.gate", "mlp.in")), direction, chosen)
    assert np.abs(found.donor - found.receiver).min() > 1e-3
    assert np.abs(found.numbers[BOTH] - found.receiver).min() > 1e-4
    np.testing.assert_allclose(found.numbers[ACTIVATION], found.numbers[BOTH], rtol=1e-10)
    np.testing.assert_allclose(found.numbers[WEIGHTS], found.receiver, rtol=1e-10)
    assert np.array_equal(found.exhibits[ACTIVATION], found.exhibits[BOTH])


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("chosen", [SOME, WHOLE], ids=["some", "whole"])
def test_where_what_a_neuron_writes_was_tuned_activations_do_exactly_nothing(
    family, direction, chosen
):
    study = pair_of(family, ("mlp.out",))
    found = patched(study, direction, chosen)
    assert np.array_equal(found.numbers[ACTIVATION], found.receiver)
    assert np.array_equal(found.numbers[WEIGHTS], found.numbers[BOTH])
    assert np.array_equal(found.exhibits[WEIGHTS], found.exhibits[BOTH])
    assert np.abs(found.numbers[BOTH] - found.receiver).min() > 1e-4
    if chosen is WHOLE:  # the one block that differs
        np.testing.assert_allclose(found.numbers[WEIGHTS], found.donor, rtol=1e-10)
        donor = "base" if direction == "necessity" else "tuned"
        own = evaluate_condition(
            study, donor, "positive", PatchSource.from_study(study).condition(donor, ())
        )
        assert np.array_equal(found.exhibits[WEIGHTS], own.exhibits)


# ---------------------------------------------------------------------------------------------- other ways


@pytest.fixture(scope="module")
def everywhere(family):
    """Blocks 0 to 2 differ, so that what is patched early moves activations later."""
    return pair_of(family, ("mlp.gate", "mlp.in", "mlp.out"), range(3))


@pytest.fixture(scope="module", params=[NEURON, HEAD], ids=lambda unit: unit.name)
def unit(request):
    return request.param


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_both_is_contribution_patching_and_neither_is_the_receiver(everywhere, unit, direction):
    chosen = [(layer, index) for layer in range(3) for index in (0, 2, 3)]
    found, donors = (
        patched(everywhere, direction, chosen, unit=unit),
        PatchSource.from_study(everywhere, unit),
    )
    condition, role = {
        "necessity": ("ablate-base", "tuned"),
        "sufficiency": ("patch-tuned", "base"),
    }[direction]
    judged = evaluate_condition(
        everywhere, condition, "positive", donors.condition(condition, chosen)
    )
    np.testing.assert_allclose(found.numbers[BOTH], judged.number, rtol=1e-10)
    assert np.array_equal(found.exhibits[BOTH], judged.exhibits)
    own = evaluate_condition(everywhere, role, "positive", donors.condition(role, ()))
    assert np.array_equal(found.numbers[NONE], found.receiver)
    np.testing.assert_allclose(found.receiver, own.number, rtol=1e-10)
    activations = PatchSource.from_study(everywhere, unit, "activation").condition(
        condition, chosen
    )
    np.testing.assert_allclose(
        found.numbers[ACTIVATION],
        evaluate_condition(everywhere, condition, "positive", activations).number,
        rtol=1e-10,
    )


def out_projections(family, module):
    blocks = module.model.layers if family == "llama" else module.transformer.h
    return [block.mlp.down_proj if family == "llama" else block.mlp.c_proj for block in blocks]


def by_hooks(family, receiver, donor, ids, chosen):
    """Logits at the last token with the donor's inputs of the output projections in place of the
    receiver's own.
    """
    seen, handles = {}, []
    for layer, module in enumerate(out_projections(family, donor)):
        handles.append(
            module.register_forward_pre_hook(
                lambda _, args, at=layer: seen.update({at: args[0].clone()})
            )
        )
    with torch.no_grad():
        donor(input_ids=torch.tensor([ids]))
    for layer, module in enumerate(out_projections(family, receiver)):
        columns = [neuron for at, neuron in chosen if at == layer]

        def exchanged(_, args, at=layer, columns=columns):
            value = args[0].clone()
            value[..., columns] = seen[at][..., columns]
            return (value,)

        handles.append(module.register_forward_pre_hook(exchanged))
    with torch.no_grad():
        logits = receiver(input_ids=torch.tensor([ids])).logits[0, -1]
    for handle in handles:
        handle.remove()
    return logits


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_activations_and_weights_alone_are_what_plain_torch_makes_of_them(
    family, everywhere, direction
):
    study, chosen = everywhere, [(0, 2), (0, 40), (1, 7), (1, 8), (2, 30)]
    found = patched(study, direction, chosen)
    roles = ("tuned", "base") if direction == "necessity" else ("base", "tuned")
    receiver, donor = (study.pair[role].module for role in roles)
    # the receiver with these columns of the donor's matrices: what is live stays live
    hybrid = copy.deepcopy(receiver)
    for layer, neuron in chosen:
        tiny.mlps(hybrid)[layer]["mlp.out"][:, neuron] = tiny.mlps(donor)[layer]["mlp.out"][
            :, neuron
        ]
    for row in ROWS:
        ids = list(study.encoded("positive")[row].ids)
        with torch.no_grad():
            logits = hybrid(input_ids=torch.tensor([ids])).logits[0, -1]
        for cell, expected in (
            (ACTIVATION, by_hooks(family, receiver, donor, ids, chosen)),
            (WEIGHTS, logits),
        ):
            odds = float(study.metric.log_odds(expected[None]))
            assert found.numbers[cell][row] == pytest.approx(odds, rel=1e-8)
    # and token by token, with a cache
    alone = tiny.study(hybrid, None, 6, template=False, max_new_tokens=3).answers(
        "tuned", "positive"
    )
    intervention = PatchSource.from_study(study).cell(direction, chosen, *WEIGHTS).intervention
    assert study.answers(roles[0], "positive", intervention) == alone
    texts = [study.decode(answer) for answer in alone]
    assert np.array_equal(
        found.exhibits[WEIGHTS],
        study.metric.exhibits(study.prompts("positive").prompts, texts, "positive"),
    )


def test_random_sets_are_patched_as_the_located(everywhere):
    found = patched(everywhere, "sufficiency", SOME, sets=[SOME, [(0, 1)]])
    for cell in CELLS:
        assert found.random[cell][0] == found.numbers[cell].mean()
    assert found.random[NONE] == [found.receiver.mean()] * 2
    assert found.random[BOTH][1] != found.random[BOTH][0]


# ---------------------------------------------------------------------------------------------- in a run


@pytest.fixture(scope="module")
def table():
    """The planted pair: what the neurons read and what they write was tuned, in one block."""
    verify = VerifyNeurons(
        ranking=((1, 30), (1, 17), (1, 5)),
        selected=3,
        random_sets=19,
        dose_draws=1,
        depth=3,
        control_prompts=12,
    )
    return verify(tiny.planted_study("llama", pairs=40))


def test_every_run_with_a_base_has_the_two_by_two(table):
    cells, prompts, random = (
        table.tables[name] for name in ("patching_cells", "patching", "patching_random")
    )
    assert len(cells) == 8
    assert len(prompts) == 8 * 12
    assert len(random) == 8 * 19
    rows = {tuple(row.values())[:3]: row for row in cells.rows()}
    for direction in DIRECTIONS:
        assert rows[direction, *BOTH]["effect"] == pytest.approx(1.0, abs=1e-3)
        assert rows[direction, *BOTH]["p"] == pytest.approx(1 / 20)
        assert rows[direction, *NONE]["effect"] == 0.0
        given = float(direction == "sufficiency")  # the donor refuses, or the receiver does
        assert [rows[direction, *cell]["refused"] for cell in (BOTH, NONE)] == [given, 1 - given]
        assert abs(rows[direction, *BOTH]["random_high"]) < 0.1
    # in the base these columns are zero: nothing that the base's own columns write can say anything
    assert rows["sufficiency", *ACTIVATION]["effect"] == pytest.approx(0.0, abs=1e-6)
    assert rows["necessity", *WEIGHTS]["effect"] == pytest.approx(1.0, abs=1e-3)


def test_cells_are_ratios_of_means_over_their_rows(table):
    prompts = table.tables["patching"]
    for row in table.tables["patching_cells"].rows():
        mine = np.logical_and.reduce([prompts[name] == row[name] for name in list(row)[:3]])
        number, own, donor = (
            prompts[name][mine] for name in ("log_odds", "log_odds_receiver", "log_odds_donor")
        )
        assert row["effect"] == pytest.approx((number - own).mean() / (donor - own).mean())
        expected = cluster_interval(
            number, prompts["cluster"][mine], minus=own, over=donor, over_minus=own
        )
        np.testing.assert_allclose([row["effect"], row["low"], row["high"]], expected, atol=1e-12)
        assert row["refused"] == prompts["refused"][mine].mean()


def test_without_a_gap_there_is_no_effect():
    """Numbers that lie apart one way as often as the other: a share of nothing is refused."""
    study = tiny.planted_study("llama", pairs=12)
    found = patched(study, "necessity", SOME, sets=[SOME])
    apart = Evidence([], np.ones(12, bool), ROWS, True, 7, patching={"necessity": found})
    assert np.isfinite(patching_tables(study, apart)["patching_cells"]["effect"]).all()
    flat = replace(found, donor=found.receiver + np.array([1.0, -1, 1, -1, 1, -1]))
    made = patching_tables(
        study, Evidence([], np.ones(12, bool), ROWS, True, 7, patching={"necessity": flat})
    )
    assert np.isnan(made["patching_cells"]["effect"]).all()
    assert np.isnan(made["patching_cells"]["p"]).all()
    assert np.isnan(made["patching_random"]["effect"]).all()


def test_the_figure_has_every_cell_and_the_random_sets(table):
    cells = table.tables["patching_cells"]
    figure = plot(cells)
    drawn = np.concatenate([trace.y for trace in figure.data if trace.type == "bar"])
    np.testing.assert_allclose(sorted(drawn), sorted(cells["effect"]))
    marks = np.concatenate([trace.y for trace in figure.data if trace.type == "scatter"])
    np.testing.assert_allclose(sorted(marks), sorted(cells["random"]))


def test_patching_activations_is_said_and_is_in_the_key():
    study = tiny.planted_study("llama", pairs=40)
    options = {
        "ranking": ((1, 30), (1, 17), (1, 5)),
        "selected": 3,
        "random_sets": 39,
        "dose_draws": 1,
        "depth": 3,
    }
    by_activation = VerifyNeurons(**options, control_prompts=4, patch="activation")
    table = by_activation(study)
    found = {one.name: one for one in from_table(table.tables["claims"])}
    # the base's rows read next to nothing of the last word, and its columns write nothing
    assert found["necessity"].sentence.startswith(
        "Given the base's activations in 3 neurons, the fine-tuned model"
    )
    assert found["sufficiency"].sentence.startswith(
        "Given the fine-tuned model's activations in 3 neurons, the base"
    )
    assert abs(found["necessity"].value) < 0.1
    assert found["necessity-recovery"].value > 0.9
    assert found["sufficiency"].value == -1.0
    assert found["sufficiency"].verdict == "not supported"
    assert table.summary["patch"] == "activation"
    keys = [
        study.provenance(made).key
        for made in (by_activation, replace(by_activation, patch="contribution"))
    ]
    assert keys[0] != keys[1]
    for one in found.values():
        assert measure(one.claim.estimate, table).value == one.value


def test_options_that_cannot_be_run():
    with pytest.raises(
        OptionError, match="patch of VerifyNeurons is 'weights'; use contribution or activation"
    ):
        VerifyNeurons(patch="weights")
    with pytest.raises(
        OptionError, match="--patch activation takes activations from a base, and there is none"
    ):
        VerifyNeurons(patch="activation").check(Known(has_base=False))
