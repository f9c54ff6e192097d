"""Passes over prompts through both models of a pair, batch by batch, to be streamed into
accumulators.

Prompts are sorted by length so that batches contain little padding. Values come back with the rows
of the prompts they belong to, so no result depends on the order. Nothing is kept between batches.
"""

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.engines import Batch, Edit, Engine
from interp.errors import OptionError, UnsupportedModel, required
from interp.maths.host import to_host
from interp.maths.memory import Memory, activation_budget
from interp.models.anatomy import BLOCK_PARTS, SUM_REMEDY, UNITS_REMEDY
from interp.models.model import Model
from interp.prompts import Encoded
from interp.sites import Site

_TOKENS_ON_CPU, _TOKENS_ON_GPU = 4096, 16384
BatchSize = int | Memory | None
"""Prompts per batch, or the memory that the process may use. None: half of the free memory, at most
1 GiB (512 MiB on a CPU, where a command should need no more than twice the weights plus 1 GB).
"""


@dataclass
class Backoff:
    """How far batches were reduced after memory ran out.

    They were halved ``halvings`` times; ``largest`` is the largest one since, in prompts.
    ``single_prompt_reason``: why prompts are read one at a time regardless of memory; empty where
    they are not.
    """

    halvings: int = 0
    largest: int = 0
    single_prompt_reason: str = ""

    def batch_size(self, count: int) -> int:
        """The batch size to use where it would have been ``count``."""
        size = 1 if self.single_prompt_reason else max(1, count >> self.halvings)
        self.largest = max(self.largest, size)
        return size

    def halve(self) -> bool:
        """Halve the batch size from now on; False if it was already one prompt."""
        possible = self.largest > 1
        self.halvings, self.largest = self.halvings + possible, 0
        gc.collect()  # a traceback can hold tensors in a cycle
        torch.cuda.empty_cache()
        return possible


@dataclass(frozen=True)
class Captured:
    """One batch: rows of the encoded prompts, their tokens and token roles, and activations by
    model role and site.
    """

    rows: Int[Tensor, " B"]
    batch: Batch
    roles: Int[Tensor, "B T"]
    values: Mapping[tuple[str, Site], Float[Tensor, "B T _"]]
    logits: Mapping[str, Float[Tensor, "B kept V"] | None]

    def require_logits(self, role: str) -> Float[Tensor, "B kept V"]:
        """The logits of a model, or OptionError if the pass computed none (``keep`` 0)."""
        if (logits := self.logits[role]) is None:
            raise OptionError(
                "this pass kept no logits; set keep to the number of last positions "
                "whose logits are needed"
            )
        return logits


def batches(
    encoded: Sequence[Encoded],
    model: Model,
    batch_size: BatchSize,
    per_token_bytes: int = 0,
    limit_factor: float = 1.0,
) -> list[list[int]]:
    """Rows grouped into batches of similar length.

    A batch has ``batch_size`` prompts if that is a number; otherwise its tokens are limited by a
    constant and by memory. ``limit_factor`` multiplies that constant.
    """
    order = sorted(range(len(encoded)), key=lambda row: len(encoded[row].ids))
    limit = int(limit_factor * (_TOKENS_ON_CPU if model.device.type == "cpu" else _TOKENS_ON_GPU))
    if per_token_bytes:
        memory = batch_size if isinstance(batch_size, Memory) else None
        limit = max(1, min(limit, activation_budget(memory, model.device) // per_token_bytes))
    groups: list[list[int]] = []
    count = batch_size if isinstance(batch_size, int) else 0
    for row in order:
        tokens = len(encoded[row].ids) * len(encoded[row].texts)
        full = not groups or (
            len(groups[-1]) >= count if count else (len(groups[-1]) + 1) * tokens > limit
        )
        if full:
            groups.append([])
        groups[-1].append(row)
    return groups


def make_batch(
    encoded: Sequence[Encoded],
    rows: Sequence[int],
    pad_id: int,
    device: torch.device,
    side: Literal["left", "right"] = "left",
) -> tuple[Batch, Int[Tensor, "B T"]]:
    """The padded batch of some rows and the role of every cell (-1 on padding).

    A prompt that is read with several continuations has as many consecutive rows in the batch
    (``Encoded.texts``).
    """
    texts = [text for row in rows for text in encoded[row].texts]
    batch = Batch.pad([text.ids for text in texts], pad_id, side, device)
    roles = torch.full(batch.ids.shape, -1, dtype=torch.int64, device=device)
    roles[batch.mask] = torch.tensor([role for text in texts for role in text.roles], device=device)
    return batch, roles


def group_by_prompt(
    values: Float[Tensor, "R *rest"], prompts: int
) -> Float[Tensor, "B texts *rest"]:
    """Rows of a batch grouped by prompt, each with all of its texts."""
    return values.unflatten(0, (prompts, -1))


def capture(
    engine: Engine,
    models: Mapping[str, Model],
    encoded: Sequence[Encoded],
    groups: Iterable[Sequence[int]],
    reads: Sequence[Site],
    *,
    pad_id: int,
    keep: int = 0,
    edits: Sequence[Edit] = (),
    side: Literal["left", "right"] = "left",
) -> Iterator[Captured]:
    """Run every batch through every model of ``models`` and yield what was read.

    ``keep`` 0 skips the language-model head. With ``side="left"`` the last column is the last token
    of every prompt.
    """
    for rows in groups:
        values: dict[tuple[str, Site], Tensor] = {}
        logits: dict[str, Tensor | None] = {}
        batch_and_roles = None
        for role, model in models.items():
            batch, _ = batch_and_roles = make_batch(encoded, rows, pad_id, model.device, side)
            run = engine.run(model, batch, reads=reads, edits=edits, keep=keep)
            logits[role] = run.logits
            values.update({(role, site): value for site, value in run.values.items()})
        yield Captured(
            torch.tensor(rows), *required(batch_and_roles, "a model to read"), values, logits
        )


def require_parts(engine: Engine, model: Model, encoded: Encoded) -> None:
    """Check on one prompt that a block's output is its input plus what attention and MLP add.

    An architecture map can have the right module paths and still be wrong about their meaning, for
    example where a family scales what its parts add. Raises UnsupportedModel.
    """
    if not model.anatomy.has_parts:
        raise UnsupportedModel(
            f"{model.anatomy.architecture} has no exact module for the parts of its blocks; "
            f"{UNITS_REMEDY}"
        )
    batch = Batch.pad([encoded.ids], 0, device=model.device)
    layers = range(model.anatomy.n_layers)
    activations = engine.run(
        model, batch, reads=[Site(layer, part) for layer in layers for part in BLOCK_PARTS], keep=0
    ).values
    for layer in layers:
        resid_pre, attention, mlp, resid_post = (
            activations[Site(layer, part)].double() for part in BLOCK_PARTS
        )
        if not resid_pre.shape == attention.shape == mlp.shape == resid_post.shape:
            raise UnsupportedModel(
                f"{model.name}: block {layer} of {model.anatomy.architecture} gives"
                f" {tuple(mlp.shape)} for its MLP and {tuple(resid_post.shape)} for its output, so"
                f" values cannot be assigned to prompts and tokens; {SUM_REMEDY}"
            )
        # relative to the parts: a large residual stream must not hide an error
        size = float(
            to_host(torch.stack([part.square().mean().sqrt() for part in (attention, mlp)]).max())
        )
        rounding = float(torch.finfo(model.dtype).eps) * float(
            to_host(torch.stack([resid_pre, resid_post]).abs().max())
        )
        error = float(to_host((resid_pre + attention + mlp - resid_post).square().mean().sqrt()))
        if not error <= 1e-3 * size + 4 * rounding:
            raise UnsupportedModel(
                f"{model.name}: block {layer} of {model.anatomy.architecture} is not the sum of its"
                f" parts (off by {error:.2g}, parts of size {size:.2g}); a scaled or hidden branch"
                f" is not supported; {SUM_REMEDY}"
            )
