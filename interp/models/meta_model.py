"""The configuration of a checkpoint, and its model built without weights."""

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
"""Language models without a class of their own in transformers, and the model type that computes
the same on text.
"""
LANGUAGE_MODEL = {r"^language_model\.": "", r"^model\.language_model\.": "model."}
"""Tensor names of the language model in files of a multimodal model, and its names on its own."""
_OF_A_CLASS = ("model_type", "architectures", "transformers_version")


def configuration(source: Source, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The configuration of a causal language model; raises UnsupportedModel for anything else."""
    stated = read_json(source.directory / "config.json")
    if "_class_name" in stated and "model_type" not in stated:
        raise UnsupportedModel(
            f"{source.name} is a {stated['_class_name']} of diffusers; give a causal language model"
        )
    try:
        config = AutoConfig.from_pretrained(source.directory, trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers raises errors of many classes for a bad configuration
        if "auto_map" in stated and not trust_remote_code:
            raise UnsupportedModel(
                f"{source.name} needs its own Python code "
                f"({stated.get('model_type', 'no model_type')}, by auto_map in its config.json), "
                "which the command line does not run; read that code, then use Pair.load(..., "
                "trust_remote_code=True) in Python"
            ) from error
        raise UnsupportedModel(
            f"{source.name}: transformers {transformers.__version__} does not accept its "
            f"config.json ({line(error)}); check the file, or use a version of transformers that "
            "supports this model"
        ) from error
    if source.text:
        return _text_of(source, config)
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and "auto_map" not in stated:
        # a list from transformers itself would import every model family
        raise UnsupportedModel(
            f"{source.name} is of type {config.model_type}, which has no causal language model; "
            f"tested: {', '.join(PROVEN)}"
        )
    return config


def _text_of(source: Source, whole: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration of the language model in a multimodal one, of the type ``source.text``."""
    config = whole.get_text_config()
    if config.model_type != source.text:
        said = {key: value for key, value in config.to_dict().items() if key not in _OF_A_CLASS}
        config = CONFIG_MAPPING[source.text].from_dict(said)
    config.dtype = config.dtype or whole.dtype
    if (packed := getattr(whole, "quantization_config", None)) is not None:
        config.quantization_config = packed
    # which configuration states whether the head is tied depends on the version, so check the files
    config.tie_word_embeddings = not any(name.endswith("lm_head.weight") for name in _names(source))
    return config


def _names(source: Source) -> Iterator[str]:
    for path in source.directory.glob("*.safetensors"):
        with safe_open(path, framework="numpy") as file:
            yield from file.keys()


def skeleton(source: Source, trust_remote_code: bool = False) -> PreTrainedModel:
    """The model's modules and shapes without weights, on torch's meta device; raises
    UnsupportedModel.
    """
    config = configuration(source, trust_remote_code)
    try:
        with torch.device("meta"), quiet():
            return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:  # an error of the model's code, or a missing library
        raise UnsupportedModel(
            f"{source.name} cannot be built without weights ({line(error)}); check its config.json"
        ) from error


def tied(config: PreTrainedConfig) -> bool:
    """Whether the head shares the embedding's matrix."""
    return bool(getattr(config.get_text_config(), "tie_word_embeddings", False))
