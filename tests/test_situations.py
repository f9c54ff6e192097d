"""Situations that people report of tools like this one: each is handled right, or refused in a line
that helps.
"""

import copy
import errno
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing

from interp import organisms
from interp.analyzers.locate_neurons import LocateNeurons
from interp.analyzers.tuco import Tuco
from interp.cli import main
from interp.cli.piped_files import as_rereadable
from interp.engines import Batch, TorchEngine
from interp.errors import (
    DictionaryError,
    MissingWeights,
    ModelNotFound,
    NonFinitePass,
    PromptError,
    StoreError,
    UnsupportedModel,
)
from interp.models.grafts import Scope
from interp.models.model import Model
from interp.models.pair import Pair
from interp.models.sources import find
from interp.models.weights import WeightPair
from interp.prompts import Contrast
from interp.prompts.contrasts import NO_PROMPTS
from interp.prompts.tokens import appends_end, encode, encode_answer
from interp.provenance import Provenance
from interp.sae import Buffer
from interp.sae.formats import read
from interp.sae.training.sources import TensorSource
from interp.sites import Site, neurons
from interp.store import Store
from interp.study import Study
from interp.table import table
from tests import tiny


@pytest.fixture(scope="module")
def models():
    base = tiny.llama()
    return base, tiny.perturbed(base)


# ------------------------------------------------------------------------------- half precision that overflows

WORD = " window"


def overflowing(seed=0):
    """A model in float16 whose first block overflows where WORD is read, and nowhere else."""
    model = tiny.perturbed(tiny.llama(), 0.01, seed)
    inner, token = model.model, tiny.tokenizer()(WORD, add_special_tokens=False).input_ids[-1]
    along = torch.zeros(inner.embed_tokens.weight.shape[1])
    along[0] = 1.0
    with torch.no_grad():
        inner.embed_tokens.weight[:, 0] = 0
        inner.embed_tokens.weight[token] = 2 * along
        inner.layers[0].self_attn.o_proj.weight[0].zero_()
        for part in (inner.layers[0].mlp.gate_proj, inner.layers[0].mlp.up_proj):
            part.weight[0] = 80 * along
    return model.half()


def test_a_pass_that_overflows_on_a_text_is_refused():
    model, tokenizer = Model.wrap("tuned", overflowing()), tiny.tokenizer()
    good, bad = (tokenizer(text).input_ids for text in ("open the door", f"open the{WORD}"))
    run = TorchEngine().run(model, Batch.pad([good], 0), reads=[neurons(0)], keep=None)
    assert torch.isfinite(run.logits).all()
    for options in (
        {"keep": 1},
        {"keep": 0, "reads": [neurons(0)]},
        {"keep": None, "reads": [Site(2, "hook_mlp_out")]},
    ):
        with pytest.raises(
            NonFinitePass, match=r"NaN or infinity in float16 on 1 of 2 texts.*--dtype float32"
        ) as said:
            TorchEngine().run(model, Batch.pad([good, bad], 0), **options)
        assert list(said.value.ids) == bad


@pytest.mark.parametrize(
    "analyzer", [Tuco(), LocateNeurons(top="5"), LocateNeurons(method="change", top="5")]
)
def test_an_analyzer_names_the_prompt_on_which_a_model_overflows(analyzer):
    pair = Pair.from_modules(overflowing(), overflowing(1), tiny.tokenizer())
    with pytest.raises(
        NonFinitePass, match=rf"of 6 texts of a batch; the first is row \d of positive, '.*{WORD}"
    ):
        analyzer(Study(pair, tiny.contrast(6), tiny.metric()))


def test_a_class_without_prompts_hides_no_overflow():
    """A task has no negative prompts, and its overflow is told all the same."""
    pair = Pair.from_modules(overflowing(), overflowing(1), tiny.tokenizer())
    study = Study(pair, Contrast(tiny.contrast(6).positive, NO_PROMPTS), tiny.metric())
    with pytest.raises(NonFinitePass, match=rf"the first is row \d of positive, '.*{WORD}"):
        LocateNeurons(method="change", top="5")(study)


# ----------------------------------------------------------------------------------- what a folder of a model holds


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "module.", "module._orig_mod."])
def test_names_that_a_wrapper_left_are_told(tmp_path, wrapper):
    base = tiny.save(tiny.llama(), tmp_path / "base")
    tuned = tiny.save(tiny.perturbed(tiny.llama()), tmp_path / "tuned")
    file = tuned / "model.safetensors"
    save_file(
        {f"{wrapper}{name}": value for name, value in load_file(file).items()},
        file,
        {"format": "pt"},
    )
    with pytest.raises(
        MissingWeights,
        match=(
            f"it contains {wrapper}.*, named by a wrapper .torch.compile, DistributedDataParallel"
        ),
    ):
        Pair.load(str(tuned), str(base), device="cpu")
    with pytest.raises(MissingWeights, match=f"it contains {wrapper}model"):
        WeightPair.load(str(tuned), str(base))


def test_a_checkpoint_that_is_not_whole_is_told_as_before(tmp_path):
    path = tiny.save(tiny.llama(), tmp_path / "base")
    held = load_file(path / "model.safetensors")
    held.pop("model.layers.1.mlp.up_proj.weight")
    save_file(held, path / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        MissingWeights,
        match=r"first model.layers.1.mlp.up_proj.weight; check that the checkpoint is",
    ):
        Pair.load(str(path), device="cpu")


def test_a_merged_model_beside_the_configuration_of_its_adapter(tmp_path):
    path = tiny.save(tiny.llama(), tmp_path / "merged")
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}), "utf-8")
    with pytest.raises(
        UnsupportedModel,
        match=r"a complete model next to an adapter_config.json.*remove adapter_config",
    ):
        find(str(path))


def test_a_folder_of_a_run_names_the_models_in_it(tmp_path):
    made = tiny.save(tiny.llama(), tmp_path / "run" / "checkpoint-5")
    for number in (10, 100, 1000):
        shutil.copytree(made, tmp_path / "run" / f"checkpoint-{number}")
    with pytest.raises(
        ModelNotFound,
        match=r"in it: checkpoint-10, checkpoint-100, checkpoint-1000 \(and 1 more\)$",
    ):
        find(str(tmp_path / "run"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelNotFound, match=r"check the path$"):
        find(str(tmp_path / "empty"))


def test_code_of_its_own_is_not_run(tmp_path):
    path = tiny.save(tiny.llama(), tmp_path / "own")
    config = json.loads((path / "config.json").read_text("utf-8"))
    config |= {
        "model_type": "mymodel",
        "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"},
    }
    (path / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(
        UnsupportedModel,
        match=r"needs its own Python code \(mymodel.*trust_remote_code=True\) in Python",
    ):
        Pair.load(str(path), device="cpu")


# ------------------------------------------------------------------------------------------------- few prompts


@pytest.mark.parametrize("count", [2, 3, 4])
def test_probes_of_fewer_prompts_than_folds(count):
    base, tuned = tiny.planted(tiny.llama(seed=7), pairs=6)
    run = LocateNeurons(method="probe", top="5")(tiny.study(tuned, base, count))
    assert len(run) == 3 * 48
    assert np.isfinite(run["score"]).all()


# ------------------------------------------------------------------------------------------- where a store lies


@pytest.mark.parametrize("folder", ["layer=3", "lr=0.1", "a[1]*", "it's {x,y}?"])
def test_a_store_is_read_wherever_it_lies(tmp_path, folder):
    store = Store(tmp_path / folder / "runs")
    run = table(
        "k", {"layer": ([0, 1, 3], "key", "")}, provenance=Provenance("k", 1, inputs={"seed": 1})
    )
    store.write(run)
    found = store.sql("select * from k where layer < 3 order by layer")
    assert found["layer"].tolist() == [0, 1]
    assert {column.name for column in found.columns} == {"run", "layer"}


# ------------------------------------------------------------------------------------- prompts and documents


def test_prompts_that_hold_the_template_are_told(models):
    base, tuned = models
    tokenizer = tiny.tokenizer()
    contrast = tiny.contrast(3)
    assert not any(
        "template" in note
        for note in Study(Pair.from_modules(tuned, base, tokenizer), contrast, None).notes
    )
    formatted = [
        replace(
            prompt,
            text=tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt.text}], tokenize=False
            ),
        )
        for prompt in contrast.positive
    ]
    contrast = replace(contrast, positive=replace(contrast.positive, prompts=tuple(formatted)))
    (said,) = (
        note
        for note in Study(Pair.from_modules(tuned, base, tokenizer), contrast, None).notes
        if "templ" in note
    )
    assert said.startswith(
        "3 of 3 prompts of positive already contain tokens of the chat template ('<|"
    )
    # without a template nothing is put around them
    plain = Study(Pair.from_modules(tuned, base, tiny.tokenizer(template=False)), contrast, None)
    assert not any("template" in note for note in plain.notes)


def test_an_end_token_after_every_text_is_left_out(models):
    base, tuned = models
    plain = tiny.tokenizer(template=False)
    ends = copy.deepcopy(plain)
    ends.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {ends.eos_token}", special_tokens=[(ends.eos_token, ends.eos_token_id)]
    )
    assert ends("open the door").input_ids[-1] == ends.eos_token_id
    assert encode(ends, "open the door") == encode(plain, "open the door")
    assert encode_answer(ends, "open the", "door") == encode_answer(plain, "open the", "door")
    assert appends_end(ends)
    assert not appends_end(plain)
    notes = Study(Pair.from_modules(tuned, base, ends), tiny.contrast(3), None).notes
    assert sum("is left out of prompts" in note for note in notes) == 1


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (
            "{{ raise_exception('a system message is required') }}",
            "fails for a single user turn",
        ),
        ("{% for m in messages %}{{ m.content ", "fails for a single user turn"),
        (
            "{% if 'door' in messages[0].content %}{{ raise_exception('no doors') }}{% endif %}x",
            "change the prompt$",
        ),
    ],
)
def test_a_template_that_fails_for_every_prompt_is_told_from_one_that_refuses_some(template, said):
    tokenizer = copy.deepcopy(tiny.tokenizer())
    tokenizer.chat_template = template
    with pytest.raises(PromptError, match=said):
        encode(tokenizer, "open the door")


def test_how_often_a_dictionary_went_over_its_data():
    rows = torch.randn(100, 4)
    for capacity, taken in ((200, 50), (200, 1000), (40, 30), (40, 1000)):
        buffer = Buffer(TensorSource(rows, step=7), capacity)
        for _ in range(taken // 10):
            buffer.batch(10)
        times = buffer.passes_over(taken)
        assert times == pytest.approx(taken / 100) if taken > 100 else times <= 1
        # and the same where it was stopped and goes on
        again = Buffer(TensorSource(rows, step=7), capacity)
        again.restore(*buffer.state())
        assert again.passes_over(taken) == times


@pytest.mark.parametrize(
    ("folder", "config", "said"),
    [
        (
            "saelens",
            {"architecture": "standard", "activation_fn_str": "tanh-relu"},
            "'tanh-relu' is not supported",
        ),
        (
            "saelens",
            {"architecture": "standard", "activation_fn": "gelu"},
            "'gelu' is not supported",
        ),
        (
            "saelens",
            {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 2, "postact_fn": "tanh"}},
            "'postact_fn': 'tanh'} are not supported",
        ),
        ("sparsify", {"num_latents": 8, "k": 2, "signed": True}, "signed codes"),
    ],
)
def test_codes_of_another_kind_are_not_read_as_plain_ones(tmp_path, folder, config, said):
    place = tmp_path / folder
    place.mkdir()
    known = {
        "d_in": 4,
        "d_sae": 8,
        "hook_name": "blocks.1.hook_resid_pre",
        "sae_lens_training_version": "3.5.0",
    }
    (place / "cfg.json").write_text(
        json.dumps({**(known if folder == "saelens" else {"d_in": 4}), **config}), "utf-8"
    )
    wide, narrow = torch.randn(4, 8), torch.randn(8, 4)
    if folder == "saelens":
        save_file(
            {"W_enc": wide, "W_dec": narrow, "b_enc": torch.zeros(8), "b_dec": torch.zeros(4)},
            place / "sae_weights.safetensors",
        )
    else:
        save_file(
            {
                "encoder.weight": narrow,
                "encoder.bias": torch.zeros(8),
                "W_dec": narrow.clone(),
                "b_dec": torch.zeros(4),
            },
            place / "sae.safetensors",
        )
    with pytest.raises(DictionaryError, match=said):
        read(place)


# ------------------------------------------------------------------------------------------ where people run it


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("", "utf-8")
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(
        StoreError, match=r"shipped models are unpacked \(Not a directory\); set INTERP_CACHE"
    ):
        organisms.directory("refusal/full")


def test_a_full_disk_while_a_shipped_model_is_unpacked(tmp_path, monkeypatch):
    def full(*_, **__):
        raise SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        )

    monkeypatch.setenv("INTERP_CACHE", str(tmp_path))
    monkeypatch.setattr("interp.organisms.save_file", full)
    with pytest.raises(StoreError, match=r"No space left on device.*has room"):
        organisms.directory("refusal/full")
    assert not [*tmp_path.rglob("*.safetensors")]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            SafetensorError("I/O error: No space left on device (os error 28)"),
            "a file cannot be written (I/O error",
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "a file cannot be written"),
        (
            RuntimeError(
                "DefaultCPUAllocator: can't allocate memory: you tried to allocate 5 bytes"
            ),
            "not enough memory",
        ),
        (MemoryError(), "there is not enough memory (MemoryError)"),
    ],
)
def test_no_room_is_no_defect(monkeypatch, capsys, error, said):
    def fails(*_):
        raise error

    monkeypatch.setattr("interp.cli._run", fails)
    assert main(["ls"]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


def test_a_system_without_file_locks_is_told_at_once(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    assert main(["ls"]) == 2
    assert capsys.readouterr().err.startswith("interp: interp runs on Linux and macOS")


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", none)
    store = Store(tmp_path / "runs")
    with pytest.raises(StoreError, match="No locks available"):
        store.write(table("k", {"x": ([0], "key", "")}, provenance=Provenance("k", 1)))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_home_is_home_in_every_option(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    Store(tmp_path / "x").write(table("k", {"x": ([0], "key", "")}, provenance=Provenance("k", 1)))
    assert main(["ls", "--store=~/x"]) == 0
    assert "k" in capsys.readouterr().out
    assert not (tmp_path / "~").exists()
    assert as_rereadable([Path("~/a"), "b", Path("c~")]) == [tmp_path / "a", "b", Path("c~")]
    assert as_rereadable(Path("~nobody-of-this-name/a")) == Path("~nobody-of-this-name/a")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_output_that_a_terminal_cannot_show_is_replaced(tmp_path, encoding):
    store = Store(tmp_path / "sü")
    store.write(table("k", {"token": (["🚪 fenêtre"], "text", "")}, provenance=Provenance("k", 1)))
    command = [
        sys.executable,
        "-m",
        "interp",
        "sql",
        "select token from k",
        "--store",
        str(store.root),
    ]
    done = subprocess.run(
        command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding}, check=True
    )
    assert b"fen" in done.stdout
    assert b"? " in done.stdout
    assert not done.stderr


# -------------------------------------------------------------------------------------- adapters of odd shapes


def test_an_embedding_changed_by_dora_is_not_grafted(tmp_path):
    base = tiny.save(tiny.llama(), tmp_path / "base")
    tiny.adapter(
        tiny.llama(), tmp_path / "a", base, target_modules=["embed_tokens", "q_proj"], use_dora=True
    )
    pair = Pair.load(str(tmp_path / "a"), str(base), device="cpu")
    with pytest.raises(
        UnsupportedModel, match=r"the embedding model.embed_tokens by DoRA.*--scope blocks"
    ):
        Scope.from_pair(pair, "all")


def test_an_l0_above_the_width_is_refused_before_anything_is_loaded(run, only_line, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("one\ntwo\n")
    site, size = (
        ["--site", "blocks.0.hook_resid_post"],
        ["--architecture", "relu", "--width", "32", "--l0", "33"],
    )
    where = ["--data", str(text), "--out", str(tmp_path / "out"), "--tokens", "100"]
    code, _, err = run("sae", "train", "nowhere", *site, *size, *where)
    assert code == 2
    assert only_line(err) == "interp: --l0 33 exceeds --width 32; give a smaller target\n"
