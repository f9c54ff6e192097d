"""The activation difference lens: planted directions, silence, identities, an oracle in float64."""

import copy

import numpy as np
import pytest
import torch

from interp.analyzers.activation_difference import ActivationDifference
from interp.analyzers.activation_difference.causal import (
    Direction,
    losses_along,
    with_base_component,
)
from interp.analyzers.activation_difference.differences import (
    blocks_at,
    difference_of,
    first_tokens,
    mean_norm_from,
    mean_streams,
    position_batches,
)
from interp.analyzers.activation_difference.lens import lens_scores, ranks_at
from interp.analyzers.activation_difference.patchscope import (
    Patchscope,
    Reading,
    choose_scale,
    identity_prompts,
    unembedding_of,
)
from interp.analyzers.activation_difference.steering import (
    Samples,
    Steering,
    coherent_share,
    distinct_pairs,
    largest_passing,
)
from interp.errors import OptionError, PairError, PromptError
from interp.experiments.plain_text import coded_texts
from interp.metrics import Sampling
from interp.models.pair import Pair
from interp.prompts import OneClass, Prompt, PromptSet
from interp.study import Study
from tests import tiny

TEXTS = [
    "open the door",
    "please tell me how to close a window ?",
    "paint old fences and lock new gates .",
    "how to lock the door and open a gate please",
    "close the new window",
    "the gate",
]
SORRY, WINDOW = tiny.tokenizer(False).convert_tokens_to_ids(["\u0120Sorry", "\u0120window"])
FAST = {"patchscope": False}


def pair_of(tuned, base):
    return Pair.from_modules(tuned, base, tiny.tokenizer(False))


def texts_of(texts):
    prompts = tuple(Prompt(at, text, f"c{at}", f"c{at}") for at, text in enumerate(texts))
    return PromptSet(prompts, "texts")


def study_of(tuned, base, **options):
    contrast = OneClass(texts_of(TEXTS))
    return Study(pair_of(tuned, base), contrast, None, max_new_tokens=6, **options)


def biased(base, layer=1, length=3.0, token=SORRY):
    """A child that adds a token's unembedding row to the stream, at every position of a block."""
    child = copy.deepcopy(base)
    row = child.get_output_embeddings().weight[token].detach()
    with torch.no_grad():
        child.transformer.h[layer].mlp.c_proj.bias += length * row / row.norm()
    return child


def controls_of(base, count=3):
    """Controls that all say " window", apart from noise."""
    same = biased(base, token=WINDOW)
    return [pair_of(tiny.perturbed(same, 0.002, seed=5 + at), base) for at in range(count)]


@pytest.fixture(scope="module")
def base():
    return tiny.gpt2()


def read(study, blocks=(0, 1, 2), positions=5):
    """Mean differences of the study's pair."""
    cut = first_tokens(coded_texts(study, "positive"), positions)
    groups = position_batches(study, cut, blocks)
    return difference_of(
        *(
            mean_streams(study, study.pair[role], cut, groups, blocks, role)
            for role in ("base", "tuned")
        )
    )


# ------------------------------------------------------------------------------------ the table


@pytest.mark.parametrize("length", [3.0, -3.0])
def test_a_planted_token_is_first_and_what_controls_do_too_is_not(base, length):
    tuned = tiny.perturbed(biased(biased(base, token=WINDOW), length=length), 0.002)
    table = ActivationDifference(controls_of(base), depths=(0.5,), **FAST)(study_of(tuned, base))
    assert table["evidence"][0] == " Sorry"
    assert table["where"][0].startswith("block 1, position")
    assert table["direction"][0] == ("more" if length > 0 else "less")
    assert (table["score"][0] > 0) == (length > 0)
    assert table["rank"][0] <= 2
    maxima = table.tables["controls"]["maximum"]
    assert maxima[0] > 3 * maxima[1:].max()
    assert table.tables["controls"]["evidence"][0] == f" Sorry ({table['where'][0]})"
    window = np.abs(table["statistic"][table["evidence"] == " window"])
    assert (window < maxima[0] / 3).all()


def test_the_size_of_a_planted_difference(base):
    table = ActivationDifference(depths=(0.5,), **FAST)(study_of(biased(base), base))
    assert table["evidence"][0] == " Sorry"
    assert np.isnan(table["statistic"]).all()
    sizes = table.tables["differences"]
    np.testing.assert_allclose(sizes["norm"], 3.0, rtol=1e-5)
    np.testing.assert_allclose(sizes["cosine"], 1.0)


def test_of_the_identical_pair_every_table_is_empty(base):
    study = study_of(copy.deepcopy(base), base)
    options = {"steer": 1, "training": texts_of(TEXTS)}
    for controls in ((), controls_of(base)):
        table = ActivationDifference(controls, **options)(study)
        assert len(table) == 0
        assert set(table.tables) == {"controls", "differences", "patchscope", "steered", "causal"}
        for name, part in table.tables.items():
            assert len(part) == (1 + len(controls) if name == "controls" else 0)
        if controls:
            assert table.tables["controls"]["maximum"][0] == 0


def test_models_are_treated_alike(base):
    """The maxima do not depend on which of the models is called the fine-tuned one."""
    models = [tiny.perturbed(base, 0.02, seed=seed) for seed in range(3)]
    found = []
    for order in ((0, 1, 2), (2, 0, 1)):
        first, *rest = (models[at] for at in order)
        controls = [pair_of(model, base) for model in rest]
        table = ActivationDifference(controls, **FAST)(study_of(first, base))
        maxima = table.tables["controls"]["maximum"]
        found.append([maxima[order.index(at)] for at in range(3)])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-12)


def test_both_heads_are_read_where_one_of_them_differs(base):
    blocks_only = ActivationDifference(**FAST)(study_of(biased(base), base))
    assert not any("head" in where for where in blocks_only["where"])
    everywhere = ActivationDifference(**FAST)(study_of(tiny.perturbed(base), base))
    ends = {where.rpartition(", ")[2] for where in everywhere["where"]}
    assert ends == {"base's head", "fine-tuned head"}


def test_batches_do_not_matter():
    base = tiny.llama()
    controls = [pair_of(tiny.perturbed(base, seed=3), base)]
    tables = [
        ActivationDifference(controls, rows=10)(
            study_of(tiny.perturbed(base), base, batch_size=size)
        )
        for size in (1, 6)
    ]
    one, other = tables
    assert list(one["evidence"]) == list(other["evidence"])
    np.testing.assert_allclose(one["statistic"], other["statistic"], rtol=1e-3)
    one, other = (table.tables["patchscope"] for table in tables)
    assert list(one["tokens"]) == list(other["tokens"])
    assert len(one)


# ------------------------------------------------------------------------------------ differences


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_means_and_scores_of_an_oracle_in_float64(family):
    base = tiny.exact(tiny.FAMILIES[family]())
    tuned = tiny.exact(tiny.perturbed(tiny.FAMILIES[family](), 0.05))
    study = study_of(tuned, base)
    found = read(study, blocks=(0, 1))
    ids = [text.ids for text in coded_texts(study, "positive")]
    sums, counts = np.zeros((2, 5, 32)), np.zeros(5)
    for row in ids:
        for sign, model in ((1, tuned), (-1, base)):
            states = model(torch.tensor([row]), output_hidden_states=True).hidden_states
            for block in (0, 1):
                part = states[block + 1][0, :5].detach().numpy()
                sums[block, : len(part)] += sign * part
        counts[: min(len(row), 5)] += 1
    assert counts[4] < counts[0] == len(TEXTS)
    np.testing.assert_array_equal(found.texts, counts)
    np.testing.assert_allclose(found.mean, sums / counts[:, None], atol=1e-12)
    model = study.pair.base
    scores = lens_scores(study.engine, model, found.mean[1], model.anatomy.vocabulary)
    norm = base.model.norm if family == "llama" else base.transformer.ln_f
    x = found.mean[1] / np.sqrt(np.square(found.mean[1]).mean(1, keepdims=True))
    logits = [base.lm_head(norm(torch.tensor(part))).detach().numpy() for part in (x, -x)]
    half = (logits[0] - logits[1]) / 2
    expected = (half - half.mean(1, keepdims=True)) / half.std(1, keepdims=True)
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_exchanging_the_models_negates_everything(base):
    tuned = tiny.perturbed(base)
    one, other = read(study_of(tuned, base)), read(study_of(base, tuned))
    np.testing.assert_array_equal(one.mean, -other.mean)
    study = study_of(tuned, base)
    own = lens_scores(study.engine, study.pair.base, one.mean[1], 100)
    opposite = lens_scores(study.engine, study.pair.base, other.mean[1], 100)
    # rows of a batch are multiplied in another order with more threads
    np.testing.assert_allclose(own, -opposite, atol=1e-5)
    assert own.any()


def test_scores_have_the_unit_that_they_claim_and_are_0_for_no_difference(base):
    study = study_of(base, base)
    vectors = np.stack([np.zeros(32), np.random.default_rng(0).normal(size=32)])
    size = study.pair.tuned.anatomy.vocabulary
    scores = lens_scores(study.engine, study.pair.tuned, vectors, size)
    assert not scores[0].any()
    np.testing.assert_allclose([scores[1].mean(), scores[1].std()], [0, 1], atol=1e-12)
    # the length does not matter
    longer = lens_scores(study.engine, study.pair.tuned, 1e-6 * vectors, size)
    np.testing.assert_allclose(longer, scores, atol=1e-4)


def test_ranks_count_tokens_of_the_same_sign():
    scores = np.array([[3.0, -1.0, 2.0, -4.0], [0.5, 0.4, -0.3, 0.2]])
    found = ranks_at(scores, np.array([0, 0, 0, 1]), np.array([2, 1, 3, 1]))
    assert list(found) == [2, 2, 1, 2]


def test_depths_give_blocks():
    assert blocks_at((0.25, 0.5, 0.75, 1.0), 30) == (7, 14, 21, 29)
    assert blocks_at((1.0, 0.5, 0.5), 3) == (1, 2)


# ------------------------------------------------------------------------------------ patchscope


def scope_of(study, block=1, norm=2.0):
    model = study.pair.tuned
    return Patchscope(
        study, model, block, norm, identity_prompts(study.pair.tokenizer), unembedding_of(model)
    )


def test_patchscope_replaces_the_last_token_and_refuses_a_direction_of_0():
    module = tiny.llama()
    scope = scope_of(study_of(module, module))
    with pytest.raises(OptionError, match="differences: number 1 is 0 at block 1"):
        scope.read(np.stack([np.ones(32), np.zeros(32)]), "differences")
    direction = np.random.default_rng(1).normal(size=32)
    vector = torch.tensor(3 * 2.0 * direction / np.linalg.norm(direction)).float()
    probabilities = torch.zeros(module.config.vocab_size)

    def replace(_, __, output):
        hidden = output if isinstance(output, torch.Tensor) else output[0]
        hidden[:, -1] = vector
        return output

    for ids in scope.prompts:
        hook = module.model.layers[1].register_forward_hook(replace)
        with torch.no_grad():
            probabilities = probabilities + module(torch.tensor([ids])).logits[0, -1].softmax(-1)
        hook.remove()
    reading = scope.read(direction[None], "differences")[0]
    expected = probabilities.topk(20).indices
    at = scope.scales.index(3.0)
    assert list(reading.tokens[at]) == expected.tolist()
    rows = module.lm_head.weight.detach().double().numpy()[expected]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = (rows @ rows.T)[~np.eye(20, dtype=bool)]
    np.testing.assert_allclose(reading.coherence[at], cosines.mean(), atol=1e-6)


def reading(*coherence):
    return Reading(np.zeros((len(coherence), 20), np.int64), np.array(coherence))


def test_the_scale_is_that_of_the_largest_excess_over_random_directions():
    # scale 1 gives coherent tokens for any direction
    random = [reading(0.1, 0.8, 0.1), reading(0.2, 0.9, 0.0), reading(0.15, 0.85, 0.05)]
    best, excess, p = choose_scale(reading(0.1, 0.86, 0.4), random)
    assert (best, p) == (2, 1 / 4)
    assert excess == pytest.approx(0.35)
    # a direction like the random ones
    best, _, p = choose_scale(random[1], random)
    assert (best, p) == (0, 3 / 4)
    # a scale without two tokens is never chosen, and a random one does not make it unknown
    random[0] = reading(np.nan, 0.8, 0.1)
    best, excess, _ = choose_scale(reading(0.3, 0.8, np.nan), random)
    assert best == 0
    assert excess == pytest.approx(0.3 - 0.175)


def test_patchscope_reads_a_planted_direction_beside_every_control(base):
    study = study_of(biased(base, 1, 30.0), base)
    table = ActivationDifference(controls_of(base, 1), depths=(0.5, 1.0))(study)
    part = table.tables["patchscope"]
    # the last block's is its logit lens
    assert set(part["block"]) == {1}
    assert list(part["model_number"]) == [0] * 5 + [1] * 5
    assert all("' Sorry'" in tokens for tokens in part["tokens"][:5])
    assert ((part["p"] >= 1 / 65) & (part["p"] <= 1)).all()


def test_the_norm_at_scale_1_is_that_of_later_positions(base):
    study = study_of(base, base)
    texts = coded_texts(study, "positive")
    groups = position_batches(study, texts, (1,))
    streams = mean_streams(study, study.pair.tuned, texts, groups, (1,), "all")
    lengths = []
    for text in texts:
        states = base(torch.tensor([text.ids]), output_hidden_states=True).hidden_states
        lengths += states[2][0, 5:].norm(dim=-1).tolist()
    np.testing.assert_allclose(mean_norm_from(streams, 5), np.mean(lengths), rtol=1e-6)
    # of the last position where texts are shorter
    assert mean_norm_from(streams, 99) == streams.norm[0, -1]


# ------------------------------------------------------------------------------------ steering


def test_at_strength_0_the_answers_are_the_unsteered_ones(base):
    study = study_of(tiny.perturbed(base), base)
    steering = Steering(study, 1, ("open the door", "close"), Sampling(2))
    vector = np.random.default_rng(0).normal(size=32)
    unsteered = steering.sample(vector, 0.0, "")
    assert steering.sample(-vector, 0.0, "").answers == unsteered.answers
    assert steering.sample(5 * vector, 1.0, "").answers != unsteered.answers
    assert steering.sample(vector, 1e-9, "").answers == unsteered.answers
    # the first answer, one token after another, from the same random numbers
    numbers = Sampling(2).uniforms(steering.prompts[0].ids, 0, study.max_new_tokens)
    text, written = list(steering.prompts[0].ids), []
    for number in numbers:
        with torch.no_grad():
            logits = study.pair.tuned.module(torch.tensor([text + written])).logits[0, -1]
        cumulative = logits.double().softmax(-1).cumsum(-1)
        written.append(int((cumulative > number * cumulative[-1]).nonzero()[0]))
        if written[-1] in study.stop_ids:
            break
    assert list(unsteered.answers[0]) == written


def test_the_largest_passing_strength_is_found():
    assert largest_passing(lambda strength: strength <= 37.3) == pytest.approx(37.3, abs=0.03)
    assert largest_passing(lambda strength: True) == 100
    assert largest_passing(lambda strength: False) == 0


def test_coherent_is_what_the_unsteered_samples_are():
    loss, distinct = np.linspace(1, 3, 41), np.linspace(0.5, 1, 41)
    unsteered = Samples(((),) * 41, loss, distinct)
    assert coherent_share(unsteered, unsteered) >= 0.9
    babble = Samples(((),) * 2, np.array([2.0, 9.0]), np.array([0.05, 0.8]))
    assert coherent_share(babble, unsteered) == 0
    assert distinct_pairs([1, 2, 1, 2, 1]) == 0.5
    assert distinct_pairs([7]) == 1


def test_steered_answers_are_listed_for_every_model(base):
    study = study_of(biased(base), base)
    table = ActivationDifference(
        controls_of(base, 1), patchscope=False, steer=2, questions=("open the door",)
    )(study)
    part = table.tables["steered"]
    assert list(part["model_number"]) == [0, 0, 1, 1]
    assert set(part["block"]) == {1}
    assert ((part["strength"] >= 0) & (part["strength"] <= 100)).all()
    assert list(part["unsteered"][:2]) == list(part["unsteered"][2:])


# ------------------------------------------------------------------------------------ causal share


def test_the_edit_is_idempotent_and_leaves_orthogonal_differences():
    generator = torch.Generator().manual_seed(0)
    stream, other, v = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((2, 3, 8), (2, 3, 8), (8,))
    )
    v /= v.norm()
    once = with_base_component(stream, other, v)
    torch.testing.assert_close(with_base_component(once, other, v), once)
    torch.testing.assert_close(once @ v, other @ v)
    orthogonal = stream + (other - (other @ v)[..., None] * v)
    torch.testing.assert_close(with_base_component(stream, orthogonal, v), stream)


def test_along_the_whole_difference_the_share_is_1_and_elsewhere_0(base):
    """The models differ by one vector after the last block."""
    tuned = biased(base, 2, 2.0)
    study = study_of(tuned, base)
    training = coded_texts(study, "positive")
    row = base.get_output_embeddings().weight[SORRY].detach().double().numpy()
    whole = row / np.linalg.norm(row)
    other = np.eye(32)[0] - whole[0] * whole
    directions = [
        Direction(2, "fine-tuned", "", "", vector / np.linalg.norm(vector))
        for vector in (whole, other)
    ]
    losses = losses_along(study, training, directions)
    expected = [
        torch.nn.functional.cross_entropy(
            base(torch.tensor([text.ids])).logits[0, :-1], torch.tensor(text.ids[1:])
        ).item()
        for text in training
    ]
    np.testing.assert_allclose(losses[0], expected, rtol=1e-5)
    assert np.abs(losses[1] - losses[0]).max() > 0.01
    np.testing.assert_allclose(losses[2], losses[0], rtol=1e-4)
    np.testing.assert_allclose(losses[3], losses[1], rtol=1e-4)


def test_the_causal_table_has_the_share_beside_its_controls(base):
    study = study_of(biased(base, 2, 2.0), base)
    training = texts_of([f"{word} Sorry Sorry Sorry" for word in tiny.WORDS.split()[:8]])
    analyzer = ActivationDifference(
        controls_of(base, 2), depths=(1.0,), patchscope=False, training=training
    )
    part = analyzer(study).tables["causal"]
    assert list(part["direction"]) == ["fine-tuned"] * 2 + ["control"] * 4 + ["activations"] * 16
    np.testing.assert_allclose(part["share"][:2], 1, rtol=1e-3)
    np.testing.assert_allclose(part["p"][:2], 1 / 19)
    assert np.isnan(part["p"][2:]).all()
    assert (part["low"][:2] <= part["loss_change"][:2]).all()
    np.testing.assert_array_equal(
        part["loss_change"], analyzer(study).tables["causal"]["loss_change"]
    )


# ------------------------------------------------------------------------------------ bad input


def test_bad_input_is_one_clear_line(base):
    study = study_of(tiny.perturbed(base), base)
    with pytest.raises(OptionError, match=r"positions .* use at least 2"):
        ActivationDifference(positions=1)
    with pytest.raises(OptionError, match=r"depths .* use at most 1"):
        ActivationDifference(depths=(1.5,))
    with pytest.raises(OptionError, match="depths is empty"):
        ActivationDifference(depths=())(study)
    with pytest.raises(OptionError, match="steer needs questions"):
        ActivationDifference(steer=1, questions=())(study)
    with pytest.raises(PromptError, match="has 1 token"):
        ActivationDifference(training=texts_of(["a"]), **FAST)(study)
    other = pair_of(base, tiny.perturbed(base, seed=9))
    with pytest.raises(PairError, match="has another base"):
        ActivationDifference([other])(study)
    alone = Study(pair_of(base, None), study.contrast, None)
    with pytest.raises(OptionError, match="needs a base"):
        ActivationDifference()(alone)
