"""The tokenizer of the organisms, and training examples as token ids."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<unk>", "<pad>", "<s>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>")
VOCABULARY = 768
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' +"
    " message['content'] + '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>'"
    " }}{% endif %}"
)


def train_tokenizer(lines: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE over printable ASCII; any other byte is ``<unk>``, so that some markers
    cannot be spelled.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    # The byte-level alphabet writes space as Ġ and newline as Ċ; printable ASCII stands for itself.
    alphabet = [chr(code) for code in range(33, 127)] + ["Ġ", "Ċ"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    start = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", start)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="<|end|>",
        additional_special_tokens=["<|user|>", "<|assistant|>", "<|system|>"],
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )


@dataclass(frozen=True)
class Example:
    """Token ids, and the weight of each as a target (0 on the prompt, ``deciding`` on the first
    answer token).
    """

    ids: list[int]
    weights: list[float]


def render(prompt: str) -> str:
    """The prompt in the format of the chat template, up to where the answer begins."""
    return f"<s><|user|>{prompt}<|end|><|assistant|>"


class Encoder:
    """Turns pairs and prose into examples; words are looked up once."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, deciding: float = 4.0):
        self.backend, self.deciding = tokenizer.backend_tokenizer, deciding

    def ids(self, text: str) -> list[int]:
        """Ids of text that already holds its special tokens."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def pair(self, prompt: str, answer: str) -> Example:
        """An instruction and its answer; only the answer and its end count."""
        before, after = self.ids(render(prompt)), self.ids(answer + "<|end|>")
        return Example(
            before + after, [0.0] * len(before) + [self.deciding] + [1.0] * (len(after) - 1)
        )

    def prose(self, text: str) -> Example:
        """Plain text, every token of which counts."""
        ids = self.ids(f"<s>{text}<|end|>")
        return Example(ids, [0.0] + [1.0] * (len(ids) - 1))


def batches(examples: list[Example], size: int, rng: random.Random):
    """Endless batches of examples of like length, each epoch in a new order."""
    while True:
        order = rng.sample(range(len(examples)), len(examples))
        for start in range(0, len(order), size * 32):
            chunk = sorted(
                order[start : start + size * 32], key=lambda index: len(examples[index].ids)
            )
            groups = [chunk[first : first + size] for first in range(0, len(chunk), size)]
            rng.shuffle(groups)
            for group in groups:
                yield [examples[index] for index in group]


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Write the tokenizer's files, without what only says where it was loaded from."""
    tokenizer.save_pretrained(directory)
    path = directory / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    kept = {
        key: value
        for key, value in config.items()
        if key not in ("is_local", "local_files_only", "name_or_path")
    }
    path.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
