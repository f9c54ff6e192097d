"""Prompt files read at the door, contrasts that never part what belongs together, and the role of
every token.
"""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from interp.errors import PromptError
from interp.experiments.row_selection import sample_rows
from interp.prompts import (
    COMPLETION,
    CONTENT,
    DECISION,
    OTHER,
    Contrast,
    Documents,
    Encoded,
    Prompt,
    PromptSet,
    encode,
    prompt_notes,
    read_chats,
    read_prompts,
    read_task,
)
from tests import tiny

TEXTS = ["open the door", "close a window ?", "paint old fences"]


def prompt_set(texts, clusters=None, twins=None, source="memory"):
    clusters = clusters or [f"{source}:{row}" for row in range(len(texts))]
    twins = twins or [None] * len(texts)
    rows = zip(texts, clusters, twins, strict=True)
    return PromptSet(tuple(Prompt(row, *fields) for row, fields in enumerate(rows)), source)


def test_sets_are_joined_with_new_ids_and_never_hold_two_of_one():
    one, other = (
        prompt_set(TEXTS, source="one"),
        prompt_set([*TEXTS[:2], "sing"], ["a", "b", "b"], source="other"),
    )
    both = PromptSet.joined(one, other)
    assert [prompt.id for prompt in both] == [0, 1, 2, 3, 4, 5]
    assert both.texts == [*TEXTS, *TEXTS[:2], "sing"]
    assert both.source == "one + other"
    assert both.clusters[3] == both.clusters[0]  # equal texts
    assert both.n_clusters == 3
    with pytest.raises(
        PromptError, match=r"prompts of 'all' share ids: join sets with PromptSet\.joined"
    ):
        PromptSet((*one, *other), "all")


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def as_text(path, texts):
    return write(path.with_suffix(".txt"), "".join(f"{text}\n" for text in texts))


def as_jsonl(path, texts):
    return write(
        path.with_suffix(".jsonl"), "".join(json.dumps({"prompt": text}) + "\n" for text in texts)
    )


def as_csv(path, texts):
    return write(
        path.with_suffix(".csv"), "prompt,more\n" + "".join(f'"{text}",1\n' for text in texts)
    )


def as_tsv(path, texts):
    return write(
        path.with_suffix(".tsv"), "prompt\tmore\n" + "".join(f"{text}\t1\n" for text in texts)
    )


def as_parquet(path, texts):
    pq.write_table(pa.table({"prompt": texts}), path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


@pytest.mark.parametrize("writer", [as_text, as_jsonl, as_csv, as_tsv, as_parquet])
def test_every_format_gives_the_same_prompts(tmp_path, writer):
    found = read_prompts(writer(tmp_path / "file", TEXTS))
    assert found.texts == TEXTS
    assert [prompt.id for prompt in found] == [0, 1, 2]
    assert found.clusters == ["file:0", "file:1", "file:2"]
    assert found.digest == read_prompts(as_jsonl(tmp_path / "file", TEXTS)).digest


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.txt", b"\xef\xbb\xbfopen the door\r\n\r\n  \r\nclose a window ?\r\npaint old fences"),
        (
            "a.jsonl",
            (
                b'\xef\xbb\xbf{"prompt": "open the door"}\r\n\r\n{"prompt": "close a window ?"}\n'
                b'{"prompt": "paint old fences"}'
            ),
        ),
        (
            "a.csv",
            b"\xef\xbb\xbfprompt\r\nopen the door\r\n\r\nclose a window ?\r\npaint old fences\r\n",
        ),
    ],
)
def test_byte_order_mark_windows_line_ends_and_blank_lines(tmp_path, name, data):
    assert read_prompts(write(tmp_path / name, data)).texts == TEXTS


def test_only_line_ends_part_lines(tmp_path):
    """A line separator, a form feed or a next-line sign inside a prompt belongs to it."""
    text = "one\u2028two\x0cthree\x85four\x1cfive"
    assert read_prompts(write(tmp_path / "a.txt", text + "\nnext\n")).texts == [text, "next"]
    line = json.dumps({"prompt": text}, ensure_ascii=False)
    assert read_prompts(write(tmp_path / "a.jsonl", line + "\n")).texts == [text]


def test_a_prompt_of_several_lines_survives_in_csv_and_jsonl(tmp_path):
    assert read_prompts(write(tmp_path / "a.csv", 'prompt\n"one\ntwo"\n')).texts == ["one\ntwo"]
    assert read_prompts(write(tmp_path / "a.jsonl", '{"prompt": "one\\ntwo"}\n')).texts == [
        "one\ntwo"
    ]


@pytest.mark.parametrize("writer", [as_text, as_jsonl, as_csv, as_tsv, as_parquet])
def test_a_suffix_in_capitals_is_the_same_kind(tmp_path, writer):
    path = writer(tmp_path / "file", TEXTS)
    assert read_prompts(path.rename(path.with_suffix(path.suffix.upper()))).texts == TEXTS


FIELDS = [
    ('"open the door', 2),  # closed by nothing
    ('"one\ntwo"\n"open the door', 4),  # after a field of several lines
    ('"open the door\n"close, the window"', 2),  # closed by the quote that opens the next row
    ('"open the door\nsay ""please"" twice', 2),
    ('plain\n"say \\"hi\\" now"', 3),  # a quote is escaped by a quote alone
    ('"say "hi" now"', 2),
    ('"open the door\r\nclose the window\r\n', 2),
    ('plain\r"open the door\rclose the window', 3),
    ('"' + "open the door\n" * 20_000, 2),  # longer than a field may be
    ('""open"', 2),
]


@pytest.mark.parametrize(("fields", "line"), FIELDS, ids=range(len(FIELDS)))
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_a_quote_that_is_not_closed_is_refused_with_its_line(tmp_path, fields, line, suffix):
    with pytest.raises(
        PromptError,
        match=rf"a{suffix}, line {line}: the quote that opens a field here is not closed",
    ):
        read_prompts(write(tmp_path / f"a{suffix}", f"prompt\n{fields}"))


def test_an_unclosed_quote_in_the_header_or_in_a_later_column_is_refused(tmp_path):
    for text, line in (('"prompt\nopen', 1), ('prompt,more\n"a\nb","c\nd,e\n', 3)):
        with pytest.raises(PromptError, match=f"line {line}: the quote that opens"):
            read_prompts(write(tmp_path / "a.csv", text))


def test_quotes_that_add_up_are_read(tmp_path):
    text = (
        'prompt,more\n"say ""hi"", please",1\n5" of pipe,2\n"one\r\n""two""\n",3\nsay "hi"'
        ' now,""\n"""a""",4'
    )
    found = read_prompts(write(tmp_path / "a.csv", text)).texts
    assert found == ['say "hi", please', '5" of pipe', 'one\r\n"two"\n', 'say "hi" now', '"a"']
    assert read_prompts(write(tmp_path / "a.tsv", 'prompt\tmore\n"a\tb"\t1\nc, d\t2\n')).texts == [
        "a\tb",
        "c, d",
    ]
    with pytest.raises(
        PromptError, match="row 0 has more fields than the header; quote fields that contain tabs"
    ):
        read_prompts(write(tmp_path / "a.tsv", "prompt\na\tb\n"))
    # well quoted, and longer than a field may be
    with pytest.raises(PromptError, match="is not readable CSV"):
        read_prompts(write(tmp_path / "a.csv", 'prompt\n"' + "x" * 200_000 + '"\n'))


def parts(*texts):
    return [{"type": "text", "text": text} for text in texts]


def test_text_parts_of_a_prompt_are_joined(tmp_path):
    rows = [{"prompt": parts("open ", "the door")}, {"prompt": parts("sing")}, {"prompt": "go"}]
    path = write(tmp_path / "x.jsonl", "\n".join(map(json.dumps, rows)))
    assert read_prompts(path).texts == read_chats(path).texts == ["open the door", "sing", "go"]
    pq.write_table(
        pa.table({"prompt": [row["prompt"] for row in rows[:2]]}), tmp_path / "x.parquet"
    )
    assert read_prompts(tmp_path / "x.parquet").texts == ["open the door", "sing"]
    turn = {"type": "message", "role": "user", "content": parts("open ", "it")}
    (chat,) = read_chats(write(tmp_path / "y.jsonl", json.dumps({"prompt": [turn]})))
    assert chat.messages == (("user", "open it"),)
    documents = Documents(
        write(tmp_path / "z.JSONL", json.dumps({"messages": [turn]}) + "\n" + json.dumps(rows[0]))
    )
    assert [found for _, found in documents.read()] == [
        [{"role": "user", "content": "open it"}],
        "open the door",
    ]


IMAGE = {"type": "image_url", "image_url": {"url": "x.png"}}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([*parts("see"), IMAGE], "prompt contains a part of type 'image_url'; only text is read"),
        ([{"type": "text"}], "prompt contains a text part without a text"),
        ([*parts("see"), "this"], "every prompt needs text"),
        (parts(" "), "every prompt needs text"),
        ([], "every prompt needs text"),
        (
            [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
            (
                r"prompt is a conversation of 2 messages \(system, user\), and a prompt is only the"
                r" user's text; use a"
            ),
        ),
    ],
)
def test_a_list_that_is_no_text_is_refused(tmp_path, value, said):
    path = write(tmp_path / "x.jsonl", json.dumps({"prompt": value}))
    with pytest.raises(PromptError, match=f"row 0: .*{said}"):
        read_prompts(path)
    turns = [{"role": "user", "content": [*parts("see"), IMAGE]}]
    path = write(tmp_path / "y.jsonl", json.dumps({"messages": turns}))
    for read in (lambda: read_chats(path, "messages"), lambda: list(Documents(path).read())):
        with pytest.raises(
            PromptError, match="row 0: messages contains a part of type 'image_url'"
        ):
            read()


def test_clusters_and_twins_of_a_file(tmp_path):
    rows = [
        {"prompt": "a", "cluster": "c", "twin": "t"},
        {"prompt": "b", "twin": "t2"},
        {"prompt": "c", "cluster": 0, "twin": 0},
        {"prompt": "d", "cluster": "", "twin": None},
    ]
    found = read_prompts(write(tmp_path / "x.jsonl", "\n".join(map(json.dumps, rows))), name="harm")
    assert found.clusters == ["c", "t2", "0", "harm:3"]
    assert [prompt.twin for prompt in found] == ["t", "t2", "0", None]


def test_another_column(tmp_path):
    path = write(tmp_path / "x.csv", "question,prompt\nwhich door,open\n")
    assert read_prompts(path, column="question").texts == ["which door"]


BAD = {
    "empty.txt": (b"", "has no prompts"),
    "blank.txt": (b"\n  \n\t\n", "has no prompts"),
    "mark.txt": (b"\xef\xbb\xbf", "has no prompts"),
    "latin.txt": ("fenêtre".encode("latin-1"), "is not UTF-8 (byte 3"),
    "latin.jsonl": (b'{"prompt": "fen\xeatre"}', "is not UTF-8"),
    "latin.csv": (b"prompt\nfen\xeatre\n", "is not UTF-8"),
    "empty.csv": (b"", "has no prompts"),
    "column.csv": (b"text\nopen\n", "has no column 'prompt'; it has text"),
    "column.jsonl": (b'{"text": "open"}', "has no column 'prompt'; it has text"),
    "broken.jsonl": (b'{"prompt": "a"}\n{"prompt": ', "line 2 is not JSON"),
    "list.jsonl": (b'["a"]', "line 1 is not a JSON object"),
    "number.jsonl": (b'{"prompt": 3}', "row 0: prompt is 3"),
    "null.jsonl": (b'{"prompt": "a"}\n{"prompt": null}', "row 1: prompt is None"),
    "blank.jsonl": (b'{"prompt": "  "}', "row 0: prompt is '  '"),
    "digits.jsonl": (b'{"prompt": ' + b"9" * 5000 + b"}", "line 1 is not JSON"),
    "deep.jsonl": (b"[" * 100_000, "line 1 is not JSON"),
    "surrogate.jsonl": (b'{"prompt": "a \\ud800 b"}', "half a surrogate pair"),
    "short.csv": (b"other,prompt\nopen\n", "row 0: prompt is None"),
    "nul.csv": (b"prompt\na" + b"x" * 200_000 + b"\n", "is not readable CSV"),
    "bad.parquet": (b"no parquet", "is not readable Parquet"),
    "prompts.doc": (b"open", "is not a prompt file"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_list_of_prompts_is_refused_in_one_line(tmp_path, name):
    data, said = BAD[name]
    with pytest.raises(PromptError) as caught:
        read_prompts(write(tmp_path / name, data))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_missing_file_and_directory(tmp_path):
    with pytest.raises(PromptError, match="no prompt file at"):
        read_prompts(tmp_path / "none.txt")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(PromptError, match="is not a prompt file"):
        read_prompts(tmp_path / "folder.txt")


def test_parquet_without_the_column(tmp_path):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(PromptError, match="has no column 'prompt'"):
        read_prompts(tmp_path / "x.parquet")


def test_an_empty_class_and_the_same_prompts_twice_are_no_contrast():
    one, none = prompt_set(TEXTS), prompt_set([], source="none.txt")
    with pytest.raises(PromptError, match=r"negative class has no prompts \(none.txt\)"):
        Contrast(one, none)
    with pytest.raises(PromptError, match="both classes hold the same prompts"):
        Contrast(one, prompt_set(TEXTS[::-1], source="other"))
    Contrast(one, prompt_set(TEXTS[:2]))


def test_digest_follows_content_and_order_not_the_name(tmp_path):
    one = read_prompts(as_text(tmp_path / "x", TEXTS), name="n")
    assert one.digest == read_prompts(as_text(tmp_path / "y", TEXTS), name="n").digest
    assert one.digest != read_prompts(as_text(tmp_path / "z", TEXTS[::-1]), name="n").digest
    other = prompt_set(["x"])
    assert Contrast(one, other).digest != Contrast(other, one).digest


@settings(deadline=None, max_examples=60)
@given(
    positive=st.lists(st.integers(0, 9), min_size=3, max_size=30),
    negative=st.lists(st.integers(0, 9), min_size=3, max_size=30),
    seed=st.integers(0, 5),
)
def test_split_parts_clusters_not_prompts(positive, negative, seed):
    contrast = Contrast(
        prompt_set([f"p{row}" for row in range(len(positive))], [str(c) for c in positive]),
        prompt_set([f"n{row}" for row in range(len(negative))], [str(c) for c in negative]),
    )
    try:
        halves = contrast.split(seed)
    except PromptError:
        # then no half could hold both classes: one cluster, or one cluster beside one that lacks a
        # class
        clusters = {*positive, *negative}
        assert (
            len(clusters) < 2
            or len(set(positive)) < 2
            or len(set(negative)) < 2
            or len(clusters) < 4
        )
        return
    clusters = [{*half.positive.clusters, *half.negative.clusters} for half in halves]
    assert not clusters[0] & clusters[1]
    assert sorted(halves[0].positive.texts + halves[1].positive.texts) == sorted(
        contrast.positive.texts
    )
    assert sorted(halves[0].negative.texts + halves[1].negative.texts) == sorted(
        contrast.negative.texts
    )
    assert [half.digest for half in contrast.split(seed)] == [half.digest for half in halves]


def test_split_finds_the_halves_that_exist():
    """Two unnamed clusters of each class: most draws are fine, and a bad one is drawn again."""
    contrast = Contrast(prompt_set(["a", "b"], source="p"), prompt_set(["c", "d"], source="n"))
    for seed in range(30):
        for half in contrast.split(seed):
            assert len(half.positive) == len(half.negative) == 1


@pytest.mark.parametrize("seed", range(5))
def test_split_halves_both_classes(seed):
    contrast = Contrast(
        prompt_set([f"p{n}" for n in range(13)]),
        prompt_set([f"n{n}" for n in range(12)], source="n"),
    )
    for half in contrast.split(seed):
        assert len(half.positive) in (6, 7)
        assert len(half.negative) == 6
    assert contrast.split(0)[0].digest != contrast.split(1)[0].digest


def test_one_cluster_cannot_be_split():
    contrast = Contrast(prompt_set(["a", "b"], ["c", "c"]), prompt_set(["d"], ["c"]))
    with pytest.raises(PromptError, match="1 clusters cannot be divided"):
        contrast.split(0)


def test_limit_takes_the_first():
    contrast = Contrast(prompt_set(TEXTS), prompt_set(["x", "y"]))
    assert contrast.limit(1).positive.texts == TEXTS[:1]
    assert contrast.limit(9).digest == contrast.digest
    assert contrast.limit(None) is contrast


def test_twins_by_name_else_by_length():
    positive = prompt_set(["aa", "bbbb", "cccccc"], twins=["t1", None, "gone"])
    negative = prompt_set(["1234567", "12345", "z"], twins=[None, None, "t1"])
    assert Contrast(positive, negative).twins() == [2, 1, 0]
    assert Contrast(positive, negative).pairs() is None


def test_pairs_only_where_every_prompt_names_its_twin():
    negative = prompt_set(["x", "y", "z"], twins=["t1", "t2", "t3"])
    assert Contrast(prompt_set(["a", "b", "c"], twins=["t3", "t1", "t2"]), negative).pairs() == [
        2,
        0,
        1,
    ]
    assert Contrast(prompt_set(["a", "b", "c"], twins=["t3", "t3", "t2"]), negative).pairs() is None
    assert Contrast(prompt_set(["a", "b", "c"], twins=["t3", "t1", "t4"]), negative).pairs() is None
    assert Contrast(prompt_set(["a", "b", "c"], twins=["t3", "t1", None]), negative).pairs() is None
    assert Contrast(prompt_set(["a", "b"], twins=["t3", "t1"]), negative).pairs() == [2, 0]


def test_limit_keeps_twins_together_whatever_their_order():
    names = [f"t{n}" for n in range(20)]
    positive = prompt_set([f"p{n}" for n in range(20)], twins=names)
    negative = prompt_set([f"n{n}" for n in range(20)][::-1], twins=names[::-1])
    few = Contrast(positive, negative).limit(7)
    assert len(few.positive) == len(few.negative) == 7
    assert few.pairs() is not None


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(str.strip))
def test_without_a_template_tokens_are_exactly_the_tokenizers(text):
    plain = tiny.tokenizer(template=False)
    found = encode(plain, text)
    assert list(found.ids) == plain(text)["input_ids"]
    assert found.roles == (CONTENT,) * (len(found.ids) - 1) + (DECISION,)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(str.strip))
def test_with_a_template_content_is_the_prompt_and_decision_what_follows(text):
    chat = tiny.tokenizer()
    found = encode(chat, text)
    turn = chat.apply_chat_template(
        [{"role": "user", "content": text}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=False,
    )
    assert list(found.ids) == turn
    assert found.roles[0] == OTHER
    assert found.roles[-2:] == (DECISION, DECISION)
    assert set(found.roles[1:-2]) == {CONTENT}


@pytest.mark.parametrize(
    "text", ["assistant", "user", "end", "|", "<|assistant|>", "<|user|>", "<|end|>", "e"]
)
def test_a_prompt_that_also_stands_in_the_template(text):
    """Found between what the template writes before and after, not by searching for its text."""
    found = encode(tiny.tokenizer(), text)
    assert found.roles[0] == OTHER
    assert set(found.roles[1:-2]) == {CONTENT}
    assert found.roles[-2:] == (DECISION, DECISION)


def with_template(template):
    chat = PreTrainedTokenizerFast(
        tokenizer_object=tiny.tokenizer().backend_tokenizer, pad_token="<|pad|>"
    )
    chat.chat_template = template
    return chat


def test_a_template_that_strips_is_fine():
    chat = with_template("<|user|>{{ messages[0].content | trim }}<|end|><|assistant|>")
    found = encode(chat, "  open the door \n")
    assert found.roles == (OTHER, CONTENT, CONTENT, CONTENT, DECISION, DECISION)


def test_a_template_without_a_word_after_the_prompt_still_decides_at_the_last_token():
    found = encode(with_template("<|user|>{{ messages[0].content }}"), "open the door")
    assert found.roles == (OTHER, CONTENT, CONTENT, DECISION)


def test_a_template_that_depends_on_the_prompt_is_read_by_searching():
    template = (
        "{% if 'door' in messages[0].content %}<|user|>{% endif %}{{ messages[0].content }}<|end|>"
    )
    assert encode(with_template(template), "open the door").roles == (
        OTHER,
        CONTENT,
        CONTENT,
        CONTENT,
        DECISION,
    )


@pytest.mark.parametrize("change", ["upper", "reverse", "truncate(4, true, '')"])
def test_a_template_that_rewrites_the_prompt_is_refused(change):
    chat = with_template("<|user|>{{ messages[0].content | " + change + " }}<|end|>")
    with pytest.raises(PromptError, match="the chat template rewrites the prompt 'open the door'"):
        encode(chat, "open the door")


def test_a_template_that_raises_is_one_line():
    chat = with_template("{{ raise_exception('only\nsystem messages') }}")
    with pytest.raises(
        PromptError, match="the chat template fails for a single user turn"
    ) as caught:
        encode(chat, "open the door")
    assert "\n" not in str(caught.value)


def test_a_prompt_without_tokens_is_refused():
    with pytest.raises(PromptError, match="makes no token"):
        encode(tiny.tokenizer(template=False), "")


def test_completion_tokens_have_their_own_role():
    found = Encoded((1, 2), (CONTENT, DECISION)).with_completion([7, 8])
    assert found == Encoded((1, 2, 7, 8), (CONTENT, DECISION, COMPLETION, COMPLETION))


# ------------------------------------------------------------------------------------- one notion of cluster


def closure(*columns):
    """Which rows are tied, as the transitive closure of sharing a value, by powers of a matrix."""
    same = np.eye(len(columns[0]), dtype=bool)
    for column in columns:
        same |= np.array([[a is not None and a == b for b in column] for a in column])
    for _ in columns[0]:
        same = (same.astype(int) @ same.astype(int)) > 0
    return same


def partition(clusters):
    return np.array([[a == b for b in clusters] for a in clusters])


@settings(deadline=None, max_examples=80)
@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.integers(0, 6), st.one_of(st.none(), st.integers(0, 4))),
        min_size=1,
        max_size=12,
    )
)
def test_clusters_are_the_finest_that_keep_together_clusters_texts_and_twins(rows):
    texts, names, twins = (list(column) for column in zip(*rows, strict=True))
    texts, names = [f"text {one}" for one in texts], [f"c{one}" for one in names]
    twins = [None if one is None else f"t{one}" for one in twins]
    found = prompt_set(texts, names, twins)
    np.testing.assert_array_equal(partition(found.clusters), closure(texts, names, twins))
    assert set(found.clusters) <= set(names)  # named after one of those that were tied, the first
    for row, name in enumerate(found.clusters):
        assert name == names[found.clusters.index(found.clusters[row])]
    # whoever takes some of the prompts finds them in the clusters of the whole
    some = found.keep(range(0, len(rows), 2))
    assert some.clusters == found.clusters[::2]
    assert PromptSet(found.prompts, "again").digest == found.digest


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(5, 14), st.integers(4, 9)), min_size=1, max_size=8),
)
def test_clusters_of_a_contrast_are_those_of_both_classes_together(positive, negative):
    sets = [
        prompt_set([f"text {t}" for t, _ in rows], [f"c{c}" for _, c in rows])
        for rows in (positive, negative)
    ]
    if set(sets[0].texts) == set(sets[1].texts):
        return
    found = Contrast(*sets)
    together = closure(*([str(row[at]) for row in positive + negative] for at in (0, 1)))
    np.testing.assert_array_equal(partition(found.clusters), together)
    assert found.clusters == found.positive.clusters + found.negative.clusters
    assert found.n_clusters == min(
        len(set(part.clusters)) for part in (found.positive, found.negative)
    )
    assert Contrast(found.positive, found.negative).digest == found.digest


def test_equal_texts_are_one_cluster_whatever_the_file_says(tmp_path):
    lines = as_text(tmp_path / "x", TEXTS * 50)
    found = read_prompts(lines, name="n")
    assert (len(found), found.n_texts, found.n_clusters) == (150, 3, 3)
    assert found.clusters == ["n:0", "n:1", "n:2"] * 50
    rows = [{"prompt": text, "cluster": f"{row}"} for row, text in enumerate(TEXTS * 2)]
    found = read_prompts(write(tmp_path / "x.jsonl", "\n".join(map(json.dumps, rows))))
    assert found.clusters == ["0", "1", "2"] * 2
    # a before b by their cluster, b before d by their text
    assert prompt_set(["a", "b", "b", "d", "e"], ["c1", "c1", "c2", "c2", "c3"]).clusters == [
        "c1"
    ] * 4 + ["c3"]


def test_texts_are_equal_by_unicode_and_but_for_the_space_around_them():
    alike = ["caf\u00e9 open", "cafe\u0301 open", "  caf\u00e9 open\n"]
    assert prompt_set(alike).n_clusters == 1
    assert prompt_set([*alike, "caf\u00e9  open", "Caf\u00e9 open"]).n_clusters == 3
    first, second = (Contrast(prompt_set([text]), prompt_set(["x" + text])) for text in alike[:2])
    with pytest.raises(PromptError, match="2 held-out prompts are also in the selection split"):
        first.require_disjoint(second)
    with pytest.raises(PromptError, match="both classes hold the same prompts"):
        Contrast(prompt_set(alike), prompt_set(alike[:1]))


def test_conversations_are_equal_by_their_messages(tmp_path):
    said = [("user", "open the door"), ("assistant", "no")]
    chats = [
        said,
        said[:1],
        [("user", "open the door\nno")],
        said,
        [("assistant", "open the door"), ("user", "no")],
    ]
    rows = [
        {"messages": [{"role": role, "content": words} for role, words in chat]} for chat in chats
    ]
    rows.append({"messages": " open the door"})
    found = read_chats(
        write(tmp_path / "x.jsonl", "\n".join(map(json.dumps, rows))), "messages", "n"
    )
    assert found.clusters == ["n:0", "n:1", "n:2", "n:0", "n:3", "n:1"]


def test_a_twin_or_a_text_ties_clusters_of_both_classes():
    positive = prompt_set(["a", "b", "c"], ["p1", "p1", "p2"], ["t", None, None], "p")
    negative = prompt_set(["x", "c", "y"], ["n1", "n2", "n2"], ["t", None, None], "n")
    found = Contrast(positive, negative)
    assert found.positive.clusters == ["p1", "p1", "p2"]
    assert found.negative.clusters == ["p1", "p2", "p2"]
    assert found.positive.source == "p"


def test_copies_of_pairs_pair_off():
    named = prompt_set(["a", "b", "a"], twins=["t1", "t2", "t1"])
    assert Contrast(named, prompt_set(["x", "y", "x"], twins=["t1", "t2", "t1"])).pairs() == [
        0,
        1,
        2,
    ]
    assert Contrast(named, prompt_set(["y", "x", "x"], twins=["t2", "t1", "t1"])).pairs() == [
        1,
        0,
        2,
    ]
    assert Contrast(named, prompt_set(["x", "y"], twins=["t1", "t2"])).pairs() is None


def test_a_split_never_parts_copies():
    many = Contrast(prompt_set([*"ababab"]), prompt_set([*"xyxyxy"], source="n"))
    for seed in range(10):
        for half in many.split(seed):
            assert half.positive.n_texts == half.negative.n_texts == 1
            assert len(half.positive) == len(half.negative) == 3
    with pytest.raises(PromptError, match="2 clusters cannot be divided"):
        Contrast(prompt_set([*"aaaa"]), prompt_set([*"xxxx"], source="n")).split(0)


def test_few_prompts_are_taken_from_many_clusters_and_texts():
    found = prompt_set([*"aaabbc"], ["1", "1", "1", "2", "2", "2"])
    assert found.clusters == ["1"] * 3 + ["2"] * 3
    assert found.spread(2).texts == ["a", "b"]
    assert found.spread(5).texts == [*"aaabc"]  # repeated texts come last
    assert found.sample(2) == [0, 3]
    assert found.sample(9) == [0, 3, 5]


def test_copies_change_nothing_in_what_is_taken_or_how_clusters_are_named(tmp_path):
    texts = [f"open door {row}" for row in range(12)]
    once, often = (
        read_prompts(as_text(tmp_path / name, lines))
        for name, lines in (("a", texts), ("b", [text for text in texts for _ in range(20)]))
    )
    assert often.clusters[::20] == [name.replace("a:", "b:") for name in once.clusters]
    for prompts, count in ((often, 5), (often, 12)):
        assert prompts.spread(count).texts == once.spread(count).texts
    assert sample_rows(often, range(240), 7, 3) == [
        20 * row for row in sample_rows(once, range(12), 7, 3)
    ]
    assert sample_rows(often, range(240), 13, 3)[:3] == [0, 1, 20]
    given = prompt_set(texts, [str(row % 6) for row in range(12)])
    copied = prompt_set(
        [text for text in texts for _ in range(20)],
        [str(row % 6) for row in range(12) for _ in range(20)],
    )
    assert copied.spread(12).texts == given.texts


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (float("nan"), None),
        (1.0, "1"),
        (1, "1"),
        (" a ", "a"),
        ("  ", None),
        (1.5, "1.5"),
        (None, None),
    ],
)
def test_a_cluster_is_named_as_it_reads(tmp_path, value, name):
    rows = [{"prompt": "open the door", "cluster": value}, {"prompt": "sing", "cluster": "z"}]
    found = read_prompts(write(tmp_path / "x.jsonl", "\n".join(map(json.dumps, rows))))
    assert found.clusters == [name or "x:0", "z"]


@pytest.mark.parametrize("value", [True, ["a"], {"a": 1}])
def test_a_cluster_that_names_nothing_is_refused(tmp_path, value):
    rows = [{"prompt": "open the door", "cluster": value}]
    with pytest.raises(PromptError, match=r"row 0: cluster is .*; give a name or a number"):
        read_prompts(write(tmp_path / "x.jsonl", "\n".join(map(json.dumps, rows))))


def test_equal_prompts_have_one_answer_in_every_spelling(tmp_path):
    rows = [{"prompt": "caf\u00e9", "answer": "a"}, {"prompt": "cafe\u0301 ", "answer": "b"}]
    with pytest.raises(
        PromptError, match="row 1: repeats the prompt of row 0 with the answer 'b' and not 'a'"
    ):
        read_task(write(tmp_path / "x.jsonl", "\n".join(map(json.dumps, rows))))


def test_whether_clusters_were_given_and_what_is_noted(tmp_path):
    lines = read_prompts(as_text(tmp_path / "lines", TEXTS * 4))
    assert not lines.clusters_given
    assert not lines.spread(5).clusters_given
    assert prompt_notes([lines]) == (
        "12 prompts of lines.txt hold 3 distinct texts: equal texts count once as evidence",
        (
            "no clusters are given in lines.txt: every text counts as independent evidence; add a"
            " column cluster (.csv, .jsonl or .parquet) that identifies variants"
            " of the same prompt"
        ),
    )
    other = read_prompts(as_csv(tmp_path / "other", TEXTS[:2]))
    (note,) = prompt_notes(Contrast(prompt_set(["z"]), other).negative for _ in range(2))
    assert note.startswith("no clusters are given in other.csv: ")
    for column in ("cluster", "twin"):
        rows = [{"prompt": "a", column: "c"}, {"prompt": "b", column: None}]
        given = read_prompts(write(tmp_path / "x.jsonl", "\n".join(map(json.dumps, rows))))
        assert given.clusters_given
        assert prompt_notes([given, given]) == (
            (
                "1 of 2 prompts of x.jsonl have no cluster or twin, unlike the others: each of"
                " their texts counts as independent evidence"
            ),
        )
        whole = read_prompts(write(tmp_path / "w.jsonl", json.dumps(rows[0])))
        assert prompt_notes([whole]) == ()
    rows = [{"prompt": "a", "cluster": "", "twin": None}, {"prompt": "b"}]
    assert not read_prompts(
        write(tmp_path / "y.jsonl", "\n".join(map(json.dumps, rows)))
    ).clusters_given
    assert prompt_set(TEXTS).clusters_given
    assert lines.digest == PromptSet(lines.prompts, "given").digest
