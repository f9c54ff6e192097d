"""Task files: words found as tokens whatever the padding, and one clear line for what is wrong."""

import json

import pytest

from interp.analyzers.framework import fingerprint
from interp.engines import Batch
from interp.errors import PromptError
from interp.prompts import decode, padded_columns, read_task_file
from tests import tiny

ROW = {
    "cluster": "1",
    "prompt": "please open the door",
    "answer": " and",
    "positions": {"verb": 7, "thing": 16},
    "corrupt": {"prompt": "close a window please", "positions": {"verb": 0}},
    "sources": {
        "object": {"prompt": "open the new gates", "positions": {"verb": 0}, "target": " lock"}
    },
}


def written(tmp_path, *rows):
    path = tmp_path / "task.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_words_are_the_tokens_that_hold_their_first_characters(tmp_path):
    task = read_task_file(written(tmp_path, ROW, {**ROW, "prompt": "I open the new new door"}))
    tokenizer = tiny.tokenizer(template=False)
    row, other = task.tokens(tokenizer)
    assert row.corrupt
    assert task.position_names == ("last", "thing", "verb")
    assert task.source_names == ("object",)
    for text, words in ((row.prompt, ("open", "door")), (row.corrupt, ("close",))):
        for name, word in zip(("verb", "thing"), words, strict=False):
            piece = decode(tokenizer, [text.ids[text.columns[name]]])
            assert word.startswith(piece.strip())
            assert piece.strip()
    assert row.prompt.columns["last"] == len(row.prompt.ids) - 1
    assert tokenizer.decode([row.answer]) == " and"
    assert tokenizer.decode([row.targets["object"]]) == " lock"
    # the same tokens on either side of the padding
    texts = [row.prompt, other.corrupt]
    width = 3 + max(len(text.ids) for text in texts)
    for side in ("left", "right"):
        batch = Batch.pad([text.ids for text in texts], 0, side, length=width)
        columns = padded_columns(texts, "verb", width, side)
        seen = [int(ids[column]) for ids, column in zip(batch.ids, columns, strict=True)]
        assert seen == [text.ids[text.columns["verb"]] for text in texts]


def test_a_chat_template_is_not_used_and_the_digest_counts_everything(tmp_path):
    task = read_task_file(written(tmp_path, ROW))
    assert task.tokens(tiny.tokenizer(True)) == task.tokens(tiny.tokenizer(False))
    assert fingerprint(task) == task.digest
    for change in (
        {"positions": {"verb": 7}},
        {"corrupt": None},
        {"sources": {}},
        {"cluster": "2"},
        {"answer": " or"},
    ):
        assert read_task_file(written(tmp_path, {**ROW, **change})).digest != task.digest


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"positions": {"verb": 99}}, r"row 1: position 'verb' is 99; give a character .* 0 to 19"),
        ({"positions": {"verb": 6}}, r"row 1: position 'verb' is 6, a space"),
        ({"positions": {"last": 3}}, r"row 1: 'last' is always the last token"),
        ({"positions": [3]}, r"row 1: positions is '\[3\]'"),
        ({"corrupt": "text"}, r'row 1: corrupt is "text"; give an object'),
        ({"sources": [1]}, r"row 1: sources is '\[1\]'"),
        ({"sources": {"a": {"prompt": "open"}}}, r"row 1: source 'a' has the target None"),
        ({"answer": None}, r"row 1: answer is None"),
    ],
)
def test_what_is_wrong_in_a_row_is_one_line(tmp_path, change, said):
    path = written(tmp_path, ROW, {**ROW, "prompt": "please lock the door", **change})
    with pytest.raises(PromptError, match=said):
        read_task_file(path)


def test_what_a_command_needs_and_does_not_find_is_one_line(tmp_path):
    task = read_task_file(written(tmp_path, ROW))
    task.require_positions(["last", "verb"])
    task.require_corrupt(["verb"])
    task.require_sources("object", ["verb"])
    with pytest.raises(PromptError, match=r"row 0: the prompt has no position 'box'; it has last"):
        task.require_positions(["box"])
    with pytest.raises(PromptError, match=r"row 0: the corrupt prompt has no position 'thing'"):
        task.require_corrupt(["thing"])
    with pytest.raises(PromptError, match=r"row 0 has no source 'label'; it has object"):
        task.require_sources("label")
    with pytest.raises(PromptError, match=r"source 'object' has no position 'thing'"):
        task.require_sources("object", ["thing"])
    bare = {key: value for key, value in ROW.items() if key != "corrupt"}
    with pytest.raises(PromptError, match=r"row 0 has no corrupt prompt; add one as"):
        read_task_file(written(tmp_path, bare)).require_corrupt()


def test_answers_are_one_token_after_the_prompt(tmp_path):
    tokenizer = tiny.tokenizer(False)
    with pytest.raises(PromptError, match=r"row 0: answer ' doorway' is not one token after"):
        read_task_file(written(tmp_path, {**ROW, "answer": "doorway"})).tokens(tokenizer)
    task = read_task_file(written(tmp_path, ROW))
    with pytest.raises(PromptError, match=r"row 0: 6 tokens exceed the context of 3"):
        task.tokens(tokenizer, context=3)
    path = tmp_path / "task.csv"
    path.write_text("prompt,answer\nopen,door\n")
    with pytest.raises(PromptError, match=r"task\.csv is not a task file with positions"):
        read_task_file(path)
