"""What the fine-tuned model answers to prompts with a token in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from interp.analyzers.trigger_scan.places import Place
from interp.experiments.discovery.samples import unpadded
from interp.interventions.generation import GENERATION_BATCH_FACTOR, cached_bytes, generate
from interp.interventions.teacher_forcing import Text
from interp.prompts import Encoded
from interp.study import Study


@dataclass(frozen=True)
class Answer:
    """``example``: the user's text with the token marked by « and », and ``answer``."""

    example: str
    answer: str


def answers_with(study: Study, shown: Sequence[tuple[Place, int]], tokens: int) -> list[Answer]:
    """Greedy answers of the fine-tuned model, at most ``tokens`` long, to places with a token; each
    prompt is written up to its end.
    """
    model, decode = study.pair.tuned, study.pair.tokenizer.decode
    texts = [place.with_token(token) for place, token in shown]
    coded = [Encoded(text, (0,) * len(text)) for text in texts]
    written: list[list[int]] = [[] for _ in texts]
    if texts:
        groups = study.batches(
            coded, model, cached_bytes(model, None, coded, tokens), GENERATION_BATCH_FACTOR
        )
        groups = unpadded(groups, model, coded, tokens)
        for rows in study.progress(groups, "answers with the listed tokens"):
            text = Text([texts[row] for row in rows], None, study.pad_id, study.stop_ids)
            answers = generate(study.engine, model, text, tokens)
            for row, answer in zip(rows, answers, strict=True):
                written[row] = answer
    return [
        _answer(place, token, study.decode(answer), decode)
        for (place, token), answer in zip(shown, written, strict=True)
    ]


def _answer(place: Place, token: int, answer: str, decode) -> Answer:
    before, after = place.parts()
    said = " ".join(answer.split())
    example = f"{decode(list(before))}«{decode([token])}»{decode(list(after))} → {said}"
    return Answer(example, said)
