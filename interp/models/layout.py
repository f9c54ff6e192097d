"""What a checkpoint says it is: its configuration, and the model laid out without weights."""

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from interp.errors import UnsupportedModel
from interp.models.anatomy import PROVEN
from interp.models.quiet import line, quiet
from interp.models.sources import Source, read_json


def configuration(source: Source, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The configuration of a causal language model; raises UnsupportedModel for anything else."""
    stated = read_json(source.directory / "config.json")
    if "_class_name" in stated and "model_type" not in stated:
        raise UnsupportedModel(
            f"{source.name} is a {stated['_class_name']} of diffusers, not a causal language model; give one"
        )
    try:
        config = AutoConfig.from_pretrained(source.directory, trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers validates configurations with errors of many classes
        if "auto_map" in stated and not trust_remote_code:
            raise UnsupportedModel(
                f"{source.name} needs code of its own ({stated.get('model_type', 'no model_type')}, by auto_map in its "
                "config.json), which the command line does not run; read it, then Pair.load(..., "
                "trust_remote_code=True) in Python does"
            ) from error
        raise UnsupportedModel(
            f"{source.name}: transformers {transformers.__version__} does not accept its config.json ({line(error)}); "
            "check the file, or use a transformers that knows this model"
        ) from error
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and "auto_map" not in stated:
        # asked for it, transformers would import every family there is to list them
        raise UnsupportedModel(
            f"{source.name} is of type {config.model_type}, which has no causal language model; "
            f"proven: {', '.join(PROVEN)}"
        )
    return config


def skeleton(source: Source, trust_remote_code: bool = False) -> PreTrainedModel:
    """A model without weights: modules and shapes alone, on torch's meta device; raises UnsupportedModel."""
    config = configuration(source, trust_remote_code)
    try:
        with torch.device("meta"), quiet():
            return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:  # a model's own code, or a library that it wants
        raise UnsupportedModel(f"{source.name} cannot be laid out without weights ({line(error)})") from error


def tied(config: PreTrainedConfig) -> bool:
    """Whether the head is the embedding's matrix."""
    return bool(getattr(config.get_text_config(), "tie_word_embeddings", False))
