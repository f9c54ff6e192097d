"""The training recipe of a control fine-tune, with the source of every value.

The files of a fine-tune say which weights it changed, but not how it was trained. A value that is
not given is assumed, and is marked as assumed wherever it is written.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from interp.errors import OptionError

SCHEDULES = {"cosine": 0.5, "linear": 0.5, "constant": 1.0}
"""By schedule the mean learning rate after the warm-up, as a share of the maximum."""
OPTIMIZERS = {"adamw": "adamw_torch", "adafactor": "adafactor", "sgd": "sgd"}
PRECISIONS = ("float32", "bfloat16")
LOSSES = ("answers", "all")
MOVEMENT = 0.29
"""Mean change of a parameter per step of Adam over the training, root mean square, in units of the
learning rate.

Measured: ``movement`` in ``control.json`` of ``smollm2/control-0``. It decreases with the number of
steps.
"""
STEPS = (20, 2000)
"""Minimum and maximum number of steps that are planned."""
GIVEN, ASSUMED, READ = "given", "assumed", "adapter_config.json"


@dataclass(frozen=True)
class Setting:
    """A value and its source: ``given``, ``assumed``, or the name of a file."""

    value: Any
    source: str = ASSUMED

    def to_json(self) -> dict[str, Any]:
        """As JSON, for the record."""
        return {"value": self.value, "from": self.source}

    def __str__(self) -> str:
        value = f"{self.value:g}" if isinstance(self.value, float) else str(self.value)
        return value + (f" ({self.source})" if self.source != GIVEN else "")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Training options; None stands for an assumed value.

    ``steps`` None: planned from the size of the fine-tune's change, see ``planned``. ``batch``:
    passages per step, cut at ``length`` tokens. ``warm_up``: share of the steps in which the
    learning rate rises. ``loss``: on ``answers`` alone, or on ``all`` tokens. ``precision``: of the
    passes; weights are always float32.
    """

    optimizer: str | None = None
    learning_rate: float | None = None
    schedule: str | None = None
    warm_up: float | None = None
    weight_decay: float | None = None
    clip: float | None = None
    batch: int | None = None
    length: int | None = None
    steps: int | None = None
    loss: str | None = None
    precision: str | None = None

    def __post_init__(self) -> None:
        for name, known in (
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("precision", PRECISIONS),
            ("loss", LOSSES),
        ):
            value = getattr(self, name)
            if value is not None and value not in known:
                raise OptionError(f"unknown {name} {value!r}; use {', '.join(known)}")
        for name in ("batch", "length", "steps"):
            value = getattr(self, name)
            if value is not None and value < (2 if name == "length" else 1):
                raise OptionError(
                    f"{name} {value} is too small; use at least {2 if name == 'length' else 1}"
                )
        if self.learning_rate is not None and not 0 < self.learning_rate < 1:
            raise OptionError(
                f"a learning rate of {self.learning_rate:g}; give one between 0 and 1"
            )
        if self.warm_up is not None and not 0 <= self.warm_up < 1:
            raise OptionError(
                f"a warm-up of {self.warm_up:g} of the steps; give a share from 0 to below 1"
            )
        if min(self.weight_decay or 0.0, self.clip or 0.0) < 0:
            raise OptionError("weight decay and clipping must not be negative; use 0 for none")

    def settings(self, kind: str, has_answers: bool, change: float) -> dict[str, Setting]:
        """Every value with its source.

        ``kind``: ``lora`` or ``full``. ``has_answers``: whether the text has answers for the loss.
        ``change``: root mean square change of the fine-tune's parameters, see ``planned``.
        """
        assumed = {
            "optimizer": "adamw",
            "learning_rate": 1e-4 if kind == "lora" else 1e-5,
            "schedule": "cosine",
            "warm_up": 0.03,
            "weight_decay": 0.0,
            "clip": 1.0,
            "batch": 2,
            "length": 128,
            "steps": 0,
            "loss": "answers" if has_answers else "all",
            "precision": "float32",
        }
        settings = {
            item.name: Setting(value, GIVEN)
            if (value := getattr(self, item.name)) is not None
            else Setting(assumed[item.name])
            for item in fields(self)
        }
        if self.steps is None:
            settings["steps"] = Setting(planned_steps(change, settings))
        return settings


def mean_rate(settings: dict[str, Setting]) -> float:
    """Mean learning rate over the training."""
    warm_up = settings["warm_up"].value
    share = 0.5 * warm_up + SCHEDULES[settings["schedule"].value] * (1 - warm_up)
    return settings["learning_rate"].value * share


def planned_steps(change: float, settings: dict[str, Setting]) -> int:
    """Number of steps after which a control should have changed as much as the fine-tune.

    A step of Adam changes every parameter by about the same share of the learning rate, so that the
    size of a change is about ``MOVEMENT`` times mean learning rate times steps. ``change``: root
    mean square of the fine-tune's change (for LoRA of B, which starts at 0).
    """
    steps = change / (MOVEMENT * mean_rate(settings))
    return min(max(10 * round(steps / 10), STEPS[0]), STEPS[1])
