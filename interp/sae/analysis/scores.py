"""How well a dictionary reconstructs, and how sparsely: sums in float64 over batches, masked, part
by part.

Explained variance is 1 less the summed squared error over the summed squared distance from the mean
*of everything seen*, so that it does not depend on how inputs were batched (Welford; a mean by
batch would). A part (special tokens, content) is measured from its own mean. Where it is said whose
every input is, the error is also given with every conversation counting the same, however long (Li
et al. 2025, 2506.07691).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import OptionError
from interp.maths.host import to_host
from interp.maths.moments import Moments
from interp.sae.core.dictionary import Dictionary
from interp.sae.core.sparse_products import Codes
from interp.table import Table, table

DENSE, SHORT = 0.1, 1e-6
"""A latent is dense that fires on more than this share; inputs shorter than this have no shrinkage
and no cosine.
"""

EDGES = (-math.inf, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0, 0.0)
"""Edges of the histogram of log10 densities; what never fires is counted apart."""

ALL = "all"


@dataclass(eq=False)
class _Part:
    """Sums over the inputs of one part."""

    target: Moments
    error: Moments
    squared: float = 0.0
    codes: float = 0.0
    cosine: float = 0.0
    shrinkage: float = 0.0
    long: float = 0.0
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
            self._own(owners, squared)
        self.codes += float(to_host(counts.sum()))
        inner, size, made = (y * output).sum(1), y.norm(dim=1), output.norm(dim=1)
        long = size >= SHORT
        # an output of zero has no direction; its cosine counts as 0
        self.cosine += float(to_host((inner / (size * made).clamp_min(SHORT**2))[long].sum()))
        self.shrinkage += float(to_host((made / size)[long].sum()))
        self.long += float(to_host(long.sum()))
        self.inner += float(to_host(inner.sum()))
        self.output += float(to_host(output.square().sum()))

    def _own(self, owners: Tensor, squared: Tensor) -> None:
        missing = int(to_host(owners.max())) + 1 - self.by_owner.shape[1]
        self.by_owner = torch.nn.functional.pad(
            self.by_owner.to(squared.device), (0, max(0, missing))
        )
        self.by_owner.index_add_(1, owners, torch.stack([torch.ones_like(squared), squared]))

    def conversations(self) -> tuple[int, float]:
        """How many conversations have an input here, and the mean of their mean squared errors."""
        count, squared = self.by_owner
        seen = count > 0
        # a mean over some inputs only would pass for one over all
        whole = bool(to_host(seen.any())) and int(to_host(count.sum())) == int(self.target.count)
        return int(to_host(seen.sum())), float(
            to_host((squared[seen] / count[seen]).mean())
        ) if whole else math.nan

    def row(self) -> dict[str, float | int]:
        n, spread = self.target.count, float(to_host(self.target.deviation.sum()))
        fvu = _over(self.squared, spread)
        conversations, by_conversation = self.conversations()
        return {
            "tokens": int(n),
            "l0": _over(self.codes, n),
            "fvu": fvu,
            "explained_variance": 1 - fvu,
            # the error's own mean left out: what dictionary_learning reports
            "explained_variance_centred": 1
            - _over(float(to_host(self.error.deviation.sum())), spread),
            "mse": _over(self.squared, n),
            "conversations": conversations,
            "conversation_mse": by_conversation,
            "cosine": _over(self.cosine, self.long),
            "shrinkage": _over(self.shrinkage, self.long),
            "bias": _over(self.output, self.inner),
        }


def _over(one: float, other: float) -> float:
    return one / other if other else math.nan


@dataclass(eq=False)
class Scores:
    """Scores of reconstructions of width ``outputs`` with ``latents`` latents; ``parts`` names what
    roles stand for.

    ``views`` are parts of another kind: linear maps of rows [N, O], of targets and outputs alike (a
    model's half).
    """

    outputs: int
    latents: int
    parts: Mapping[str, Sequence[int]] = field(default_factory=dict)
    device: torch.device | str = "cpu"
    views: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if ALL in self.parts:
            raise OptionError(f"a part cannot be called {ALL!r}, which stands for all inputs")
        self._parts = {name: self._empty(self.outputs) for name in (ALL, *self.parts)}
        row = torch.zeros(1, self.outputs)
        self._parts |= {name: self._empty(view(row).shape[1]) for name, view in self.views.items()}
        self._fired = torch.zeros(self.latents, dtype=torch.int64, device=self.device)

    def _empty(self, width: int) -> _Part:
        return _Part(Moments.empty((width,), self.device), Moments.empty((width,), self.device))

    @property
    def names(self) -> tuple[str, ...]:
        """All parts and views but the whole."""
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
        """Take in targets, their reconstructions and codes; rows where ``mask`` is false never
        count. Returns itself.

        ``roles``: of every row, for the parts. ``owners``: number of the conversation that a row is
        of, from 0.
        """
        if self.parts and roles is None:
            raise OptionError(f"the parts {', '.join(self.parts)} need the role of every input")
        codes = codes if isinstance(codes, Codes) else Codes.of(codes)
        rows, fires = codes.pattern.rows, codes.values.detach() != 0
        counts = torch.bincount(rows[fires], minlength=len(y))
        keep = torch.ones(len(y), dtype=torch.bool, device=y.device) if mask is None else mask
        self._fired += torch.bincount(
            codes.pattern.latents[fires & keep[rows]], minlength=self.latents
        )
        for name, part in self._parts.items():
            chosen, view = keep, self.views.get(name, lambda rows: rows)
            if name in self.parts and roles is not None:
                chosen = keep & torch.isin(
                    roles, torch.tensor(list(self.parts[name]), device=roles.device)
                )
            own = None if owners is None else owners[chosen]
            part.update(
                view(y.detach()[chosen]), view(output.detach()[chosen]), counts[chosen], own
            )
        return self

    @property
    def count(self) -> int:
        """Inputs that counted."""
        return int(self._parts[ALL].target.count)

    @property
    def mean(self) -> Float[Tensor, " O"]:
        """Mean of all targets that counted."""
        return self._parts[ALL].target.mean

    @property
    def density(self) -> np.ndarray:
        """Share of inputs on which every latent fires."""
        return to_host(self._fired).astype(np.float64) / max(self.count, 1)

    def by_conversation(self, part: str = ALL) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and summed squared error of every conversation, by its number; shorter where the
        last have none.
        """
        count, squared = to_host(self._parts[part].by_owner)
        return count.astype(np.int64), squared

    def summary(self, part: str = ALL) -> dict[str, float | int]:
        """The numbers of one part; of all also the shares of latents that never fire and that fire
        too often.
        """
        found = self._parts[part].row()
        if part != ALL:
            return found | {"dead": math.nan, "dense": math.nan}
        return found | {
            "dead": float((self.density == 0).mean()),
            "dense": float((self.density > DENSE).mean()),
        }


MEANINGS: dict[str, tuple[str, str]] = {
    "dictionary": ("key", "what reconstructs: the dictionary, or a baseline at its L0"),
    "part": ("key", "which inputs: all, or tokens of one kind, measured from their own mean"),
    "tokens": ("measure", "inputs that counted"),
    "l0": ("measure", "active latents per input"),
    "fvu": ("measure", "summed squared error by summed squared distance from the mean"),
    "explained_variance": ("measure", "1 less fvu"),
    "explained_variance_centred": ("measure", "the same with the error's own mean taken away"),
    "mse": (
        "measure",
        "squared error per input, summed over the width; every input counts the same",
    ),
    "conversations": ("measure", "conversations (or prompts) with an input that counted"),
    "conversation_mse": (
        "measure",
        "mean over conversations of the mean of the same over a conversation's inputs",
    ),
    "cosine": ("measure", "mean cosine of input and reconstruction"),
    "shrinkage": ("measure", "mean ratio of the reconstruction's length to the input's"),
    "bias": ("measure", "E|y'|^2 over E[y y']: 1 is unbiased, less shrinks"),
    "dead": (
        "measure",
        f"share of latents that fire on none of these inputs; of all inputs together only ({ALL})",
    ),
    "dense": (
        "measure",
        f"share of latents that fire on more than {DENSE:g} of them; of {ALL} only",
    ),
}


def scores_table(scored: Mapping[str, Scores], **rest: Any) -> Table:
    """Table of kind ``sae-eval``: a row for every dictionary and part; ``rest`` goes to
    the table.
    """
    rows = [
        {"dictionary": name, "part": part} | one.summary(part)
        for name, one in scored.items()
        for part in one._parts
    ]
    columns = {name: ([row[name] for row in rows], *told) for name, told in MEANINGS.items()}
    return table("sae-eval", columns, **rest)


def conversations_table(scored: Mapping[str, Scores], ids: np.ndarray) -> Table:
    """Table of kind ``sae-eval-conversations``: inputs and squared error by dictionary, part and
    conversation.

    ``ids`` name conversations by their numbers.
    """
    names, parts, inputs, errors = [], [], [], []
    for name, one in scored.items():
        for part in one._parts:
            found = one.by_conversation(part)
            inputs.append(np.pad(found[0], (0, len(ids) - len(found[0]))))
            errors.append(np.pad(found[1], (0, len(ids) - len(found[1]))))
            names += [name] * len(ids)
            parts += [part] * len(ids)
    return table(
        "sae-eval-conversations",
        {
            "dictionary": (np.array(names, object), "key", "what reconstructs"),
            "part": (np.array(parts, object), "key", "which inputs"),
            "prompt_id": (np.tile(ids, len(inputs)), "key", "position in the file"),
            "tokens": (np.concatenate(inputs), "measure", "inputs that counted"),
            "squared": (
                np.concatenate(errors),
                "measure",
                "their squared error, summed over inputs and width",
            ),
        },
    )


def density_table(scored: Mapping[str, Scores]) -> Table:
    """Table of kind ``sae-eval-density``: how many latents of each fire how often, by powers of
    ten.
    """
    rows: list[tuple[str, float, float, int]] = []
    for name, one in scored.items():
        density = one.density
        rows.append((name, -math.inf, -math.inf, int((density == 0).sum())))
        logs = np.log10(density[density > 0])
        # a density of exactly 1 belongs to the last
        counts = np.histogram(logs, np.array((-400.0, *EDGES[1:])))[0]
        rows += [
            (name, low, high, int(n))
            for low, high, n in zip(EDGES, EDGES[1:], counts, strict=False)
        ]
    names, lows, highs, counts = zip(*rows, strict=True)
    return table(
        "sae-eval-density",
        {
            "dictionary": (list(names), "key", "what reconstructs"),
            "low": (
                np.array(lows),
                "measure",
                "log10 of the density, from; minus infinity twice: never fires",
            ),
            "high": (np.array(highs), "measure", "log10 of the density, to"),
            "latents": (np.array(counts), "measure", "number of latents"),
        },
    )


@torch.no_grad()
def score(dictionary: Dictionary, batches: Sequence[Tensor]) -> Scores:
    """Scores of a dictionary on batches of inputs that are their own targets."""
    scores = Scores(
        dictionary.config.outputs, dictionary.config.width, device=dictionary.W_dec.device
    )
    for x in batches:
        found = dictionary.reconstruct(x)
        scores.update(x, found.output, found.codes)
    return scores
