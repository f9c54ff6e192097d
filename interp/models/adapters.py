"""PEFT adapters, attached to a base that is held once, and proven to have landed.

PEFT places adapter weights by name and leaves whatever does not match at its identity start, so that a comparison of
base and adapter can silently be one of base and base. Every tensor of the file must therefore be found in the model.
"""

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import PreTrainedModel

from interp.errors import AdapterNotLanded, MissingWeights, NonFiniteWeights, UnsupportedModel, WrongBase
from interp.models.anatomy import read_anatomy
from interp.models.load import require_readable
from interp.models.model import AdapterSwitch, Model
from interp.models.sources import Source


def attach(source: Source, base_name: str, module: PreTrainedModel) -> tuple[Model, Model]:
    """The base and the tuned model over one module, switched; raises WrongBase or AdapterNotLanded."""
    require_readable(source)
    file = source.directory / "adapter_model.safetensors"
    if not file.exists():
        raise MissingWeights(f"{source.name} holds no adapter_model.safetensors; save the adapter as safetensors")
    wanted = load_file(file)
    for key, value in wanted.items():
        if not torch.isfinite(value).all():
            raise NonFiniteWeights(f"{source.name}: {key} holds NaN or infinity; the adapter is damaged or diverged")
    anatomy = read_anatomy(module)
    config = PeftConfig.from_pretrained(str(source.directory))
    if config.is_prompt_learning:
        raise UnsupportedModel(f"{source.name} is a {config.peft_type} adapter; only adapters of weights are handled")
    try:
        wrapped = PeftModel.from_pretrained(module, str(source.directory), config=config, is_trainable=False)
    except (RuntimeError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0][:200]
        raise WrongBase(
            f"{source.name} does not fit the base {base_name} ({first}); give the base it was made for"
        ) from error
    _require_landed(source, wrapped, wanted)
    inner = wrapped.get_base_model()
    inner.eval().requires_grad_(False)
    switch = AdapterSwitch(inner)
    base = Model(base_name, inner, anatomy, switch, adapter_on=False)
    tuned = Model(source.name, inner, anatomy, switch, adapter_on=True)
    return base, tuned


def _require_landed(source: Source, wrapped: PeftModel, wanted: dict[str, torch.Tensor]) -> None:
    landed = get_peft_model_state_dict(wrapped)
    lost = sorted(key for key in wanted if key not in landed)
    if lost:
        raise AdapterNotLanded(
            f"{source.name}: {len(lost)} of {len(wanted)} adapter tensors reached no module, first {lost[0]}; "
            "the adapter's names do not match this base"
        )
    unfilled = sorted(key for key in landed if key not in wanted)
    if unfilled:
        raise AdapterNotLanded(
            f"{source.name}: {len(unfilled)} adapter tensors are missing from its file and stay at their start, "
            f"first {unfilled[0]}; the file is incomplete"
        )
    for key, value in wanted.items():
        if value.shape != landed[key].shape or not torch.equal(value.to(landed[key]), landed[key]):
            raise AdapterNotLanded(f"{source.name}: {key} did not arrive as it was saved; the adapter's names collide")
