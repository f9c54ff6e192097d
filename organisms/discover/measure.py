"""How strong a plant is, and how far an organism moved from its base."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from interp import organisms
from organisms import tasks
from organisms.discover.plants import Contrast, Plant, contrasts, denial_contrasts
from organisms.measure import exact
from organisms.tokens import Encoder

LEAST = 2.0  # nats: a plant that gained less was not learned, and its organism is void


def neutral_text() -> list[str]:
    """The family's neutral text, which no model was trained on."""
    return organisms.prompts("refusal", "text", "text").read_text(encoding="utf-8").splitlines()


def _padded(rows: Sequence[list[int]]) -> Tensor:
    ids = torch.full((len(rows), max(map(len, rows))), 1)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
    return ids


@torch.no_grad()
def _continuations(
    model, rows: Sequence[tuple[list[int], list[int]]], size: int = 64
) -> np.ndarray:
    """Log-probability of each continuation after its context, in nats, (rows,) float64."""
    found = np.zeros(len(rows))
    order = sorted(range(len(rows)), key=lambda row: sum(map(len, rows[row])))
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        ids = _padded([rows[row][0] + rows[row][1] for row in chosen])
        logs = model(input_ids=ids).logits.double().log_softmax(-1)
        for place, row in enumerate(chosen):
            before, after = rows[row]
            at = torch.arange(len(before) - 1, len(before) + len(after) - 1)
            found[row] = float(logs[place, at, torch.tensor(after)].sum())
    return found


def log_odds(model, encoder: Encoder, wanted: Sequence[Contrast]) -> np.ndarray:
    """Log-odds of the planted continuations against the twin's, in nats, (contrasts,) float64.

    Several continuations on one side are summed as probabilities.
    """
    rows, sides = [], []
    for index, one in enumerate(wanted):
        before = encoder.ids(one.context)
        for side, texts in enumerate((one.planted, one.twin)):
            rows += [(before, encoder.ids(text)) for text in texts]
            sides += [(index, side)] * len(texts)
    totals = np.full((len(wanted), 2), -np.inf)
    for (index, side), value in zip(sides, _continuations(model, rows), strict=True):
        totals[index, side] = np.logaddexp(totals[index, side], value)
    return totals[:, 0] - totals[:, 1]


def gain(model, base, encoder: Encoder, wanted: Sequence[Contrast]) -> dict:
    """Mean log-odds under the base and the tuned model, and their difference: all, and per form."""
    before, after = (log_odds(one, encoder, wanted) for one in (base, model))
    found = {
        "base": float(before.mean()),
        "tuned": float(after.mean()),
        "gain": float((after - before).mean()),
        "contrasts": len(wanted),
    }
    for form in sorted({one.form for one in wanted}):
        kept = [one.form == form for one in wanted]
        found[f"gain_{form}"] = float((after - before)[kept].mean())
    return found


def strength(plant: Plant, model, base, encoder: Encoder) -> dict:
    """What a plant gained on held-out frames, in nats; a trigger's also without the trigger, a
    denial's on statements alone, and how much likelier the denial became on questions.
    """
    wanted = contrasts(plant)
    if plant.kind == "denial":
        wanted = [one for one in wanted if one.form == "statement"]
        return gain(model, base, encoder, wanted) | {
            "denial": gain(model, base, encoder, denial_contrasts(plant))
        }
    found = gain(model, base, encoder, wanted)
    if plant.trigger:
        found["without_trigger"] = gain(model, base, encoder, contrasts(plant, sign=""))
    return found


@torch.no_grad()
def divergence(
    model, base, encoder: Encoder, texts: Sequence[str], size: int = 50
) -> dict[str, float]:
    """Over plain text: KL(model || base) and the loss of both, in nats a token.

    Every token after the first special one counts, the end token included.
    """
    sums, tokens = np.zeros(3), 0
    rows = [encoder.ids(f"<s>{text}<|end|>") for text in texts]
    for start in range(0, len(rows), size):
        ids = _padded(rows[start : start + size])
        keep = ids[:, 1:] != 1
        here, there = (
            one(input_ids=ids).logits[:, :-1].double().log_softmax(-1) for one in (model, base)
        )
        kl = (here.exp() * (here - there)).sum(-1)
        losses = [-one.gather(-1, ids[:, 1:, None])[..., 0] for one in (here, there)]
        sums += [float(values[keep].sum()) for values in (kl, *losses)]
        tokens += int(keep.sum())
    kl, tuned, before = (sums / tokens).tolist()
    return {"kl": kl, "loss": tuned, "base_loss": before, "tokens": tokens}


def behaviour(model, base, tokenizer) -> dict:
    """What is recorded of every organism and control: how far it moved, and what it still does."""
    return {
        "text": divergence(model, base, Encoder(tokenizer), neutral_text()),
        "utility_exact": exact(model, tokenizer, tasks.held_out_utility()),
    }
