"""Rows of activations: each document as if alone, the same whatever the batches, masks and sinks as
asked for.
"""

import json
import math
import random
import types
from itertools import pairwise

import pyarrow
import pyarrow.parquet
import pytest
import torch

from interp.capture import batches, capture
from interp.engines import TorchEngine
from interp.errors import DictionaryError, OptionError, PromptError
from interp.models.pair import Pair
from interp.prompts import (
    SPECIAL_TOKEN,
    TOKEN_SOURCES,
    Documents,
    Encoded,
    encode_document,
    special_ids,
)
from interp.sae import Buffer
from interp.sae.core.norms import RunningMedianNorms
from interp.sae.training.activation_source import ActivationSource, ReadingOptions, _split_by_length
from interp.sae.training.sources import FunctionSource, Shards, TensorSource, write_shards
from interp.sites import Site
from tests import tiny

SITE = Site(1, "hook_resid_post")
WORDS = tiny.WORDS.split()


@pytest.fixture(scope="module")
def pair():
    base = tiny.llama(seed=3)
    return Pair.from_modules(tiny.perturbed(base), base, tiny.tokenizer())


def texts(count, seed=0, longest=60):
    """Documents of log-normal length."""
    draw = random.Random(seed)
    return [
        " ".join(draw.choices(WORDS, k=max(1, min(longest, round(draw.lognormvariate(2.3, 0.8))))))
        for _ in range(count)
    ]


@pytest.fixture
def written(tmp_path):
    def write(documents, name="data.jsonl"):
        path = tmp_path / name
        if name.endswith(".txt"):
            path.write_text("\n".join(documents), "utf-8")
        else:
            rows = [{"messages": d} if isinstance(d, list) else {"text": d} for d in documents]
            if name.endswith(".parquet"):
                pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=7)
            else:
                path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
        return Documents(path)

    return write


def all_rows(source, cursor=None):
    return torch.cat([rows for rows, _ in source.chunks(cursor)])


def ordered(rows):
    return rows[sorted(range(len(rows)), key=lambda i: rows[i].tolist())]


CHATS = [
    [
        {"role": "system", "content": "please help"},
        {"role": "user", "content": f"open the door {'now ' * n}end"},
        {"role": "assistant", "content": " Sorry , I cannot help"},
        {"role": "user", "content": "user"},
    ]
    for n in range(5)
]


@pytest.mark.parametrize("of", ["tuned", "base", "both", "difference"])
def test_a_document_reads_as_if_alone_and_in_any_batch(pair, written, of):
    """R1, R2, R3: the rows are those of every document run alone, none of padding and none missing."""
    documents = texts(40)
    alone = {}
    for role in ("base", "tuned"):
        parts = []
        for text in documents:
            coded = encode_document(pair.tokenizer, text, special_ids(pair.tokenizer))
            (found,) = capture(TorchEngine(), {role: pair[role]}, [coded], [[0]], [SITE], pad_id=0)
            parts.append(found.values[role, SITE][0])
        alone[role] = torch.cat(parts)
    expected = {
        "both": torch.cat([alone["base"], alone["tuned"]], 1),
        "difference": alone["tuned"] - alone["base"],
        **alone,
    }[of]
    for more in ({"batch_size": 1}, {"window": 7}, {"batch_size": 16}, {}):
        source = ActivationSource(
            pair,
            (SITE,),
            written(documents),
            ReadingOptions(model_role=of, max_norm_ratio=0.0, **more),
        )
        rows = all_rows(source)
        assert rows.shape == (len(expected), source.width)
        torch.testing.assert_close(ordered(rows), ordered(expected), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("median", [20, 200])
def test_little_of_a_batch_is_padding(pair, median):
    """R3: less than a tenth, on documents of log-normal length."""
    draw = random.Random(1)
    lengths = [
        max(1, min(8192, round(draw.lognormvariate(math.log(median), 0.8))))
        for _ in range(ReadingOptions().window)
    ]
    encoded = [Encoded((5,) * length, (0,) * length) for length in lengths]
    groups = [
        part
        for group in batches(encoded, pair.tuned, None)
        for part in _split_by_length(encoded, group)
    ]
    assert sorted(row for group in groups for row in group) == list(range(len(encoded)))
    cells = sum(len(group) * max(lengths[row] for row in group) for group in groups)
    assert 1 - sum(lengths) / cells < 0.10
    assert cells / len(groups) > 512


def test_rows_go_on_from_every_cursor(pair, written):
    source = ActivationSource(
        pair, (SITE,), written(texts(30)), ReadingOptions(window=8, batch_size=3)
    )
    chunks = list(source.chunks())
    whole = source.report()
    for number in (1, 2, 4, len(chunks) - 1):
        cursor = json.loads(json.dumps(chunks[number - 1][1]))
        later = list(source.chunks(cursor))
        assert len(later) == len(chunks) - number
        for (one, _), (other, _) in zip(later, chunks[number:], strict=True):
            assert torch.equal(one, other)
        assert source.report() == whole


def test_several_sites_and_models_stand_in_their_columns(pair, written):
    sites = (Site(0, "hook_resid_post"), Site(2, "mlp.hook_post"), Site(1, "attn.hook_z"))
    source = ActivationSource(
        pair, sites, written(texts(5)), ReadingOptions(model_role="both", max_norm_ratio=0.0)
    )
    assert source.segments == {
        str(sites[0]): (0, 64),
        str(sites[1]): (64, 160),
        str(sites[2]): (160, 224),
    }
    for site in sites:
        one = ActivationSource(
            pair, (site,), written(texts(5)), ReadingOptions(model_role="both", max_norm_ratio=0.0)
        )
        torch.testing.assert_close(
            all_rows(source)[:, slice(*source.segments[str(site)])], all_rows(one)
        )


def test_everybody_has_their_tokens():
    tokenizer = tiny.tokenizer()
    coded = encode_document(tokenizer, CHATS[0], special_ids(tokenizer))
    assert list(coded.ids) == tokenizer.apply_chat_template(CHATS[0], tokenize=True)["input_ids"]
    said = {name: "" for name in TOKEN_SOURCES}
    for index, code in zip(coded.ids, coded.roles, strict=True):
        name = next(name for name, value in TOKEN_SOURCES.items() if value == code % SPECIAL_TOKEN)
        said[name] += tokenizer.decode([index])
        assert (code >= SPECIAL_TOKEN) == (index < 4)
    assert said == {
        "text": "",
        "system": "please help",
        "user": "open the door enduser",
        "assistant": " Sorry , I cannot help",
        "template": "<|system|><|end|><|user|><|end|><|assistant|><|end|><|user|><|end|>",
    }


@pytest.mark.parametrize(
    "keep", [("assistant",), ("user", "system"), ("template",), tuple(TOKEN_SOURCES)]
)
@pytest.mark.parametrize("special", [True, False])
def test_masks_keep_whose_tokens_are_asked_for(pair, written, keep, special):
    source = ActivationSource(
        pair,
        (SITE,),
        written(CHATS),
        ReadingOptions(keep=keep, special=special, max_norm_ratio=0.0),
    )
    coded = [encode_document(pair.tokenizer, chat, special_ids(pair.tokenizer)) for chat in CHATS]
    wanted = [
        code
        for one in coded
        for code in one.roles
        if code % SPECIAL_TOKEN in [TOKEN_SOURCES[k] for k in keep]
        and (special or code < SPECIAL_TOKEN)
    ]
    assert len(all_rows(source)) == len(wanted)
    kept = source.report()["kept"]
    assert sum(kept.values()) == len(wanted)
    assert set(kept) <= set(keep)


def test_packed_blocks_hold_every_token_once_and_are_full(pair, written):
    documents = texts(12)
    source = ActivationSource(
        pair, (SITE,), written(documents), ReadingOptions(pack=True, context=32, max_norm_ratio=0.0)
    )
    tokens = sum(
        len(pair.tokenizer(text, add_special_tokens=False)["input_ids"]) + 1 for text in documents
    )
    assert len(all_rows(source)) == tokens
    apart = ActivationSource(
        pair, (SITE,), written(documents), ReadingOptions(context=32, max_norm_ratio=0.0)
    )
    with pytest.raises(AssertionError):  # packed tokens see the documents before them
        torch.testing.assert_close(ordered(all_rows(source))[:100], ordered(all_rows(apart))[:100])
    cut = ActivationSource(
        pair, (SITE,), written(["the door " * 40]), ReadingOptions(context=16, max_norm_ratio=0.0)
    )
    assert len(all_rows(cut)) == 16


def test_sinks_are_found_left_out_and_reported(written):
    """Planted truth: one token whose embedding is a thousand times as long."""
    model = tiny.llama(seed=3)
    sink = tiny.tokenizer()(" door")["input_ids"][0]
    with torch.no_grad():
        model.get_input_embeddings().weight[sink] *= 1000
    pair = Pair.from_modules(model, None, tiny.tokenizer(False))
    documents = texts(40)
    count = sum(pair.tokenizer(text)["input_ids"].count(sink) for text in documents)
    assert count > 10
    site = Site(0, "hook_resid_post")
    source = ActivationSource(pair, (site,), written(documents), ReadingOptions())
    rows = all_rows(source)
    report = source.report()
    assert report["sinks"] == count
    assert report["sinks by token"] == {" door": count}
    assert report["kept"] == {"text": report["tokens"] - count}
    assert float(rows.norm(dim=1).max()) < 10 * report["median norms"][0]
    everything = all_rows(
        ActivationSource(pair, (site,), written(documents), ReadingOptions(max_norm_ratio=0.0))
    )
    assert len(everything) == len(rows) + count
    quiet = ActivationSource(
        Pair.from_modules(tiny.llama(seed=3), None, tiny.tokenizer(False)),
        (site,),
        written(documents),
    )
    all_rows(quiet)
    assert quiet.report()["sinks"] == 0


def test_the_running_median_is_the_median():
    values = torch.rand(5000, generator=torch.Generator().manual_seed(1)).exp() * 30
    norms = RunningMedianNorms.from_json(None, 1)
    assert math.isnan(norms.median(0))
    for part in values.split(700):
        norms.ratio(0, part)
        norms = RunningMedianNorms.from_json(json.loads(json.dumps(norms.to_json())), 1)
    assert norms.median(0) == pytest.approx(float(values.median()), rel=0.02)


def test_masked_tokens_influence_nothing(pair, written):
    """Invariant 22: what is masked may say anything, as long as no kept token attends to it."""

    def rows(last):
        chats = [[*chat[:3], {"role": "user", "content": last}] for chat in CHATS]
        source = ActivationSource(
            pair, (SITE,), written(chats), ReadingOptions(keep=("assistant",), batch_size=2)
        )
        return all_rows(source), source.report()["median norms"]

    (one, medians), (other, others) = rows("user"), rows("gate")
    torch.testing.assert_close(one, other)
    assert medians == others


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_documents_from_any_row_on(written, name):
    documents = written(texts(20), name)
    whole = list(documents.read())
    assert [text for _, text in whole] == texts(20)
    for start in (0, 1, 7, 13, 20):
        assert list(documents.read(start)) == whole[start:]
    chats = written(CHATS, f"chats{name[1:]}") if name != "a.txt" else None
    assert chats is None or [found for _, found in chats.read()] == CHATS


def test_processes_share_the_documents(pair, written):
    documents = written(texts(21))
    parts = [
        all_rows(ActivationSource(pair, (SITE,), documents, rank=rank, world=2))
        for rank in range(2)
    ]
    whole = all_rows(ActivationSource(pair, (SITE,), documents))
    torch.testing.assert_close(ordered(torch.cat(parts)), ordered(whole), atol=1e-5, rtol=1e-4)


def test_an_adapter_is_switched_on_for_its_tune(written, tmp_path):
    base = tiny.llama(seed=3)
    tiny.save(base, tmp_path / "base")
    tiny.lora("llama", base, tmp_path / "lora", tmp_path / "base")
    pair = Pair.load(str(tmp_path / "lora"), str(tmp_path / "base"))
    documents = written(texts(4))
    found = {
        of: all_rows(
            ActivationSource(
                pair, (SITE,), documents, ReadingOptions(model_role=of, max_norm_ratio=0.0)
            )
        )
        for of in ("tuned", "base", "both")
    }
    torch.testing.assert_close(torch.cat([found["base"], found["tuned"]], 1), found["both"])
    plain = all_rows(
        ActivationSource(
            Pair.from_modules(base, None, tiny.tokenizer()),
            (SITE,),
            documents,
            ReadingOptions(max_norm_ratio=0.0),
        )
    )
    torch.testing.assert_close(found["base"], plain)
    assert float((found["tuned"] - found["base"]).abs().max()) > 0.1


# ------------------------------------------------------------------ buffer and shards


def numbered(count):
    """Rows whose columns are the row's number and, as of another model, the number again."""
    return torch.arange(count, dtype=torch.float32)[:, None].repeat(1, 2)


def test_a_source_that_fits_is_served_whole_every_pass():
    buffer = Buffer(TensorSource(numbered(50), step=7), 64)
    for epoch in range(3):
        served = torch.cat([buffer.batch(25), buffer.batch(25)])
        assert sorted(served[:, 0].tolist()) == list(range(50))
        assert torch.equal(served[:, 0], served[:, 1])
        assert buffer.epoch == epoch


def test_a_long_source_is_mixed_and_every_row_served():
    buffer = Buffer(TensorSource(numbered(1000), step=37), 100)
    served = buffer.batch(900)
    numbers = served[:, 0].long().tolist()
    assert len(set(numbers)) == 900
    assert torch.equal(served[:, 0], served[:, 1])
    near = [abs(a - b) for a, b in pairwise(numbers)]
    assert sum(step == 1 for step in near) < 30
    assert buffer.batch(5000)[:, 0].unique().numel() == 1000


@pytest.mark.parametrize("size", [64, 100, 1000])
def test_a_buffer_goes_on_where_it_was(size):
    source = TensorSource(numbered(300), step=37)
    for served in (0, 10, 63, 150, 700):
        one = Buffer(source, size, seed=5)
        if served:
            one.batch(served)
        tensors, said = one.state()
        other = Buffer(source, size, seed=5)
        other.restore(
            {name: value.clone() for name, value in tensors.items()}, json.loads(json.dumps(said))
        )
        assert torch.equal(one.batch(800), other.batch(800))
    assert not torch.equal(
        Buffer(source, size, seed=6).batch(50), Buffer(source, size, seed=5).batch(50)
    )


def test_a_source_of_nothing_is_said():
    with pytest.raises(DictionaryError, match="yields no rows"):
        Buffer(TensorSource(numbered(0)), 10).batch(1)
    with pytest.raises(OptionError, match="cannot shuffle"):
        Buffer(TensorSource(numbered(9)), 1)
    with pytest.raises(DictionaryError, match="had seed 0, now 1"):
        Buffer(TensorSource(numbered(9)), 5, seed=1).restore(
            *Buffer(TensorSource(numbered(9)), 5).state()
        )


def test_cached_rows_come_back(tmp_path):
    source = FunctionSource(
        lambda number: numbered(40) + 40 * number, 2, "blocks.1.hook_resid_post"
    )
    assert write_shards(source, tmp_path / "rows", 150, dtype=torch.float32, shard=64) == 150
    shards = Shards(tmp_path / "rows", step=25)
    assert torch.equal(all_rows(shards), numbered(150))
    assert shards.segments == {"blocks.1.hook_resid_post": (0, 2)}
    chunks = list(shards.chunks())
    for number in range(1, len(chunks)):
        assert torch.equal(
            all_rows(shards, chunks[number - 1][1]),
            torch.cat([rows for rows, _ in chunks[number:]]),
        )
    halves = [all_rows(Shards(tmp_path / "rows", rank=rank, world=2)) for rank in range(2)]
    assert sorted(torch.cat(halves)[:, 0].tolist()) == list(range(150))
    with pytest.raises(DictionaryError, match="cannot write"):
        write_shards(source, tmp_path / "rows", 5)
    first = tmp_path / "rows" / "rows-00000.safetensors"
    first.write_bytes(first.read_bytes()[:90])
    with pytest.raises(DictionaryError, match="not a complete safetensors file"):
        Shards(tmp_path / "rows")
    with pytest.raises(DictionaryError, match="no safetensors file for process"):
        Shards(tmp_path)


# ------------------------------------------------------------------ refusals and the command


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"model_role": "child"}, "unknown model role"),
        ({"keep": ("robot",)}, "unknown role 'robot'"),
        ({"keep": ()}, "no tokens would be kept"),
        ({"context": 1}, "at least 2 tokens"),
        ({"max_norm_ratio": 0.5}, "half of all"),
    ],
)
def test_readings_that_mean_nothing_are_refused(given, said):
    with pytest.raises(OptionError, match=said):
        ReadingOptions(**given)


def test_files_that_are_none_are_refused(pair, written, tmp_path):
    with pytest.raises(PromptError, match="no document file"):
        Documents(tmp_path / "absent.jsonl")
    with pytest.raises(PromptError, match=r"use \.txt"):
        Documents(tmp_path / "data.csv")
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"tex', "utf-8")
    with pytest.raises(PromptError, match="line 2 is not JSON"):
        list(Documents(tmp_path / "bad.jsonl").read())
    (tmp_path / "other.jsonl").write_text('{"body": "a"}', "utf-8")
    with pytest.raises(PromptError, match="no column messages or text or prompt; it has body"):
        list(Documents(tmp_path / "other.jsonl").read())
    (tmp_path / "odd.jsonl").write_text('{"messages": [{"role": "user"}]}', "utf-8")
    with pytest.raises(PromptError, match="neither text nor a list of messages"):
        list(Documents(tmp_path / "odd.jsonl").read())
    (tmp_path / "empty.txt").write_text("\n\n", "utf-8")
    with pytest.raises(PromptError, match="contains no documents"):
        list(ActivationSource(pair, (SITE,), Documents(tmp_path / "empty.txt")).chunks())
    plain = Pair.from_modules(tiny.llama(), None, tiny.tokenizer(False))
    with pytest.raises(PromptError, match="row 0: the tokenizer has no chat template"):
        list(ActivationSource(plain, (SITE,), written(CHATS)).chunks())
    with pytest.raises(OptionError, match="needs a base"):
        ActivationSource(plain, (SITE,), written(CHATS), ReadingOptions(model_role="both"))


def arguments(data, out, *more, site="blocks.1.hook_resid_post"):
    return [
        "sae",
        "train",
        "organism:refusal/planted",
        "--base",
        "organism:refusal/base",
        "--site",
        site,
        "--data",
        data,
        "--out",
        out,
        "--width",
        64,
        "-k",
        4,
        "--batch",
        128,
        "--tokens",
        "2k",
        "--device",
        "cpu",
        *more,
    ]


def test_the_command_trains_a_crosscoder_and_says_what_it_read(run, written, tmp_path):
    from interp.sae import load

    data = written(["Please tell me how to open the door .", "How do I paint a gate ?"] * 20).path
    code, out, _ = run(
        *arguments(
            data, tmp_path / "cc", "--model-role", "both", "--architecture", "batchtopk", "--json"
        )
    )
    assert code == 0
    told = json.loads(out)
    # of a batch as the threshold lets codes through, not the k that training kept
    assert told["dictionaries"]["dictionary"]["l0"] == pytest.approx(4, abs=1)
    assert told["read"]["kept"]["text"] > 100
    dictionary, about = load(tmp_path / "cc")
    assert (dictionary.config.models, dictionary.config.architecture) == (2, "batchtopk")
    assert not dictionary.threshold.isnan()
    assert about["site"] == "blocks.1.hook_resid_post"


def test_the_command_refuses_in_one_line(run, only_line, written, tmp_path):
    data = written(["open the door"] * 4).path
    for words, said in (
        (arguments(data, tmp_path), "exists already"),
        (arguments(data, tmp_path / "o", "--tokens", "many"), "not a number of tokens"),
        (arguments(data, tmp_path / "o", "--architecture", "relu"), "unknown architecture 'relu'"),
        (arguments(data, tmp_path / "o", site="blocks.99.hook_resid_post"), "does not exist"),
        (arguments(tmp_path / "none.txt", tmp_path / "o"), "no document file"),
    ):
        code, _, err = run(*words)
        assert code == 2
        assert said in only_line(err)
        assert not (tmp_path / "o").exists()


def test_windows_do_not_keep_the_file_in_memory(pair, tmp_path):
    """A file is read as far as it is asked for: what stands behind may even be broken."""
    path = tmp_path / "long.jsonl"
    path.write_text("\n".join([json.dumps({"text": "open the door"})] * 6 + ["{"]), "utf-8")
    chunks = ActivationSource(pair, (SITE,), Documents(path), ReadingOptions(window=3)).chunks()
    assert isinstance(chunks, types.GeneratorType)
    assert len(next(chunks)[0]) == 9


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--prefixes", "4,16"], "for matryoshka"),
        (["--l0", "4"], "without k"),
        (["--sparsity", "1"], "without k"),
        (["--architecture", "topk,topk"], "repeats an architecture"),
        (["--architecture", "standard", "--revival", "0"], "for topk"),
        (["--keep", "user"], "cached rows"),
        (["--pack"], "cached rows"),
        (["--max-norm-ratio", "0"], "cached rows"),
    ],
)
def test_options_of_a_training_that_nothing_follows_are_refused(more, said, tmp_path, run):
    out, data = tmp_path / "sae", tmp_path if said == "cached rows" else "x"
    code, _, err = run(
        "sae",
        "train",
        "organism:refusal/planted",
        "--site",
        "blocks.1.hook_resid_post",
        "--data",
        data,
        "--out",
        out,
        *more,
    )
    assert (code, said in err, err.count("\n")) == (2, True, 1)
    assert not list(tmp_path.glob("sae*"))
