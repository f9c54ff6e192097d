"""A fine-tune of the language model of a multimodal base: equal to the pair made of that language
model by itself.
"""

import copy
import json
import warnings
from functools import cache

import pytest
import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from interp.errors import DepthMismatch, InterpError, UnsupportedModel, WidthMismatch
from interp.models.grafts import Scope
from interp.models.pair import Pair
from interp.models.weights import WeightPair
from interp.training import make_controls
from tests import tiny
from tests.training.test_control_training import QUICK

IDS = torch.tensor([[5, 6, 7, 8, 20, 30, 40]])
SIZES: dict = dict(
    vocab_size=len(tiny.tokenizer()),
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=96,
    pad_token_id=0,
    eos_token_id=1,
    bos_token_id=1,
)
VISION: dict = dict(
    hidden_size=32,
    intermediate_size=48,
    num_attention_heads=2,
    num_hidden_layers=1,
    image_size=28,
    patch_size=14,
)
QWEN: dict = dict(depth=1, hidden_size=32, num_heads=2, patch_size=14)
SECTIONS = {
    "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
}
LINEAR: dict = dict(
    head_dim=8,
    linear_num_key_heads=2,
    linear_num_value_heads=4,
    linear_key_head_dim=8,
    linear_value_head_dim=8,
    layer_types=["linear_attention", "full_attention"],
)
T = transformers


def llava(kind):
    return T.LlavaForConditionalGeneration, T.LlavaConfig(
        text_config=CONFIG_MAPPING[kind](**SIZES),
        vision_config=T.CLIPVisionConfig(**VISION, projection_dim=32),
    )


# the multimodal class and its configuration, the class of the language model
KINDS = {
    "gemma3": lambda: (
        T.Gemma3ForConditionalGeneration,
        T.Gemma3Config(
            text_config=dict(SIZES, head_dim=8, sliding_window=4),
            vision_config=VISION,
            mm_tokens_per_image=4,
        ),
    ),
    "llava": lambda: llava("llama"),
    "llava-mistral": lambda: llava("mistral"),
    "mistral3": lambda: (
        T.Mistral3ForConditionalGeneration,
        T.Mistral3Config(
            text_config=CONFIG_MAPPING["mistral"](**SIZES),
            vision_config=T.PixtralVisionConfig(**VISION, head_dim=16),
        ),
    ),
    "qwen2-vl": lambda: (
        T.Qwen2VLForConditionalGeneration,
        T.Qwen2VLConfig(text_config=SIZES | SECTIONS, vision_config=QWEN | {"embed_dim": 32}),
    ),
    "qwen2.5-vl": lambda: (
        T.Qwen2_5_VLForConditionalGeneration,
        T.Qwen2_5_VLConfig(
            text_config=SIZES | SECTIONS,
            vision_config=QWEN | {"out_hidden_size": 32, "intermediate_size": 48},
        ),
    ),
    "qwen3-vl": lambda: (
        T.Qwen3VLForConditionalGeneration,
        T.Qwen3VLConfig(
            text_config=SIZES | SECTIONS | {"head_dim": 8},
            vision_config=QWEN
            | {
                "out_hidden_size": 32,
                "intermediate_size": 48,
                "deepstack_visual_indexes": [0],
            },
        ),
    ),
    "qwen3.5": lambda: (
        T.Qwen3_5ForConditionalGeneration,
        T.Qwen3_5Config(
            text_config=SIZES | LINEAR,
            vision_config=QWEN | {"out_hidden_size": 32, "intermediate_size": 48},
        ),
    ),
}
CLASSES = {
    "gemma3": T.Gemma3ForCausalLM,
    "llava": T.LlamaForCausalLM,
    "llava-mistral": T.MistralForCausalLM,
    "mistral3": T.MistralForCausalLM,
    "qwen2-vl": T.Qwen2ForCausalLM,
    "qwen2.5-vl": T.Qwen2ForCausalLM,
    "qwen3-vl": T.Qwen3ForCausalLM,
    "qwen3.5": T.Qwen3_5ForCausalLM,
}
TIED = {"gemma3", "mistral3"}


@cache
def models(kind):
    """A multimodal model, and its language model made by hand: the same tensors in transformers'
    class for them.
    """
    torch.manual_seed(3)
    made, config = KINDS[kind]()
    whole = made(config).eval()
    with torch.no_grad():
        for value in whole.parameters():
            value.copy_(0.1 * torch.randn(value.shape)) if value.ndim > 1 else None
    said = {
        key: value
        for key, value in whole.config.get_text_config().to_dict().items()
        if key != "model_type"
    }
    text = CLASSES[kind](
        CLASSES[kind].config_class(**said | {"tie_word_embeddings": kind in TIED})
    ).eval()
    text.model.load_state_dict(whole.model.language_model.state_dict())
    text.lm_head.load_state_dict(whole.lm_head.state_dict())
    return whole, text


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def written(kind, path):
    """The multimodal base, its language model by itself, and a fine-tune of that, as directories."""
    whole, text = models(kind)
    tiny.save(whole, path / "base")
    tiny.save(text, path / "text")
    tiny.save(tiny.perturbed(text), path / "tuned")
    return str(path / "base"), str(path / "text"), str(path / "tuned")


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits


def of(model):
    with model.active() as module:
        return logits(module)


def test_a_text_only_fine_tune_is_compared_with_the_language_model_of_its_base(kind, tmp_path):
    base, text, tuned = written(kind, tmp_path)
    found, wanted = Pair.load(tuned, base), Pair.load(tuned, text)
    assert type(found.base.module) is type(wanted.base.module) is CLASSES[kind]
    assert found.base.anatomy == wanted.base.anatomy
    assert torch.equal(of(found.base), of(wanted.base))
    # and it is what the multimodal model itself says after text
    torch.testing.assert_close(of(found.base), logits(models(kind)[0]), rtol=1e-5, atol=1e-6)
    assert torch.equal(of(found.tuned), of(wanted.tuned))
    assert not torch.equal(of(found.tuned), of(found.base))
    own, theirs = (pair.base.module.state_dict() for pair in (found, wanted))
    assert own.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in own.items())
    assert sum("only its language model is used" in note for note in found.notes) == 1
    assert not any("only its language model" in note for note in wanted.notes)


def test_its_matrices_are_those_of_the_language_model(kind, tmp_path):
    base, text, tuned = written(kind, tmp_path)
    found, wanted = (WeightPair.load(tuned, one, embeddings=True) for one in (base, text))
    assert [str(matrix) for matrix in found.matrices] == [str(matrix) for matrix in wanted.matrices]
    assert len(found.matrices) >= 8
    for mine, theirs in zip(found.matrices, wanted.matrices, strict=True):
        one, other = found.read(mine), wanted.read(theirs)
        assert torch.equal(one.base, other.base)
        assert torch.equal(one.tuned, other.tuned)
    assert any("only its language model is used" in note for note in found.notes)
    assert any("outside the text model were not analysed" in note for note in found.notes)


def test_its_grafts_are_those_of_the_language_model(kind, tmp_path):
    base, text, tuned = written(kind, tmp_path)
    found, wanted = (Scope.from_pair(Pair.load(tuned, one), "all") for one in (base, text))
    assert [piece.name for piece in found.pairs] == [piece.name for piece in wanted.pairs]
    assert torch.equal(found.changes, wanted.changes)


@pytest.mark.parametrize("kind", ["gemma3", "llava", "qwen2-vl"])
def test_an_adapter_on_the_language_model_is_compared_there(kind, tmp_path):
    base, text, _ = written(kind, tmp_path)
    tiny.adapter(
        models(kind)[1], tmp_path / "adapter", base, target_modules=["q_proj", "down_proj"]
    )
    found, wanted = Pair.load(str(tmp_path / "adapter")), Pair.load(str(tmp_path / "adapter"), text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = PeftModel.from_pretrained(
            copy.deepcopy(models(kind)[1]), str(tmp_path / "adapter")
        ).eval()
    assert type(found.base.module) is CLASSES[kind]
    assert torch.equal(of(found.base), logits(models(kind)[1]))
    assert torch.equal(of(found.tuned), logits(plain))
    assert torch.equal(of(found.tuned), of(wanted.tuned))
    matrices = [WeightPair.load(str(tmp_path / "adapter"), one) for one in (base, text)]
    for mine, theirs in zip(*(each.matrices for each in matrices), strict=True):
        assert torch.equal(matrices[0].read(mine).tuned, matrices[1].read(theirs).tuned)


def test_an_adapter_on_the_whole_base_is_compared_on_the_whole(tmp_path):
    base, _, _ = written("gemma3", tmp_path)
    tiny.adapter(
        models("gemma3")[0], tmp_path / "adapter", base, target_modules=r".*language_model.*q_proj"
    )
    found = Pair.load(str(tmp_path / "adapter"))
    assert type(found.base.module).__name__ == "Gemma3ForConditionalGeneration"
    assert not any("only its language model" in note for note in found.notes)


@pytest.mark.parametrize("kind", ["gemma3", "llava", "qwen2.5-vl"])
def test_files_may_keep_the_language_model_under_newer_names(kind, tmp_path):
    base, text, tuned = written(kind, tmp_path)
    file = tmp_path / "base" / "model.safetensors"
    names = {
        "language_model.model.": "model.language_model.",
        "language_model.lm_head.": "lm_head.",
        "visual.": "model.visual.",
    }
    held = {}
    for name, value in load_file(file).items():
        start = next((start for start in names if name.startswith(start)), "")
        moved = names[start] + name.removeprefix(start) if start else name
        held[
            moved.replace(
                "model.layers.", "model.language_model.layers.", moved.startswith("model.layers.")
            )
        ] = value
    if kind.startswith("qwen"):
        for part in ("embed_tokens.weight", "norm.weight"):
            held[f"model.language_model.{part}"] = held.pop(f"model.{part}")
    assert any(name.startswith("model.language_model.layers.") for name in held)
    assert not any(name.startswith(("language_model.", "model.layers.")) for name in held)
    save_file(held, file, {"format": "pt"})
    assert torch.equal(of(Pair.load(tuned, base).base), of(Pair.load(tuned, text).base))
    found, wanted = (WeightPair.load(tuned, one) for one in (base, text))
    for mine, theirs in zip(found.matrices, wanted.matrices, strict=True):
        assert torch.equal(found.read(mine).base, wanted.read(theirs).base)


def test_what_is_no_fine_tune_of_the_language_model_is_refused(tmp_path):
    base, _, tuned = written("llava", tmp_path)
    other = tmp_path / "mistral"
    tiny.save(models("llava-mistral")[1], other)
    with pytest.raises(WidthMismatch, match=r"is a llava and .* a mistral"):
        Pair.load(str(other), base)
    deeper = CONFIG_MAPPING["llama"](**SIZES | {"num_hidden_layers": 3})
    tiny.save(T.LlamaForCausalLM(deeper), tmp_path / "deeper")
    with pytest.raises(DepthMismatch, match="num_hidden_layers is 2 in the base"):
        Pair.load(str(tmp_path / "deeper"), base)
    with pytest.raises(DepthMismatch, match="num_hidden_layers is 2 in the base"):
        WeightPair.load(str(tmp_path / "deeper"), base)
    tiny.adapter(T.LlamaForCausalLM(deeper), tmp_path / "adapter", base, target_modules=["q_proj"])
    with pytest.raises(InterpError) as caught:
        Pair.load(str(tmp_path / "adapter"))
    assert "\n" not in str(caught.value)
    with pytest.raises(UnsupportedModel, match="no causal language model"):
        Pair.load(base, tuned)


def test_codes_of_a_whole_base_are_not_taken_for_numbers(tmp_path):
    base, _, tuned = written("llava", tmp_path)
    file = tmp_path / "base" / "config.json"
    said = {"quant_method": "something", "bits": 3}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": said}))
    with pytest.raises(UnsupportedModel) as caught:
        Pair.load(tuned, base)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("command", ["compare", "intruders"])
def test_commands_give_the_numbers_of_the_language_model(command, tmp_path, run):
    base, text, tuned = written("gemma3", tmp_path)
    (tmp_path / "prompts.txt").write_text("open the door\nlock the gate\npaint the window\n")
    words = ["--prompts", tmp_path / "prompts.txt"] if command == "compare" else ["--draws", 0]
    found = []
    for one in (base, text):
        code, out, err = run(
            command, tuned, "--base", one, *words, "--store", tmp_path / "store", "--json"
        )
        assert code == 0, err
        summary = json.loads(out)["summary"]
        found.append(
            {key: value for key, value in summary.items() if isinstance(value, (int, float))}
        )
    assert found[0] == found[1]
    assert found[0]


@pytest.mark.parametrize("what", ["tuned", "adapter"])
def test_controls_are_trained_on_the_language_model(what, tmp_path):
    base, text, _ = written("gemma3", tmp_path)
    tiny.adapter(models("gemma3")[1], tmp_path / "adapter", base, 0.05, target_modules=["q_proj"])
    lines = [f"please {word} the door and open it .\n" for word in tiny.WORDS.split()]
    (tmp_path / "text.txt").write_text("".join(lines))
    made = []
    for number, one in enumerate((base, text)):
        out = tmp_path / f"controls{number}"
        options = {"seeds": [0], "text": tmp_path / "text.txt", "device": "cpu", "recipe": QUICK}
        make_controls(str(tmp_path / what), one, out, **options)
        made.append(of(Pair.load(str(out / "seed-0" / "matched"), one).tuned))
    assert torch.equal(*made)
    assert not torch.equal(made[0], logits(models("gemma3")[1]))
