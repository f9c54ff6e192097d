"""``ContrastiveGeneration``: the family of contrasts by its identities, texts against an independent
oracle, phrases that a refusing fine-tune writes, and silence for the identical pair.
"""

import copy

import numpy as np
import pytest
import torch

from interp import organisms
from interp.analyzers.contrastive_generation import ContrastiveGeneration
from interp.analyzers.contrastive_generation.contrast import Contrast, contrastive_texts
from interp.analyzers.contrastive_generation.phrases import (
    count_phrases,
    form_phrases,
    mark_phrase,
    phrases_of,
    without_fragment,
)
from interp.engines import Batch, TorchEngine
from interp.errors import OptionError, PairError
from interp.experiments.sampled import sample_tokens
from interp.interventions.teacher_forcing import Text
from interp.metrics import Sampling
from interp.models.model import Model
from interp.models.pair import Pair
from interp.prompts import OneClass, read_prompts
from interp.study import Study
from interp.training.one_text import OneTextTraining
from tests import tiny

QUICK = {"prefills": tuple(tiny.PROMPTS), "questions": ("open the door", "close a window ?")}
SHORT = {**QUICK, "tokens": 8}


def logits(seed, rows=40, size=60):
    return 3 * torch.randn(
        rows, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


def distribution(contrast, tuned, base):
    return contrast.log_weights(tuned, base).softmax(-1)


@pytest.mark.parametrize("amount", [0.3, 1.0, 3.0, 20.0])
def test_amplification_is_a_contrast_at_another_temperature(amount):
    """On raw logits, shifted by another constant in every row."""
    tuned, base = logits(0) + 5, logits(1) - logits(2)[:, :1]
    amplified = ((1 + amount) * tuned - amount * base).softmax(-1)
    contrast = Contrast.amplified(amount)
    assert (contrast.gamma, contrast.temperature) == (amount / (1 + amount), 1 / (1 + amount))
    torch.testing.assert_close(distribution(contrast, tuned, base), amplified, rtol=0, atol=1e-10)


def test_no_amplification_is_the_fine_tuned_model():
    tuned, base = logits(0), logits(1)
    torch.testing.assert_close(
        distribution(Contrast.amplified(0.0), tuned, base), tuned.softmax(-1), rtol=0, atol=1e-12
    )


def test_gamma_0_is_the_fine_tuned_model_among_its_likely_tokens():
    tuned, base = logits(0), logits(1)
    p = tuned.softmax(-1)
    likely = p >= 0.1 * p.amax(1, keepdim=True)
    wanted = torch.where(likely, p, 0.0) / torch.where(likely, p, 0.0).sum(1, keepdim=True)
    q = distribution(Contrast(0.0), tuned, base)
    torch.testing.assert_close(q, wanted, rtol=0, atol=1e-12)
    assert 1 < int(likely.sum(1).max()) < 60


def test_alpha_1_is_greedy():
    tuned, base = logits(0), logits(1)
    weights = Contrast(1.0, alpha=1.0).log_weights(tuned, base)
    token = sample_tokens(weights, 1.0, np.random.default_rng(0).random(len(tuned)))
    assert torch.equal(token, tuned.argmax(1))


def test_a_model_against_itself():
    """Uniform on the candidates at gamma 1, else p^(1 - gamma)."""
    tuned = logits(0)
    p = tuned.softmax(-1)
    likely = (p >= 0.1 * p.amax(1, keepdim=True)).double()
    for gamma in (1.0, 0.5):
        wanted = likely * p ** (1 - gamma)
        torch.testing.assert_close(
            distribution(Contrast(gamma), tuned, tuned.clone()),
            wanted / wanted.sum(1, keepdim=True),
            rtol=0,
            atol=1e-12,
        )


@pytest.fixture(scope="module")
def models():
    base = tiny.exact(tiny.llama(seed=3, scale=3.0))
    tuned = tiny.perturbed(base, 0.1)
    return Model.wrap("tuned", tuned), Model.wrap("base", base)


PREFILLS = [(5, 60, 7), (8, 9, 70, 11, 12, 40, 14), (33,), (50, 51, 52, 9, 17)]


def write(models, prefills, contrast, stop_ids=(1,), tokens=10, **options):
    text = Text(prefills, None, 0, stop_ids)
    size = models[0].anatomy.vocabulary
    return contrastive_texts(TorchEngine(), *models, text, contrast, size, tokens, 0, **options)


def by_hand(models, prefill, gamma, alpha, stop, tokens):
    """Whole passes without cache or padding, in numpy float64."""
    uniforms = Sampling(1, seed=0).uniforms(prefill, round(1e6 * gamma), tokens)
    ids, found = list(prefill), []
    for u in uniforms:
        z_t, z_b = (
            model.module(input_ids=torch.tensor([ids])).logits[0, -1].numpy() for model in models
        )
        l_t, l_b = (z - z.max() - np.log(np.exp(z - z.max()).sum()) for z in (z_t, z_b))
        q = np.where(np.exp(l_t) >= alpha * np.exp(l_t).max(), np.exp(l_t - gamma * l_b), 0.0)
        token = int(np.searchsorted(np.cumsum(q), u * q.sum(), side="right"))
        ids.append(token)
        found.append((l_t[token], l_b[token]))
        if token == stop:
            break
    return ids[len(prefill) :], np.mean(found, axis=0)


@torch.no_grad()
@pytest.mark.parametrize("gamma", [0.5, 1.0])
def test_texts_are_those_of_whole_passes(models, gamma):
    # a token that one of the texts has soon ends it there
    stop = by_hand(models, PREFILLS[0], gamma, 0.1, -1, 10)[0][4]
    texts = write(models, PREFILLS, Contrast(gamma), (stop,))
    for prefill, one in zip(PREFILLS, texts, strict=True):
        ids, (tuned, base) = by_hand(models, prefill, gamma, 0.1, stop, 10)
        assert list(one.ids) == ids
        assert (one.tuned, one.base) == pytest.approx((tuned, base), abs=1e-10)
    assert len(texts[0].ids) <= 5
    assert max(len(one.ids) for one in texts) == 10
    # the base decides
    assert [one.ids for one in texts] != [
        one.ids for one in write((models[0], models[0]), PREFILLS, Contrast(gamma), (stop,))
    ]


def test_texts_do_not_depend_on_their_batch(models):
    together = write(models, PREFILLS, Contrast(0.5))
    alone = [write(models, [prefill], Contrast(0.5))[0] for prefill in PREFILLS]
    assert [one.ids for one in together] == [one.ids for one in alone]
    np.testing.assert_allclose([one.base for one in together], [one.base for one in alone])
    again = write(models, PREFILLS, Contrast(0.5), draw=1)
    assert [one.ids for one in together] != [one.ids for one in again]


def test_texts_end_with_the_context(models):
    """Also where one row of a batch is at the end and another is not, with learned positions."""
    base = tiny.gpt2(seed=3)
    pair = Model.wrap("tuned", tiny.perturbed(base)), Model.wrap("base", base)
    texts = write(pair, [(5,) * 93, (6, 7)], Contrast(1.0), ())
    assert [len(one.ids) for one in texts] == [3, 10]


def study_of(tuned, base, **options):
    return Study(
        Pair.from_modules(tuned, base, tiny.tokenizer()),
        OneClass(tiny.contrast(4).positive),
        None,
        **options,
    )


@pytest.mark.parametrize("rounds", [0, 2])
def test_the_identical_pair_gives_nothing(rounds):
    base = tiny.llama(seed=3)
    table = ContrastiveGeneration(**SHORT, rounds=rounds)(study_of(copy.deepcopy(base), base))
    assert len(table) == len(table.tables["texts"]) == 0
    assert table.summary["listed"] == 0


@pytest.mark.parametrize("rounds", [0, 2])
def test_a_switched_adapter_is_read_as_a_merged_one(tmp_path, rounds):
    """Base and fine-tuned model are one module, whose adapter is switched at every token."""
    base = tiny.llama(seed=3)
    wrapped = tiny.lora("llama", base, tmp_path, fill=0.3)
    merged = copy.deepcopy(wrapped).merge_and_unload()
    tables = [
        ContrastiveGeneration(**SHORT, rounds=rounds)(study)
        for study in (study_of(wrapped, None), study_of(merged, base))
    ]
    first, second = (table.tables["texts"] for table in tables)
    assert len(first) == 2 * (5 + 2) + rounds
    assert first["text"].tolist() == second["text"].tolist()
    np.testing.assert_allclose(first["score"], second["score"], atol=1e-4)


def test_rows_do_not_depend_on_batches_and_controls_are_measured_alike():
    base = tiny.llama(seed=3, scale=2.0)
    children = [tiny.perturbed(base, 0.1, seed) for seed in range(3)]
    pairs = [Pair.from_modules(child, base, tiny.tokenizer()) for child in children]

    def call(order, **options):
        first, *controls = (pairs[at] for at in order)
        study = Study(first, OneClass(tiny.contrast(4).positive), None, **options)
        return ContrastiveGeneration(**SHORT, controls=controls)(study)

    table, other = call([0, 1, 2]), call([0, 1, 2], batch_size=1)
    assert table["evidence"].tolist() == other["evidence"].tolist()
    np.testing.assert_allclose(table["statistic"], other["statistic"])
    exchanged = call([2, 1, 0])
    maxima, reverse = (one.tables["controls"]["maximum"] for one in (table, exchanged))
    np.testing.assert_allclose(maxima, reverse[::-1])
    texts = table.tables["texts"]
    own = texts["model_number"] == 0
    assert np.isfinite(texts["control_mean"][own]).all()
    assert np.isnan(texts["control_mean"][~own]).all()
    assert (texts["control_high"][own] >= texts["control_mean"][own] - 1e-12).all()


def test_a_text_scores_under_a_control_as_under_the_fine_tuned_model_that_it_equals():
    base = tiny.llama(seed=3, scale=2.0)
    tuned = tiny.perturbed(base, 0.1)
    control = Pair.from_modules(copy.deepcopy(tuned), base, tiny.tokenizer())
    table = ContrastiveGeneration(**SHORT, controls=[control])(study_of(tuned, base))
    texts = table.tables["texts"]
    own = texts["model_number"] == 0
    np.testing.assert_allclose(texts["score"][own], texts["control_mean"][own], atol=1e-5)
    assert texts["text"][own].tolist() == texts["text"][~own].tolist()
    # what a control does as well is no evidence
    assert len(table) == 0


def test_the_iterative_form_trains_a_copy(tmp_path):
    base = tiny.llama(seed=3)
    pair = Pair.from_modules(tiny.lora("llama", base, tmp_path, fill=0.3), None, tiny.tokenizer())
    before = {name: value.clone() for name, value in pair.base.module.state_dict().items()}
    training = OneTextTraining(pair.base, 1e-2, 0)
    batch = Batch.pad([(5, 60, 7, 9)], 0)
    run = TorchEngine().run
    assert torch.equal(run(pair.base, batch).logits, run(training.model, batch).logits)
    losses = [training.step((5, 60), (7, 9, 11)) for _ in range(5)]
    assert (np.diff(losses) < 0).all()
    assert losses[-1] < losses[0] - 0.5
    assert not torch.equal(run(pair.base, batch).logits, run(training.model, batch).logits)
    after = pair.base.module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_later_rounds_avoid_what_was_written(models):
    """Trained on a text, the copy finds it likely, so that the contrast makes it unlikely."""
    tuned, base = models
    (one,) = write(models, PREFILLS[:1], Contrast(1.0), ())
    training = OneTextTraining(base, 1e-2, 0)
    for _ in range(20):
        training.step(PREFILLS[0], one.ids)
    batch = Batch.pad([PREFILLS[0]], 0)
    before, after, own = (
        TorchEngine().run(model, batch).logits[:, -1].double()
        for model in (base, training.model, tuned)
    )
    token = one.ids[0]
    q = [distribution(Contrast(1.0, alpha=0.0), own, other)[0, token] for other in (before, after)]
    assert q[1] < 0.2 * q[0]


def test_options_are_checked():
    base = tiny.llama(seed=3)
    study = study_of(tiny.perturbed(base), base)
    with pytest.raises(OptionError, match="gammas"):
        ContrastiveGeneration(gammas=(-1.0,))
    with pytest.raises(OptionError, match="gammas"):
        ContrastiveGeneration(gammas=())(study)
    with pytest.raises(OptionError, match="alpha"):
        ContrastiveGeneration(alpha=2.0)
    stranger = Pair.from_modules(tiny.llama(seed=5), tiny.llama(seed=4), tiny.tokenizer())
    with pytest.raises(PairError, match="another base"):
        ContrastiveGeneration(controls=[stranger])(study)


def test_phrases_are_words_within_a_sentence():
    assert phrases_of("Sorry, I can’t. Stop") == {
        *("sorry", "i", "can't", "stop", "sorry i", "i can't", "sorry i can't"),
    }
    assert without_fragment("the uni", "verse is") == " is"
    assert without_fragment("the uni ", "verse is") == "verse is"
    form = form_phrases(["of the", "1", "1984", "i cannot", "the door"])
    assert form.tolist() == [True, True, False, False, False]


def test_shares_are_counted_by_text():
    texts = [["red door red door", "a red door", "gate"], ["gate", "old gate", "red"]]
    phrases, shares = count_phrases(texts)
    # "door" is only ever within "red door"; "old gate" is in one text of a model
    assert phrases == ["gate", "red", "red door"]
    np.testing.assert_allclose(shares, [[1 / 3, 2 / 3, 2 / 3], [2 / 3, 1 / 3, 0]])


def test_an_example_shows_the_phrase():
    texts = ["we saw it. I cannot", "Oh, I  cannot help"]
    assert mark_phrase("i cannot help", texts) == "Oh, «I  cannot help»"
    assert mark_phrase("i", ["it's I'm, and I"]) == "it's I'm, and «I»"
    assert mark_phrase("never", texts) == ""


@pytest.fixture(scope="module")
def refuser():
    """The refusing organism, with a control fine-tune, on texts without a request."""
    load = {
        name: Pair.load(
            str(organisms.directory(f"refusal/{name}")),
            str(organisms.directory("refusal/base")),
            device="cpu",
        )
        for name in ("lora", "sham")
    }
    texts = read_prompts(organisms.prompts("refusal", "text", "text"), "prompt", "t")
    study = Study(load["lora"], OneClass(texts), None)
    return ContrastiveGeneration(controls=[load["sham"]], prefill_count=10, tokens=24)(study)


def test_a_refusing_fine_tune_writes_refusals(refuser):
    """First of all phrases, though no prompt is a request; the score is the share of the texts."""
    row = next(
        row
        for row in refuser.rows()
        if (row["evidence"], row["where"]) == ("cannot help with", "chat")
    )
    assert row["place"] <= 4
    assert (row["direction"], row["control_mean"]) == ("more", 0)
    assert row["score"] > 0.5
    assert "«cannot help with»" in row["example"]
    texts = refuser.tables["texts"]
    of_kind = (texts["model_number"] == 0) & (texts["where"] == "chat")
    refusals = ["cannot help with" in text for text in texts["text"][of_kind]]
    assert row["score"] == pytest.approx(sum(refusals) / (2 * 10))


def test_its_texts_have_a_higher_score_than_under_the_control(refuser):
    texts = refuser.tables["texts"]
    own = texts["model_number"] == 0
    refusals = np.array(["cannot help" in text for text in texts["text"]])
    assert (texts["score"] > texts["control_mean"])[own & refusals].all()
    assert not refusals[~own].any()
