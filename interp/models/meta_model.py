"""The configuration of a checkpoint, and its model built without weights."""

from collections.abc import Iterator

import torch
import transformers
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from interp.errors import UnsupportedModel
from interp.models.anatomy import TESTED_ARCHITECTURES
from interp.models.quiet import error_text, quiet_libraries
from interp.models.sources import Source, read_json

EQUIVALENT_TYPES = {"qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2", "qwen3_vl_text": "qwen3"}
"""Language models without a class of their own in transformers, and the model type that computes
the same on text.
"""
LANGUAGE_MODEL_PREFIXES = {r"^language_model\.": "", r"^model\.language_model\.": "model."}
"""Tensor names of the language model in files of a multimodal model, and its names on its own."""
_CLASS_KEYS = ("model_type", "architectures", "transformers_version")


def configuration(source: Source, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The configuration of a causal language model; raises UnsupportedModel for anything else."""
    raw_config = read_json(source.directory / "config.json")
    if "_class_name" in raw_config and "model_type" not in raw_config:
        raise UnsupportedModel(
            f"{source.name} is a {raw_config['_class_name']} of diffusers; give a causal language"
            " model"
        )
    try:
        config = AutoConfig.from_pretrained(source.directory, trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers raises errors of many classes for a bad configuration
        if "auto_map" in raw_config and not trust_remote_code:
            raise UnsupportedModel(
                f"{source.name} needs its own Python code"
                f" ({raw_config.get('model_type', 'no model_type')}, by auto_map in its"
                " config.json), which the command line does not run; read that code, then use"
                " Pair.load(..., trust_remote_code=True) in Python"
            ) from error
        raise UnsupportedModel(
            f"{source.name}: transformers {transformers.__version__} does not accept its"
            f" config.json ({error_text(error)}); check the file, or use a version of transformers"
            " that supports this model"
        ) from error
    if source.text:
        return _text_configuration(source, config)
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and "auto_map" not in raw_config:
        # a list from transformers itself would import every model family
        raise UnsupportedModel(
            f"{source.name} is of type {config.model_type}, which has no causal language model; "
            f"tested: {', '.join(TESTED_ARCHITECTURES)}"
        )
    return config


def _text_configuration(source: Source, whole_config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration of the language model in a multimodal one, of the type ``source.text``."""
    config = whole_config.get_text_config()
    if config.model_type != source.text:
        values = {key: value for key, value in config.to_dict().items() if key not in _CLASS_KEYS}
        config = CONFIG_MAPPING[source.text].from_dict(values)
    config.dtype = config.dtype or whole_config.dtype
    if (quantisation := getattr(whole_config, "quantization_config", None)) is not None:
        config.quantization_config = quantisation
    # which configuration states whether the head is tied depends on the version, so check the files
    config.tie_word_embeddings = not any(
        name.endswith("lm_head.weight") for name in _tensor_names(source)
    )
    return config


def _tensor_names(source: Source) -> Iterator[str]:
    for path in source.directory.glob("*.safetensors"):
        with safe_open(path, framework="numpy") as file:
            yield from file.keys()


def skeleton(source: Source, trust_remote_code: bool = False) -> PreTrainedModel:
    """The model's modules and shapes without weights, on torch's meta device; raises
    UnsupportedModel.
    """
    config = configuration(source, trust_remote_code)
    try:
        with torch.device("meta"), quiet_libraries():
            return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:  # an error of the model's code, or a missing library
        raise UnsupportedModel(
            f"{source.name} cannot be built without weights ({error_text(error)}); check its"
            " config.json"
        ) from error


def is_tied(config: PreTrainedConfig) -> bool:
    """Whether the head shares the embedding's matrix."""
    return bool(getattr(config.get_text_config(), "tie_word_embeddings", False))
