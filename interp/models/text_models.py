"""The language model of a multimodal base, for comparison with a fine-tuned model that has only
text.

Its configuration is the base's ``text_config``, its class is transformers' own for that, and its
weights are the base's: files store them below ``language_model``, older ones of Qwen-VL under the
names of a plain language model.
"""

from dataclasses import replace

from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from interp.models.meta_model import EQUIVALENT_TYPES, skeleton
from interp.models.sources import Source, read_json


def match_language_model(base: Source, tuned: Source) -> Source:
    """The base as its language model if only that was fine-tuned; otherwise unchanged."""
    model_type, text_type = _model_types(base)
    text_type = EQUIVALENT_TYPES.get(text_type, text_type)
    if text_type == model_type or text_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return base
    if tuned.delta is not None:
        return base
    as_language_model = replace(base, text=text_type)
    if tuned.adapter is None:
        return (
            as_language_model
            if read_json(tuned.directory / "config.json").get("model_type") == text_type
            else base
        )
    tensor_names = _adapter_tensor_names(tuned)
    fits = bool(tensor_names) and _modules_have(skeleton(as_language_model), tensor_names)
    base_is_causal = model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return (
        as_language_model
        if fits and not (base_is_causal and _modules_have(skeleton(base), tensor_names))
        else base
    )


def _model_types(source: Source) -> tuple[str, str]:
    """Types of the whole model and of its language model; empty if transformers cannot tell, which
    loading will report.
    """
    try:
        config = AutoConfig.from_pretrained(source.directory, trust_remote_code=False)
        return config.model_type, config.get_text_config().model_type
    except Exception:  # transformers raises errors of many classes for a bad configuration
        return "", ""


def _adapter_tensor_names(adapter: Source) -> list[str]:
    """Names of an adapter's tensors within the model it was trained on; empty if its file cannot be
    read.
    """
    try:
        with safe_open(adapter.directory / "adapter_model.safetensors", "pt") as file:
            # not a mapping
            return [name.removeprefix("base_model.model.") for name in file.keys()]  # noqa: SIM118
    except (OSError, SafetensorError):
        return []


def _modules_have(model: nn.Module, names: list[str]) -> bool:
    """Whether each of these tensors belongs to a module of the model without submodules."""
    leaves = {
        path for path, part in model.named_modules() if path and next(part.children(), None) is None
    }
    starts = ([name.split(".")[:end] for end in range(1, len(name.split(".")))] for name in names)
    return all(any(".".join(start) in leaves for start in prefixes) for prefixes in starts)
