"""Greedy answers: token for token those of Hugging Face, alone or in company, under interventions
or without.
"""

import pytest
import torch

from interp.engines import Batch, TorchEngine
from interp.errors import OptionError
from interp.interventions.generation import generate
from interp.interventions.intervention import Intervention
from interp.interventions.teacher_forcing import (
    Text,
    answer_logits,
    first_logits,
    read_donor,
    would_answer,
)
from interp.models.model import Model
from interp.prompts import encode
from tests import tiny

ENGINE = TorchEngine()
STOPS = (1,)
IDS = [encode(tiny.tokenizer(), text).ids for text in tiny.PROMPTS[:3]]
TWINS = [*IDS[1:], IDS[0]]
TEXT = Text(IDS, TWINS, 0, STOPS)
UNITS = tiny.by_layer([(layer, neuron) for layer in range(3) for neuron in range(layer, 48, 3)])


def talkative(family, **changes):
    """A random model that says different things and sometimes stops."""
    model = tiny.FAMILIES[family](seed=3, tie_word_embeddings=False, **changes)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lm_head" in name or "wte" in name or "embed" in name:
                parameter *= 4
    return model


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def family(request):
    return request.param


@pytest.fixture(scope="module")
def tuned(family):
    return Model.wrap("tuned", tiny.exact(talkative(family)))


@pytest.fixture(scope="module")
def base(family):
    return Model.wrap("base", tiny.exact(tiny.perturbed(talkative(family), 0.1)))


def theirs(module, ids, count):
    """What Hugging Face itself writes, one prompt at a time and so without padding."""
    prompt = torch.tensor([list(ids)])
    written = module.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=count,
        pad_token_id=0,
        eos_token_id=list(STOPS),
    )
    return written[0, len(ids) :].tolist()


def interventions(tuned, base):
    means = {layer: torch.full((48,), 0.3) for layer in range(3)}
    write = {layer: base.write_weights(layer) for layer in range(3)}
    own = {layer: tuned.write_weights(layer) for layer in range(3)}
    return {
        "none": None,
        "zero": Intervention("zero", UNITS),
        "mean": Intervention("mean", UNITS, "mean", means=means),
        "base": Intervention("base", UNITS, "donor", donor=base, write_weights=write),
        "twin": Intervention("twin", UNITS, "donor", donor=tuned, twin=True, write_weights=own),
        "empty": Intervention("empty", {}, "donor", donor=base, write_weights=write),
    }


KINDS = pytest.mark.parametrize("kind", ["none", "zero", "mean", "base", "twin", "empty"])


def test_answers_are_hugging_faces(tuned, family):
    ours = generate(ENGINE, tuned, Text(IDS, None, 0, STOPS), 20)
    assert ours == [theirs(tuned.module, ids, 20) for ids in IDS]
    assert len({tuple(answer) for answer in ours}) > 1


def test_answers_are_hugging_faces_left_padded_batch(tuned):
    batch = Batch.pad(IDS, 0)
    written = tuned.module.generate(
        batch.ids,
        attention_mask=batch.mask.long(),
        do_sample=False,
        max_new_tokens=12,
        pad_token_id=0,
        eos_token_id=list(STOPS),
    )[:, batch.ids.shape[1] :].tolist()
    for ours, padded in zip(
        generate(ENGINE, tuned, Text(IDS, None, 0, STOPS), 12), written, strict=True
    ):
        assert padded[: len(ours)] == ours
        assert set(padded[len(ours) :]) <= {0}


def test_bfloat16_answers_are_hugging_faces(family):
    model = Model.wrap("m", talkative(family).bfloat16())
    ours = [generate(ENGINE, model, Text([ids], None, 0, STOPS), 12)[0] for ids in IDS]
    assert ours == [theirs(model.module, ids, 12) for ids in IDS]


@pytest.mark.parametrize("kind", ["none", "zero", "base", "twin"])
def test_company_does_not_change_an_answer(tuned, base, kind):
    intervention = interventions(tuned, base)[kind]
    together = generate(ENGINE, tuned, TEXT, 5, intervention)
    for row, ids in enumerate(IDS):
        alone = generate(ENGINE, tuned, Text([ids], [TWINS[row]], 0, STOPS), 5, intervention)
        assert alone == [together[row]]
    plain = generate(ENGINE, tuned, TEXT, 5)
    assert (together == plain) is (kind == "none")


@pytest.mark.parametrize("kind", ["none", "mean", "base", "twin"])
def test_cached_answers_are_those_of_whole_texts(tuned, base, kind):
    """The edit holds at every step: written with the cache, the same as read from the start for
    every token.
    """
    intervention = interventions(tuned, base)[kind]
    for answer, ids, twin in zip(
        generate(ENGINE, tuned, TEXT, 4, intervention), IDS, TWINS, strict=True
    ):
        text = Text([ids], [twin], 0, STOPS)
        written = []
        while len(written) < len(answer):
            logits, _, _ = answer_logits(ENGINE, tuned, text, [[*written, 0]], intervention)
            written.append(int(logits[0, -1].argmax()))
        assert written == answer


@KINDS
def test_would_answer_agrees_with_generate(tuned, base, kind):
    intervention = interventions(tuned, base)[kind]
    answers = generate(ENGINE, tuned, TEXT, 5, intervention)
    assert would_answer(*answer_logits(ENGINE, tuned, TEXT, answers, intervention)).all()
    for place in (0, 3, -1):
        altered = [list(answer) for answer in answers]
        for answer in altered:
            at = min(place, len(answer) - 1)
            answer[at] = 7 if answer[at] != 7 else 8
        assert not would_answer(*answer_logits(ENGINE, tuned, TEXT, altered, intervention)).any()
    # a beginning of an answer is an answer that was cut; one word more is another answer
    shorter = [answer[: max(1, len(answer) // 2)] for answer in answers]
    assert would_answer(*answer_logits(ENGINE, tuned, TEXT, shorter, intervention)).all()
    # the other model's answers: exactly where they are the same
    other = generate(ENGINE, base, TEXT, 5)
    found = would_answer(*answer_logits(ENGINE, tuned, TEXT, other, intervention)).tolist()
    assert found == [
        mine[: len(yours)] == yours for mine, yours in zip(answers, other, strict=True)
    ]


def test_donor_activations_can_be_read_once(tuned, base):
    intervention = interventions(tuned, base)["base"]
    answers = generate(ENGINE, tuned, TEXT, 6)
    read = read_donor(ENGINE, intervention, TEXT, answers).values
    given = answer_logits(ENGINE, tuned, TEXT, answers, intervention, read)
    fresh = answer_logits(ENGINE, tuned, TEXT, answers, intervention)
    assert torch.equal(given[0], fresh[0])
    assert read_donor(ENGINE, interventions(tuned, base)["zero"], TEXT, answers).values == {}


def test_logits_predict_the_answer_column_by_column(tuned):
    answers = [[5], [6, 7, 8], [9, 1]]
    logits, targets, real = answer_logits(ENGINE, tuned, TEXT, answers)
    assert logits.shape[:2] == targets.shape == real.shape == (3, 3)
    assert real.sum(1).tolist() == [len(answer) for answer in answers]
    for row, (ids, answer) in enumerate(zip(IDS, answers, strict=True)):
        whole = tuned.module(input_ids=torch.tensor([[*ids, *answer]])).logits[0, len(ids) - 1 : -1]
        torch.testing.assert_close(logits[row][real[row]], whole)
        assert targets[row][real[row]].tolist() == answer
        torch.testing.assert_close(first_logits(logits, real)[row], whole[0])


def test_answers_stop_at_the_stop_token(tuned, family):
    free = generate(ENGINE, tuned, Text(IDS, None, 0, ()), 10)
    stop = free[0][2]
    ours = generate(ENGINE, tuned, Text(IDS, None, 0, (stop,)), 10)
    assert ours[0] == free[0][: free[0].index(stop) + 1]
    for answer, whole in zip(ours, free, strict=True):
        assert answer == (whole[: whole.index(stop) + 1] if stop in whole else whole)


def test_a_stop_token_that_is_the_padding_token_is_kept(tuned):
    free = generate(ENGINE, tuned, Text(IDS, None, 0, ()), 6)
    stop = free[1][0]
    assert generate(ENGINE, tuned, Text(IDS, None, stop, (stop,)), 6)[1] == [stop]


@pytest.mark.parametrize("kind", ["none", "twin"])
def test_answers_end_with_the_context_whatever_the_company(family, kind):
    """A short prompt beside one that nearly fills the context keeps its own room."""
    model = Model.wrap("m", tiny.exact(talkative(family, **_context(family, 16))))
    long, short = (2, *range(40, 53), 3), (2, 44, 3)
    other = (2, 50, 51, 52, 53, 3)
    prompts, twins = [long, short, other], [other, other, short]
    own = interventions(model, model)[kind]
    beside = twins if kind == "twin" else prompts
    room = [
        16 - max(len(prompt), len(other)) for prompt, other in zip(prompts, beside, strict=True)
    ]
    assert room == ([1, 10, 10] if kind == "twin" else [1, 13, 10])
    together = generate(ENGINE, model, Text(prompts, twins, 0, ()), 40, own)
    assert [len(answer) for answer in together] == room
    for row in range(3):
        assert generate(ENGINE, model, Text([prompts[row]], [twins[row]], 0, ()), 40, own) == [
            together[row]
        ]
    if kind == "none":
        assert together == [
            theirs_free(model.module, ids, count) for ids, count in zip(prompts, room, strict=True)
        ]


def _context(family, length):
    return {"max_position_embeddings": length} if family == "llama" else {"n_positions": length}


def theirs_free(module, ids, count):
    written = list(ids)
    for _ in range(count):
        written.append(int(module(input_ids=torch.tensor([written])).logits[0, -1].argmax()))
    return written[len(ids) :]


def test_twins_are_asked_for():
    model = Model.wrap("m", tiny.llama())
    twin = Intervention("twin", UNITS, "donor", donor=model, twin=True, write_weights={})
    with pytest.raises(OptionError, match="needs a twin for every prompt"):
        generate(ENGINE, model, Text(IDS, None, 0, STOPS), 4, twin)


def test_donor_columns_are_the_last_tokens_of_its_own_text(tuned, base):
    """With a twin of another length, the donor's answer tokens stand in the receiver's answer
    columns.
    """
    intervention = interventions(tuned, base)["twin"]
    answers = [[40 + row, 41, 42] for row in range(len(IDS))]
    read = read_donor(ENGINE, intervention, TEXT, answers).values
    for site, values in read.items():
        for row, twin in enumerate(TWINS):
            alone = ENGINE.run(
                tuned, Batch.pad([[*twin, *answers[row][:-1]]], 0), reads=[site]
            ).values[site]
            torch.testing.assert_close(values[row, -alone.shape[1] :], alone[0])
