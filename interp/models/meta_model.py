"""What a checkpoint says it is: its configuration, and the model laid out without weights."""

from collections.abc import Iterator

import torch
import transformers
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from interp.errors import UnsupportedModel
from interp.models.anatomy import PROVEN
from interp.models.quiet import line, quiet
from interp.models.sources import Source, read_json

ALIKE = {"qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2", "qwen3_vl_text": "qwen3"}
"""Language models that are no class by themselves in transformers, and the kind that computes the
same on text.
"""
LANGUAGE_MODEL = {r"^language_model\.": "", r"^model\.language_model\.": "model."}
"""Where files of a multimodal model keep the tensors of its language model, and where that has them
by itself.
"""
_OF_A_CLASS = ("model_type", "architectures", "transformers_version")


def configuration(source: Source, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The configuration of a causal language model; raises UnsupportedModel for anything else."""
    stated = read_json(source.directory / "config.json")
    if "_class_name" in stated and "model_type" not in stated:
        raise UnsupportedModel(
            f"{source.name} is a {stated['_class_name']} of diffusers, not a causal language model;"
            " give one"
        )
    try:
        config = AutoConfig.from_pretrained(source.directory, trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers validates configurations with errors of many classes
        if "auto_map" in stated and not trust_remote_code:
            raise UnsupportedModel(
                f"{source.name} needs code of its own ({stated.get('model_type', 'no model_type')},"
                " by auto_map in its config.json), which the command line does not run; read it,"
                " then Pair.load(..., trust_remote_code=True) in Python does"
            ) from error
        raise UnsupportedModel(
            f"{source.name}: transformers {transformers.__version__} does not accept its"
            f" config.json ({line(error)}); check the file, or use a transformers that knows this"
            " model"
        ) from error
    if source.text:
        return _text_of(source, config)
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and "auto_map" not in stated:
        # asked for it, transformers would import every family there is to list them
        raise UnsupportedModel(
            f"{source.name} is of type {config.model_type}, which has no causal language model; "
            f"proven: {', '.join(PROVEN)}"
        )
    return config


def _text_of(source: Source, whole: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration of the language model in a multimodal one, of the kind ``source.text``."""
    config = whole.get_text_config()
    if config.model_type != source.text:
        said = {key: value for key, value in config.to_dict().items() if key not in _OF_A_CLASS}
        config = CONFIG_MAPPING[source.text].from_dict(said)
    config.dtype = config.dtype or whole.dtype
    if (packed := getattr(whole, "quantization_config", None)) is not None:
        config.quantization_config = packed
    # whether the head is tied is said of the whole, the text or neither, by version: the files tell
    config.tie_word_embeddings = not any(name.endswith("lm_head.weight") for name in _names(source))
    return config


def _names(source: Source) -> Iterator[str]:
    for path in source.directory.glob("*.safetensors"):
        with safe_open(path, framework="numpy") as file:
            yield from file.keys()


def skeleton(source: Source, trust_remote_code: bool = False) -> PreTrainedModel:
    """A model without weights: modules and shapes alone, on torch's meta device; raises
    UnsupportedModel.
    """
    config = configuration(source, trust_remote_code)
    try:
        with torch.device("meta"), quiet():
            return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:  # a model's own code, or a library that it wants
        raise UnsupportedModel(
            f"{source.name} cannot be laid out without weights ({line(error)})"
        ) from error


def tied(config: PreTrainedConfig) -> bool:
    """Whether the head is the embedding's matrix."""
    return bool(getattr(config.get_text_config(), "tie_word_embeddings", False))
