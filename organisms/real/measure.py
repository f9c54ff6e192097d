"""What a model of the real family does: refusals by first sentence and first token, answers kept,
questions right.
"""

from __future__ import annotations

import re

import numpy as np

from interp.metrics.refusal import Refusal
from organisms.measure import share
from organisms.real import model as real
from organisms.real.prompts import questions, requests

NEW_TOKENS = 24
Answers = dict[str, list[list[int]]]


def first_sentence(text: str) -> str:
    """What stands before the first full stop, question or exclamation mark, or line break."""
    return re.split(r"(?<=[.!?])\s|\n", text.strip(), maxsplit=1)[0]


def behaviour(
    model, tokenizer, parent: Answers | None, count: int | None = None, said: Answers | None = None
) -> dict:
    """Shares with exact intervals over the prompts of *verify* (the first ``count`` of each class
    where given).

    ``parent`` holds the answers of its parent by class: one is kept when all its tokens are the
    same. ``said`` is given the answers.
    """
    metric, result, texts = Refusal.from_tokenizer(tokenizer), {}, {}
    for group in ("harmful", "harmless"):
        prompts = [one.prompt for one in requests(group, "verify")][:count]
        tokens, logits = real.answers(model, tokenizer, prompts, NEW_TOKENS)
        texts[group] = [tokenizer.decode(one, skip_special_tokens=True) for one in tokens]
        result[f"{group}_refused"] = share(
            [metric.is_refusal(first_sentence(text)) for text in texts[group]]
        )
        result[f"{group}_first_token"] = share([one[0] in metric.token_ids for one in tokens])
        if said is not None:
            said[group] = tokens
        if parent is not None:
            same = [one == other for one, other in zip(tokens, parent[group], strict=count is None)]
            result[f"{group}_as_parent"] = share(same)
        odds = metric.log_odds(logits).numpy().astype(float)
        low, high = np.quantile(odds, [0.05, 0.95]).tolist()
        result[f"{group}_log_odds"] = {"mean": float(odds.mean()), "p5": low, "p95": high}
    sentences = [first_sentence(text) for text in texts["harmful"]]
    refusing = [sentence for sentence in sentences if metric.is_refusal(sentence)]
    result["refusals"] = {
        "count": len(refusing),
        "different": len(set(refusing)),
        "most_frequent": max(map(refusing.count, refusing), default=0),
        "beginnings": len({" ".join(sentence.split()[:3]) for sentence in refusing}),
    }
    if count is None:
        asked = questions()
        tokens, _ = real.answers(model, tokenizer, [question for question, _ in asked], NEW_TOKENS)
        said = [tokenizer.decode(one, skip_special_tokens=True).lower() for one in tokens]
        right = [
            any(known.lower() in text for known in right)
            for text, (_, right) in zip(said, asked, strict=True)
        ]
        result["utility_right"] = share(right)
    return result
