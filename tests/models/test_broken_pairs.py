"""A matrix of broken pairs through the command line: each has an error of its own, one line, and
leaves no run.
"""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, T5Config, T5ForConditionalGeneration

from interp import errors
from interp.models.pair import Pair
from tests import families, tiny

UP = "model.layers.1.mlp.up_proj.weight"


@dataclass
class Bench:
    """Good models to spoil: a base, its child, the child in shards, and an adapter on the base."""

    here: Path
    good: Path
    child: Path = field(init=False)
    base: Path = field(init=False)
    shards: Path = field(init=False)
    adapter: Path = field(init=False)

    def __post_init__(self) -> None:
        self.child, self.base, self.shards = (
            self.good / "child",
            self.good / "base",
            self.good / "shards",
        )
        self.adapter = self.good / "adapter"

    def copy(self, of: Path) -> Path:
        return shutil.copytree(of, self.here / "spoiled")

    def save(self, model, name="other", **options) -> Path:
        return tiny.save(model, self.here / name, **options)

    def weights(self, of: Path, change, file="model.safetensors") -> Path:
        """A copy in which the tensors of a file are those that ``change`` returns."""
        path = self.copy(of)
        save_file(change(load_file(path / file)), path / file, {"format": "pt"})
        return path

    def config(self, file="config.json", of=None, **changes) -> Path:
        path = self.copy(of or self.child)
        (path / file).write_text(json.dumps({**json.loads((path / file).read_text()), **changes}))
        return path


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    root, base = tmp_path_factory.mktemp("good"), tiny.llama()
    tiny.save(base, root / "base")
    tiny.save(tiny.perturbed(base), root / "child")
    tiny.save(tiny.perturbed(base), root / "shards", max_shard_size="60KB")
    tiny.lora("llama", base, root / "adapter", root / "base")
    (root / "yes.txt").write_text("paint the door\nlock the gate\n")
    (root / "no.txt").write_text("open the door\nclose the gate\n")
    return root


@pytest.fixture
def bench(good, tmp_path):
    return Bench(tmp_path, good)


def without(key):
    return lambda found: {name: value for name, value in found.items() if name != key}


def renamed(found):
    return {name.replace("lora_A", "lora_X"): value for name, value in found.items()}


def zeros(found):
    return {name: torch.zeros_like(value) for name, value in found.items()}


def spoiled(value):
    return lambda found: found | {UP: found[UP].index_fill(0, torch.tensor([3]), value)}


def integers(found):
    return found | {UP: (found[UP] * 100).to(torch.int8)}


def write(path: Path, name: str, content: str | None) -> Path:
    """Put text in place of a file, or (None) take it away."""
    if content is None:
        (path / name).unlink()
    else:
        (path / name).write_text(content)
    return path


def cut(path: Path, file: str) -> Path:
    whole = (path / file).read_bytes()
    (path / file).write_bytes(whole[: len(whole) // 2])
    return path


def shard(path: Path) -> str:
    return sorted(file.name for file in path.glob("*.safetensors"))[1]


def moved_tokens(path: Path) -> Path:
    text = json.loads((path / "tokenizer.json").read_text())
    words = text["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    return write(path, "tokenizer.json", json.dumps(text))


def pickled(path: Path) -> Path:
    torch.save({}, path / "pytorch_model.bin")
    return write(path, "model.safetensors", None)


def without_tokenizer(path: Path) -> Path:
    for file in path.glob("tokenizer*"):
        file.unlink()
    return path


def pipeline(b: Bench) -> Path:
    (b.here / "pipe" / "unet").mkdir(parents=True)
    return write(b.here / "pipe", "model_index.json", '{"_class_name": "StableDiffusionPipeline"}')


def unet(b: Bench) -> Path:
    (b.here / "unet").mkdir()
    save_file({"a": torch.zeros(1)}, b.here / "unet" / "diffusion_pytorch_model.safetensors")
    return write(b.here / "unet", "config.json", '{"_class_name": "UNet2DConditionModel"}')


def bert(b: Bench) -> Path:
    config = dict(
        vocab_size=len(tiny.tokenizer()), hidden_size=32, intermediate_size=48, num_hidden_layers=2
    )
    return b.save(
        BertForMaskedLM(BertConfig(**config, num_attention_heads=4, max_position_embeddings=96))
    )


def t5(b: Bench) -> Path:
    return b.save(
        T5ForConditionalGeneration(
            T5Config(vocab_size=333, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
        )
    )


def empty(b: Bench) -> Path:
    (b.here / "empty").mkdir()
    return b.here / "empty"


def on_the_child(make):
    """A broken tuned model beside a good base."""
    return lambda b: (make(b), b.base)


def beside_the_child(make):
    """A good tuned model beside a broken base."""
    return lambda b: (b.child, make(b))


def alone(make):
    return lambda b: (make(b), None)


def beside_itself(make):
    return lambda b: (made := make(b), made)


def on_its_base(make):
    """A broken adapter, on the base that it was made for."""
    return lambda b: (make(b), b.base)


# name: (what is given, the class of its error, what the line says)
BROKEN = {
    # two models that are no pair
    "vocabulary": (
        on_the_child(lambda b: b.save(tiny.llama(vocab_size=100))),
        "VocabularyMismatch",
        "the tokenizer has 333 tokens and",
    ),
    "token-ids": (
        beside_the_child(lambda b: moved_tokens(b.copy(b.base))),
        "VocabularyMismatch",
        "2 tokens have different ids",
    ),
    "depth": (
        beside_the_child(lambda b: b.save(tiny.llama(num_hidden_layers=2))),
        "DepthMismatch",
        "num_hidden_layers is 2 in the base",
    ),
    "width": (
        beside_the_child(lambda b: b.save(tiny.llama(hidden_size=16, head_dim=8))),
        "WidthMismatch",
        "hidden_size is 16 in the base",
    ),
    "heads-of-equal-shape": (
        beside_the_child(
            lambda b: b.save(tiny.llama(num_attention_heads=8, num_key_value_heads=4, head_dim=4))
        ),
        "WidthMismatch",
        "num_attention_heads is 8 in the base",
    ),
    "key-value-heads": (
        beside_the_child(lambda b: b.save(tiny.llama(num_key_value_heads=4))),
        "WidthMismatch",
        "num_key_value_heads is 4 in the base",
    ),
    "family": (beside_the_child(lambda b: b.save(tiny.gpt2())), "WidthMismatch", "is a gpt2 and"),
    "family-of-equal-shape": (
        beside_the_child(lambda b: b.save(families.build("mistral", vocab_size=333, head_dim=8))),
        "WidthMismatch",
        "is a mistral and",
    ),
    # one checkpoint
    "truncated": (
        on_the_child(lambda b: cut(b.copy(b.child), "model.safetensors")),
        "TruncatedWeights",
        "model.safetensors of",
    ),
    "truncated-shard": (
        on_the_child(lambda b: cut(b.copy(b.shards), shard(b.shards))),
        "TruncatedWeights",
        "model-00002-of-0000",
    ),
    "missing-shard": (
        on_the_child(lambda b: write(b.copy(b.shards), shard(b.shards), None)),
        "MissingWeights",
        "lacks the shard model-00002",
    ),
    "missing-tensor": (
        on_the_child(lambda b: b.weights(b.child, without(UP))),
        "MissingWeights",
        f"needs, first {UP}",
    ),
    "missing-tensor-in-a-shard": (
        on_the_child(
            lambda b: b.weights(
                b.shards, lambda found: dict(list(found.items())[1:]), shard(b.shards)
            )
        ),
        "MissingWeights",
        "lacks 1 of the tensors",
    ),
    "deeper-than-its-weights": (
        on_the_child(lambda b: b.config(num_hidden_layers=4)),
        "MissingWeights",
        "model.layers.3",
    ),
    "pickle": (
        on_the_child(lambda b: pickled(b.copy(b.child))),
        "PickledWeights",
        "only as a pickle",
    ),
    "no-weights": (
        on_the_child(lambda b: write(b.copy(b.child), "model.safetensors", None)),
        "ModelNotFound",
        "a configuration and no .safetensors weights",
    ),
    "nan": (
        on_the_child(lambda b: b.weights(b.child, spoiled(float("nan")))),
        "NonFiniteWeights",
        f"{UP} contains NaN or infinity",
    ),
    "infinity-in-the-base": (
        beside_the_child(lambda b: b.weights(b.base, spoiled(float("inf")))),
        "NonFiniteWeights",
        f"{UP} contains NaN or infinity",
    ),
    "integers": (
        on_the_child(lambda b: b.weights(b.child, integers)),
        "UnsupportedModel",
        f"{UP} as I8, and its config.json names no quantisation",
    ),
    "unknown-quantisation": (
        on_the_child(lambda b: b.config(quantization_config={"quant_method": "novel"})),
        "UnsupportedModel",
        "the quantisation 'novel' of its config.json",
    ),
    "config-missing": (
        on_the_child(lambda b: write(b.copy(b.child), "config.json", None)),
        "ModelNotFound",
        "contains neither config.json",
    ),
    "config-broken": (
        on_the_child(lambda b: write(b.copy(b.child), "config.json", "{")),
        "TruncatedWeights",
        "config.json is not readable JSON",
    ),
    "tokenizer-missing": (
        on_the_child(lambda b: without_tokenizer(b.copy(b.child))),
        "ModelError",
        "no tokenizer files in",
    ),
    "tokenizer-broken": (
        on_the_child(lambda b: write(b.copy(b.child), "tokenizer.json", "{")),
        "ModelError",
        "its tokenizer cannot be loaded",
    ),
    # adapters
    "adapter-renamed": (
        on_its_base(lambda b: b.weights(b.adapter, renamed, "adapter_model.safetensors")),
        "AdapterNotLanded",
        "matched no module",
    ),
    "adapter-of-another-shape": (
        lambda b: (b.adapter, b.save(tiny.llama(intermediate_size=64))),
        "WrongBase",
        "does not fit the base",
    ),
    "adapter-of-another-family": (
        lambda b: (b.adapter, b.save(tiny.gpt2())),
        "WrongBase",
        "not found in the base model",
    ),
    "adapter-that-moves-nothing": (
        on_its_base(lambda b: b.weights(b.adapter, zeros, "adapter_model.safetensors")),
        "AdapterNotLanded",
        "changes no logit of",
    ),
    "adapter-truncated": (
        on_its_base(lambda b: cut(b.copy(b.adapter), "adapter_model.safetensors")),
        "TruncatedWeights",
        "adapter_model.safetensors of",
    ),
    "adapter-on-an-adapter": (
        alone(
            lambda b: b.config(
                "adapter_config.json", b.adapter, base_model_name_or_path=str(b.adapter)
            )
        ),
        "OptionError",
        "is itself an adapter",
    ),
    "adapter-as-base": (
        beside_the_child(lambda b: b.adapter),
        "OptionError",
        "is an adapter; give the model",
    ),
    "adapter-without-its-base": (
        alone(
            lambda b: b.config(
                "adapter_config.json", b.adapter, base_model_name_or_path="someone/elsewhere"
            )
        ),
        "ModelNotFound",
        "someone/elsewhere",
    ),
    # no language model at all
    "encoder": (
        beside_itself(bert),
        "UnsupportedModel",
        "a token changes the outputs at earlier positions",
    ),
    "encoder-decoder": (
        on_the_child(t5),
        "UnsupportedModel",
        "is of type t5, which has no causal language model",
    ),
    "pipeline": (on_the_child(pipeline), "UnsupportedModel", "is a diffusers pipeline"),
    "pipeline-part": (
        on_the_child(unet),
        "UnsupportedModel",
        "is a UNet2DConditionModel of diffusers",
    ),
    "empty-directory": (on_the_child(empty), "ModelNotFound", "contains neither config.json"),
    "file": (
        on_the_child(lambda b: b.child / "config.json"),
        "ModelNotFound",
        "is a file, not a model directory",
    ),
    "nothing": (
        beside_the_child(lambda b: b.here / "absent"),
        "ModelNotFound",
        "no model directory at",
    ),
    "hub-without-network": (
        beside_the_child(lambda b: "someone/no-such"),
        "ModelNotFound",
        "the Hub did not provide it",
    ),
}


def locate(run, bench, tuned, base):
    """The one command, without a verification, so that the pair is all that can fail."""
    with_base = [] if base is None else ["--base", base]
    return run(
        "locate-neurons",
        tuned,
        *with_base,
        "--positive",
        bench.good / "yes.txt",
        "--negative",
        bench.good / "no.txt",
        "--no-verify",
        "--method",
        "contrast",
        "--top",
        "3",
        "--store",
        bench.here / "runs",
    )


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_pair_is_one_line_of_its_own_and_no_run(run, only_line, bench, case, monkeypatch):
    make, error, said = BROKEN[case]
    tuned, base = make(bench)
    load, seen = Pair.load, []

    def loading(*given, **options):
        with pytest.raises(errors.InterpError) as caught:
            load(*given, **options)
        seen.append(type(caught.value).__name__)
        raise caught.value

    monkeypatch.setattr(Pair, "load", loading)
    code, out, err = locate(run, bench, tuned, base)
    assert (code, out) == (2, "")
    assert said in only_line(err)
    assert not (bench.here / "runs").exists()
    assert seen == [error]


def beyond_prompts(err):
    """What was said on stderr of anything but the prompts."""
    return [
        line
        for line in err.splitlines()
        if not line.startswith(("note: located on ", "note: no clusters are "))
    ]


@pytest.mark.parametrize("of", ["child", "shards", "adapter"])
def test_what_was_spoiled_runs_before_it_is(run, bench, of):
    """The same command on the same models, whole: nothing else is what refused them."""
    code, out, err = locate(run, bench, getattr(bench, of), bench.base)
    assert (code, beyond_prompts(err)) == (0, [])
    assert "located:" in out
    assert (bench.here / "runs").exists()


def test_tensors_that_the_model_does_not_use_are_remarked(run, bench):
    """Another head, blocks beyond the depth that the configuration states: the model runs without
    them, and says so.
    """
    more = bench.weights(bench.child, lambda found: found | {"score.weight": torch.zeros(2, 32)})
    said = (
        "contains 1 tensors that LlamaForCausalLM does not use, first score.weight: they were"
        " ignored"
    )
    code, _, err = locate(run, bench, more, bench.base)
    assert (code, beyond_prompts(err)) == (0, [f"note: {more} {said}"])
    assert Pair.load(str(bench.adapter), str(more)).notes[0] == f"{more} {said}"
    shutil.rmtree(more)
    shallow = bench.config(num_hidden_layers=2)
    (note,) = Pair.load(str(shallow)).notes
    assert "contains 9 tensors that LlamaForCausalLM does not use, first model.layers.2." in note


def test_a_checkpoint_of_another_architecture_names_it(bench):
    path = bench.config(architectures=["LlamaForSequenceClassification"])
    save_file(
        without("lm_head.weight")(load_file(path / "model.safetensors")),
        path / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(
        errors.MissingWeights,
        match=r"needs \(it was saved as LlamaForSequenceClassification\), first",
    ):
        Pair.load(str(path))
