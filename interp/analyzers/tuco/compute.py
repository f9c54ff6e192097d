"""Passes over a class of prompts: shares by prompt, by block and by token, and the shares due to
rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.analyzers.tuco.options import TucoOptions
from interp.capture import make_batch
from interp.engines import Batch
from interp.experiments.tuning_decomposition import (
    Path,
    Positions,
    TunedStream,
    base_stream_ends,
    decompose,
)
from interp.maths.contribution_ratios import CumulativeContributions, norm, ratio
from interp.maths.host import to_host
from interp.models.model import Model
from interp.models.pair import Pair
from interp.prompts import Prompt
from interp.rows import PromptRow, measure, rows_table
from interp.study import Study
from interp.table import Table

_BY_BLOCK = ("base_sizes", "tuned_sizes", "cosines")
_EXTRA_PADDING = 5  # additional columns of padding, to measure rounding


class FloorRow:
    """A prompt read twice by the fine-tuned model, with other padding."""

    group: str = PromptRow.group
    prompt_id: int = PromptRow.prompt_id
    tuco: float = measure("share due to rounding alone")


@dataclass(frozen=True)
class GroupContributions:
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
    """Sums of one batch over blocks: ``all_columns`` over all columns (None where only the last was
    read), ``last``.

    ``errors``: relative difference of embedding plus sums from the stream after each block, at the
    positions of TuCo.
    """

    last: CumulativeContributions
    all_columns: CumulativeContributions | None = None
    errors: list[Float[Tensor, " B"]] = field(default_factory=list)


def measure_group(
    study: Study, options: TucoOptions, group: str, control_pair: Pair | None = None
) -> GroupContributions:
    """Decompose the stream of every prompt of a class, of the study's pair or, without OutputCo,
    of ``control_pair``.
    """
    pair, encoded = control_pair or study.pair, study.encoded(group)
    base, tuned = pair.require_base("TuCo"), pair.tuned
    n_layers, count = tuned.anatomy.n_layers, len(encoded)
    numbers = {
        name: np.full((count, n_layers), np.nan)
        for name in ("betas", "betas_last", *_BY_BLOCK, "errors")
    }
    token_rows = set(study.prompts(group).sample(options.map_prompts))
    output_co, base_own, tokens = np.full(count, np.nan), np.full(count, np.nan), {}
    read_positions: Positions = "last" if options.path == "fast" else "all"
    bytes_per_token = (
        4 * tuned.anatomy.width * (n_layers + 1) * (1 if read_positions == "last" else 5)
    )
    for rows in study.progress(study.groups(group, tuned, bytes_per_token), f"tuco, {group}"):
        batch, _ = make_batch(encoded, rows, study.pad_id, tuned.device)
        stream = TunedStream.read(study.engine, tuned, batch, read_positions, _path(options))
        sums = split(study, options, base, stream)
        position_sums = (
            sums.last
            if options.positions == "last" or sums.all_columns is None
            else sums.all_columns
        )
        by_name = {name: getattr(position_sums, name) for name in _BY_BLOCK} | {
            "errors": sums.errors
        }
        by_name |= {"betas_last": sums.last.betas} | (
            {} if sums.all_columns is None else {"betas": sums.all_columns.betas}
        )
        for name, values in by_name.items():
            numbers[name][rows] = np.stack([to_host(value) for value in values], 1)
        if options.output and control_pair is None:
            base_start, base_end = (
                at_positions(options, end)
                for end in base_stream_ends(study.engine, base, stream, _path(options))
            )
            tuned_end = at_positions(options, stream.cut(stream.before[-1])).to(base_end)
            keep = at_positions(options, value_mask(options, stream)).to(base_end)
            gap_norm, base_norm = (
                norm(value * keep, options.order) for value in (tuned_end - base_end, base_end)
            )
            output_co[rows] = to_host(ratio(gap_norm, base_norm))
            base_own[rows] = to_host(norm((base_end - base_start) * keep, options.order))
        if options.positions == "all" and sums.all_columns is not None:
            shares = np.stack([to_host(value) for value in sums.all_columns.tokens], 1)
            for row, row_shares in zip(rows, shares, strict=True):
                if row in token_rows:
                    words = [study.pair.tokenizer.decode([token]) for token in encoded[row].ids]
                    tokens[row] = words, row_shares[:, -len(words) :]
    lengths = np.array([len(coded.ids) for coded in encoded])
    prompts = study.prompts(group).prompts
    tuco = numbers["betas_last" if options.positions == "last" else "betas"][:, -1]
    numbers |= {"output_co": output_co, "base_own": base_own}
    return GroupContributions(
        group, prompts, lengths, tuco, **numbers, tokens=dict(sorted(tokens.items()))
    )


def _path(options: TucoOptions) -> Path:
    return "fast" if options.path == "fast" else "full"


def split(study: Study, options: TucoOptions, base: Model, stream: TunedStream) -> Sums:
    """The sums of one batch with ``base``'s blocks as the base's."""
    keep = value_mask(options, stream).to(base.device)
    real = at_positions(options, value_mask(options, stream, all_dimensions=True).to(base.device))
    sums = Sums(CumulativeContributions(options.order, keep[:, -1:]))
    sums.all_columns = (
        CumulativeContributions(options.order, keep) if stream.positions == "all" else None
    )
    total: list[Tensor] = [
        at_positions(options, stream.cut(stream.before[0])).double().to(base.device)
    ]

    def see(layer: int, ptc: Tensor, ftc: Tensor) -> None:
        sums.last.add(ptc[:, -1:], ftc[:, -1:])
        if sums.all_columns is not None:
            sums.all_columns.add(ptc, ftc)
        total[0] = total[0] + at_positions(options, ptc) + at_positions(options, ftc)
        after = (
            at_positions(options, stream.cut(stream.before[layer + 1])).double().to(total[0].device)
        )
        error_norms, norms = norm((total[0] - after) * real), norm(after * real)
        sums.errors.append(error_norms / norms.clamp(min=torch.finfo(norms.dtype).tiny))

    decompose(
        study.engine,
        base,
        stream,
        see,
        "sublayer" if options.granularity == "sublayer" else "block",
        _path(options),
    )
    return sums


def at_positions(options: TucoOptions, value: Float[Tensor, "B P D"]) -> Float[Tensor, "B Q D"]:
    """The columns at the positions of TuCo: the last one, which is a prompt's last token, or
    all.
    """
    return value[:, -1:] if options.positions == "last" else value


def value_mask(
    options: TucoOptions, stream: TunedStream, all_dimensions: bool = False
) -> Float[Tensor, "B P D"]:
    """1 where a value counts, 0 at padding and (unless ``all_dimensions``) in dropped dimensions."""
    values = stream.cut(stream.before[0])
    keep = stream.cut(stream.batch.real[..., None].double()).expand(values.shape)
    if not options.drop or all_dimensions:
        return keep
    return keep.index_fill(-1, torch.tensor(options.drop, device=keep.device), 0.0)


def rounding_floor(study: Study, options: TucoOptions) -> Table:
    """TuCo of the fine-tuned model against itself with more padding, on some prompts of each
    class.
    """
    tuned, rows, groups, values = study.pair.tuned, [], [], []
    for group in study.classes:
        chosen = study.prompts(group).sample(options.floor_prompts)
        encoded = [study.encoded(group)[row] for row in chosen]
        for part in study.batches(encoded, tuned):
            batch: Batch = make_batch(encoded, part, study.pad_id, tuned.device)[0]
            read_positions: Positions = "all" if options.positions == "all" else "last"
            stream = TunedStream.read(study.engine, tuned, batch, read_positions, _path(options))
            sums = split(study, options, tuned, stream.shifted(_EXTRA_PADDING, study.pad_id))
            rows += [study.prompts(group).prompts[chosen[row]].id for row in part]
            groups += [group] * len(part)
            values.append(to_host((sums.all_columns or sums.last).betas[-1]))
    return rows_table(
        FloorRow, "", {"group": groups, "prompt_id": rows, "tuco": np.concatenate(values)}
    )
