"""The Hugging Face module inside models of other libraries, recognised by structure without
importing them.

nnsight keeps the module and traces it. TransformerLens' bridge replaces parts of the module by its
own components, with another order of arithmetic, so the module is rebuilt around the same
parameters. Anything that cannot be recovered exactly raises an error.
"""

import copy
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from interp.errors import UnsupportedModel
from interp.maths.host import to_host
from interp.models.matrices import embedding_of, prevent_repacking

_COMPONENT = "._original_component"


def unwrap(wrapper: Any, name: str) -> PreTrainedModel | PeftModel:
    """The Hugging Face or PEFT module that ``wrapper`` is or contains; raises UnsupportedModel if
    it contains none exactly.

    Parameters are shared, never copied. A bridge is left unchanged; from any other wrapper its own
    module is returned.
    """
    if isinstance(wrapper, (PreTrainedModel, PeftModel)):
        prevent_repacking(name, wrapper)
        return wrapper
    libraries = {kind.__module__.partition(".")[0] for kind in type(wrapper).__mro__}
    if "nnsight" in libraries and isinstance(inner := getattr(wrapper, "_module", None), nn.Module):
        if any(parameter.is_meta for parameter in inner.parameters()) and not getattr(
            wrapper, "dispatched", True
        ):
            raise UnsupportedModel(
                f"{name} is a {type(wrapper).__name__} whose weights are not loaded yet; make it"
                " with dispatch=True"
            )
        return unwrap(inner, name)
    if "transformer_lens" in libraries:
        return _from_bridge(wrapper, name)
    raise UnsupportedModel(
        f"{name} is a {type(wrapper).__module__}.{type(wrapper).__name__}, which contains no"
        " Hugging Face model in a known way; give the Hugging Face model itself"
    )


def _from_bridge(bridge: Any, name: str) -> PreTrainedModel:
    kind = type(bridge).__name__
    inner = vars(bridge).get("original_model")
    if kind.startswith("HookedTransformer"):
        raise UnsupportedModel(
            f"{name} is a {kind}, whose weights are converted (norms folded, heads split) and are "
            "no longer those of the Hugging Face model; give that model, or a TransformerBridge of "
            "it"
        )
    if not isinstance(inner, PreTrainedModel):
        raise UnsupportedModel(
            f"{name} is a {kind} that contains no Hugging Face model; give the Hugging Face model "
            "itself"
        )
    if getattr(bridge, "_weights_processed", True):
        raise UnsupportedModel(
            f"{name} is a {kind} with processed weights (norms folded, writing weights centred),"
            " which are no longer those of the Hugging Face model; boot it again without"
            " processing (no_processing=True)"
        )
    with torch.device("meta"):
        rebuilt = type(inner)(copy.deepcopy(inner.config))
    rebuilt.generation_config = copy.deepcopy(inner.generation_config)
    parameters = {
        key.replace(_COMPONENT, ""): value
        for key, value in inner.named_parameters(remove_duplicate=False)
    }
    buffers = {
        key.replace(_COMPONENT, ""): value
        for key, value in inner.named_buffers(remove_duplicate=False)
    }
    shared: dict[int, nn.Parameter] = {}
    for key, empty in [
        *rebuilt.named_parameters(remove_duplicate=False),
        *rebuilt.named_buffers(remove_duplicate=False),
    ]:
        tensor = parameters.get(key, buffers.get(key))
        if tensor is None or tensor.is_meta or tensor.shape != empty.shape:
            raise UnsupportedModel(
                f"{name} is a {kind} in which {key} of {type(inner).__name__} is missing or "
                "changed; give the Hugging Face model itself"
            )
        path, _, last = key.rpartition(".")
        if isinstance(empty, nn.Parameter):
            # a separate Parameter over the same memory, so that freezing this module does not
            # freeze the bridge
            value = shared.setdefault(
                id(tensor), nn.Parameter(tensor.detach(), requires_grad=False)
            )
            rebuilt.get_submodule(path)._parameters[last] = value
        else:
            rebuilt.get_submodule(path)._buffers[last] = tensor
    rebuilt.eval()
    _require_equal(inner, rebuilt, f"{name} is a {kind}")
    return rebuilt


@torch.no_grad()
def _require_equal(inner: PreTrainedModel, rebuilt: PreTrainedModel, what: str) -> None:
    """Compare the outputs of both: hooks and changed copies of a split projection show only there."""
    weight = embedding_of(rebuilt)
    ids = torch.arange(1, 1 + min(8, weight.shape[0] - 1), device=weight.device)[None]
    training = inner.training
    inner.eval()
    try:
        bridge_logits, rebuilt_logits = (
            module(input_ids=ids).logits.float() for module in (inner, rebuilt)
        )
    finally:
        inner.train(training)
    error = float(to_host((bridge_logits - rebuilt_logits).square().mean().sqrt()))
    if not error <= max(1e-3, 4 * torch.finfo(weight.dtype).eps) * float(
        to_host(rebuilt_logits.std())
    ):
        raise UnsupportedModel(
            f"{what} whose outputs do not follow from its weights (logits differ by {error:.2g}), "
            "because of a hook or an edited component; reset it, or give the Hugging Face model "
            "itself"
        )
