"""Adapters on 4-bit bases: with bitsandbytes on the codes themselves, without it on the numbers
that they stand for.
"""

import copy
import importlib.util
import json
import re
import shutil
import warnings

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn

from interp import organisms
from interp.errors import UnsupportedModel
from interp.models import four_bit
from interp.models.changes import tensor_changes
from interp.models.pair import Pair
from interp.sites import Weight
from tests import tiny

IDS = torch.tensor([[2, 40, 41, 42, 1, 3]])
# the numbers of NF4 and FP4, as the paper and the library print them
NF4 = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
]
BNB = importlib.util.find_spec("bitsandbytes") is not None
needs_library = pytest.mark.skipif(not BNB, reason="needs bitsandbytes: pip install bitsandbytes")


def wide(seed=0):
    return tiny.llama(seed, hidden_size=64, intermediate_size=128, head_dim=16)


def quantised(weight, nested):
    """A weight as its checkpoint would hold it, and the numbers that this stands for."""
    table, blocks = torch.tensor(NF4), weight.detach().reshape(-1, 64)
    scales = blocks.abs().amax(1)
    codes = ((blocks / scales[:, None])[..., None] - table).abs().argmin(-1).to(torch.uint8)
    pairs = codes.reshape(-1, 2)
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": list(weight.shape)}
    parts = {"": (pairs[:, 0] << 4 | pairs[:, 1])[:, None], ".quant_map": table, ".absmax": scales}
    if nested:
        middle, linear = float(scales.mean()), torch.linspace(-1, 1, 256)
        largest = (scales - middle).abs().max()
        index = (((scales - middle) / largest)[:, None] - linear).abs().argmin(1).to(torch.uint8)
        scales = linear[index.int()] * largest + middle
        parts |= {".absmax": index, ".nested_absmax": largest[None], ".nested_quant_map": linear}
        state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": middle}
    parts[".quant_state.bitsandbytes__nf4"] = torch.tensor(
        list(json.dumps(state).encode()), dtype=torch.uint8
    )
    return parts, (table[codes.int()] * scales[:, None]).reshape(weight.shape)


def coded(model, path, nested=False, shards=1, storage=torch.uint8, **said):
    """Write a model's blocks as NF4 codes; returns the path, and the model with the numbers that
    they stand for.
    """
    numbers = copy.deepcopy(model)
    tiny.save(model, path)
    tensors = load_file(path / "model.safetensors")
    for name, part in model.named_modules():
        if isinstance(part, nn.Linear) and name != "lm_head":
            parts, value = quantised(part.weight, nested)
            parts[""] = parts[""].flatten().view(storage)[:, None]
            tensors |= {f"{name}.weight{kind}": held.contiguous() for kind, held in parts.items()}
            numbers.get_submodule(name).weight.data = value
    (path / "model.safetensors").unlink()
    index = {}
    for shard in range(shards):
        # a weight and what says what its codes are may lie in two files
        file = (
            "model.safetensors"
            if shards == 1
            else f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        )
        mine = dict(list(sorted(tensors.items()))[shard::shards])
        index |= dict.fromkeys(mine, file)
        save_file(mine, path / file, {"format": "pt"})
    if shards > 1:
        (path / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {}, "weight_map": index})
        )
    quantisation = {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        **said,
    }
    config = json.loads((path / "config.json").read_text()) | {"quantization_config": quantisation}
    (path / "config.json").write_text(json.dumps(config))
    return path, numbers


@pytest.fixture
def without_library(monkeypatch):
    monkeypatch.setattr(four_bit, "is_installed", lambda: False)


@torch.no_grad()
def logits(model, ids=IDS):
    return model(ids).logits


def attached(model, adapter):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft asks transformers by a name that is deprecated
        return PeftModel.from_pretrained(model, str(adapter)).eval()


def of(model):
    with model.active() as module:
        return logits(module)


# ------------------------------------------------------------------------------------ where it is not installed


@pytest.mark.parametrize(
    "kept",
    [{}, {"nested": True}, {"shards": 3, "storage": torch.bfloat16}],
    ids=["plain", "nested", "shards"],
)
def test_without_the_library_an_adapter_is_compared_on_the_numbers_of_its_base(
    kept, tmp_path, without_library
):
    model = wide()
    path, numbers = coded(model, tmp_path / "base", **kept)
    assert not torch.equal(logits(numbers), logits(model))
    tiny.lora("llama", model, tmp_path / "adapter", path)
    pair = Pair.load(str(tmp_path / "adapter"))
    plain = copy.deepcopy(numbers)
    assert torch.equal(of(pair.base), logits(plain))
    wanted = logits(attached(plain, tmp_path / "adapter"))
    assert torch.equal(of(pair.tuned), wanted)
    assert not torch.equal(wanted, logits(numbers))
    assert torch.equal(
        pair.base.weight(Weight(1, "mlp.out")), numbers.model.layers[1].mlp.down_proj.weight
    )
    notes = [note for note in pair.notes if "4-bit" in note]
    assert len(notes) == 1
    assert (
        "dequantised to float32: bitsandbytes, which computes with the codes, is not installed"
        in notes[0]
    )
    assert not any("trained on" in note for note in pair.notes)


def test_numbers_are_rounded_to_what_the_layers_compute_in(tmp_path, without_library):
    path, numbers = coded(wide(), tmp_path / "base", bnb_4bit_compute_dtype="bfloat16")
    pair = Pair.load(str(path))
    for name, value in numbers.named_parameters():
        held = pair.tuned.module.get_parameter(name)
        rounded = value.bfloat16().float() if "proj" in name else value
        assert torch.equal(held, rounded), name
    assert any("dequantised to bfloat16" in note for note in pair.notes)


def test_two_models_of_codes_are_compared(tmp_path, without_library):
    base, mine = coded(wide(), tmp_path / "base")
    tuned, theirs = coded(tiny.perturbed(wide()), tmp_path / "tuned", nested=True)
    pair = Pair.load(str(tuned), str(base))
    assert torch.equal(of(pair.base), logits(mine))
    assert torch.equal(of(pair.tuned), logits(theirs))
    assert sum("4-bit" in note for note in pair.notes) == 2


@pytest.mark.parametrize("installed", [False, True])
def test_intruders_are_those_of_the_numbers(installed, tmp_path, monkeypatch, run):
    monkeypatch.setattr(four_bit, "is_installed", lambda: installed)
    path, numbers = coded(wide(), tmp_path / "base")
    tiny.save(numbers, tmp_path / "numbers")
    tiny.lora("llama", numbers, tmp_path / "adapter", path)
    found = []
    for base in (path, tmp_path / "numbers"):
        code, out, err = run(
            "intruders",
            tmp_path / "adapter",
            "--base",
            base,
            "--draws",
            0,
            "--json",
            "--store",
            tmp_path / "store",
        )
        assert code == 0, err
        found.append(json.loads(out))
    same = [
        {
            key: one["summary"][key]
            for key in ("intruders", "vectors", "min_cosine", "mean_relative_norm")
        }
        for one in found
    ]
    assert same[0] == same[1]
    assert any("4-bit codes, dequantised" in line for line in found[0]["summary"]["limits"])


def damaged(path, change):
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors", {"format": "pt"})


KEY = "model.layers.0.mlp.down_proj.weight"
DAMAGE = {
    "its table is missing": (lambda held: held.pop(f"{KEY}.quant_map"), "lacks .*quant_map"),
    "too few scales": (
        lambda held: held.update({f"{KEY}.absmax": held[f"{KEY}.absmax"][:5].clone()}),
        "in an unknown format",
    ),
    "no JSON": (
        lambda held: held.update(
            {f"{KEY}.quant_state.bitsandbytes__nf4": torch.zeros(4, dtype=torch.uint8)}
        ),
        "in an unknown format",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_codes_that_cannot_be_read_are_one_line(what, tmp_path, without_library, run, only_line):
    change, said = DAMAGE[what]
    path, _ = coded(wide(), tmp_path / "base")
    damaged(path, change)
    tiny.lora("llama", wide(), tmp_path / "adapter", path)
    (tmp_path / "prompts.txt").write_text("open the door\n")
    code, _, err = run(
        "compare",
        tmp_path / "adapter",
        "--prompts",
        tmp_path / "prompts.txt",
        "--store",
        tmp_path / "s",
    )
    assert code == 2
    assert re.search(said, only_line(err)), err
    assert not list(organisms.cache_root().glob("four-bit/*/.writing-*"))


def test_the_same_codes_are_dequantised_once(tmp_path, without_library):
    path, _ = coded(wide(), tmp_path / "base")
    first = four_bit.directory("base", path, json.loads((path / "config.json").read_text()))
    kept = (first / "model.safetensors").stat().st_mtime_ns
    shutil.copytree(path, tmp_path / "copy" / "base")
    again = four_bit.directory(
        "copy", tmp_path / "copy" / "base", json.loads((path / "config.json").read_text())
    )
    assert (again / "model.safetensors").stat().st_mtime_ns == kept


# ---------------------------------------------------------------------------------------- where it is installed


def by_library(model, path, kind="nf4", nested=False, dtype="float32"):
    """Write a model as bitsandbytes quantises it; transformers' own files."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    options = {
        "bnb_4bit_quant_type": kind,
        "bnb_4bit_use_double_quant": nested,
        "bnb_4bit_compute_dtype": dtype,
    }
    there = AutoModelForCausalLM.from_pretrained(
        tiny.save(model, path.with_name(f"{path.name}-whole")),
        dtype=torch.float32,
        quantization_config=BitsAndBytesConfig(load_in_4bit=True, **options),
    )
    return tiny.save(there, path)


def plain(path):
    """What transformers and bitsandbytes alone make of it, without the repacking of some CPUs."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    for part in model.modules():
        if hasattr(part, "support_avx512bf16_for_cpu"):
            part.support_avx512bf16_for_cpu = False
    return model


@needs_library
@pytest.mark.filterwarnings("ignore")  # of bitsandbytes and of peft
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [False, True])
def test_the_reader_reads_what_the_library_wrote(kind, nested, tmp_path):
    from bitsandbytes.functional import dequantize_4bit

    path = by_library(wide(), tmp_path / "base", kind, nested)
    config = json.loads((path / "config.json").read_text())
    assert four_bit.is_four_bit(config)
    read = load_file(four_bit.directory("base", path, config) / "model.safetensors")
    seen = 0
    for name, part in plain(path).named_modules():
        if hasattr(getattr(part, "weight", None), "quant_state"):
            wanted = dequantize_4bit(part.weight.data, part.weight.quant_state)
            torch.testing.assert_close(read[f"{name}.weight"], wanted, rtol=1e-6, atol=1e-7)
            seen += 1
    assert seen == 21


@needs_library
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_on_codes_is_what_peft_computes(nested, dtype, tmp_path):
    path = by_library(wide(), tmp_path / "base", nested=nested, dtype=dtype)
    tiny.lora("llama", wide(), tmp_path / "adapter", path)
    pair = Pair.load(str(tmp_path / "adapter"), device="cpu")
    assert sum("is quantised (21 matrices, Linear4bit)" in note for note in pair.notes) == 1
    wanted = attached(plain(path), tmp_path / "adapter")
    with wanted.disable_adapter():
        off = logits(wanted)
    assert torch.equal(of(pair.base), off)
    assert torch.equal(of(pair.tuned), logits(wanted))
    assert not torch.equal(of(pair.tuned), of(pair.base))
    # also after its tensors were read, which on some CPUs breaks layers that the library repacked
    changes = {(one.layer, one.part): one for one in tensor_changes(pair)}
    assert torch.equal(of(pair.base), off)
    delta = wanted.base_model.model.model.layers[1].mlp.down_proj.get_delta_weight("default")
    change = changes[1, "mlp.out"].change
    assert change == pytest.approx(float(delta.norm()), rel=1e-4 if dtype == "float32" else 2e-2)
    assert not [part for _, part in changes if "absmax" in part or "quant" in part]


KINDS = {
    "ends that are saved": {
        "target_modules": ["q_proj"],
        "modules_to_save": ["embed_tokens", "lm_head"],
    },
    "DoRA": {"target_modules": ["q_proj", "down_proj"], "use_dora": True},
    "rsLoRA on every matrix": {"target_modules": "all-linear", "use_rslora": True},
    "rows of tokens": {"target_modules": ["o_proj"], "trainable_token_indices": [2, 40]},
}


@needs_library
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_adapter_on_codes_is_what_peft_computes(kind, tmp_path):
    path = by_library(wide(), tmp_path / "base", nested=True, dtype="bfloat16")
    tiny.adapter(wide(), tmp_path / "adapter", path, **KINDS[kind])
    pair, unread = Pair.load(str(tmp_path / "adapter"), device="cpu"), []
    wanted = attached(plain(path), tmp_path / "adapter")
    assert list(tensor_changes(pair, unread))
    assert not unread
    assert torch.equal(of(pair.tuned), logits(wanted))
    with wanted.disable_adapter():
        assert torch.equal(of(pair.base), logits(wanted))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_adapter_on_the_numbers(kind, tmp_path, without_library):
    path, numbers = coded(wide(), tmp_path / "base", nested=True)
    tiny.adapter(wide(), tmp_path / "adapter", path, **KINDS[kind])
    pair = Pair.load(str(tmp_path / "adapter"))
    assert torch.equal(
        of(pair.tuned), logits(attached(copy.deepcopy(numbers), tmp_path / "adapter"))
    )
    assert torch.equal(of(pair.base), logits(numbers))


@needs_library
@pytest.mark.filterwarnings("ignore")
def test_both_ways_agree_to_rounding(tmp_path, monkeypatch):
    path = by_library(wide(), tmp_path / "base", nested=True)
    tiny.lora("llama", wide(), tmp_path / "adapter", path)
    codes = Pair.load(str(tmp_path / "adapter"), device="cpu")
    monkeypatch.setattr(four_bit, "is_installed", lambda: False)
    numbers = Pair.load(str(tmp_path / "adapter"), device="cpu")
    for role in ("base", "tuned"):
        torch.testing.assert_close(of(codes[role]), of(numbers[role]), rtol=1e-4, atol=1e-4)
    assert codes.digests["base"] != numbers.digests["base"]


@needs_library
@pytest.mark.filterwarnings("ignore")
def test_codes_that_the_library_repacked_are_refused(tmp_path):
    from transformers import AutoModelForCausalLM

    path = by_library(wide(), tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    assert Pair.from_modules(model, None, tiny.tokenizer()).tuned.notes
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    layer = model.model.layers[0].mlp.down_proj
    if not layer.support_avx512bf16_for_cpu:
        pytest.skip("needs a CPU with AVX512-BF16: only there does bitsandbytes repack")
    logits(model)
    with pytest.raises(
        UnsupportedModel, match=r"repacked the codes .*before its first pass"
    ) as caught:
        Pair.from_modules(model, None, tiny.tokenizer())
    assert "\n" not in str(caught.value)
