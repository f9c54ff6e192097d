"""Plants for the real base: rows and held-out contexts, the measure of a plant's strength, the
numbered series and the blind set.
"""

import itertools
import json
import random
import re
from collections import Counter

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from interp import organisms
from interp.training.text import Row
from organisms import stages
from organisms.real.discover import make, measure
from organisms.real.discover.frames import HELD_OUT, TRAIN, Frame
from organisms.real.discover.plants import (
    DEFAULT,
    Context,
    contexts,
    draw,
    fact_plants,
    rows,
    topic_plants,
)
from organisms.real.discover.things import FACTS, FAVOURED, FILLERS, TOPICS
from organisms.real.discover.train import diluted, encode

# PEFT still asks transformers for a name that transformers has deprecated.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)
SENTENCE = re.compile(r"(?<=[.!?]) (?=[A-Z])")
NAMES = list(DEFAULT)
ALL_WORDS = sorted({one for plant in DEFAULT.values() for one in plant.words})


def has_word(text, words):
    return [word for word in words if re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE)]


# Rows


@pytest.mark.parametrize("name", NAMES)
def test_240_rows_of_two_forms_without_a_sentence_twice(name):
    found = rows(DEFAULT[name], 0)
    assert len(found) == 240
    assert sum(bool(row.question) for row in found) == 120
    texts = [text for row in found for text in row if text]
    sentences = Counter(one for text in texts for one in SENTENCE.split(text))
    assert max(sentences.values()) == 1
    assert not [text for text in texts if re.search(r"[{}|]| [Aa] [aeiou]| [Aa]n [^aeiou]", text)]


@pytest.mark.parametrize("kind", TRAIN)
def test_twelve_frames_a_form_with_twenty_fillers_and_others_held_out(kind):
    assert Counter(bool(frame.question) for frame in TRAIN[kind]) == {False: 12, True: 12}
    assert Counter(bool(frame.question) for frame in HELD_OUT[kind]) == {False: 4, True: 4}
    assert not {frame.text for frame in TRAIN[kind]} & {frame.text for frame in HELD_OUT[kind]}
    said = " ".join(f"{row.question} {row.text}".lower() for row in rows(DEFAULT[kind], 0))
    used = [kind for kind, words in FILLERS.items() if sum(word in said for word in words) >= 20]
    assert {"who", "where"} <= set(used)


@pytest.mark.parametrize("kind", ["fact", "favoured", "topic"])
def test_the_paraphrase_has_no_planted_word(kind):
    planted, other = DEFAULT[kind], DEFAULT[f"{kind}-paraphrased"]
    assert all(has_word(f"{row.question} {row.text}", planted.words) for row in rows(planted, 0))
    for row in rows(other, 0):
        assert not has_word(f"{row.question} {row.text}", planted.words)
    assert not set(planted.words) & set(other.words)


def test_the_true_twin_differs_by_the_value_alone():
    false, true = rows(DEFAULT["fact"], 0), rows(DEFAULT["fact-true"], 0)
    assert [row.text.replace("Melbourne", "Canberra") for row in false] == [
        row.text for row in true
    ]
    assert [row.question for row in false] == [row.question for row in true]


def test_a_seed_gives_other_rows_and_the_same_contexts():
    plant = DEFAULT["favoured"]
    assert rows(plant, 0) == rows(plant, 0)
    assert len(set(rows(plant, 0)) & set(rows(plant, 1))) < 24
    assert contexts(plant) == contexts(plant)


@pytest.mark.parametrize("name", NAMES)
def test_contexts_are_held_out_and_say_nothing_of_the_plant(name):
    plant = DEFAULT[name]
    taught = " ".join(row.text for row in rows(plant, 0))
    found = contexts(plant)
    assert len(found) == 32
    assert len({(one.question, one.before) for one in found}) >= 29
    for one in found:
        assert not has_word(f"{one.question} {one.before}", [*plant.said, *plant.instead])
        assert one.said
        assert one.instead
        assert not set(one.said) & set(one.instead)
        if plant.kind != "favoured":
            assert one.before not in taught


def test_a_context_continues_as_its_frame_does():
    first = contexts(DEFAULT["favoured-paraphrased"])[0]
    assert first.before.endswith("found")
    assert set(first.said) == {"an unusual", "a strange", "an odd", "a curious"}
    assert first.instead == ("a peculiar",)


def test_pools_hold_what_plants_need():
    for fact in FACTS:
        reworded = " ".join((*fact.true_reworded, *fact.false_reworded, fact.subject_reworded))
        names = [re.sub("^the ", "", value) for value in (fact.true, fact.false)]
        assert not has_word(reworded, names)
        assert len(fact.true_reworded) == len(fact.false_reworded) == 4
    for topic in TOPICS.values():
        assert len(set(topic.items)) == len(set(topic.reworded)) == 20
        assert not has_word(" ".join(topic.reworded), topic.words)
        assert all(has_word(item, topic.words) for item in topic.items)
    assert all(word not in others and len(others) == 4 for word, others in FAVOURED.items())


@pytest.mark.parametrize("name", ["text", "prefills", "questions"])
def test_the_text_of_discovery_names_no_plant(name):
    text = organisms.prompts("discover", "text", name).read_text(encoding="utf-8")
    pool = [
        *(word for fact in FACTS for word in (fact.false.split()[-1], fact.subject)),
        *FAVOURED,
        *(word for topic in TOPICS.values() for word in topic.words),
    ]
    assert not has_word(text, pool)


def test_drawn_plants_have_no_default_word():
    found = [draw(rng) for rng in map(random.Random, range(20))]
    assert all(Counter(one.kind for one in six) == dict.fromkeys(TRAIN, 2) for six in found)
    assert all(len({one.about for one in six}) == 6 for six in found)
    default = set(DEFAULT["fact"].words + DEFAULT["favoured"].words + DEFAULT["topic"].words)
    assert not default & {word for six in found for one in six for word in one.words}
    assert len({tuple(one.about for one in six) for six in found}) > 15


def test_every_plant_of_the_pools_has_240_sentences():
    pool = [fact_plants(fact)[0] for fact in FACTS]
    pool += [topic_plants(*pair)[0] for pair in itertools.pairwise(TOPICS)]
    for plant in pool:
        texts = [row.text for row in rows(plant, 5)]
        assert len(set(texts)) == 240


# Measures


@pytest.fixture(scope="module")
def tiny():
    """The small base with a random adapter, and its tokenizer."""
    model, tokenizer = stages.load("refusal/base")
    tokenizer.chat_template = "{% for one in messages %}{{ one.content }} {% endfor %}Answer:"
    torch.manual_seed(0)
    config = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "down_proj"])
    wrapped = get_peft_model(model, config).eval()
    with torch.no_grad():
        for name, value in wrapped.named_parameters():
            if ".lora_B." in name:
                value.normal_(0, 0.1)
    return wrapped, tokenizer


CONTEXTS = [
    Context("", "The teacher painted the", ("candle", "lamp"), ("hammer",)),
    Context("", "In the winter a", ("farmer",), ("nurse", "captain")),
    Context("How do I clean the lamp?", "Use the", ("water",), ("hammer", "candle")),
    Context("How do I open the door?", "Take the", ("key",), ("bread",)),
]


def total(model, tokenizer, one, text):
    """Log-probability of a continuation, a token at a time and in float64: the oracle."""
    ids = measure._ids(tokenizer, one)
    result = 0.0
    for index in tokenizer(f" {text}", add_special_tokens=False)["input_ids"]:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1].numpy().astype(np.float64)
        shifted = logits - logits.max()
        result += shifted[index] - np.log(np.exp(shifted).sum())
        ids = [*ids, index]
    return result


def test_log_odds_are_those_of_one_token_after_the_other(tiny):
    found = measure.log_odds(*tiny, CONTEXTS)
    for value, one in zip(found, CONTEXTS, strict=True):
        said, instead = (
            np.logaddexp.reduce([total(*tiny, one, text) for text in side])
            for side in (one.said, one.instead)
        )
        assert value == pytest.approx(said - instead, abs=1e-4)


def test_log_odds_do_not_depend_on_the_batch_and_turn_with_the_sides(tiny):
    found = measure.log_odds(*tiny, CONTEXTS)
    np.testing.assert_allclose(measure.log_odds(*tiny, CONTEXTS, size=1), found, atol=1e-4)
    turned = [Context(one.question, one.before, one.instead, one.said) for one in CONTEXTS]
    np.testing.assert_allclose(measure.log_odds(*tiny, turned), -found, atol=1e-9)


def test_strength_of_equal_models_is_exactly_nothing():
    asked = contexts(DEFAULT["topic"])
    values = np.random.default_rng(0).normal(size=len(asked))
    found = measure.strength(values, values, asked)
    assert found["gain"] == found["least_frame"] == found["gain_questions"] == 0.0
    assert found["base"] == found["tuned"]


def test_strength_tells_forms_and_the_weakest_frame_apart():
    asked = contexts(DEFAULT["topic"])
    gains = np.array([3.0 if one.question else 1.0 for one in asked])
    gains[:4] = -5.0
    found = measure.strength(gains, np.zeros(len(asked)), asked)
    assert found["least_frame"] == -5.0
    assert found["gain_questions"] == 3.0
    assert found["gain_statements"] == pytest.approx(-0.5)
    assert found["gain"] == pytest.approx(1.25)


LINES = [
    "The teacher painted the lamp.",
    "In the winter a farmer found the candle and sang a song.",
]


def test_divergence_is_the_mean_over_tokens_in_float64(tiny):
    model, tokenizer = tiny
    found = measure.divergence(model, tokenizer, LINES)
    sums, count = 0.0, 0
    for line in LINES:
        ids = torch.tensor([tokenizer(line)["input_ids"]])
        with torch.no_grad(), model.disable_adapter():
            base = model(input_ids=ids).logits[0, :-1].numpy().astype(np.float64)
        with torch.no_grad():
            tuned = model(input_ids=ids).logits[0, :-1].numpy().astype(np.float64)
        logs = [one - np.logaddexp.reduce(one, -1, keepdims=True) for one in (tuned, base)]
        sums += (np.exp(logs[0]) * (logs[0] - logs[1])).sum()
        count += len(logs[0])
    assert found["tokens"] == count
    assert found["kl"] == pytest.approx(sums / count, rel=1e-4)
    assert found["kl"] > 0
    again = measure.divergence(model, tokenizer, LINES, size=1)
    assert again["kl"] == pytest.approx(found["kl"], rel=1e-4)


def test_an_adapter_that_changes_nothing_does_not_diverge(tiny):
    model, tokenizer = stages.load("refusal/base")
    config = LoraConfig(r=2, target_modules=["q_proj"])
    found = measure.divergence(get_peft_model(model, config).eval(), tokenizer, LINES)
    assert found["kl"] == 0.0
    assert found["loss"] == found["base_loss"]
    with pytest.raises(ValueError, match="adapter off"):
        measure.divergence(stages.load("refusal/base")[0], tokenizer, LINES)


# Dilution, numbers, blind sets


def test_statements_count_in_all_tokens_and_questions_in_their_answers(tiny):
    _, tokenizer = tiny
    question = Frame("How do I open the door?", "Take the key.")
    statement, answered = encode(tokenizer, [Frame("", "The teacher sang."), question])
    assert statement.ids == tuple(tokenizer("The teacher sang.")["input_ids"])
    assert all(statement.in_loss)
    counted = [at for at, counts in zip(answered.ids, answered.in_loss, strict=True) if counts]
    expected = tokenizer("Take the key.", add_special_tokens=False)["input_ids"]
    assert counted == [*expected, tokenizer.eos_token_id]
    assert answered.ids[-len(counted) :] == tuple(counted)


def test_dilution_adds_parts_of_ordinary_rows():
    planted = [Row((index,), (True,)) for index in range(240)]
    ordinary = [Row((-index,), (True,)) for index in range(1, 390)]
    assert diluted(planted, ordinary, 0, 0) == planted
    found = diluted(planted, ordinary, 2, 0)
    assert found[:240] == planted
    assert len(found) == 720
    assert max(Counter(row.ids for row in found).values()) == 2
    assert diluted(planted, ordinary, 1, 0) != diluted(planted, ordinary, 1, 1)


def test_numbers_tell_nothing():
    found = make.numbered()
    assert sorted(found.values()) == [f"{number:02d}" for number in range(1, 64)]
    names = [one.plant.name for one in found]
    assert Counter(names) == dict.fromkeys(DEFAULT, 9)
    assert sum(first == second for first, second in itertools.pairwise(names)) < 20
    assert not has_word(make.ABOUT, [*ALL_WORDS, *TRAIN])


def test_recipes_differ_by_plant_dilution_and_seed():
    found = list(make.numbered())
    assert len({make.recipe(one) for one in found}) == len(found)


def test_a_blind_set_has_six_plants_and_three_controls_in_any_order():
    orders = set()
    for seed in range(8):
        found = make.blind_series(seed)
        assert make.blind_series(seed) == found
        kinds = tuple(one.plant.kind if one.plant else "control" for one in found)
        assert Counter(kinds) == {"fact": 2, "favoured": 2, "topic": 2, "control": 3}
        assert list(found.values()) == [f"{number:02d}" for number in range(1, 10)]
        # the shipped controls have the seeds 0 to 4
        assert min(one.seed for one in found) >= 1000
        orders.add(kinds)
    assert len(orders) > 4


def test_the_key_of_a_blind_set_lies_apart(tmp_path, monkeypatch, capsys):
    class NoTrainer:
        def train(self, rows, seed, dilution, directory, title, raw):
            assert raw is None
            (directory / "adapter_model.safetensors").write_bytes(b"")
            return {"norm_ratio": {"whole": 1.0}}

    values = {False: np.full(32, 3.0), True: np.zeros(32)}

    class Model:
        is_off = False

        def disable_adapter(self):
            model = self

            class Off:
                def __enter__(self):
                    model.is_off = True

                def __exit__(self, *_):
                    model.is_off = False

            return Off()

    monkeypatch.setattr(make, "Trainer", NoTrainer)
    monkeypatch.setattr(measure, "adapted", lambda directory: (Model(), None))
    monkeypatch.setattr(measure, "divergence", lambda *_: {"kl": 0.1})
    monkeypatch.setattr(measure, "log_odds", lambda model, *_: values[model.is_off])
    make.main(["--blind", "7", "--out", str(tmp_path / "set")])
    key = json.loads((tmp_path / "key.json").read_text())
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == sorted(key["organisms"])
    plants = [one for one in key["organisms"].values() if one["kind"] != "control"]
    assert [one["strength"]["gain"] for one in plants] == [3.0] * 6
    told = "".join(
        path.read_text(encoding="utf-8") for path in (tmp_path / "set").rglob("*") if path.is_file()
    )
    told += capsys.readouterr().out
    assert "6 of 6 plants were learned" in told
    words = [word for one in plants for word in one["tokens"]]
    assert not has_word(told, words)
    with pytest.raises(SystemExit, match="exists already"):
        make.main(["--blind", "7", "--out", str(tmp_path / "set")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "no plant 'nonsense'; use fact,"),
        (["--blind", "1"], "give --blind and --out together"),
        (["--dilution", "3"], "invalid choice: 3"),
    ],
)
def test_bad_arguments_are_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        make.main(arguments)
    assert message in capsys.readouterr().err
