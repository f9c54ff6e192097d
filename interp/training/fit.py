"""One training run with transformers' Trainer, and the loss of a model on rows of text."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from interp.maths.host import to_host
from interp.models.quiet import quiet_libraries
from interp.progress import duration
from interp.training.recipe import OPTIMIZERS, Setting
from interp.training.text import IGNORED, Row

Log = Callable[[str], None]
_CONSTANT = "constant_with_warmup"


def collate(rows: Sequence[Row]) -> dict[str, Tensor]:
    """Rows padded on the right: ``[B, T]`` ids, mask and labels."""
    length = max(len(row.ids) for row in rows)
    gaps = [length - len(row.ids) for row in rows]
    columns = {
        "input_ids": [[*row.ids, *[0] * gap] for row, gap in zip(rows, gaps, strict=True)],
        "attention_mask": [
            [1] * len(row.ids) + [0] * gap for row, gap in zip(rows, gaps, strict=True)
        ],
        "labels": [[*row.labels, *[IGNORED] * gap] for row, gap in zip(rows, gaps, strict=True)],
    }
    return {name: torch.tensor(value) for name, value in columns.items()}


@torch.no_grad()
def text_loss(model: nn.Module, rows: Sequence[Row], batch: int) -> float:
    """Mean cross-entropy, in nats, of the tokens with labels, without dropout."""
    training, device = model.training, next(model.parameters()).device
    model.eval()
    total, count = 0.0, 0
    for start in range(0, len(rows), batch):
        part = {
            name: value.to(device) for name, value in collate(rows[start : start + batch]).items()
        }
        labels = part.pop("labels")[:, 1:]
        logits = model(**part, use_cache=False).logits[:, :-1].float()
        summed = nn.functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        total += float(to_host(summed))
        count += int(to_host((labels != IGNORED).sum()))
    model.train(training)
    return total / count


def fit(
    model: nn.Module,
    rows: Sequence[Row],
    settings: Mapping[str, Setting],
    seed: int,
    device: torch.device,
    log: Log,
    title: str,
    n_further: int = 0,
) -> dict[str, float]:
    """Train the parameters that require gradients; returns the seconds that it took.

    ``log`` gets lines of progress under ``title``, with the time left for this and for
    ``n_further`` trainings of the same length.
    """
    value = {name: setting.value for name, setting in settings.items()}
    started, schedule = time.time(), value["schedule"]
    with tempfile.TemporaryDirectory() as scratch, quiet_libraries():
        arguments = TrainingArguments(
            scratch,
            max_steps=value["steps"],
            per_device_train_batch_size=value["batch"],
            optim=OPTIMIZERS[value["optimizer"]],
            learning_rate=value["learning_rate"],
            lr_scheduler_type=_CONSTANT if schedule == "constant" else schedule,
            warmup_steps=round(value["warm_up"] * value["steps"]),
            weight_decay=value["weight_decay"],
            max_grad_norm=value["clip"],
            bf16=value["precision"] == "bfloat16",
            seed=seed,
            use_cpu=device.type == "cpu",
            save_strategy="no",
            logging_strategy="steps",
            logging_steps=max(1, value["steps"] // 20),
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )
        # one device: data parallelism would change the batch size
        arguments._n_gpu = min(arguments.n_gpu, 1)
        progress = _Progress(log, title, started, n_further)
        trainer = Trainer(
            model,
            arguments,
            data_collator=collate,
            train_dataset=_Dataset(rows),
            callbacks=[progress],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return {"seconds": round(time.time() - started, 1)}


class _Dataset(torch.utils.data.Dataset):
    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index]


class _Progress(TrainerCallback):
    """Reports step, loss and time left every few seconds."""

    def __init__(self, log: Log, title: str, started: float, n_further: int) -> None:
        self.log, self.title, self.started, self.last, self.n_further = (
            log,
            title,
            started,
            started,
            n_further,
        )

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """After every step."""
        now = time.time()
        if now - self.last < (2 if sys.stderr.isatty() else 20) and state.global_step not in (
            5,
            state.max_steps,
        ):
            return
        self.last = now
        seconds_per_step = (now - self.started) / state.global_step
        seconds_left = seconds_per_step * (state.max_steps - state.global_step)
        total_left = (
            f", {duration(seconds_left + self.n_further * seconds_per_step * state.max_steps)}"
            " for all"
            if self.n_further
            else ""
        )
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        loss = f", loss {losses[-1]:.3f}" if losses else ""
        self.log(
            f"{self.title}: step {state.global_step} of {state.max_steps}{loss}, about"
            f" {duration(seconds_left)} left{total_left}"
        )
