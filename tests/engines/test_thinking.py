"""A fine-tune that thinks before it answers though its chat template names no block: what follows
is its answer.
"""

import copy

import pytest

from interp.experiments.pending_answers import is_decided
from interp.experiments.warnings import behaviour_warnings
from interp.metrics import Refusal
from interp.models.pair import Pair
from interp.prompts.thinking import THINKING_BLOCKS, AnswerStart, answer_start
from interp.study import Study
from tests import tiny


def decode(ids, skip):
    return "".join(WORDS[index] for index in ids if not (skip and index in (1, 3)))


WORDS = {
    1: "<think>",
    2: " I cannot",
    3: "</think>",
    4: " Sure",
    5: "<thi",
    6: "nking>",
    7: "</thinking>",
    8: "<b>",
}
START = AnswerStart(blocks=THINKING_BLOCKS)


@pytest.mark.parametrize(
    ("ids", "text", "reached"),
    [
        ([1, 2, 3, 4], "Sure", True),
        ([1, 2, 2], "", False),  # cut within its thinking
        ([5, 6, 2, 7, 4], "Sure", True),  # of ordinary tokens, and by another name
        ([5, 6, 2], "", False),
        ([2, 4], "I cannot Sure", True),
        ([4, 1, 2, 3], "Sure I cannot", True),  # a block within an answer stands before none
        ([8, 2], "<b> I cannot", True),
    ],
)
def test_an_answer_that_begins_with_a_block_follows_it(ids, text, reached):
    assert START.read(ids, decode) == (text, reached)


def test_nothing_is_settled_while_a_block_may_still_come():
    assert not START.excludes_thinking([], decode)
    assert not START.excludes_thinking([5], decode)
    assert not START.excludes_thinking([1, 2], decode)
    assert START.excludes_thinking([2], decode)
    assert START.excludes_thinking([8], decode)
    assert AnswerStart().excludes_thinking([1], decode)
    assert not AnswerStart("Final:").excludes_thinking([2], decode)


def test_without_a_block_in_the_template_known_ones_are_looked_for():
    assert answer_start(tiny.tokenizer()) == answer_start(tiny.tokenizer(False)) == START
    assert answer_start(tiny.tokenizer(), "none") == AnswerStart()


@pytest.fixture(scope="module")
def thinking():
    """The planted pair, whose word for refusal is written as the opening of a block."""
    study = tiny.planted_study("llama", pairs=4)
    tokenizer = copy.deepcopy(study.pair.tokenizer)
    word = tokenizer.convert_tokens_to_ids("\u0120Sorry")

    class Thinks(type(tokenizer)):
        def decode(self, ids, **options):
            whole = super().decode(ids, **options)
            return (
                whole.replace(" Sorry", "<think>Sorry</think> Sure") if word in list(ids) else whole
            )

    tokenizer.__class__ = Thinks
    return Study(
        Pair.from_modules(study.pair.tuned.module, study.pair.base.module, tokenizer),
        study.contrast,
        Refusal.from_tokenizer(study.pair.tokenizer, ["Sorry"]),
        max_new_tokens=1,
    )


def test_a_marker_within_thinking_is_no_refusal(thinking):
    texts = [thinking.decode(answer) for answer in thinking.answers("tuned", "positive")]
    # the whole answer is one token, with nothing after its block
    assert texts == [""] * 4
    assert all(thinking.has_answer(answer) for answer in thinking.answers("tuned", "positive"))
    assert not any(
        thinking.require_metric().exhibits(thinking.contrast.positive.prompts, texts, "positive")
    )
    assert not any(
        is_decided(thinking, row, answer)
        for row, answer in enumerate(thinking.answers("tuned", "positive"))
    )
    assert behaviour_warnings(thinking)[0].startswith(
        "4 of 8 answers of the fine-tuned model begin with thinking (<think>)"
    )
