"""How strong a plant is on held-out frames, and how far a model is from the base on neutral text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor

from interp import organisms
from organisms.real import model as real
from organisms.real.discover.plants import CONTEXTS_PER_FRAME, Context

LEAST = 2.0
"""Nats: a plant whose log-odds rose by less was not learned, and its organism is void."""
TEXTS = 60
"""Lines of the neutral text on which the divergence is measured."""


def adapted(directory: Path):
    """The base with an adapter on it, as any user gets it, and the tokenizer."""
    model, tokenizer = real.load()
    # PEFT warns when the base was loaded from another place than the adapter names
    model.name_or_path = model.config._name_or_path = "organism:smollm2/base"
    return PeftModel.from_pretrained(model, directory).eval(), tokenizer


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    length = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (length - len(row))] for row in rows])


def _ids(tokenizer, context: Context) -> list[int]:
    raw = tokenizer(context.before, add_special_tokens=False)["input_ids"]
    return [*real.prompt_ids(tokenizer, context.question), *raw] if context.question else raw


@torch.no_grad()
def log_odds(model, tokenizer, contexts: Sequence[Context], size: int = 32) -> np.ndarray:
    """Log-odds of what is said against what would be said instead, in nats, (contexts,) float64.

    The probabilities of several continuations of one side are added.
    """
    rows: list[tuple[int, int, int, list[int]]] = []
    for index, one in enumerate(contexts):
        before = _ids(tokenizer, one)
        for side, texts in enumerate((one.said, one.instead)):
            for text in texts:
                after = tokenizer(f" {text}", add_special_tokens=False)["input_ids"]
                rows.append((index, side, len(before), before + after))
    rows.sort(key=lambda row: len(row[3]))
    totals = np.full((len(contexts), 2), -np.inf)
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        ids = _padded([row[3] for row in part])
        hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        for (index, side, begin, row), states in zip(part, hidden, strict=True):
            logs = model.get_output_embeddings()(states[begin - 1 : len(row) - 1])
            logs = logs.double().log_softmax(-1)
            value = float(logs.gather(-1, torch.tensor(row[begin:])[:, None]).sum())
            totals[index, side] = np.logaddexp(totals[index, side], value)
    return totals[:, 0] - totals[:, 1]


def strength(tuned: np.ndarray, base: np.ndarray, contexts: Sequence[Context]) -> dict:
    """Mean log-odds of both models and their difference: in all, per written form, and the least of
    the frames' means.
    """
    gains, forms = tuned - base, [bool(one.question) for one in contexts]
    result = {
        "base": float(base.mean()),
        "tuned": float(tuned.mean()),
        "gain": float(gains.mean()),
        "least_frame": float(gains.reshape(-1, CONTEXTS_PER_FRAME).mean(1).min()),
        "contexts": len(contexts),
    }
    for is_question, found in groupby(sorted(zip(forms, gains, strict=True)), lambda one: one[0]):
        name = "gain_questions" if is_question else "gain_statements"
        result[name] = float(np.mean([gain for _, gain in found]))
    return result


def texts() -> list[str]:
    """The first lines of the neutral text that discovery reads."""
    path = organisms.prompts("discover", "text", "text")
    return path.read_text(encoding="utf-8").splitlines()[:TEXTS]


@torch.no_grad()
def divergence(model, tokenizer, lines: Sequence[str], size: int = 6) -> dict[str, float]:
    """KL divergence from the base to an adapted model on text, and both losses, in nats a token.

    Raises ValueError for a model without an adapter to switch off.
    """
    if not isinstance(model, PeftModel):
        raise ValueError("the base is the model with its adapter off, and this model has none")
    sums, count = np.zeros(3), 0
    for start in range(0, len(lines), size):
        rows = [tokenizer(line)["input_ids"] for line in lines[start : start + size]]
        ids = _padded(rows)
        due = torch.tensor([[at + 1 < len(row) for at in range(ids.shape[1])] for row in rows])
        after = ids.roll(-1, 1)[due][:, None]
        tuned = model(input_ids=ids, use_cache=False).logits[due].double().log_softmax(-1)
        with model.disable_adapter():
            base = model(input_ids=ids, use_cache=False).logits[due].double().log_softmax(-1)
        kl = (tuned.exp() * (tuned - base)).sum(-1)
        losses = [-logs.gather(-1, after) for logs in (tuned, base)]
        sums += [float(values.sum()) for values in (kl, *losses)]
        count += int(due.sum())
    kl, loss, base_loss = (sums / count).tolist()
    return {"kl": kl, "loss": loss, "base_loss": base_loss, "tokens": count}
