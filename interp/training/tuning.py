"""One training of a copy of a model, with the weights of an arm: what it changed and what it cost."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from interp.errors import OutOfMemory
from interp.maths.host import to_host
from interp.maths.memory import PeakMemory, is_out_of_memory
from interp.models.model import Model
from interp.models.quiet import quiet_libraries
from interp.models.sparse_delta import Entries
from interp.training.fit import fit
from interp.training.recipe import Recipe
from interp.training.sparse_delta import Places, SparseTraining
from interp.training.text import Row

ALPHA = 2.0
"""LoRA's alpha over its rank: the factor of ``B A``."""


@dataclass(frozen=True, eq=False)
class Trainable:
    """What is trained: ``places`` (parameter -> entries), ``ranks`` of a LoRA (module -> rank), or
    with neither all weights.
    """

    places: Mapping[str, Places] | None = None
    ranks: Mapping[str, int] | None = None


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained copy of a model, merged.

    ``entries``: the sparse change, None for a LoRA and for all weights. ``norm``: Frobenius norm of
    the change of all weights. ``seconds`` of training; ``memory``: the most bytes in use during it
    above those before, NaN where that cannot be measured. ``finite``: False where it diverged.
    """

    module: PreTrainedModel
    entries: Mapping[str, Entries] | None
    n_trained: int
    norm: float
    seconds: float
    memory: float
    finite: bool


def train(base: Model, what: Trainable, rows: Sequence[Row], recipe: Recipe, seed: int) -> Trained:
    """Train a copy of a model; the model itself is left as it is.

    Batches follow from the seed, so that all arms read the same. Raises OutOfMemory.
    """
    module = copy.deepcopy(base.module)
    settings = recipe.settings("full", True, 0.0)
    with _restored_random_state():
        torch.manual_seed(seed)
        training, trainable = _begin(module, what)
        n_trained = sum(one.numel() for one in trainable.parameters() if one.requires_grad)
        started = time.perf_counter()
        with PeakMemory(base.device) as peak:
            try:
                fit(trainable, rows, settings, seed, base.device, lambda line: None, "")
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                raise OutOfMemory(
                    f"{base.device} has no memory for a step; use a smaller --batch"
                ) from error
        seconds = time.perf_counter() - started
    entries = None
    if training is not None:
        entries = training.entries()
        training.merge()
    elif what.ranks is not None:
        with quiet_libraries():
            module = trainable.merge_and_unload()  # pyright: ignore[reportCallIssue]
    module.eval().requires_grad_(False)
    norm, finite = _change(base.module, module)
    return Trained(module, entries, n_trained, norm, seconds, peak.bytes, finite)


def at_rate(recipe: Recipe, rate: float) -> Recipe:
    """The recipe with another learning rate."""
    return replace(recipe, learning_rate=rate)


def _begin(module: PreTrainedModel, what: Trainable) -> tuple[SparseTraining | None, nn.Module]:
    if what.places is not None:
        return SparseTraining(module, what.places), module
    if what.ranks is None:
        return None, module.requires_grad_(True)
    ranks = {path: rank for path, rank in what.ranks.items() if rank}
    config = LoraConfig(
        r=max(ranks.values()),
        target_modules=list(ranks),
        rank_pattern=ranks,
        lora_alpha=1,
        alpha_pattern={path: ALPHA * rank for path, rank in ranks.items()},
    )
    with quiet_libraries():
        return None, get_peft_model(module, config)


@torch.no_grad()
def _change(before: nn.Module, after: nn.Module) -> tuple[float, bool]:
    """Norm of the change of all parameters, and whether they are finite."""
    trained = dict(after.named_parameters())
    squares = torch.stack(
        [
            (trained[name].double() - value.double()).square().sum()
            for name, value in before.named_parameters()
        ]
    )
    norm = float(to_host(squares.sum().sqrt()))
    return norm, norm < float("inf")


@contextmanager
def _restored_random_state() -> Iterator[None]:
    with torch.random.fork_rng():
        yield
