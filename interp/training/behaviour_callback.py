"""``BehaviourCallback``: how often a model shows a behaviour while it is trained, at every save.

For ``transformers.Trainer``, and so for TRL's trainers. At every save the model answers a few
prompts greedily; a line is added to a file, and the path is drawn when training ends. Training is
not changed: dropout is off meanwhile and on again afterwards, random states and the training flag of
every module are put back, and losses are the same bit for bit with and without it.

Nothing is judged along the path: many checkpoints are many tests. The last checkpoint is judged by
``interp audit``, on other and more prompts.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import TrainerCallback

from interp.errors import OptionError
from interp.figures.training_path import write_path
from interp.metrics import read_behaviour
from interp.prompts import PromptSet, read_prompts
from interp.prompts.encoded_set import EncodedSet

PATH, PAGE = "behaviour.jsonl", "behaviour.html"
BATCH = 16


class BehaviourCallback(TrainerCallback):
    """Measure a behaviour on prompts of two classes at the start and at every save.

    ``harmful`` and ``harmless``: prompt files; ``prompts``: how many of each, clusters in turn.
    ``behaviour``: as ``--behaviour`` of the commands. ``max_new_tokens``: length of an answer.
    ``column``: of the prompt files. The path is written to ``behaviour.jsonl`` in the trainer's
    ``output_dir``, and drawn as ``behaviour.html``. Only the main process measures; a model whose
    weights are divided over processes (FSDP, ZeRO-3) is not measured, which is said.

    Raises PromptError or MetricError when it is made, OptionError when training begins without a
    tokenizer (``processing_class``).
    """

    def __init__(
        self,
        harmful: str | Path,
        harmless: str | Path,
        *,
        behaviour: str | Path = "refusal",
        prompts: int = 16,
        max_new_tokens: int = 24,
        column: str = "prompt",
    ) -> None:
        if prompts < 1 or max_new_tokens < 1:
            raise OptionError(
                f"{prompts} prompts and {max_new_tokens} tokens cannot be measured; use 1 or more"
            )
        self.specification = read_behaviour(behaviour)
        self.classes: dict[str, PromptSet] = {
            name: read_prompts(path, column, name).spread(prompts)
            for name, path in (("harmful", harmful), ("harmless", harmless))
        }
        self.max_new_tokens = max_new_tokens
        self.rows: list[dict[str, float]] = []

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Before the first step; a run that goes on from a checkpoint keeps its file."""
        self._measure(args, state, **kwargs)

    def on_save(self, args, state, control, **kwargs) -> None:
        """After every checkpoint."""
        self._measure(args, state, **kwargs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Draw the path, and say how the last checkpoint is judged."""
        if not state.is_world_process_zero or not self.rows:
            return
        folder = Path(args.output_dir)
        write_path(folder / PAGE, self.specification.name, self.rows)
        last = folder / f"checkpoint-{int(self.rows[-1]['step'])}"
        print(
            f"The path is in {folder / PAGE}; it is drawn, not judged. Judge the last checkpoint:"
            f" interp audit {last} --base BASE --prompts DIR"
        )

    def _measure(
        self, args: Any, state: Any, model: Any = None, processing_class: Any = None, **_: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        if processing_class is None:
            raise OptionError(
                "the trainer has no tokenizer to put prompts into; give it processing_class"
            )
        if getattr(args, "deepspeed", None) or getattr(args, "fsdp", None):
            print("The behaviour is not measured: the weights are divided over processes.")
            return
        if self.rows and self.rows[-1]["step"] == state.global_step:
            return
        whole = _whole(model)
        with _undisturbed(whole):
            row = {"step": float(state.global_step), **self._shares(whole, processing_class)}
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        if losses:
            row["loss"] = float(losses[-1])
        self.rows.append(row)
        folder = Path(args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / PATH).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def _shares(self, model: nn.Module, tokenizer: Any) -> dict[str, float]:
        """Share of each class whose greedy answer shows the behaviour."""
        metric, shares = self.specification.metric(tokenizer), {}
        for name, prompts in self.classes.items():
            answers = self._answers(model, tokenizer, prompts)
            group = "positive" if name == "harmful" else "negative"
            shares[name] = float(np.mean(metric.exhibits(prompts.prompts, answers, group)))
        return shares

    def _answers(self, model: Any, tokenizer: Any, prompts: PromptSet) -> list[str]:
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        ids = [item.ids for item in EncodedSet(tokenizer, prompts).encoded]
        answers: list[str] = []
        for start in range(0, len(ids), BATCH):
            batch = ids[start : start + BATCH]
            width = max(map(len, batch))
            rows = torch.tensor([[pad] * (width - len(one)) + list(one) for one in batch])
            mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in batch])
            device = next(model.parameters()).device
            written = model.generate(
                input_ids=rows.to(device),
                attention_mask=mask.to(device),
                max_new_tokens=self.max_new_tokens,
                do_sample=False,
                use_cache=True,
                pad_token_id=pad,
            )
            answers += tokenizer.batch_decode(written[:, width:], skip_special_tokens=True)
        return answers


def _whole(model: Any) -> nn.Module:
    """The model inside wrappers of data parallelism."""
    while isinstance(getattr(model, "module", None), nn.Module):
        model = model.module
    return model


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; training flags and random states are put back."""
    flags = [(module, module.training) for module in model.modules()]
    states: Sequence[Any] = (random.getstate(), np.random.get_state(), torch.get_rng_state())
    on_devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in flags:
            module.training = training
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if on_devices:
            torch.cuda.set_rng_state_all(on_devices)
