"""Models as a notebook holds them: the same numbers as the bare module's, to the bit, and the
holder as it was.
"""

import copy
import warnings

import numpy as np
import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformer_lens import HookedRootModule
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoTokenizer

from interp.analyzers.locate_neurons import LocateNeurons
from interp.engines import Batch, TorchEngine
from interp.engines.nnsight_trace import NNsightEngine
from interp.errors import AdapterNotLanded, OptionError, UnsupportedModel
from interp.models.pair import Pair
from interp.prompts import encode
from interp.sites import MATRICES, Site, Weight
from tests import families, tiny

BATCH = Batch.pad([list(encode(tiny.tokenizer(), text).ids) for text in tiny.PROMPTS], 0)
BUILDERS = {
    **tiny.FAMILIES,
    **{name: lambda name=name, **more: families.build(name, **more) for name in families.NAMES},
}
AT_ONCE = ("llama", "gpt2", "gemma2", "phi3")
quietly = pytest.mark.filterwarnings("ignore")  # what the holders themselves warn of


def log_odds(logits):
    return logits[:, -1, 5] - logits[:, -1].logsumexp(-1)


def everything(model, engine=None):
    """Logits, every site, gradients and every matrix of the first two blocks."""
    sites = [Site(layer, hook) for layer in range(2) for hook in model.anatomy.targets]
    found = (engine or TorchEngine()).run(
        model, BATCH, reads=sites, gradients_at=sites, gradient_of=log_odds, keep=None
    )
    matrices = [
        model.weight(Weight(1, matrix)) for matrix in MATRICES if matrix in model.anatomy.matrices
    ]
    return [found.logits, *found.values.values(), *found.gradients.values(), *matrices]


def assert_same(ours, theirs):
    assert len(ours) == len(theirs) > 20
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def pair(tuned, base=None):
    return Pair.from_modules(tuned, base, tiny.tokenizer())


# ---------------------------------------------------------------------------------------------- TransformerLens


@pytest.fixture(scope="module")
def bridge(tmp_path_factory):
    """Boot a bridge around a module, which it changes."""
    root = tmp_path_factory.mktemp("bridges")
    tiny.tokenizer().save_pretrained(root / "tokenizer")
    spoken = AutoTokenizer.from_pretrained(root / "tokenizer")
    spoken.bos_token = spoken.eos_token

    def boot(module):
        module.config.save_pretrained(root / type(module).__name__)
        return TransformerBridge.boot_transformers(
            str(root / type(module).__name__),
            hf_model=module,
            tokenizer=spoken,
            device="cpu",
            dtype=module.dtype,
        )

    return boot


@quietly
@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name not in AT_ONCE)) for name in BUILDERS],
)
def test_a_bridge_gives_what_its_module_gave(bridge, name, dtype):
    bare = BUILDERS[name](attn_implementation="eager").to(dtype)  # the kernel that a bridge puts in
    held = bridge(copy.deepcopy(bare))
    with torch.no_grad():
        before = held(BATCH.ids)
    trained = [parameter.requires_grad for parameter in held.parameters()]
    found = pair(held).tuned
    assert type(found.module) is type(bare)
    assert_same(everything(found), everything(pair(bare).tuned))
    assert pair(held).digests == pair(bare).digests
    # nothing was copied, and the bridge goes on
    places = {parameter.data_ptr() for parameter in held.original_model.parameters()}
    assert {parameter.data_ptr() for parameter in found.module.parameters()} <= places
    with torch.no_grad():
        assert torch.equal(held(BATCH.ids), before)
    assert [parameter.requires_grad for parameter in held.parameters()] == trained


@quietly
def test_tied_embeddings_stay_tied(bridge):
    found = pair(bridge(BUILDERS["gemma2"](tie_word_embeddings=True))).tuned.module
    assert found.get_input_embeddings().weight is found.get_output_embeddings().weight


@quietly
def test_a_pair_of_bridges_gives_the_same_table(bridge):
    base = tiny.llama(attn_implementation="eager")
    tuned = tiny.perturbed(base)
    tables = [
        LocateNeurons(method="integrated", top="3", steps=3)(tiny.study(*models, 4))
        for models in ((tuned, base), (bridge(copy.deepcopy(tuned)), bridge(copy.deepcopy(base))))
    ]
    assert tables[0].provenance.key == tables[1].provenance.key
    np.testing.assert_array_equal(tables[0]["score"], tables[1]["score"])
    assert np.abs(tables[0]["score"]).max() > 0


@quietly
def test_what_a_bridge_has_changed_is_refused(bridge):
    processed = bridge(tiny.llama())
    processed.enable_compatibility_mode()
    with pytest.raises(UnsupportedModel, match="is a TransformerBridge with processed weights"):
        pair(processed)
    plain = bridge(tiny.llama())
    plain.enable_compatibility_mode(no_processing=True)
    assert pair(plain).base is None
    plain.blocks[1].mlp.hook_out.add_hook(lambda value, hook: value * 1.1)
    with pytest.raises(UnsupportedModel, match="whose outputs do not follow from its weights"):
        pair(plain)
    plain.reset_hooks()
    assert pair(plain).base is None


def test_a_hooked_transformer_has_other_weights():
    """TransformerLens 4 has none any more; what an earlier one makes goes by this name."""

    class HookedTransformer(HookedRootModule):
        pass

    with pytest.raises(
        UnsupportedModel,
        match=r"is a HookedTransformer, whose weights are converted .*TransformerBridge",
    ):
        pair(HookedTransformer())


# ---------------------------------------------------------------------------------------------- nnsight


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return str(tiny.save(tiny.llama(), tmp_path_factory.mktemp("saved") / "model"))


def held_by_nnsight(module, kind="NNsight", **options):
    """nnsight is imported late: what it puts on builtin types must not be there when the type
    checker loads.
    """
    import nnsight
    from nnsight.modeling.language import LanguageModel
    from nnsight.modeling.transformers import TransformersModel

    kinds = {
        "NNsight": nnsight.NNsight,
        "TransformersModel": TransformersModel,
        "LanguageModel": LanguageModel,
    }
    return kinds[kind](module, **options)


HELD = {
    "module": lambda path: held_by_nnsight(tiny.llama()),
    "transformers": lambda path: held_by_nnsight(
        path, "TransformersModel", dispatch=True, task="text-generation"
    ),
    "language": lambda path: held_by_nnsight(path, "LanguageModel", dispatch=True),
}


@quietly
@pytest.mark.parametrize("kind", HELD)
def test_an_nnsight_model_gives_what_its_module_gives(saved, kind):
    held, bare = HELD[kind](saved), pair(tiny.llama())

    def traced():
        with held.trace(BATCH.ids if kind == "module" else [[2, 40, 41, 42]]), torch.no_grad():
            block = held.model.layers[1].mlp.output.save()
            logits = held.output.logits.save()
        return block, logits

    before, found = traced(), pair(held)
    assert_same(everything(found.tuned), everything(bare.tuned))
    assert_same(everything(found.tuned, NNsightEngine()), everything(bare.tuned))
    assert found.tuned.module is held._module
    assert all(torch.equal(one, other) for one, other in zip(traced(), before, strict=True))


@quietly
def test_an_nnsight_model_without_weights_is_refused(saved):
    with pytest.raises(
        UnsupportedModel, match="whose weights are not loaded yet; make it with dispatch=True"
    ):
        pair(
            held_by_nnsight(
                saved, "TransformersModel", task="text-generation", tokenizer=tiny.tokenizer()
            )
        )


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.nn.Linear(2, 2),
        lambda: "a name",
        lambda: {},
        lambda: held_by_nnsight(torch.nn.Linear(2, 2)),
    ],
)
def test_what_holds_no_model_is_refused(make):
    thing = make()
    with pytest.raises(
        UnsupportedModel,
        match="contains no Hugging Face model in a known way; give the Hugging Face",
    ):
        pair(thing)
    with pytest.raises(UnsupportedModel, match="memory:base is a"):
        pair(tiny.llama(), thing)


# ---------------------------------------------------------------------------------------------- PEFT


@pytest.fixture
def adapter(tmp_path):
    """A PEFT model in memory, and the directories of its base and of itself."""
    base = tiny.save(tiny.llama(), tmp_path / "base")
    held = tiny.lora("llama", tiny.llama(), tmp_path / "adapter", base, modules_to_save=["lm_head"])
    return held, tmp_path / "adapter"


def test_a_peft_model_is_the_pair_of_its_base_and_its_adapter(adapter):
    held, path = adapter
    loaded = Pair.load(str(path))
    with torch.no_grad():
        before = held(BATCH.ids).logits
    for found in (
        pair(held),
        pair(held, held),
        pair(held, held.get_base_model()),
        pair(held_by_nnsight(held)),
    ):
        assert found.base.module is found.tuned.module is held.get_base_model()
        for ours, theirs in (
            (found.base, loaded.base),
            (found.tuned, loaded.tuned),
            (found.base, loaded.base),
        ):
            assert_same(everything(ours), everything(theirs))
        assert not torch.equal(everything(found.base)[0], everything(found.tuned)[0])
    with torch.no_grad():
        assert torch.equal(held(BATCH.ids).logits, before)
    assert pair(held).identity == {"tuned": "memory:tuned", "base": "memory:base"}


def test_a_peft_model_beside_a_base_of_its_own(adapter):
    held, path = adapter
    found, loaded = pair(held, tiny.llama()), Pair.load(str(path))
    assert found.base.module is not found.tuned.module
    assert_same(everything(found.base), everything(loaded.base))
    assert_same(everything(found.tuned), everything(loaded.tuned))
    assert found.digests == pair(held).digests
    with pytest.raises(OptionError, match="the base given is itself an adapter"):
        pair(tiny.llama(), held)


def test_digests_of_a_peft_model(adapter):
    """The base's are those of the bare base; the tuned model's follow what the adapter is and how
    it is applied.
    """
    held, _ = adapter
    digests = pair(held).digests
    assert digests["base"] == pair(tiny.llama()).digests["tuned"] != digests["tuned"]
    held.peft_config["default"].lora_alpha = 16
    assert pair(held).digests["tuned"] != digests["tuned"]
    assert pair(held).digests["base"] == digests["base"]


@quietly
@pytest.mark.parametrize(
    ("config", "spoil", "error", "said"),
    [
        (
            {"bias": "all"},
            None,
            UnsupportedModel,
            "trained biases of its base .*cannot be switched off",
        ),
        ({}, "merge_adapter", UnsupportedModel, "is merged into its base"),
        ({}, "disable_adapter_layers", UnsupportedModel, "has its adapter switched off"),
        ({"init_lora_weights": True}, None, AdapterNotLanded, "changes no logit of memory:base"),
    ],
)
def test_peft_models_that_cannot_be_switched(config, spoil, error, said):
    start = {"init_lora_weights": False, **config}
    held = get_peft_model(tiny.llama(), LoraConfig(target_modules=["q_proj", "up_proj"], **start))
    if spoil:
        getattr(held.base_model if spoil.endswith("layers") else held, spoil)()
    with pytest.raises(error, match=said):
        pair(held)


def test_a_prompt_adapter_changes_no_weight():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        held = get_peft_model(
            tiny.llama(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
        )
    with pytest.raises(
        UnsupportedModel, match="is a PROMPT_TUNING adapter, which changes no weight"
    ):
        pair(held)
