"""Passes over a class of prompts: shares by prompt, by block and by token, and the shares due to
rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.capture import make_batch
from interp.engines import Batch
from interp.experiments.tuning_decomposition import Path, Positions, Stream, against, own_ends
from interp.maths.contribution_ratios import Running, share, size
from interp.maths.host import to_host
from interp.models.model import Model
from interp.models.pair import Pair
from interp.prompts import Prompt
from interp.study import Study
from interp.table import Table, table

_BY_BLOCK = ("base_sizes", "tuned_sizes", "cosines")
_SHIFT = 5  # additional columns of padding, to measure rounding


@runtime_checkable
class TucoOptions(Protocol):
    """Options for passes and claims; see ``interp.analyzers.tuco.Tuco``."""

    @property
    def granularity(self) -> str:
        """``block`` or ``sublayer``."""
        ...

    @property
    def positions(self) -> str:
        """``last`` or ``all``."""
        ...

    @property
    def order(self) -> int:
        """Of the norm, 1 or 2."""
        ...

    @property
    def drop(self) -> tuple[int, ...]:
        """Dimensions excluded from norms."""
        ...

    @property
    def output(self) -> bool:
        """Whether ``output_co`` is measured."""
        ...

    @property
    def caliper(self) -> int:
        """Maximum length difference (tokens) for prompts to count as length-matched."""
        ...

    @property
    def permutations(self) -> int:
        """Number of permutations of the labels."""
        ...

    @property
    def floor_prompts(self) -> int:
        """Number of prompts on which the rounding error is measured."""
        ...

    @property
    def map_prompts(self) -> int:
        """Number of prompts for which every token is reported."""
        ...

    @property
    def path(self) -> str:
        """``fast`` or ``full``."""
        ...


@dataclass(frozen=True)
class Measured:
    """Numbers of one class, prompts in file order; by block ``[prompts, L]``, by token ``row ->
    (words, [L, T])``.

    ``betas`` are shares over all tokens (NaN on the fast path), ``betas_last`` at the last one;
    sizes, cosines and errors are at the positions of TuCo. ``base_own`` is the norm of what the
    base's blocks add on its own stream, which does not depend on fine-tuning.
    """

    group: str
    prompts: Sequence[Prompt]
    lengths: np.ndarray
    tuco: np.ndarray
    output_co: np.ndarray
    base_own: np.ndarray
    betas: np.ndarray
    betas_last: np.ndarray
    base_sizes: np.ndarray
    tuned_sizes: np.ndarray
    cosines: np.ndarray
    errors: np.ndarray
    tokens: dict[int, tuple[list[str], np.ndarray]]


@dataclass
class Sums:
    """Sums of one batch over blocks: ``every`` over all columns (None where only the last was
    read), ``last``.

    ``errors``: relative difference of embedding plus sums from the stream after each block, at the
    positions of TuCo.
    """

    last: Running
    every: Running | None = None
    errors: list[Float[Tensor, " B"]] = field(default_factory=list)


def measure(study: Study, asked: TucoOptions, group: str, other: Pair | None = None) -> Measured:
    """Decompose the stream of every prompt of a class, of the study's pair or, without OutputCo,
    of ``other``.
    """
    pair, encoded = other or study.pair, study.encoded(group)
    base, tuned = pair.require_base("TuCo"), pair.tuned
    n_layers, count = tuned.anatomy.n_layers, len(encoded)
    numbers = {
        name: np.full((count, n_layers), np.nan)
        for name in ("betas", "betas_last", *_BY_BLOCK, "errors")
    }
    mapped = set(study.prompts(group).sample(asked.map_prompts))
    output_co, base_own, tokens = np.full(count, np.nan), np.full(count, np.nan), {}
    read: Positions = "last" if asked.path == "fast" else "all"
    held = 4 * tuned.anatomy.width * (n_layers + 1) * (1 if read == "last" else 5)
    for rows in study.progress(study.groups(group, tuned, held), f"tuco, {group}"):
        batch, _ = make_batch(encoded, rows, study.pad_id, tuned.device)
        stream = Stream.read(study.engine, tuned, batch, read, _path(asked))
        sums = split(study, asked, base, stream)
        own_sums = sums.last if asked.positions == "last" or sums.every is None else sums.every
        found = {name: getattr(own_sums, name) for name in _BY_BLOCK} | {"errors": sums.errors}
        found |= {"betas_last": sums.last.betas} | (
            {} if sums.every is None else {"betas": sums.every.betas}
        )
        for name, values in found.items():
            numbers[name][rows] = np.stack([to_host(value) for value in values], 1)
        if asked.output and other is None:
            start, own = (
                looked_at(asked, end) for end in own_ends(study.engine, base, stream, _path(asked))
            )
            end = looked_at(asked, stream.cut(stream.before[-1])).to(own)
            keep = looked_at(asked, kept(asked, stream)).to(own)
            gap, theirs = (size(value * keep, asked.order) for value in (end - own, own))
            output_co[rows] = to_host(share(gap, theirs))
            base_own[rows] = to_host(size((own - start) * keep, asked.order))
        if asked.positions == "all" and sums.every is not None:
            shares = np.stack([to_host(value) for value in sums.every.tokens], 1)
            for row, mine in zip(rows, shares, strict=True):
                if row in mapped:
                    words = [study.pair.tokenizer.decode([token]) for token in encoded[row].ids]
                    tokens[row] = words, mine[:, -len(words) :]
    lengths = np.array([len(coded.ids) for coded in encoded])
    prompts = study.prompts(group).prompts
    tuco = numbers["betas_last" if asked.positions == "last" else "betas"][:, -1]
    numbers |= {"output_co": output_co, "base_own": base_own}
    return Measured(group, prompts, lengths, tuco, **numbers, tokens=dict(sorted(tokens.items())))


def _path(asked: TucoOptions) -> Path:
    return "fast" if asked.path == "fast" else "full"


def split(study: Study, asked: TucoOptions, other: Model, stream: Stream) -> Sums:
    """The sums of one batch with ``other``'s blocks as the base's."""
    keep = kept(asked, stream).to(other.device)
    real = looked_at(asked, kept(asked, stream, whole=True).to(other.device))
    sums = Sums(Running(asked.order, keep[:, -1:]))
    sums.every = Running(asked.order, keep) if stream.positions == "all" else None
    total: list[Tensor] = [looked_at(asked, stream.cut(stream.before[0])).double().to(other.device)]

    def see(layer: int, ptc: Tensor, ftc: Tensor) -> None:
        sums.last.add(ptc[:, -1:], ftc[:, -1:])
        if sums.every is not None:
            sums.every.add(ptc, ftc)
        total[0] = total[0] + looked_at(asked, ptc) + looked_at(asked, ftc)
        after = looked_at(asked, stream.cut(stream.before[layer + 1])).double().to(total[0].device)
        missed, whole = size((total[0] - after) * real), size(after * real)
        sums.errors.append(missed / whole.clamp(min=torch.finfo(whole.dtype).tiny))

    against(
        study.engine,
        other,
        stream,
        see,
        "sublayer" if asked.granularity == "sublayer" else "block",
        _path(asked),
    )
    return sums


def looked_at(asked: TucoOptions, value: Float[Tensor, "B P D"]) -> Float[Tensor, "B Q D"]:
    """The columns at the positions of TuCo: the last one, which is a prompt's last token, or
    all.
    """
    return value[:, -1:] if asked.positions == "last" else value


def kept(asked: TucoOptions, stream: Stream, whole: bool = False) -> Float[Tensor, "B P D"]:
    """1 where a value counts, 0 at padding and (unless ``whole``) in dropped dimensions."""
    values = stream.cut(stream.before[0])
    keep = stream.cut(stream.batch.real[..., None].double()).expand(values.shape)
    if not asked.drop or whole:
        return keep
    return keep.index_fill(-1, torch.tensor(asked.drop, device=keep.device), 0.0)


def noise(study: Study, asked: TucoOptions) -> Table:
    """TuCo of the fine-tuned model against itself with more padding, on some prompts of each
    class.
    """
    tuned, rows, groups, values = study.pair.tuned, [], [], []
    for group in study.classes:
        chosen = study.prompts(group).sample(asked.floor_prompts)
        encoded = [study.encoded(group)[row] for row in chosen]
        for part in study.batches(encoded, tuned):
            batch: Batch = make_batch(encoded, part, study.pad_id, tuned.device)[0]
            read: Positions = "all" if asked.positions == "all" else "last"
            stream = Stream.read(study.engine, tuned, batch, read, _path(asked))
            sums = split(study, asked, tuned, stream.shifted(_SHIFT, study.pad_id))
            rows += [study.prompts(group).prompts[chosen[row]].id for row in part]
            groups += [group] * len(part)
            values.append(to_host((sums.every or sums.last).betas[-1]))
    return table(
        "tuco-floor",
        {
            "group": (groups, "key", "class of the prompt"),
            "prompt_id": (np.array(rows, np.int64), "key", "position in the prompt file, from 0"),
            "tuco": (np.concatenate(values), "measure", "share due to rounding alone"),
        },
    )
