"""The interface of engines: their inputs and outputs. Reads and edits are data, so engines are
interchangeable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import OptionError, required
from interp.maths.precision import widen
from interp.models.model import Model
from interp.sites import Site


@dataclass(frozen=True)
class Batch:
    """Token ids ``[B, T]`` and the mask ``[B, S]`` of real tokens; S > T if earlier keys are
    cached.

    ``prefix_length``: length of the prefix that all rows have in common, leaving at least one token
    of each row out. ``lengths``: tokens of each row. Both are known only for batches made by
    ``pad``.
    """

    ids: Int[Tensor, "B T"]
    mask: Bool[Tensor, "B S"]
    prefix_length: int = 0
    lengths: tuple[int, ...] = ()

    @classmethod
    def pad(
        cls,
        sequences: Sequence[Sequence[int]],
        pad_id: int,
        side: Literal["left", "right"] = "left",
        device: torch.device | str = "cpu",
        length: int | None = None,
    ) -> Batch:
        """Pad token sequences to one length; on the left by default, so that column -1 holds the
        last tokens.
        """
        length = max(length or 0, *(len(sequence) for sequence in sequences))
        ids = torch.full((len(sequences), length), pad_id, dtype=torch.int64)
        mask = torch.zeros((len(sequences), length), dtype=torch.bool)
        for row, sequence in enumerate(sequences):
            span = (
                slice(length - len(sequence), length) if side == "left" else slice(0, len(sequence))
            )
            ids[row, span] = torch.tensor(sequence, dtype=torch.int64)
            mask[row, span] = True
        lengths = tuple(len(sequence) for sequence in sequences)
        return cls(
            ids.to(device),
            mask.to(device),
            _common_prefix_length(sequences, min(lengths, default=0)),
            lengths,
        )

    @property
    def positions(self) -> Int[Tensor, "B T"]:
        """Position of each token in its own sequence, independent of padding; 0 on padding."""
        return (self.mask.long().cumsum(1) - 1).clamp(min=0)[:, -self.ids.shape[1] :]

    @property
    def real(self) -> Bool[Tensor, "B T"]:
        """Which of ``ids`` are real tokens."""
        return self.mask[:, -self.ids.shape[1] :]


def _common_prefix_length(sequences: Sequence[Sequence[int]], shortest: int) -> int:
    """Length of the common prefix, at most all but the last token of the shortest sequence."""
    if shortest < 2:
        return 0
    # the common prefix of the first and the last in sorted order is common to all
    pairs = zip(list(min(sequences, key=list)), list(max(sequences, key=list)), strict=False)
    return next(
        (
            index
            for index, (first, last) in enumerate(pairs)
            if first != last or index == shortest - 1
        ),
        shortest - 1,
    )


@runtime_checkable
class Edit(Protocol):
    """A change to one site during a run; it must return a new tensor and not modify its input."""

    @property
    def site(self) -> Site:
        """Where the edit acts."""
        ...

    def apply(self, value: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """The value with which the forward pass continues."""
        ...


@dataclass(frozen=True)
class Direction:
    """At every cell of a site, the displacement from a reference value, ``(value - other) /
    share``.
    """

    site: Site
    reference: Float[Tensor, "B T W"]
    fraction: float = 1.0

    def at_value(self, value: Float[Tensor, "r n W"]) -> Float[Tensor, "r n W"]:
        """The direction for this value of the site."""
        return (widen(value) - widen(self.reference)) / self.fraction

    def select_cells(self, cells: Callable[[Tensor], Tensor]) -> Direction:
        """The direction restricted to some cells, see ``interp.engines.shared_prefix``."""
        return replace(self, reference=cells(self.reference))


@dataclass(frozen=True)
class BatchPart:
    """Some cells of a batch, ``[r, n]``: values, gradients, and the mask of cells to sum over
    (``mask``).

    A cell that is the same in all rows may be stored once, with its gradient summed over the rows.
    ``select`` selects these cells from a tensor over all cells of the batch, ``[B, T, ...]``.
    """

    values: dict[Site, Float[Tensor, "r n _"]]
    gradients: dict[Site, Float[Tensor, "r n _"]]
    mask: Bool[Tensor, "r n"]
    select: Callable[[Tensor], Tensor]

    def along(self, directions: Sequence[Direction]) -> Float[Tensor, " r"]:
        """Sum of gradients times directions for each row, in float64."""
        total = torch.zeros(len(self.mask), dtype=torch.float64, device=self.mask.device)
        for direction in directions:
            terms = widen(self.gradients[direction.site]) * direction.at_value(
                self.values[direction.site]
            )
            mask = self.mask.to(terms.device)[..., None]
            total += torch.where(mask, terms, 0.0).double().sum((1, 2)).to(total.device)
        return total


@dataclass(frozen=True)
class Run:
    """Outputs of a run: logits of the kept positions, values after any edits, gradients, key-value
    cache.

    ``parts`` and ``along``: see ``over`` and ``along`` of ``Engine.run``.
    """

    logits: Float[Tensor, "B kept V"] | None
    values: dict[Site, Float[Tensor, "B T _"]] = field(default_factory=dict)
    gradients: dict[Site, Float[Tensor, "B T _"]] = field(default_factory=dict)
    cache: Any = None
    parts: tuple[BatchPart, ...] = ()
    along: Float[Tensor, " B"] | None = None

    def require_derivatives(self) -> Float[Tensor, " B"]:
        """The directional derivatives, or OptionError if the run was given no directions."""
        return required(self.along, "directions to differentiate along")

    def require_logits(self) -> Float[Tensor, "B kept V"]:
        """The logits, or OptionError if the run computed none (``keep`` 0)."""
        if self.logits is None:
            raise OptionError(
                "this pass kept no logits; set keep to the number of last positions "
                "whose logits are needed"
            )
        return self.logits


@runtime_checkable
class Engine(Protocol):
    """Runs one batch through one model."""

    @property
    def name(self) -> str:
        """Name of the engine on the command line and in provenance."""
        ...

    def run(
        self,
        model: Model,
        batch: Batch,
        *,
        reads: Sequence[Site] = (),
        edits: Sequence[Edit] = (),
        gradients_at: Sequence[Site] = (),
        gradient_of: Callable[[Float[Tensor, "B kept V"]], Float[Tensor, " B"]] | None = None,
        keep: int | None = 1,
        cache: Any = None,
        use_cache: bool = False,
        over: Bool[Tensor, "B T"] | None = None,
        along: Sequence[Direction] = (),
    ) -> Run:
        """One forward pass, and one backward pass if ``gradient_of`` is given.

        ``keep``: number of last columns whose logits are returned; 0 skips the language-model head,
        None keeps all. ``gradient_of`` maps these logits to one number per prompt; its sum is
        differentiated with respect to the values at ``gradients_at``, with all parameters frozen. A
        pass without a head may stop after the last block that is read or edited, and its cache then
        ends there. A pass under ``interp.interventions.edits.StartFromStream`` may leave out the
        keys and values of earlier blocks.

        ``over``: with ``gradient_of``, the cells over which values times gradients will be summed.
        Values and gradients are then returned in ``Run.parts``, where an engine may store cells
        that all rows share only once, with gradients summed over rows. ``along``: directions at
        sites that are read and differentiated; ``Run.along`` has the derivative along them over
        those cells, by row.
        """
        ...


def as_single_part(run: Run, over: Bool[Tensor, "B T"], along: Sequence[Direction]) -> Run:
    """A pass over whole prompts in the form that ``over`` and ``along`` of ``Engine.run`` request."""
    part = BatchPart(run.values, run.gradients, over, _identity)
    return Run(
        run.logits, cache=run.cache, parts=(part,), along=part.along(along) if along else None
    )


def _identity(value: Tensor) -> Tensor:
    return value


def model_inputs(batch: Batch, keep: int | None, cache: Any, use_cache: bool) -> dict[str, Any]:
    """Keyword arguments for a Hugging Face model, or without a head (``keep`` 0) for its base
    model.
    """
    inputs = {
        "input_ids": batch.ids,
        "attention_mask": batch.mask.long(),
        "position_ids": batch.positions,
        "use_cache": use_cache,
    }
    if cache is not None:
        inputs["past_key_values"] = cache
    return inputs if keep == 0 else {**inputs, "logits_to_keep": keep or 0}
