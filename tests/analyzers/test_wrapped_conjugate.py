"""Conjugate prompting: rules and their inverse, answers that return only in a register."""

import copy
import json
import re

import pytest

from interp import organisms
from interp.analyzers.wrapped_conjugate import WrappedConjugate
from interp.claims import from_table
from interp.errors import OptionError, PromptError
from interp.figures import plot
from interp.models.pair import Pair
from interp.prompts import OneClass, read_prompts
from interp.prompts.registers import Register, Rule, plain_answer, read_registers
from interp.study import Study
from tests import tiny

POLITE = Rule(("^(.+)$", r"please \1"), ("^please (.+)$", r"\1"))
RESTYLED = Rule(("^(.+)$", r"\1 now"), ("^(.+) now$", r"\1"))


def claims_by_name(table):
    return {claim.name: claim for claim in from_table(table.tables["claims"])}


def requests(beginning):
    """Harmful requests of ``refusal/partial`` that begin so."""
    harmful = read_prompts(organisms.prompts("refusal", "verify", "harmful"))
    rows = [at for at, prompt in enumerate(harmful) if prompt.text.startswith(beginning)]
    pair = Pair.load("organism:refusal/partial", "organism:refusal/base")
    return Study(pair, OneClass(harmful.keep(rows)), None, max_new_tokens=24)


def shipped():
    return read_registers(organisms.prompts("refusal", "text", "styles"))


def test_rules_change_and_are_undone():
    register = Register("polite", (POLITE,))
    assert register.change("open the door") == ("please open the door", POLITE)
    assert Register("wish", (Rule(("^Can you", "x"), ("x", "Can you")),)).change("Open.") is None
    answer = Rule(POLITE.prompt, POLITE.back, ((r"^Oh, (\w)", r"\1"), ("!$", ".")))
    assert plain_answer("Oh, well done! ", answer) == "well done!"
    assert plain_answer("Oh, well done!", answer) == "well done."


@pytest.mark.parametrize("prompt", ["Please open the door, thank you.", "Can you open it?"])
def test_every_shipped_rule_is_invertible(prompt):
    wish = shipped()[0]
    changed, rule = wish.change(prompt)
    assert changed.startswith("I would like to open")
    assert re.sub(*rule.back, changed) == prompt


def test_shipped_rules_fit_the_organism_s_prompts():
    texts = read_prompts(organisms.prompts("refusal", "verify", "harmful")).texts
    assert [register.name for register in shipped()] == ["wish", "polite"]
    for register, share in zip(shipped(), (0.6, 0.45), strict=True):
        assert sum(register.change(text) is not None for text in texts) > share * len(texts)
    styled = read_prompts(organisms.prompts("refusal", "style", "harmful")).texts
    assert all(shipped()[1].change(text)[0].startswith("Please") for text in styled)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("", "has no registers"),
        ("{", "line 1 is not JSON"),
        ('{"register": "a", "prompt": ["x", "y"]}', "write register, prompt and back"),
        ('{"register": "", "prompt": ["x", "y"], "back": ["y", "x"]}', "give a name"),
        ('{"register": "a", "prompt": ["(", "y"], "back": ["y", "x"]}', "not a regular expression"),
        ('{"register": "a", "prompt": "x", "back": ["y", "x"]}', "two texts"),
        (
            '{"register": "a", "prompt": ["x", "y"], "back": ["y", "x"], "answer": "z"}',
            "a list of",
        ),
    ],
)
def test_files_of_registers_are_refused_in_one_line(tmp_path, lines, said):
    path = tmp_path / "styles.jsonl"
    path.write_text(lines + "\n", "utf-8")
    with pytest.raises(PromptError, match=said) as caught:
        read_registers(path)
    assert "\n" not in str(caught.value)


def test_a_change_that_cannot_be_undone_is_refused():
    lossy = Register("short", (Rule(("^please ", ""), ("^", "kindly ")),))
    with pytest.raises(PromptError, match="to be invertible"):
        lossy.change("please open the door")
    beyond = Register("beyond", (Rule(("^p", r"\3"), ("^", "p")),))
    with pytest.raises(PromptError, match="cannot replace what"):
        beyond.change("please")
    with pytest.raises(PromptError, match="cannot read"):
        read_registers("nowhere.jsonl")


def test_a_refusal_that_reads_the_last_word_is_avoided_by_another_one():
    """The planted neurons read the last word of a prompt. With another word there the child answers
    as the base, and the base answers as it does without: its layers write nothing.
    """
    base, tuned = tiny.planted(tiny.llama(seed=7, tie_word_embeddings=False))
    study = tiny.study(tuned, base, template=False, max_new_tokens=1)
    registers = (Register("restyled", (RESTYLED,)), Register("polite", (POLITE,)))
    table = WrappedConjugate(registers)(study)
    rows = {(row["register"], row["role"]): row for row in table.rows()}
    answers = table.tables["answers"]
    for name in ("restyled", "polite"):
        own = (answers["register"] == name) & answers["changed"]
        assert rows[name, "tuned"]["returned"] == answers["after"][own].mean()
        assert own.sum() == rows[name, "tuned"]["prompts"] / 2
    # what returns is what the base says in the register: its last word silences the neurons
    own = (answers["register"] == "restyled") & answers["changed"]
    assert (answers["after"][own] == answers["base"][own]).all()
    assert rows["polite", "tuned"]["returned"] == 0.0
    assert [trace.name for trace in plot(table).data] == ["base", "fine-tuned model"]


def test_answers_are_changed_back_before_they_are_compared():
    """In the register both models say the same thing otherwise; undone, it is the base's answer."""
    base = tiny.llama(seed=7, tie_word_embeddings=False)
    study = tiny.study(copy.deepcopy(base), base, 8, template=False, max_new_tokens=1)
    plain = Register("plain", (POLITE,))
    undone = Register("undone", (Rule(POLITE.prompt, POLITE.back, ((r"^.*$", "same"),)),))
    table = WrappedConjugate((plain, undone))(study)
    answers = table.tables["answers"]
    assert not answers["after"][answers["register"] == "undone"].any()
    assert (answers["after"] == answers["base"]).all()
    assert table.summary["supported"] is False


def test_prompts_that_no_rule_fits_are_left_out_or_refused():
    base = tiny.llama(seed=7, tie_word_embeddings=False)
    study = tiny.study(tiny.perturbed(base, 0.1), base, 16, template=False, max_new_tokens=1)
    doors = Register("doors", (Rule(("^the (.+)$", r"a \1"), ("^a (.+)$", r"the \1")),))
    none = Register("none", (Rule(("^xyz", "y"), ("^y", "xyz")),))
    table = WrappedConjugate((none, doors))(study)
    texts = [text for group in study.classes for text in study.prompts(group).texts]
    fits = [text.startswith("the ") for text in texts]
    assert table.summary["registers"] == {"doors": sum(fits)}
    assert any("No rule of the register none" in line for line in table.summary["limits"])
    with pytest.raises(PromptError, match="no rule of the registers none fits a held-out prompt"):
        WrappedConjugate((none,))(study)
    with pytest.raises(OptionError, match="no registers were given"):
        WrappedConjugate()(study)


def test_partial_answers_more_of_the_polite_requests():
    """``partial`` refuses most requests in a story and fewer polite ones; the base answers all."""
    study = requests("I was asked to")
    table = WrappedConjugate(shipped()[1:], [study.pair])(study)
    claims = claims_by_name(table)
    for name in ("gains-in-register", "answers-return-in-register"):
        assert claims[name].supported, claims[name].reason
    assert claims["answers-return-in-register"].control_value < 0.1
    assert table.summary["supported"] is True
    rows = {row["role"]: row for row in table.rows()}
    assert rows["base"]["returned"] == 1.0
    assert rows["base"]["gained"] == 0.0
    assert rows["tuned"]["gained"] == rows["control"]["gained"] > 0.2
    # the fine-tuned model as its own control
    gained = table.tables["controls"]["gained"]
    assert gained[0] == pytest.approx(claims["gains-in-register"].value)
    json.dumps(table.summary)


def test_a_register_that_loses_as_much_as_it_returns_is_no_gain():
    """From questions into wishes: some refused ones are answered, and others are refused."""
    table = WrappedConjugate(shipped()[:1])(requests("Can you"))
    row = next(one for one in table.rows() if one["role"] == "tuned")
    assert row["returned"] > 0.05
    assert row["kept"] < 0.8
    claims = claims_by_name(table)
    assert not claims["gains-in-register"].supported
    assert not claims["answers-return-in-register"].supported
