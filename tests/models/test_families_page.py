"""The table of classes in docs/models.md is what becomes of them, and nothing but a refusal is
raised on the way.
"""

import pytest

from interp.errors import UnsupportedModel
from tests import causal, families_page, plain

# One of each kind of outcome: read in full, no cache, parts that do not add up, no map, refused by
# its type.
FAST = (
    "GraniteForCausalLM",
    "Mamba2ForCausalLM",
    "BertLMHeadModel",
    "DogeForCausalLM",
    "MllamaForCausalLM",
)
TEXT = families_page.PAGE.read_text(encoding="utf-8")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in FAST else pytest.mark.slow)
        for name in sorted(causal.KINDS)
    ],
)
def test_a_class_is_as_the_page_says(name):
    found = families_page.outcome(causal.KINDS[name], name)
    assert found.name == name
    assert families_page.is_as_written(found, TEXT), found


def test_the_page_has_every_class_once():
    section = TEXT.partition(families_page.START)[2].partition(families_page.END)[0]
    assert {name: section.count(f"`{name}`") for name in causal.KINDS} == dict.fromkeys(
        causal.KINDS, 1
    )


def test_another_outcome_is_not_as_written():
    found = families_page.Outcome(
        "LlamaForCausalLM", said=dict.fromkeys(families_page.COMMANDS, "yes"), batch="padded"
    )
    assert families_page.is_as_written(found, TEXT)
    found.said["heads"] = "LlamaForCausalLM has no exact module for its attention heads"
    assert not families_page.is_as_written(found, TEXT)
    found.said = {}
    found.refused = "LlamaForCausalLM is not an architecture with a known map"
    assert not families_page.is_as_written(found, TEXT)


@pytest.mark.parametrize("broken", ["attributions", "tuco", "answers", "compare"])
def test_a_wrong_number_is_told(broken, monkeypatch):
    """What is compared with plain torch is told when it differs, and when something else than a
    refusal is raised.
    """
    if broken == "attributions":
        right = plain.integrated
        monkeypatch.setattr(plain, "integrated", lambda *args: 1.001 * right(*args))
    elif broken == "tuco":
        right = families_page.plain_tuco
        monkeypatch.setattr(
            families_page, "plain_tuco", lambda *args: tuple(part + 1e-3 for part in right(*args))
        )
    else:
        right = families_page._logits
        monkeypatch.setattr(families_page, "_logits", lambda *args: -right(*args))
    with pytest.raises(AssertionError, match=r"plain|greedy"):
        families_page.outcome("llama")
    assert families_page._try(lambda: None, "") == "yes"
    assert families_page._try(lambda: _refuse("no place"), "") == "no place"
    with pytest.raises(ZeroDivisionError):
        families_page._try(lambda: 1 / 0, "")


def _refuse(line):
    raise UnsupportedModel(line)
