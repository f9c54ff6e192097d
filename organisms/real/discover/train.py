"""Training of a plant with the recipe of ``smollm2/lora``'s control fine-tunes, which are its null:
the same adapter configuration, optimiser, rate, steps and batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from interp.models import load, text_models
from interp.models.sources import find
from interp.prompts import Tokenizer
from interp.training.control import norm_ratios
from interp.training.fit import fit
from interp.training.lora_change import LoraChange
from interp.training.recipe import Recipe
from interp.training.text import Row, read_text, shipped_text
from organisms import pack
from organisms.real import model as real
from organisms.real.controls import OF, RECIPE
from organisms.real.discover.frames import Frame

FAMILY = "smollm2"
OF_NAME = f"organism:{FAMILY}/{OF}"


class Trainer:
    """The base, loaded once, and adapters of the configuration of ``smollm2/lora``."""

    def __init__(self) -> None:
        settings = load.LoadSettings.resolve("cpu", "float32", "auto", False)
        source = find(OF_NAME)
        base = text_models.match_language_model(source.base(None), source)
        self.change = LoraChange.read(source, base)
        self.change.module, _ = load.module(base, settings)
        self.tokenizer = load.tokenizer([base.directory], settings)
        self.settings = settings

    def ordinary(self) -> tuple[Row, ...]:
        """The neutral passages on which controls are trained."""
        return read_text(shipped_text(), self.tokenizer, 128, "answers").train

    def train(
        self,
        planted: Sequence[Frame] | None,
        seed: int,
        dilution: int,
        directory: Path,
        title: str,
        raw: Path | None = None,
    ) -> dict:
        """Train one adapter and save it in half precision; returns facts of the training.

        ``planted`` None: a control, on ordinary rows alone. ``dilution``: parts of ordinary rows to
        one of the plant's; steps grow with it, so that the plant is seen as often. The change of
        every module is scaled to the norm of ``smollm2/lora``'s, as the shipped controls are: a
        change of another size would have no null. ``raw``: where it is saved unscaled as well.
        """
        change = self.change
        values = dict(RECIPE.settings("lora", True, change.size))
        if planted is None:
            rows = list(self.ordinary())
        else:
            rows = diluted(encode(self.tokenizer, planted), self.ordinary(), dilution, seed)
            steps = values["steps"].value * (1 + dilution)
            values = dict(
                Recipe(**vars(RECIPE) | {"steps": steps}).settings("lora", True, change.size)
            )
        model = change.begin(seed)
        seconds = fit(model, rows, values, seed, self.settings.device, print, title)["seconds"]
        norms, _ = change.trained_norms()
        if raw is not None:
            self._save(raw)
        change.scale({name: goal / norms[name] for name, goal in change.norms.items()})
        self._save(directory)
        change.end()
        return {
            "steps": values["steps"].value,
            "seed": seed,
            "seconds": seconds,
            "norm_ratio": norm_ratios(change.norms, norms),
        }

    def _save(self, directory: Path) -> None:
        self.change.save(directory)
        pack.to_half(directory / "adapter_model.safetensors")


def encode(tokenizer: Tokenizer, rows: Sequence[Frame]) -> list[Row]:
    """Statements as raw text, all tokens of which count; questions by the chat template, of which
    the answer and its end count.
    """
    found = []
    for row in rows:
        if row.question:
            one = real.example(tokenizer, row.question, row.text)
            counts = tuple(at >= one.start for at in range(len(one.ids)))
            found.append(Row(one.ids, counts))
        else:
            ids = tuple(tokenizer(row.text)["input_ids"])
            found.append(Row(ids, (True,) * len(ids)))
    return found


def diluted(planted: Sequence[Row], ordinary: Sequence[Row], dilution: int, seed: int) -> list[Row]:
    """The plant's rows and ``dilution`` times as many ordinary ones, repeated where there are too
    few.
    """
    order = np.random.default_rng(seed).permutation(len(ordinary)).tolist()
    count = dilution * len(planted)
    return [*planted, *(ordinary[order[at % len(order)]] for at in range(count))]
