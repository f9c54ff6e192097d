"""What a checkpoint says it is: its configuration, and the model laid out without weights."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from interp.errors import UnsupportedModel
from interp.models.anatomy import PROVEN
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


def line(error: Exception) -> str:
    """What an error of a library says, as part of one line."""
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, reports and warnings of the libraries: what matters in them is refused by name instead."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
