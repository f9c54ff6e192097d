"""Where answers begin and end: after a thinking block, and at each model's own end tokens."""

import copy

import pytest

from interp.metrics import Refusal
from interp.models.generation import configured_end_ids, generation_note
from interp.models.pair import Pair
from interp.prompts.thinking import BLOCKS, AnswerStart, answer_start
from interp.study import Study
from tests import tiny

WORDS = {1: "<think>", 2: " I cannot", 3: "</think>", 4: " Sure", 5: " sorry", 6: "[end]"}


def decode(ids, skip):
    return "".join(WORDS[index] for index in ids if not (skip and index in (1, 3, 6)))


THINKING = AnswerStart("</think>", "<think>")


@pytest.mark.parametrize(
    ("start", "ids", "text", "reached"),
    [
        (THINKING, [1, 2, 3, 4, 6], "Sure", True),
        (THINKING, [1, 2, 2], "", False),  # thinks to the end
        (THINKING, [4, 5], "Sure sorry", True),  # no block at all
        (THINKING, [1, 2, 3, 4, 3, 5], "sorry", True),  # the last one counts
        (THINKING, [1, 2, 3], "", True),
        # the prompt opened it
        (AnswerStart("</think>", "<think>", inside=True), [2, 2], "", False),
        (AnswerStart("</think>", "<think>", inside=True), [2, 3, 4], "Sure", True),
        (AnswerStart("Sure"), [2, 4, 5], "sorry", True),
        (AnswerStart("Sure"), [2, 5], "", False),  # a text of the user's must come
        (AnswerStart(), [1, 2, 3, 4], "I cannot Sure", True),
    ],
)
def test_what_follows_the_mark_is_the_answer(start, ids, text, reached):
    assert start.read(ids, decode) == (text, reached)


def test_the_chat_template_says_whether_there_is_a_block():
    tokenizer = copy.deepcopy(tiny.tokenizer())
    plain = "{% for m in messages %}user: {{ m.content }}{% endfor %} open:"
    tokenizer.chat_template = plain
    assert answer_start(tokenizer) == AnswerStart(blocks=BLOCKS)
    tokenizer.chat_template = plain.replace("open:", "open:{# </think> #}")
    assert answer_start(tokenizer) == THINKING
    assert answer_start(tokenizer, "none") == AnswerStart()
    assert answer_start(tokenizer, "Final:") == AnswerStart("Final:")


def pair_with_ends(tuned_end, base_end):
    base, tuned = tiny.planted(tiny.llama(seed=7, tie_word_embeddings=False))
    base.generation_config.eos_token_id, tuned.generation_config.eos_token_id = base_end, tuned_end
    return Pair.from_modules(tuned, base, tiny.tokenizer())


def test_each_model_ends_its_answers_at_its_own_end_tokens():
    contrast = tiny.planted_study("llama", pairs=4).contrast
    free = pair_with_ends([], [])
    written = Study(free, contrast, Refusal.of(free.tokenizer), max_new_tokens=6).answers(
        "base", "positive"
    )
    end = written[0][2]
    for tuned_end, base_end, stops in (([end], [], False), ([], [end], True)):
        pair = pair_with_ends(tuned_end, base_end)
        answers = Study(pair, contrast, Refusal.of(pair.tokenizer), max_new_tokens=6).answers(
            "base", "positive"
        )
        cut = written[0][: written[0].index(end) + 1]
        assert answers[0] == (cut if stops else written[0])
    assert end in pair_with_ends([end], []).end_ids("tuned")
    assert end not in pair_with_ends([end], []).end_ids("base")
    assert set(pair_with_ends([3], [4]).stop_ids) >= {3, 4}
    inputs = [pair_with_ends(*ends).inputs["end_ids"] for ends in (([3], [4]), ([4], [3]))]
    assert inputs[0] != inputs[1]


def test_settings_that_are_not_applied_are_said():
    model = tiny.llama(seed=7)
    assert generation_note("m", model) == ""
    model.generation_config.repetition_penalty = 1.2
    model.generation_config.suppress_tokens = [7, 8]
    assert (
        generation_note("m", model)
        == "the generation settings of m ask for repetition_penalty 1.2, suppress_tokens [7, 8];"
        " answers are written by plain greedy choice"
    )
    model.generation_config.eos_token_id = None
    model.config.eos_token_id = 5
    assert configured_end_ids(model) == {5}
