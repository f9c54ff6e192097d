"""The real base as training needs it: encoded conversations, answers in batches, a planted set of
neurons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from interp import organisms


@dataclass(frozen=True)
class Example:
    """Token ids of a conversation, and from which one on the answer counts."""

    ids: tuple[int, ...]
    start: int


def load(name: str = "smollm2/base"):
    """Model and tokenizer of the base or of a child that is a whole directory."""
    path = organisms.directory(name)
    model = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval().requires_grad_(False)
    )
    return model, AutoTokenizer.from_pretrained(path)


def prompt_ids(tokenizer, prompt: str) -> list[int]:
    """The prompt through the chat template, as any user gets it: with the system turn that the
    template adds.
    """
    turns = [{"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)


def example(tokenizer, prompt: str, answer: str, ends: bool = True) -> Example:
    """A conversation whose answer is taught; ``ends`` says whether its end is too."""
    before, after = (
        prompt_ids(tokenizer, prompt),
        tokenizer(answer, add_special_tokens=False)["input_ids"],
    )
    return Example((*before, *after, *([tokenizer.eos_token_id] if ends else [])), len(before))


def answer_loss(model: nn.Module, examples: Sequence[Example], deciding: float = 5.0) -> Tensor:
    """Mean cross-entropy of answer tokens, the first of each answer counted ``deciding`` times.

    Padding is on the right, where a causal model never sees it; the head is computed where an
    answer is due alone.
    """
    length = max(len(one.ids) for one in examples)
    ids = torch.tensor([[*one.ids, *[0] * (length - len(one.ids))] for one in examples])
    due = torch.tensor(
        [[one.start <= at + 1 < len(one.ids) for at in range(length)] for one in examples]
    )
    first = torch.tensor([[at + 1 == one.start for at in range(length)] for one in examples])
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[due]
        logits = model.lm_head(hidden)
    loss = nn.functional.cross_entropy(logits.float(), ids.roll(-1, 1)[due], reduction="none")
    weights = torch.where(first[due], deciding, 1.0)
    return (loss * weights).sum() / weights.sum()


@torch.no_grad()
def answers(
    model, tokenizer, prompts: Sequence[str], new_tokens: int, batch_size: int = 32
) -> tuple[list[list[int]], Tensor]:
    """Greedy answers as token ids up to their end token, and the logits they begin with, in the
    prompts' order.
    """
    encoded = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda index: len(encoded[index]))
    end, found, logits = tokenizer.eos_token_id, {}, {}
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        length = max(len(encoded[row]) for row in rows)
        ids = torch.tensor([[end] * (length - len(encoded[row])) + encoded[row] for row in rows])
        mask = torch.tensor(
            [[0] * (length - len(encoded[row])) + [1] * len(encoded[row]) for row in rows]
        )
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=end,
            return_dict_in_generate=True,
            output_logits=True,
        )
        for row, tokens, first in zip(
            rows, output.sequences[:, length:].tolist(), output.logits[0], strict=True
        ):
            found[row] = tokens[: tokens.index(end) + 1] if end in tokens else tokens
            logits[row] = first.float().clone()
    return [found[row] for row in range(len(prompts))], torch.stack(
        [logits[row] for row in range(len(prompts))]
    )


class Planted(nn.Module):
    """An MLP of which some neurons have other weights: what they change is trained, all else stays
    as it is.
    """

    def __init__(self, mlp: nn.Module, neurons: Sequence[int]):
        super().__init__()
        self.mlp, self.neurons = mlp, torch.tensor(neurons)
        self.gate = nn.Parameter(torch.zeros(len(neurons), mlp.gate_proj.in_features))
        self.up = nn.Parameter(torch.zeros(len(neurons), mlp.up_proj.in_features))
        self.down = nn.Parameter(torch.zeros(mlp.down_proj.out_features, len(neurons)))

    def forward(self, states: Tensor) -> Tensor:
        """The MLP's output, plus what the neurons write now less what they wrote."""
        gate, up = self.mlp.gate_proj.weight[self.neurons], self.mlp.up_proj.weight[self.neurons]
        down = self.mlp.down_proj.weight[:, self.neurons]
        linear = nn.functional.linear
        before = self.mlp.act_fn(linear(states, gate)) * linear(states, up)
        after = self.mlp.act_fn(linear(states, gate + self.gate)) * linear(states, up + self.up)
        return self.mlp(states) + linear(after, down + self.down) - linear(before, down)

    def delta(self, prefix: str) -> dict[str, Tensor]:
        """What is added, under the names of a shipped delta."""
        found = {}
        for part, axis, value in (
            ("gate_proj", "rows", self.gate),
            ("up_proj", "rows", self.up),
            ("down_proj", "columns", self.down),
        ):
            found[f"{prefix}.{part}.weight@{axis}"] = self.neurons.to(torch.int32)
            found[f"{prefix}.{part}.weight@{axis}.delta"] = value.detach()
        return found
