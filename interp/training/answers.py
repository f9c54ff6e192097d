"""A model in memory that is trained on given answers to prompts, step by step; nothing is written.

Used to train a fine-tuned model back towards its base (reverse fine-tuning, Jain et al. 2024, arXiv
2311.12786, section on reFT).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from interp.errors import OptionError
from interp.maths.host import to_host
from interp.maths.precision import widen
from interp.models.model import Model
from interp.models.quiet import quiet_libraries
from interp.training.fit import collate
from interp.training.text import IGNORED, Row

FULL, ADAPTER = "full", "adapter"
RANK, ALPHA, CLIP = 8, 16, 1.0
RATES = {FULL: 1e-4, ADAPTER: 1e-3}
"""Learning rates that are assumed where none is given: what tuned a model is rarely known."""


class AnswerTraining:
    """A module that learns answers: all of its weights, or a new LoRA adapter of rank 8.

    ``model``: the module as it is now, which changes with every ``step``. AdamW at a constant rate
    without weight decay, gradients clipped at norm 1, and no dropout, so that two trainings differ
    by their start alone. Weights of 16 bits become float32 first, since small steps would be
    rounded away.
    """

    def __init__(
        self, name: str, module: PreTrainedModel, how: str, learning_rate: float, seed: int
    ) -> None:
        if module.dtype in (torch.bfloat16, torch.float16):
            module = module.float()
        self._parameters = list(module.parameters()) if how == FULL else _add_adapter(module, seed)
        self.model = Model.wrap(name, module)
        for parameter in self._parameters:
            parameter.requires_grad_(True)
        self._optimizer = torch.optim.AdamW(self._parameters, lr=learning_rate, weight_decay=0.0)

    def step(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> float:
        """One step on a batch of answers; their mean loss before it, nats per token.

        Raises OptionError where the loss is no longer finite.
        """
        part = collate([answer_row(*both) for both in zip(prompts, answers, strict=True)])
        part = {name: value.to(self.model.device) for name, value in part.items()}
        labels = part.pop("labels")[:, 1:]
        with torch.enable_grad(), self.model.active() as module:
            logits = module(**part, use_cache=False).logits[:, :-1]
            loss = _loss(logits, labels)
            loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, CLIP)
        self._optimizer.step()
        self._optimizer.zero_grad()
        value = float(to_host(loss.detach()))
        if value != value or value == float("inf"):
            raise OptionError(
                "the training diverged, its loss is not finite; give a lower --learning-rate"
            )
        return value


def answer_row(prompt: Sequence[int], answer: Sequence[int]) -> Row:
    """A prompt and its answer, of which the answer's tokens count in the loss."""
    return Row((*prompt, *answer), (False,) * len(prompt) + (True,) * len(answer))


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of the labels that count."""
    return nn.functional.cross_entropy(
        widen(logits).flatten(0, 1), labels.flatten(), ignore_index=IGNORED
    )


def _add_adapter(module: PreTrainedModel, seed: int) -> list[nn.Parameter]:
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear")
    with quiet_libraries(), torch.random.fork_rng():
        torch.manual_seed(seed)
        wrapped = get_peft_model(module, config)
    return [value for value in wrapped.parameters() if value.requires_grad]
