"""A copy of a model that learns one text at a time, through a LoRA adapter."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import nn
from transformers import PreTrainedModel

from interp.errors import UnsupportedModel
from interp.maths.host import to_host
from interp.models.model import Model, original_module
from interp.models.quiet import quiet_libraries

RANK, ALPHA = 8, 16


class OneTextTraining:
    """A copy of ``base`` with a new LoRA adapter (rank 8, all linear layers, float32 factors), and
    AdamW; the base itself is left as it is.

    ``model``: the copy, which changes with every ``step``. The adapter starts without effect, from
    a matrix A drawn by ``seed``. Raises UnsupportedModel for an offloaded base.
    """

    def __init__(self, base: Model, learning_rate: float, seed: int) -> None:
        if any(parameter.is_meta for parameter in base.module.parameters()):
            raise UnsupportedModel(
                f"{base.name} is partly offloaded to main memory or disk, where no copy of it can"
                " be trained; use a device with enough memory, or rounds 0"
            )
        module = copy.deepcopy(base.module)
        _remove_adapters(module)
        config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear")
        with quiet_libraries(), torch.random.fork_rng():
            torch.manual_seed(seed)
            factors = _add_adapter(module, config)
        self.model = Model.wrap(f"{base.name}, trained on texts", module)
        for factor in factors:
            factor.requires_grad_(True)
        self._optimizer = torch.optim.AdamW(factors, lr=learning_rate)

    def step(self, prompt: Sequence[int], answer: Sequence[int]) -> float:
        """One step on the tokens of an answer after its prompt; their mean loss before it, nats."""
        ids = torch.tensor([[*prompt, *answer]], device=self.model.device)
        with torch.enable_grad(), self.model.active() as module:
            logits = module(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
            loss = nn.functional.cross_entropy(logits.float(), ids[0, len(prompt) :])
            loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        return float(to_host(loss))


def _add_adapter(module: PreTrainedModel, config: LoraConfig) -> list[nn.Parameter]:
    wrapped = get_peft_model(module, config)
    return [value for value in wrapped.parameters() if value.requires_grad]


def _remove_adapters(module: nn.Module) -> None:
    """Put the base's own layers back in place of those that carry adapters."""
    for name, child in list(module.named_children()):
        own = _own_layer(child)
        setattr(module, name, own)
        _remove_adapters(own)


def _own_layer(layer: nn.Module) -> nn.Module:
    if isinstance(layer, BaseTunerLayer):
        return _own_layer(layer.get_base_layer())
    if isinstance(layer, AuxiliaryTrainingWrapper):
        return _own_layer(original_module(layer))
    return layer
