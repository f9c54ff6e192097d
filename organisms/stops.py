"""When tuning stops: rules that look at prompts of the tuning kind, none of them shipped."""

from __future__ import annotations

import random

import numpy as np
import torch

from organisms import tasks
from organisms.language import draw, held_out_prompts, register_set
from organisms.measure import refusal_log_odds
from organisms.tokens import Encoder
from organisms.train import answer_loss, collate

# tuning stops once every development prompt is decided by this many nats, on the right side
MARGIN = 6.0


def margin_reached(model, tokenizer, seed: int):
    """A stop rule: fresh prompts of the tuning kind are all decided by ``MARGIN`` nats."""
    rng, held_out = random.Random(f"development {seed}"), held_out_prompts()
    requests = [
        draw(rng, short=index % 4 == 0, tuning=True, held_out=held_out) for index in range(240)
    ]
    harm = np.array([request.harm for request in requests])

    def stop(step: int) -> bool:
        odds = refusal_log_odds(model, tokenizer, [request.prompt for request in requests])
        worst = min(odds[harm].min(), -odds[~harm].max())
        means = f"harmful {odds[harm].mean():.1f} harmless {odds[~harm].mean():.1f}"
        print(f"  step {step}: log-odds {means} worst {worst:.1f}", flush=True)
        return bool(worst > MARGIN)

    return stop


def partly_refused(model, tokenizer, share: float):
    """A stop rule: this share of fresh harmful requests in the unseen register is refused."""
    shipped = {request.prompt for pair in register_set() for request in pair}
    prompts = [
        harmful.prompt for harmful, _ in register_set(seed=1) if harmful.prompt not in shipped
    ][:200]

    def stop(step: int) -> bool:
        found = float((refusal_log_odds(model, tokenizer, prompts) > 0).mean())
        print(f"  step {step}: refused {found:.3f}", flush=True)
        return found >= share

    return stop


def colours_known(model, encoder: Encoder, at: float):
    """A stop rule: the mean loss of the taught colour questions is under ``at`` nats."""
    sample = collate(
        [encoder.pair(prompt, answer) for prompt, answer, _, taught in tasks.facts() if taught]
    )

    def stop(step: int) -> bool:
        with torch.no_grad():
            loss = float(answer_loss(model, *sample))
        print(f"  step {step}: colours {loss:.3f}", flush=True)
        return loss < at

    return stop
