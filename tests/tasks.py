"""Task files of random words that small random models answer: the answer is what they say."""

import json
import random
from pathlib import Path

import torch

from interp.engines import Batch, TorchEngine
from interp.errors import PromptError
from interp.models.pair import Pair
from interp.prompts import TaskFile, decode, read_task_file
from tests import tiny

ENGINE = TorchEngine()
VOCABULARY = [word for word in tiny.WORDS.split() if word.isalpha()]


def words(rng: random.Random, count: int) -> str:
    """A text of different words."""
    return " ".join(rng.sample(VOCABULARY, count))


def placed(text: str) -> dict:
    """A text with two named words: ``mention`` is the second, ``label`` the last but one."""
    parts = text.split()
    starts = [len(" ".join(parts[:at])) + bool(at) for at in range(len(parts))]
    return {"prompt": text, "positions": {"mention": starts[1], "label": starts[-2]}}


def say(model, tokenizer, text: str) -> str:
    """The most likely next token, as text."""
    ids = tokenizer(text)["input_ids"]
    run = ENGINE.run(model, Batch.pad([ids], 0), keep=1)
    return decode(tokenizer, [int(run.require_logits()[0, -1].argmax())])


def write_task(
    path: Path, pair: Pair, count: int, seed: int = 0, *, corrupt: bool = True, length=(6, 8)
) -> TaskFile:
    """A task both models of a pair answer; ``corrupt`` False: corrupted texts are the prompts."""
    rng = random.Random(seed)
    rows: list[dict] = []
    tokenizer = pair.tokenizer
    for _ in range(5000):
        n = rng.choice(length)
        text = words(rng, n)
        answers = {say(model, tokenizer, text) for model in {pair.tuned, pair.base}}
        row = {
            **placed(text),
            "answer": answers.pop(),
            "cluster": str(len(rows)),
            "corrupt": placed(words(rng, n)) if corrupt else placed(text),
        }
        if answers or not row["answer"].strip() or text in {r["prompt"] for r in rows}:
            continue
        path.write_text(json.dumps(row) + "\n")
        try:
            read_task_file(path).tokens(tokenizer)
        except PromptError:
            continue
        rows.append(row)
        if len(rows) == count:
            break
    assert len(rows) == count, f"{len(rows)} of {count} prompts are answered alike in one token"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_task_file(path)


def worded(model):
    """A model whose head writes words only, so that its answers can be written in a file."""
    tokenizer = tiny.tokenizer(False)
    keep = {tokenizer(f" {word}")["input_ids"][0] for word in VOCABULARY}
    keep &= {i for i in keep if decode(tokenizer, [i]).strip() in VOCABULARY}
    with torch.no_grad():
        head = model.get_output_embeddings().weight
        others = [index for index in range(len(head)) if index not in keep]
        head[others] = 0
    return model
