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

from interp.models.meta_model import ALIKE, skeleton
from interp.models.sources import Source, read_json


def beside(base: Source, tuned: Source) -> Source:
    """The base as its language model if only that was fine-tuned; otherwise unchanged."""
    whole, kind = _kinds(base)
    kind = ALIKE.get(kind, kind)
    if kind == whole or kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return base
    text = replace(base, text=kind)
    if tuned.adapter is None:
        return (
            text if read_json(tuned.directory / "config.json").get("model_type") == kind else base
        )
    names = _changed(tuned)
    fits = bool(names) and _has(skeleton(text), names)
    loads = whole in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return text if fits and not (loads and _has(skeleton(base), names)) else base


def _kinds(source: Source) -> tuple[str, str]:
    """Types of the whole model and of its language model; empty if transformers cannot tell, which
    loading will report.
    """
    try:
        config = AutoConfig.from_pretrained(source.directory, trust_remote_code=False)
        return config.model_type, config.get_text_config().model_type
    except Exception:  # transformers raises errors of many classes for a bad configuration
        return "", ""


def _changed(adapter: Source) -> list[str]:
    """Names of an adapter's tensors within the model it was trained on; empty if its file cannot be
    read.
    """
    try:
        with safe_open(adapter.directory / "adapter_model.safetensors", "pt") as file:
            # not a mapping
            return [name.removeprefix("base_model.model.") for name in file.keys()]  # noqa: SIM118
    except (OSError, SafetensorError):
        return []


def _has(model: nn.Module, names: list[str]) -> bool:
    """Whether each of these tensors belongs to a module of the model without submodules."""
    leaves = {
        path for path, part in model.named_modules() if path and next(part.children(), None) is None
    }
    starts = ([name.split(".")[:end] for end in range(1, len(name.split(".")))] for name in names)
    return all(any(".".join(start) in leaves for start in prefixes) for prefixes in starts)
