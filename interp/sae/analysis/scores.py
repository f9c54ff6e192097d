"""Reconstruction and sparsity of a dictionary: masked float64 sums over batches, for subsets of
tokens.

Explained variance is 1 minus the summed squared error divided by the summed squared distance from
the mean over all inputs (Welford), so it does not depend on batching. A subset (special tokens,
content) is measured from its own mean. If the conversation of each input is given, the error is
also averaged with equal weight per conversation (Li et al. 2025, 2506.07691).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import OptionError
from interp.maths.host import to_host
from interp.maths.moments import Moments
from interp.rows import PromptRow, columns_of, key, measure, rows_table
from interp.sae.core.dictionary import Dictionary
from interp.sae.core.sparse_products import Codes
from interp.table import Table

DENSE_RATE, MIN_NORM = 0.1, 1e-6
"""A latent that fires on a larger share of inputs than ``DENSE_RATE`` is dense; shrinkage and
cosine are undefined for inputs shorter than ``MIN_NORM``.
"""

EDGES = (-math.inf, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0, 0.0)
"""Bin edges of the histogram of log10 densities; latents that never fire are counted separately."""

ALL = "all"


@dataclass(eq=False)
class _PartSums:
    """Sums over the inputs of one subset."""

    target: Moments
    error: Moments
    squared: float = 0.0
    codes: float = 0.0
    cosine: float = 0.0
    shrinkage: float = 0.0
    n_long: float = 0.0
    inner: float = 0.0
    output: float = 0.0
    by_owner: Tensor = field(default_factory=lambda: torch.zeros(2, 0, dtype=torch.float64))

    def update(self, y: Tensor, output: Tensor, counts: Tensor, owners: Tensor | None) -> None:
        self.target.update(y)
        error = y - output
        self.error.update(error)
        y, output, error = y.double(), output.double(), error.double()
        squared = error.square().sum(1)
        self.squared += float(to_host(squared.sum()))
        if owners is not None and len(owners):
            self._add_by_owner(owners, squared)
        self.codes += float(to_host(counts.sum()))
        inner, target_norm, output_norm = (y * output).sum(1), y.norm(dim=1), output.norm(dim=1)
        is_long = target_norm >= MIN_NORM
        # the cosine of a zero output counts as 0
        self.cosine += float(
            to_host((inner / (target_norm * output_norm).clamp_min(MIN_NORM**2))[is_long].sum())
        )
        self.shrinkage += float(to_host((output_norm / target_norm)[is_long].sum()))
        self.n_long += float(to_host(is_long.sum()))
        self.inner += float(to_host(inner.sum()))
        self.output += float(to_host(output.square().sum()))

    def _add_by_owner(self, owners: Tensor, squared: Tensor) -> None:
        missing = int(to_host(owners.max())) + 1 - self.by_owner.shape[1]
        self.by_owner = torch.nn.functional.pad(
            self.by_owner.to(squared.device), (0, max(0, missing))
        )
        self.by_owner.index_add_(1, owners, torch.stack([torch.ones_like(squared), squared]))

    def conversations(self) -> tuple[int, float]:
        """Number of conversations with an input here, and the mean over them of their mean squared
        errors.
        """
        count, squared = self.by_owner
        has_inputs = count > 0
        # undefined if only some inputs have a conversation
        is_complete = bool(to_host(has_inputs.any())) and int(to_host(count.sum())) == int(
            self.target.count
        )
        return int(to_host(has_inputs.sum())), float(
            to_host((squared[has_inputs] / count[has_inputs]).mean())
        ) if is_complete else math.nan

    def row(self) -> dict[str, float | int]:
        n, variance = self.target.count, float(to_host(self.target.deviation.sum()))
        fvu = _ratio(self.squared, variance)
        conversations, by_conversation = self.conversations()
        return {
            "tokens": int(n),
            "l0": _ratio(self.codes, n),
            "fvu": fvu,
            "explained_variance": 1 - fvu,
            # without the mean of the error, as dictionary_learning reports
            "explained_variance_centred": 1
            - _ratio(float(to_host(self.error.deviation.sum())), variance),
            "mse": _ratio(self.squared, n),
            "conversations": conversations,
            "conversation_mse": by_conversation,
            "cosine": _ratio(self.cosine, self.n_long),
            "shrinkage": _ratio(self.shrinkage, self.n_long),
            "bias": _ratio(self.output, self.inner),
        }


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan


@dataclass(eq=False)
class Scores:
    """Scores of reconstructions of width ``outputs`` with ``latents`` latents; ``parts`` maps names
    of subsets to token roles.

    ``views`` are subsets of another kind: linear maps of rows [N, O], applied to targets and
    outputs (a model's half).
    """

    outputs: int
    latents: int
    parts: Mapping[str, Sequence[int]] = field(default_factory=dict)
    device: torch.device | str = "cpu"
    views: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if ALL in self.parts:
            raise OptionError(f"a part cannot be named {ALL!r}, which is reserved for all inputs")
        self._parts = {name: self._empty(self.outputs) for name in (ALL, *self.parts)}
        row = torch.zeros(1, self.outputs)
        self._parts |= {name: self._empty(view(row).shape[1]) for name, view in self.views.items()}
        self._fired = torch.zeros(self.latents, dtype=torch.int64, device=self.device)

    def _empty(self, width: int) -> _PartSums:
        return _PartSums(Moments.empty((width,), self.device), Moments.empty((width,), self.device))

    @property
    def names(self) -> tuple[str, ...]:
        """All subsets and views except ``ALL``."""
        return tuple(name for name in self._parts if name != ALL)

    def update(
        self,
        y: Float[Tensor, "N O"],
        output: Float[Tensor, "N O"],
        codes: Codes | Float[Tensor, "N F"],
        mask: Bool[Tensor, " N"] | None = None,
        roles: Int[Tensor, " N"] | None = None,
        owners: Int[Tensor, " N"] | None = None,
    ) -> Scores:
        """Add targets, their reconstructions and codes; rows where ``mask`` is False are ignored.
        Returns itself.

        ``roles``: role of each row, for the subsets. ``owners``: conversation of each row, numbered
        from 0.
        """
        if self.parts and roles is None:
            raise OptionError(f"the parts {', '.join(self.parts)} need the roles of all inputs")
        codes = codes if isinstance(codes, Codes) else Codes.from_dense(codes)
        rows, fires = codes.pattern.rows, codes.values.detach() != 0
        counts = torch.bincount(rows[fires], minlength=len(y))
        keep = torch.ones(len(y), dtype=torch.bool, device=y.device) if mask is None else mask
        self._fired += torch.bincount(
            codes.pattern.latents[fires & keep[rows]], minlength=self.latents
        )
        for name, part in self._parts.items():
            in_part, view = keep, self.views.get(name, lambda rows: rows)
            if name in self.parts and roles is not None:
                in_part = keep & torch.isin(
                    roles, torch.tensor(list(self.parts[name]), device=roles.device)
                )
            part.update(
                view(y.detach()[in_part]),
                view(output.detach()[in_part]),
                counts[in_part],
                None if owners is None else owners[in_part],
            )
        return self

    @property
    def count(self) -> int:
        """Number of inputs."""
        return int(self._parts[ALL].target.count)

    @property
    def mean(self) -> Float[Tensor, " O"]:
        """Mean of all targets."""
        return self._parts[ALL].target.mean

    @property
    def density(self) -> np.ndarray:
        """Share of inputs on which each latent fires."""
        return to_host(self._fired).astype(np.float64) / max(self.count, 1)

    def by_conversation(self, part: str = ALL) -> tuple[np.ndarray, np.ndarray]:
        """Number of inputs and summed squared error per conversation; shorter if the last
        conversations have none.
        """
        count, squared = to_host(self._parts[part].by_owner)
        return count.astype(np.int64), squared

    def summary(self, part: str = ALL) -> dict[str, float | int]:
        """Scores of one subset; for ``ALL`` also the shares of dead and dense latents."""
        scores = self._parts[part].row()
        if part != ALL:
            return scores | {"dead": math.nan, "dense": math.nan}
        return scores | {
            "dead": float((self.density == 0).mean()),
            "dense": float((self.density > DENSE_RATE).mean()),
        }


class ScoreRow:
    """A row per dictionary and subset of inputs."""

    dictionary: str = key("the dictionary, or a baseline at its L0")
    part: str = key("subset of inputs: all, or tokens of one kind, measured from their own mean")
    tokens: int = measure("number of inputs")
    l0: float = measure("active latents per input")
    fvu: float = measure(
        "fraction of variance unexplained: summed squared error divided by summed squared distance"
        " from the mean"
    )
    explained_variance: float = measure("1 minus fvu")
    explained_variance_centred: float = measure(
        "1 minus fvu, with the mean of the error subtracted"
    )
    mse: float = measure("squared error per input, summed over the width, averaged over inputs")
    conversations: int = measure("conversations (or prompts) with at least one input")
    conversation_mse: float = measure(
        "squared error per input, averaged per conversation, then over conversations"
    )
    cosine: float = measure("mean cosine of input and reconstruction")
    shrinkage: float = measure("mean ratio of the reconstruction's norm to the input's")
    bias: float = measure("E|y'|^2 over E[y y']: 1 is unbiased, below 1 is shrinkage")
    dead: float = measure(f"share of latents that fire on no input; only for part {ALL}")
    dense: float = measure(
        f"share of latents that fire on more than {DENSE_RATE:g} of inputs; only for part {ALL}"
    )


class ConversationRow:
    """A row per dictionary, subset of inputs and conversation."""

    dictionary: str = ScoreRow.dictionary
    part: str = ScoreRow.part
    prompt_id: int = PromptRow.prompt_id
    tokens: int = ScoreRow.tokens
    squared: float = measure("squared error, summed over inputs and width")


class DensityRow:
    """A row per dictionary and bin of firing rates."""

    dictionary: str = ScoreRow.dictionary
    low: float = measure("lower edge of log10 density; minus infinity in both columns: never fires")
    high: float = measure("upper edge of log10 density")
    latents: int = measure("number of latents")


def scores_table(scores_by_name: Mapping[str, Scores]) -> Table:
    """Table of kind ``sae-eval``: a row per dictionary and subset."""
    rows = [
        {"dictionary": name, "part": part} | scores.summary(part)
        for name, scores in scores_by_name.items()
        for part in (ALL, *scores.names)
    ]
    columns = {name: [row[name] for row in rows] for name in columns_of(ScoreRow)}
    return rows_table(ScoreRow, "sae-eval", columns)


def conversations_table(scores_by_name: Mapping[str, Scores], ids: np.ndarray) -> Table:
    """Table of kind ``sae-eval-conversations``: inputs and squared error per dictionary, subset and
    conversation.

    ``ids``: identifiers of the conversations by number.
    """
    sums = {
        (name, part): scores.by_conversation(part)
        for name, scores in scores_by_name.items()
        for part in (ALL, *scores.names)
    }
    tokens, squared = (
        np.concatenate([np.pad(each[i], (0, len(ids) - len(each[i]))) for each in sums.values()])
        for i in (0, 1)
    )
    return rows_table(
        ConversationRow,
        "sae-eval-conversations",
        {
            "dictionary": np.repeat(np.array([name for name, _ in sums], object), len(ids)),
            "part": np.repeat(np.array([part for _, part in sums], object), len(ids)),
            "prompt_id": np.tile(ids, len(sums)),
            "tokens": tokens,
            "squared": squared,
        },
    )


def density_table(scores_by_name: Mapping[str, Scores]) -> Table:
    """Table of kind ``sae-eval-density``: histogram of firing rates by powers of ten, per
    dictionary.
    """
    rows: list[tuple[str, float, float, int]] = []
    for name, scores in scores_by_name.items():
        density = scores.density
        rows.append((name, -math.inf, -math.inf, int((density == 0).sum())))
        # a density of exactly 1 is in the last bin
        counts = np.histogram(np.log10(density[density > 0]), np.array((-400.0, *EDGES[1:])))[0]
        rows += [
            (name, low, high, int(n))
            for low, high, n in zip(EDGES, EDGES[1:], counts, strict=False)
        ]
    columns = dict(zip(columns_of(DensityRow), zip(*rows, strict=True), strict=True))
    return rows_table(DensityRow, "sae-eval-density", columns)


@torch.no_grad()
def score(dictionary: Dictionary, batches: Sequence[Tensor]) -> Scores:
    """Scores of an autoencoder on batches of inputs."""
    scores = Scores(
        dictionary.config.outputs, dictionary.config.width, device=dictionary.W_dec.device
    )
    for x in batches:
        reconstruction = dictionary.reconstruct(x)
        scores.update(x, reconstruction.output, reconstruction.codes)
    return scores
