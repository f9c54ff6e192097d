"""Conversations alone or packed: errors by token and by conversation, whole conversations judged,
what blocks shift.
"""

import json
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from interp.analyzers.sae_eval import SaeEval
from interp.capture import make_batch
from interp.engines import TorchEngine
from interp.errors import PromptError
from interp.models.pair import Pair
from interp.prompts import (
    SPECIAL_TOKEN,
    TOKEN_SOURCES,
    Documents,
    OneClass,
    encode_document,
    read_chats,
    read_prompts,
    special_ids,
)
from interp.sae import Buffer, Dictionary, DictionaryConfig, Training, load, save, train
from interp.sae.analysis.scores import Scores, conversations_table
from interp.sae.analysis.token_groups import (
    SPECIAL_CODES,
    UNKNOWN_ROLE,
    encode_conversations,
    token_groups,
)
from interp.sae.training.activation_source import ActivationSource, ReadingOptions
from interp.sites import Site
from interp.study import Study
from tests import tiny

SITE = Site(1, "hook_resid_post")
WORDS = tiny.WORDS.split()


def chats(count, seed=0, mean=1.6, longest=5):
    """Conversations of 1 to 5 turns whose turns are of log-normal length."""
    draw = random.Random(seed)

    def said(role):
        words = draw.choices(WORDS, k=max(1, min(8, round(draw.lognormvariate(mean, 0.6)))))
        return {"role": role, "content": " ".join(words)}

    return [
        [said(role) for _ in range(draw.randint(1, longest)) for role in ("user", "assistant")]
        for _ in range(count)
    ]


def file_of(path, conversations):
    path.write_text("".join(json.dumps({"messages": one}) + "\n" for one in conversations), "utf-8")
    return path


@pytest.fixture(scope="module")
def pair():
    return Pair.from_modules(
        tiny.exact(tiny.llama(max_position_embeddings=256)), None, tiny.tokenizer()
    )


@pytest.fixture
def study(pair, tmp_path):
    def make(conversations, **more):
        path = file_of(tmp_path / "chats.jsonl", conversations)
        return Study(pair, OneClass(read_chats(path, "messages", "data")), None, **more)

    return make


def dictionary(seed=0, width=32):
    made = Dictionary(DictionaryConfig("topk", width, 64, k=5), seed=seed).double()
    return made.requires_grad_(False)


def evaluated(study, **more):
    made = dictionary()
    return SaeEval(made, str(SITE), **more)(study)


def row_of(told, part, name="dictionary"):
    (found,) = np.flatnonzero((told["dictionary"] == name) & (told["part"] == part))
    return {
        column: told[column][found]
        for column in ("tokens", "conversations", "mse", "conversation_mse", "fvu")
    }


def by_hand(pair, conversations):
    """Rows, codes of who speaks and conversation of every token, each conversation run alone and
    unpadded.
    """
    special, found = special_ids(pair.tokenizer), []
    for number, messages in enumerate(conversations):
        coded = encode_document(pair.tokenizer, messages, special)
        kept = []
        block = pair.tuned.module.model.layers[SITE.layer]
        handle = block.register_forward_hook(lambda *seen, kept=kept: kept.append(seen[2]))
        with torch.no_grad():
            pair.tuned.module(torch.tensor([coded.ids]))
        handle.remove()
        value = kept[0][0] if isinstance(kept[0], tuple) else kept[0]
        found.append((value[0], np.array(coded.roles), np.full(len(coded.ids), number)))
    rows, codes, owners = zip(*found, strict=True)
    return torch.cat(rows), np.concatenate(codes), np.concatenate(owners)


def oracle(x, y, owners):
    error = ((x - y) ** 2).sum(1)
    return {
        "tokens": len(x),
        "conversations": len(set(owners)),
        "mse": error.mean(),
        "conversation_mse": np.mean([error[owners == owner].mean() for owner in set(owners)]),
        "fvu": error.sum() / ((x - x.mean(0)) ** 2).sum(),
    }


class TestErrors:
    @pytest.mark.parametrize("step", [1, 7, 90])
    def test_numbers_are_numpys_and_conversations_may_lie_across_batches(self, step):
        generator = np.random.default_rng(0)
        # of very unlike lengths, mixed, and one number that nobody has
        owners = generator.permutation(np.repeat([0, 1, 2, 4], [1, 4, 25, 60]))
        x = generator.normal(size=(90, 6)) + owners[:, None]
        y, special = 0.8 * x, generator.random(90) < 0.4
        scores = Scores(6, 4, {"special": (1,), "content": (0,)})
        for start in range(0, 90, step):
            part = slice(start, start + step)
            scores.update(
                torch.tensor(x[part]),
                torch.tensor(y[part]),
                torch.ones(len(x[part]), 4),
                roles=torch.tensor(special[part].astype(int)),
                owners=torch.tensor(owners[part]),
            )
        for part, chosen in (("all", special | True), ("special", special), ("content", ~special)):
            wanted = oracle(x[chosen], y[chosen], owners[chosen])
            found = scores.summary(part)
            assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=1e-9)
        assert scores.summary()["mse"] != pytest.approx(
            scores.summary()["conversation_mse"], rel=0.05
        )
        told = conversations_table({"one": scores}, np.arange(10, 15))
        every = told["part"] == "all"
        np.testing.assert_array_equal(told["tokens"][every], [1, 4, 25, 0, 60])
        assert told["squared"][every].sum() / 90 == pytest.approx(scores.summary()["mse"])

    def test_equal_lengths_make_both_means_the_same_and_copies_change_only_one(self):
        x = torch.randn(12, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        noise = torch.arange(12.0, dtype=torch.float64)[:, None].expand(12, 6) / 5

        def summary(rows, owners):
            one = Scores(6, 1).update(
                x[rows], (x - noise)[rows], torch.ones(len(rows), 1), owners=torch.tensor(owners)
            )
            return one.summary()

        even = summary(list(range(12)), [0] * 4 + [1] * 4 + [2] * 4)
        assert even["mse"] == pytest.approx(even["conversation_mse"])
        # a conversation said twice over weighs more by token, and no more by conversation
        longer = summary([*range(12), *range(8, 12)], [0] * 4 + [1] * 4 + [2] * 8)
        assert longer["conversation_mse"] == pytest.approx(even["conversation_mse"])
        assert longer["mse"] > even["mse"] * 1.1

    def test_without_owners_of_every_row_there_is_no_mean_over_conversations(self):
        x, codes = torch.ones(4, 6), torch.ones(4, 1)
        scores = Scores(6, 1).update(x, x * 0.5, codes)
        assert np.isnan(scores.summary()["conversation_mse"])
        scores.update(x, x * 0.5, codes, owners=torch.zeros(4, dtype=torch.int64))
        assert np.isnan(scores.summary()["conversation_mse"])


class TestConversations:
    def test_judged_whole_alone_and_by_role_whatever_the_batches(self, pair, study):
        talks = [[{"role": "system", "content": "please help"}, *one] for one in chats(9)]
        x, codes, owners = by_hand(pair, talks)
        y = dictionary().reconstruct(x).output.numpy()
        x = x.numpy()
        told = evaluated(study(talks))
        parts = {
            "all": set(range(16)),
            "special": set(SPECIAL_CODES),
            "content": set(range(16)) - set(SPECIAL_CODES),
        }
        parts |= {
            name: {TOKEN_SOURCES[name], TOKEN_SOURCES[name] + SPECIAL_TOKEN}
            for name in ("system", "user", "assistant", "template")
        }
        assert set(told["part"]) == set(parts)
        for part, own in parts.items():
            chosen = np.isin(codes, list(own))
            wanted = oracle(x[chosen], y[chosen], owners[chosen])
            assert row_of(told, part) == pytest.approx(wanted, rel=1e-6), part
        said = told.summary["parts"]
        assert said["user"]["fvu"] == row_of(told, "user")["fvu"]
        assert said["special"]["conversation_mse"] == row_of(told, "special")["conversation_mse"]
        # left padding within batches against none at all
        for size in (1, 4):
            again = evaluated(study(talks, batch_size=size))
            for part in parts:
                for name in ("dictionary", "random"):
                    assert row_of(again, part, name) == pytest.approx(
                        row_of(told, part, name), rel=1e-6
                    )

    def test_the_very_rows_that_a_training_reads(self, pair, study, tmp_path):
        talks = chats(6)
        source = ActivationSource(
            pair,
            (SITE,),
            Documents(file_of(tmp_path / "t.jsonl", talks)),
            ReadingOptions(max_norm_ratio=0.0),
        )
        rows = torch.cat([part for part, _ in source.chunks()]).double()
        found = dictionary().reconstruct(rows)
        told = row_of(evaluated(study(talks)), "all")
        assert told["tokens"] == len(rows)
        assert told["mse"] == pytest.approx(
            float((rows - found.output).square().sum(1).mean()), rel=1e-4
        )

    def test_content_only_counts_words_and_nothing_else(self, study):
        talks = chats(5)
        told, bare = evaluated(study(talks)), evaluated(study(talks), content_only=True)
        assert set(bare["part"]) == {"all"}
        assert row_of(bare, "all") == pytest.approx(row_of(told, "content"))

    def test_what_is_longer_than_the_context_is_cut_and_said(self, study):
        long = [[{"role": "user", "content": "open the door " * 200}]]
        told = evaluated(study([*chats(2), *long]))
        assert row_of(told, "all")["tokens"] <= 3 * 256
        assert any("1 of 3 conversations are longer" in said for said in told.summary["limits"])

    def test_a_template_that_rewrites_leaves_nobody_known(self, pair, tmp_path):
        tokenizer = tiny.tokenizer().__class__.from_pretrained(_saved(tmp_path))
        tokenizer.chat_template = tiny.TEMPLATE.replace("m.content", "m.content[:4]")
        prompts = read_chats(file_of(tmp_path / "t.jsonl", chats(2)), "messages")
        found = encode_conversations(tokenizer, prompts, 256)
        assert found.n_unknown == 2
        assert {code for one in found.encoded for code in one.roles} == {UNKNOWN_ROLE}
        assert set(token_groups(found.encoded, True)) == {"special", "content"}

    def test_texts_are_read_as_ever_and_other_prompts_keep_their_digest(self, tmp_path):
        path = tmp_path / "p.jsonl"
        path.write_text('{"prompt": "open the door"}\n')
        assert read_chats(path).digest == read_prompts(path).digest
        two = [
            file_of(tmp_path / f"{n}.jsonl", [turns])
            for n, turns in enumerate(
                (
                    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
                    [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
                )
            )
        ]
        assert read_chats(two[0], "messages").digest != read_chats(two[1], "messages").digest


def _saved(folder):
    tiny.tokenizer().save_pretrained(folder / "tokenizer")
    return folder / "tokenizer"


BROKEN = (
    ([{"role": "user"}], "neither text nor a list of messages"),
    ([], "neither text nor a list of messages"),
    ("   ", "needs text"),
    (None, "neither text nor a list of messages"),
    ([{"role": "user", "content": " "}], "needs text"),
    ([{"role": "user", "content": "a\ud800"}], "half a surrogate pair"),
)


@pytest.mark.parametrize(("value", "said"), BROKEN)
def test_one_broken_conversation_among_many_is_named(tmp_path, value, said):
    rows = [{"messages": one} for one in chats(5)]
    rows.insert(3, {"messages": value})
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    with pytest.raises(PromptError, match=rf"t\.jsonl, row 3: .*{said}"):
        read_chats(path, "messages")


def write_model(folder):
    """A tiny chat model on disk."""
    return tiny.save(tiny.llama(max_position_embeddings=256), folder / "model")


def training(folder, data, out, *more):
    return [
        "sae",
        "train",
        folder / "model",
        "--site",
        str(SITE),
        "--data",
        data,
        "--column",
        "messages",
        "--width",
        32,
        "-k",
        4,
        "--batch",
        64,
        "--device",
        "cpu",
        "--out",
        folder / out,
        *more,
    ]


def test_the_commands_read_the_same_conversations(run, only_line, tmp_path):
    write_model(tmp_path)
    data = file_of(tmp_path / "t.jsonl", chats(12))
    code, out, _ = run(*training(tmp_path, data, "sae", "--tokens", "1k", "--json"))
    assert code == 0
    read = json.loads(out)["read"]
    words = [
        "sae",
        "eval",
        tmp_path / "sae",
        "--model",
        tmp_path / "model",
        "--data",
        data,
        "--store",
        tmp_path / "r",
    ]
    code, out, err = run(*words, "--column", "messages", "--json")
    assert code == 0, err
    told = json.loads(out)["summary"]
    # a training reads the file as often as it needs to
    once = sum(read["kept"].values()) / told["tokens"]
    assert once >= 1
    shares = {name: part["tokens"] / told["tokens"] for name, part in told["parts"].items()}
    assert {
        name: count / sum(read["kept"].values()) for name, count in read["kept"].items()
    } == pytest.approx({name: shares[name] for name in read["kept"]}, abs=0.02)
    assert told["conversations"] == 12
    code, _, err = run(*words)
    assert code == 2
    assert "no column 'prompt'; it has messages; use --column" in only_line(err)


@pytest.mark.parametrize(("value", "said"), [*BROKEN[:1], BROKEN[-1]])
def test_a_broken_conversation_ends_either_command_in_one_line(
    run, only_line, tmp_path, value, said
):
    write_model(tmp_path)
    rows = [{"messages": one} for one in chats(30)]
    rows[20] = {"messages": value}
    data = tmp_path / "t.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    made = dictionary()
    save(made, tmp_path / "sae", {"site": str(SITE)})
    judged = [
        "sae",
        "eval",
        tmp_path / "sae",
        "--model",
        tmp_path / "model",
        "--data",
        data,
        "--column",
        "messages",
    ]
    for words in (
        training(tmp_path, data, "out", "--tokens", "20k"),
        [*judged, "--store", tmp_path / "runs"],
    ):
        code, _, err = run(*words, "--quiet")
        assert code == 2
        assert "t.jsonl, row 20" in only_line(err)
        assert said in err
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "runs").glob("[!.]*"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_command_that_was_killed_goes_on_in_another_process_bit_for_bit(tmp_path):
    write_model(tmp_path)
    data = file_of(tmp_path / "t.jsonl", chats(40))

    def words(out):
        more = (
            "--tokens",
            "20k",
            "--buffer",
            512,
            "--checkpoint-every",
            25,
            "--architecture",
            "batchtopk",
            "--quiet",
        )
        return [sys.executable, "-m", "interp", *map(str, training(tmp_path, data, out, *more))]

    process = subprocess.Popen(words("cut"))
    until = time.monotonic() + 600
    while not list((tmp_path / "cut.part").glob("step-*")) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "cut").exists()
    assert list((tmp_path / "cut.part").glob("step-*"))
    for out in ("cut", "whole"):
        subprocess.run(words(out), check=True, timeout=600)
    one, other = (load(tmp_path / out)[0].state_dict() for out in ("cut", "whole"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert (tmp_path / "cut" / "weights.safetensors").read_bytes() == (
        tmp_path / "whole" / "weights.safetensors"
    ).read_bytes()


def judged(pair, made, talks):
    """Scores on conversations, each alone."""
    special = special_ids(pair.tokenizer)
    scores = Scores(32, made.config.width, {"special": SPECIAL_CODES})
    for number, messages in enumerate(talks):
        coded = encode_document(pair.tokenizer, messages, special)
        batch, roles = make_batch([coded], [0], 0, pair.tuned.device)
        value = TorchEngine().run(pair.tuned, batch, reads=[SITE], keep=0).values[SITE][0]
        found = made.reconstruct(value)
        owners = torch.full((len(value),), number)
        scores.update(value, found.output, found.codes, roles=roles[0], owners=owners)
    return scores


@pytest.mark.parametrize("planted", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_blocks_shift_what_depends_on_where_a_conversation_starts(tmp_path, planted):
    """Intervention: with positions in the vectors packing costs, most of all on special tokens;
    without, nothing.
    """
    module = tiny.gpt2(seed=3)
    with torch.no_grad():
        module.transformer.wpe.weight.mul_(3.0 if planted else 0.0)
        for block in module.transformer.h:  # nothing but the position tells a token where it stands
            block.attn.c_proj.weight.zero_()
            block.attn.c_proj.bias.zero_()
    pair = Pair.from_modules(module, None, tiny.tokenizer())
    data = Documents(file_of(tmp_path / "t.jsonl", chats(120, 1, mean=1.2, longest=3)))
    found = {}
    for pack in (False, True):
        source = ActivationSource(
            pair, (SITE,), data, ReadingOptions(max_norm_ratio=0.0, pack=pack)
        )
        start = Dictionary(DictionaryConfig("topk", 32, 64, k=4), seed=0)
        options = Training(steps=120, batch=128, learning_rate=5e-3, log_every=120)
        made = train(start, Buffer(source, 8192, seed=0), options, tmp_path / f"{pack}")[
            "dictionary"
        ]
        found[pack] = judged(pair, made, chats(20, 2, mean=1.2, longest=3))
    whole, special = (
        np.log2(
            found[False].summary(part)["conversation_mse"]
            / found[True].summary(part)["conversation_mse"]
        )
        for part in ("all", "special")
    )
    if planted:
        assert special < -0.5
        assert whole < -0.3
    else:
        assert abs(whole) < 0.2
        # of special tokens without a position there are four, and either dictionary has them
        assert max(one.summary("special")["fvu"] for one in found.values()) < 0.02
