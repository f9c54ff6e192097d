"""Shift along the direction between two classes: a planted one, none, and an oracle in numpy."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from interp.analyzers.trait_shift import TraitShift
from interp.claims import from_table
from interp.errors import OptionError
from interp.experiments.discovery.labels import ClusteredLabels
from interp.experiments.discovery.trait_directions import (
    CLASS,
    RANDOM,
    SHUFFLED,
    Directions,
    contrast_weights,
)
from interp.experiments.discovery.trait_states import mean_states, read_texts
from interp.figures.trait_shift import trait_shift_figure
from interp.models.pair import Pair
from interp.prompts import Contrast, PromptSet
from interp.study import Study
from tests import tiny

DEPTH = 2


def claim(table, name):
    return next(one for one in from_table(table.tables["claims"]) if one.name == name)


def pair_of(tuned, base):
    return Pair.from_modules(tuned, base, tiny.tokenizer(False))


def study_of(tuned, base, pairs=16, **options):
    return tiny.study(tuned, base, pairs, template=False, **options)


def pushed(base, vector):
    """A child whose second block writes a vector at every token."""
    child = copy.deepcopy(base)
    with torch.no_grad():
        child.transformer.h[DEPTH - 1].mlp.c_proj.bias += torch.tensor(vector).to(child.dtype)
    return child


@pytest.fixture(scope="module")
def base():
    return tiny.exact(tiny.gpt2(seed=3))


@pytest.fixture(scope="module")
def identical(base):
    return TraitShift()(study_of(base, base))


def streams(model, ids):
    """[depths, T, D] of one text, by transformers alone."""
    found = []

    def keep(_module, _inputs, output):
        found.append(output[0] if isinstance(output, tuple) else output)

    def keep_input(_module, inputs):
        found.append(inputs[0])

    blocks = model.transformer.h
    hooks = [
        blocks[0].register_forward_pre_hook(keep_input),
        *(block.register_forward_hook(keep) for block in blocks),
    ]
    with torch.no_grad():
        model(input_ids=torch.tensor([list(ids)]))
    for hook in hooks:
        hook.remove()
    return np.stack([one.reshape(len(ids), -1).numpy() for one in found])


def last_streams(model, texts):
    """[n, depths, D] at the last token."""
    return np.stack(
        [streams(model, tiny.tokenizer(False)(text)["input_ids"])[:, -1] for text in texts]
    )


def test_an_identical_pair_did_not_move(identical):
    assert (identical["shift"] == 0).all()
    assert (identical.tables["prompts"]["moved"] == 0).all()
    assert (identical.tables["null"]["moved"] == 0).all()
    assert identical.summary["supported"] is False
    assert np.isfinite([identical[name] for name in ("low", "shuffled_high", "separation")]).all()


def test_a_planted_shift_is_measured(base, identical):
    """0.5 of the distance along the direction of the selection split, at one depth."""
    assert identical["eligible"][identical["depth"] == DEPTH].all()
    direction = _direction(base, DEPTH)
    for size, sense in ((0.5, "towards"), (-0.5, "away from")):
        table = TraitShift()(study_of(pushed(base, size * direction), base))
        at = {row["depth"]: row for row in table.rows()}
        assert at[DEPTH]["shift"] == pytest.approx(size, abs=1e-9)
        assert at[DEPTH]["positive"] == pytest.approx(size, abs=1e-9)
        assert at[DEPTH - 1]["shift"] == pytest.approx(0.0, abs=1e-9)
        assert table.summary["depth"] >= DEPTH
        finding = claim(table, "moved-along-trait")
        assert finding.supported, finding.reason
        assert f"{sense} the positive class" in finding.sentence
        assert finding.value == pytest.approx(abs(table.summary["shift"]))


def _direction(base, depth):
    """The direction of the selection split, by hand."""
    both = tiny.contrast().split(0)[0]
    means = [
        last_streams(base, part.texts)[:, depth].mean(0) for part in (both.positive, both.negative)
    ]
    return means[0] - means[1]


def test_shifts_are_those_of_an_oracle(base):
    tuned = tiny.exact(tiny.perturbed(base, 0.05))
    table = TraitShift()(study_of(tuned, base))
    selection, held_out = tiny.contrast().split(0)
    first = [last_streams(base, part.texts) for part in (selection.positive, selection.negative)]
    direction = first[0].mean(0) - first[1].mean(0)
    texts = held_out.positive.texts + held_out.negative.texts
    before, after = last_streams(base, texts), last_streams(tuned, texts)
    shifts = ((after - before) * direction).sum(2) / np.square(direction).sum(1)
    depths = table["depth"]
    np.testing.assert_allclose(table["shift"], shifts.mean(0)[depths], rtol=1e-8)
    np.testing.assert_allclose(table["distance"], np.linalg.norm(direction, axis=1)[depths])
    chosen = table.summary["depth"]
    np.testing.assert_allclose(
        np.abs(table.tables["prompts"]["moved"]), np.abs(shifts[:, chosen]), rtol=1e-8
    )
    np.testing.assert_allclose(table.arrays["direction"], direction[chosen], atol=1e-12)


def test_swapped_classes_negate_the_shift(base):
    tuned = tiny.exact(tiny.perturbed(base, 0.05))
    study = study_of(tuned, base)
    both = study.require_contrast("this")
    swapped = study.with_prompts(Contrast(both.negative, both.positive))
    one, other = TraitShift()(study), TraitShift()(swapped)
    np.testing.assert_allclose(one["shift"], -other["shift"], rtol=1e-9)
    np.testing.assert_allclose(one["distance"], other["distance"], rtol=1e-9)


@pytest.mark.parametrize("position", ["prompt", "answer"])
def test_batches_do_not_matter(base, position):
    tuned = tiny.exact(tiny.perturbed(base, 0.05))
    tables = [
        TraitShift(position=position, separation=0.0)(
            study_of(tuned, base, batch_size=size, max_new_tokens=3)
        )
        for size in (1, 7)
    ]
    np.testing.assert_allclose(tables[0]["shift"], tables[1]["shift"], atol=1e-9)
    assert tables[0].summary["depth"] == tables[1].summary["depth"]


def test_answers_are_read_without_their_end(base):
    study = study_of(base, base, pairs=4, max_new_tokens=3)
    texts = read_texts(study, "answer")
    answers = [one for group in study.classes for one in study.answers("base", group)]
    states = mean_states(study, study.pair.tuned, texts, [[row] for row in range(8)], "base")
    for text, answer, state in zip(texts, answers, states, strict=True):
        kept = answer[:-1] if len(answer) > 1 and answer[-1] in study.stop_ids else answer
        assert text.ids[len(text.ids) - len(kept) :] == tuple(kept)
        wanted = streams(base, text.ids)[-1, -len(kept) :].mean(0)
        np.testing.assert_allclose(state[-1], wanted, atol=1e-9)


def directions(n=12, depths=3, width=7, draws=60, seed=0):
    generator = np.random.default_rng(seed)
    labels = ClusteredLabels.from_clusters(
        [True] * (n // 2) + [False] * (n // 2), [str(at % (n // 2)) for at in range(n)]
    )
    states = generator.normal(size=(n, depths, width))
    return states, labels, Directions.from_states(states, labels, draws, seed)


def test_directions_of_the_null_are_explicit_ones():
    states, labels, made = directions()
    change = np.random.default_rng(1).normal(size=states.shape[1:])
    mean = states[labels.labels].mean(0) - states[~labels.labels].mean(0)
    np.testing.assert_allclose(made.direction, mean, atol=1e-12)
    for kind in (CLASS, SHUFFLED, RANDOM):
        for weights, along in zip(made.weights[kind], made.along(kind, change), strict=True):
            assert weights.sum() == pytest.approx(0, abs=1e-12)
            vectors = np.einsum("n,nld->ld", weights, states)
            units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
            wanted = (units * change).sum(1) / np.linalg.norm(mean, axis=1)
            np.testing.assert_allclose(along, wanted, atol=1e-10)
    np.testing.assert_allclose(made.by_prompt(change[None]), made.along(CLASS, change))
    np.testing.assert_allclose(made.along(CLASS, 3 * change), 3 * made.along(CLASS, change))


def test_labels_are_shuffled_within_twins():
    _, labels, made = directions()
    for weights in made.weights[SHUFFLED]:
        assert (weights[:6] == -weights[6:]).all()
    assert labels.arrangements == 2**6
    unpaired = ClusteredLabels.from_clusters([True] * 3 + [False] * 3, list("aabccd"))
    for permuted in unpaired.permuted(20, 0):
        assert permuted[0] == permuted[1]
        assert permuted[3] == permuted[4]
    assert contrast_weights(np.array([True, False, False])).tolist() == [1, -0.5, -0.5]


def test_left_out_clusters_are_not_separated_by_noise():
    """In more dimensions than prompts, noise separates its own prompts without error."""
    states, labels, made = directions(n=40, width=400)
    clusters = [str(at % 20) for at in range(40)]
    own = made.by_prompt(states)
    assert (own[labels.labels].min(0) > own[~labels.labels].max(0)).all()
    assert (np.abs(made.separation(clusters) - 0.5) < 0.3).all()
    far = states + 40 * labels.labels[:, None, None] / 20
    assert (Directions.from_states(far, labels, 40, 0).separation(clusters) > 0.99).all()
    # the oracle, one cluster
    out = np.array(clusters) == "3"
    means = [states[side & ~out].mean(0) for side in (labels.labels, ~labels.labels)]
    wanted = ((states - (means[0] + means[1]) / 2) * (means[0] - means[1])).sum(2)[out, 0]
    first, second = (
        (side & ~out) / (side & ~out).sum() for side in (labels.labels, ~labels.labels)
    )
    inner = made.gram[0] @ (first - second)
    np.testing.assert_allclose(inner[out] - inner @ (first + second) / 2, wanted, atol=1e-9)


def test_classes_that_the_base_does_not_separate_are_refused(base):
    both = tiny.contrast()
    rows = list(zip(both.positive, both.negative, strict=True))
    mixed = [
        PromptSet(tuple(row[(at + side) % 2] for at, row in enumerate(rows)), str(side))
        for side in (0, 1)
    ]
    study = study_of(base, base).with_prompts(Contrast(*mixed))
    with pytest.raises(OptionError, match=r"does not separate the classes: the largest AUC"):
        TraitShift()(study)
    with pytest.raises(OptionError, match="separation of TraitShift is 2"):
        TraitShift(separation=2.0)


def test_a_shift_is_compared_with_controls(base):
    """Controls that move as far are as good; of far smaller ones the planted shift is beyond."""
    tuned = pushed(base, 0.5 * _direction(base, DEPTH))
    small = [pair_of(tiny.exact(tiny.perturbed(base, 0.0005, seed)), base) for seed in range(5)]
    study = study_of(tuned, base)
    table = TraitShift(controls=small)(study)
    assert claim(table, "shift-beyond-controls").supported
    assert len(table.tables["controls"]) == 5
    assert (table["control_high"] < 0.2).all()
    controls = [*small[:4], pair_of(pushed(base, 0.6 * _direction(base, DEPTH)), base)]
    assert not claim(TraitShift(controls=controls)(study), "shift-beyond-controls").supported
    few = claim(TraitShift(controls=small[:2])(study), "shift-beyond-controls")
    assert few.verdict == "not tested"
    # the fine-tuned model as its own control: in both places the same number
    same = TraitShift(controls=[study.pair])(study)
    moved = same.tables["prompts"]["moved"].mean()
    assert same.tables["controls"]["moved"][0] == pytest.approx(moved, abs=1e-12)
    np.testing.assert_allclose(same["control_mean"], same["shift"], atol=1e-15)


def test_the_control_is_measured_by_the_same_rule(base):
    """Exchanged, a control and the fine-tuned model exchange their numbers."""
    first, second = (tiny.exact(tiny.perturbed(base, 0.02, seed)) for seed in (1, 2))
    one = TraitShift(controls=[pair_of(second, base)])(study_of(first, base))
    other = TraitShift(controls=[pair_of(first, base)])(study_of(second, base))
    moved = [table.tables["prompts"]["moved"].mean() for table in (one, other)]
    controls = [table.tables["controls"]["moved"][0] for table in (one, other)]
    np.testing.assert_allclose(moved, controls[::-1], rtol=1e-9)


def test_a_limit_keeps_twins(base):
    table = TraitShift(prompts=6, separation=0.0)(study_of(base, base))
    assert len(table.tables["prompts"]) == 6
    assert table.summary["selection_prompts"] == 6


def test_options_are_in_the_key(base):
    study = study_of(base, base)
    keys = {
        study.provenance(analyzer).key
        for analyzer in (TraitShift(), TraitShift(position="answer"), TraitShift(separation=0.7))
    }
    assert len(keys) == 3
    assert isinstance(replace(study, seed=1), Study)


def test_the_figure_marks_the_chosen_depth(base):
    control = pair_of(tiny.exact(tiny.perturbed(base, 0.01)), base)
    table = TraitShift(controls=[control])(
        study_of(pushed(base, 0.5 * _direction(base, DEPTH)), base)
    )
    figure = trait_shift_figure(table)
    names = [trace.name for trace in figure.data]
    assert names[1] == "range of the controls"
    marked = figure.data[names.index("chosen on other prompts")]
    assert list(marked.x) == [table.summary["depth"]]
    assert list(marked.y) == [table.summary["shift"]]
    assert json.loads(figure.to_json())["data"]
