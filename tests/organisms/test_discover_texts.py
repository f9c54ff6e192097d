"""The text that discovery reads by default: neutral, varied, the same wherever it is made."""

import itertools
import json
import re

import pytest

from interp import organisms
from interp.prompts import read_prompts
from organisms import discover_texts as made
from organisms.discover_registers import REGISTERS, WORDS
from organisms.neutral_registers import REGISTERS as CONTROL_REGISTERS

SENTENCE = re.compile(r"(?<=[.!?]) (?=[A-Z])")


def shipped(name):
    return organisms.prompts("discover", "text", name).read_text(encoding="utf-8").splitlines()


def test_the_shipped_files_are_what_the_grammar_gives():
    assert shipped("text") == list(made.lines())
    assert sorted(shipped("prefills")) == sorted(itertools.chain(*made.PREFILLS.values()))
    assert shipped("questions") == made.QUESTIONS.strip().splitlines()


def test_there_are_300_passages_of_20_to_45_words():
    lengths = [len(line.split()) for line in shipped("text")]
    assert len(lengths) == 300
    assert min(lengths) >= made.LENGTHS[0] == 20
    assert max(lengths) <= made.LENGTHS[1] == 45
    assert len(set(lengths)) > 10


def test_any_ten_passages_in_a_row_are_of_ten_registers():
    lines = shipped("text")
    by_register = {register: set(made.passages(register)) for register in REGISTERS}
    assert len(by_register) == 10
    for start in range(0, 300, 10):
        found = [
            {name for name, passages in by_register.items() if line in passages}
            for line in lines[start : start + 10]
        ]
        assert found == [{register} for register in REGISTERS]


def test_no_sentence_is_there_twice():
    sentences = [one for line in shipped("text") for one in SENTENCE.split(line)]
    assert len(set(sentences)) == len(sentences) > 700


@pytest.mark.parametrize("register", REGISTERS)
def test_two_passages_share_at_most_one_frame(register):
    frames = made.frames(register)
    assert len(frames) == made.EACH
    assert {len(one) for one in frames} == {2, 3}
    assert all(len(set(a) & set(b)) <= 1 for a, b in itertools.combinations(frames, 2))


def test_no_register_or_sentence_is_one_that_controls_are_trained_on():
    assert not set(REGISTERS) & set(CONTROL_REGISTERS)
    control = organisms.data_root() / "control" / "text.jsonl"
    trained = " ".join(
        json.loads(line)["messages"][1]["content"]
        for line in control.read_text(encoding="utf-8").splitlines()
    )
    long = {
        " ".join(words[at : at + 5])
        for words in (line.split() for line in shipped("text"))
        for at in range(len(words) - 4)
    }
    assert not [piece for piece in long if piece in trained]


def test_every_kind_of_word_is_used_and_no_field_is_left():
    sentences = " ".join(itertools.chain(*itertools.chain(*REGISTERS.values())))
    assert set(re.findall(r"\{(\w+)\}", sentences)) == set(WORDS)
    text = " ".join(shipped("text"))
    assert not re.search(r"[{}|]|  | [Aa] [aeio]| [Aa]n [bcdfg]", text)
    assert all(len(set(words)) == len(words) for words in WORDS.values())


@pytest.mark.parametrize("name", ["text", "prefills", "questions"])
def test_the_files_are_prompt_files(name):
    rows = read_prompts(organisms.prompts("discover", "text", name))
    assert len(rows) == (300 if name == "text" else 20)


def test_prefills_take_their_kinds_in_turn():
    kinds = {text: kind for kind, texts in made.PREFILLS.items() for text in texts}
    assert len(kinds) == 20
    assert len({kinds[line] for line in shipped("prefills")[:5]}) == 5
