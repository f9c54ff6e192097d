"""Path patching: what one head's output does along one path, all other heads held at their clean
values.

A head's output at a position is replaced by its value in the corrupted text while all later
attention outputs at that position stay clean; norms and MLPs are computed anew (arXiv 2402.14811,
after 2211.00593). As attention is fixed, nothing but that one column changes: passes are over a
single column, whose result is either the logits or the queries, keys or values of receiving heads.
Those are then put into a clean pass, in which everything after them changes. Receivers' q, k and v
are the outputs of the model's own modules, so that biases, adapters, norms and rotary positions are
the model's. Where several query heads share keys and values, patching these acts on all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.engines import Batch, Engine
from interp.experiments.head_groups import LOGITS, HeadGroup, Node
from interp.interventions.edits import Observe, Replace, StartFromStream
from interp.maths.host import to_host
from interp.maths.precision import widen
from interp.models.model import Model
from interp.models.settings import setting
from interp.models.units import HEAD
from interp.prompts import LAST, TokenRow, TokenText, padded_columns
from interp.sites import Site

PROBABILITY, LOGIT_DIFFERENCE = "probability", "logit-difference"
SCORES = (PROBABILITY, LOGIT_DIFFERENCE)
_HOOKS = {"q": "attn.hook_q", "k": "attn.hook_k", "v": "attn.hook_v"}


@dataclass(frozen=True)
class Columns:
    """Activations of some texts at one named position.

    ``stream[n, l]`` enters block l, ``z[n, l]`` are the outputs of its heads.
    """

    stream: Float[Tensor, "N L D"]
    z: Float[Tensor, "N L C"]


@dataclass(frozen=True)
class Counter:
    """Forward passes over prompts of the whole text, and over single columns."""

    passes: list[int]
    columns: list[int]

    @classmethod
    def new(cls) -> Counter:
        """Nothing counted."""
        return cls([0], [0])


@dataclass(frozen=True)
class Patching:
    """One model, run by one engine on one batch of rows.

    ``wrong``: tokens that the logit difference subtracts; None: all other tokens together, so that
    it is the log-odds of the answer.
    """

    engine: Engine
    model: Model
    rows: Sequence[TokenRow]
    pad_id: int
    score: str = PROBABILITY
    wrong: Sequence[int] | None = None
    counter: Counter = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.counter is None:
            object.__setattr__(self, "counter", Counter.new())

    @property
    def answers(self) -> Int[Tensor, " B"]:
        """The answers' tokens."""
        return torch.tensor([row.answer for row in self.rows], device=self.model.device)

    def batch(self, texts: Sequence[TokenText]) -> Batch:
        """Texts as a batch, in which no row counts on a shared prefix: edits differ by row."""
        padded = Batch.pad([text.ids for text in texts], self.pad_id, device=self.model.device)
        return replace(padded, prefix_length=0)

    def metric(self, logits: Float[Tensor, "R V"], of: Sequence[int]) -> Float[Tensor, " R"]:
        """The score of the answers; ``of``: the row of each."""
        wide = widen(logits).double()
        index = torch.tensor(list(of), device=wide.device)
        answers = self.answers.to(wide.device)[index, None]
        if self.score == PROBABILITY:
            return wide.log_softmax(-1).gather(1, answers)[:, 0].exp()
        right = wide.gather(1, answers)[:, 0]
        if self.wrong is not None:
            wrong = torch.tensor(self.wrong, device=wide.device)[index, None]
            return right - wide.gather(1, wrong)[:, 0]
        return right - wide.scatter(1, answers, -torch.inf).logsumexp(-1)

    def change(
        self, patched: Float[Tensor, "B ..."], clean: Float[Tensor, "B ..."]
    ) -> Float[Tensor, "B ..."]:
        """Relative to the clean value for probabilities, else the difference."""
        return (patched - clean) / clean if self.score == PROBABILITY else patched - clean

    def columns(self, texts: Sequence[TokenText], names: Sequence[str]) -> dict[str, Columns]:
        """Streams and head outputs of texts at named positions, from one pass."""
        layers = range(self.model.anatomy.n_layers)
        streams = [Site(layer, "hook_resid_pre") for layer in layers]
        heads = [HEAD.site(layer) for layer in layers]
        batch = self.batch(texts)
        run = self.engine.run(self.model, batch, reads=[*streams, *heads], keep=0)
        self.counter.passes[0] += len(texts)
        at = torch.arange(len(texts), device=batch.ids.device)
        result = {}
        for name in names:
            column = torch.tensor(padded_columns(texts, name, batch.ids.shape[1]))
            result[name] = Columns(
                *(
                    torch.stack([_at(run.values[site], at, column) for site in sites], 1)
                    for sites in (streams, heads)
                )
            )
        return result

    def head_slices(self, heads: Sequence[int]) -> Int[Tensor, "K W"]:
        """Channels of heads in the input of the output projection."""
        width = self.model.anatomy.head_width
        return torch.tensor(list(heads))[:, None] * width + torch.arange(width)

    def column_edits(
        self, layer: int, stream: Float[Tensor, "R D"], z: Float[Tensor, "R L C"]
    ) -> list[Replace]:
        """Start at a block from a column, with head outputs as given from there on."""
        edits: list[Replace] = [StartFromStream(Site(layer, "hook_resid_pre"), stream[:, None])]
        for at in range(layer, self.model.anatomy.n_layers):
            edits.append(Replace(HEAD.site(at), z[:, at, None]))
        return edits

    def column_batch(self, count: int) -> Batch:
        """A batch of single columns; their tokens are not read."""
        shape = (count, 1)
        device = self.model.device
        return Batch(
            torch.zeros(shape, dtype=torch.int64, device=device),
            torch.ones(shape, dtype=torch.bool, device=device),
        )

    def patched_columns(
        self, clean: Columns, corrupt: Columns, layer: int, heads: Sequence[int]
    ) -> tuple[Float[Tensor, "R D"], Float[Tensor, "R L C"]]:
        """Every row once clean and once for each head, whose output is the corrupted one: rows are
        (prompt, 1 + head).
        """
        count = len(clean.z)
        z = clean.z[:, None].repeat(1, 1 + len(heads), 1, 1)
        slices = self.head_slices(heads).to(z.device)
        for at, channels in enumerate(slices):
            z[:, 1 + at, layer, channels] = corrupt.z[:, layer, channels].to(z.dtype)
        stream = clean.stream[:, layer, None].expand(count, 1 + len(heads), -1)
        return stream.flatten(0, 1), z.flatten(0, 1)

    def direct(
        self, clean: Columns, corrupt: Columns, layers: Sequence[int]
    ) -> Float[np.ndarray, "B L H"]:
        """Change of the score by every head of some blocks on the path to the logits, NaN in other
        blocks.
        """
        anatomy = self.model.anatomy
        heads = range(anatomy.n_heads)
        result = np.full((len(self.rows), anatomy.n_layers, anatomy.n_heads), np.nan)
        of = [row for row in range(len(self.rows)) for _ in range(1 + len(heads))]
        for layer in layers:
            stream, z = self.patched_columns(clean, corrupt, layer, heads)
            edits = self.column_edits(layer, stream, z)
            run = self.engine.run(self.model, self.column_batch(len(z)), edits=edits, keep=1)
            self.counter.columns[0] += len(z)
            result[:, layer] = self._changes(run.require_logits()[:, -1], of, len(heads))
        return result

    def composed(
        self,
        clean: Columns,
        corrupt: Columns,
        group: HeadGroup,
        receivers: Sequence[Node],
        layers: Sequence[int],
    ) -> Float[np.ndarray, "B L H"]:
        """Change of the score by every head of some blocks through the receivers' queries, keys or
        values; 0 for heads that no receiver follows, NaN in other blocks.
        """
        anatomy = self.model.anatomy
        heads = range(anatomy.n_heads)
        result = np.full((len(self.rows), anatomy.n_layers, anatomy.n_heads), np.nan)
        result[:, list(layers)] = 0.0
        if not receivers:
            return result
        batch = self.batch([row.prompt for row in self.rows])
        first = min(layer for layer, _ in receivers)
        entry = Site(first, "hook_resid_pre")
        entered = self.engine.run(self.model, batch, reads=[entry], keep=0).values[entry]
        self.counter.passes[0] += len(self.rows)
        per_row = 1 + len(heads)
        of = [row for row in range(len(self.rows)) for _ in range(per_row)]
        wide = Batch(
            batch.ids.repeat_interleave(per_row, 0), batch.mask.repeat_interleave(per_row, 0)
        )
        start = StartFromStream(entry, entered.repeat_interleave(per_row, 0))
        mask = self._position_mask(batch, group.position).repeat_interleave(per_row, 0)
        for layer in layers:
            later = [node for node in receivers if node[0] > layer]
            if not later:
                continue
            stream, z = self.patched_columns(clean, corrupt, layer, heads)
            edits = self.column_edits(layer, stream, z)
            channels = self.receiver_channels(later, group.via)
            run = self.engine.run(
                self.model, self.column_batch(len(z)), reads=[*channels], edits=edits, keep=0
            )
            self.counter.columns[0] += len(z)
            patches = [
                Replace(site, run.values[site][..., index], index, mask)
                for site, index in channels.items()
            ]
            run = self.engine.run(self.model, wide, edits=[start, *patches], keep=1)
            self.counter.passes[0] += len(wide.ids)
            result[:, layer] = self._changes(run.require_logits()[:, -1], of, len(heads))
        return result

    def receiver_channels(
        self, receivers: Sequence[Node], via: str
    ) -> dict[Site, Int[Tensor, " K"]]:
        """The sites and channels of the receivers' queries, keys or values; keys and values are
        those of the group of query heads that a receiver is in.
        """
        anatomy = self.model.anatomy
        shared = 1 if via == "q" else anatomy.n_heads // key_value_heads(self.model)
        by_layer: dict[int, set[int]] = {}
        for layer, head in receivers:
            by_layer.setdefault(layer, set()).add(head // shared)
        return {
            Site(layer, _HOOKS[via]): self.head_slices(sorted(heads))
            .flatten()
            .to(self.model.device)
            for layer, heads in sorted(by_layer.items())
        }

    def attributed(
        self,
        clean: Columns,
        corrupt: Columns,
        group: HeadGroup,
        receivers: Sequence[Node],
    ) -> Float[np.ndarray, "B L H"]:
        """First-order estimate of ``direct`` or ``composed`` for all heads: the gradient along the
        path times the difference of the heads' outputs (attribution patching, arXiv 2310.10348);
        0 where no receiver follows a head.
        """
        anatomy = self.model.anatomy
        if group.receiver != LOGITS and not any(layer for layer, _ in receivers):
            return np.zeros((len(self.rows), anatomy.n_layers, anatomy.n_heads))
        observers, weighted, before = (
            ([], None, None)
            if group.receiver == LOGITS
            else self._receiver_gradients(receivers, group)
        )
        sites = [HEAD.site(layer) for layer in range(anatomy.n_layers)]
        edits = [*self.column_edits(0, clean.stream[:, 0], clean.z), *observers]
        of = range(len(self.rows))

        def objective(logits: Float[Tensor, "B kept V"]) -> Float[Tensor, " B"]:
            return self.metric(logits[:, -1], of) if weighted is None else weighted()

        run = self.engine.run(
            self.model,
            self.column_batch(len(self.rows)),
            edits=edits,
            gradients_at=sites,
            gradient_of=objective,
            keep=1,
        )
        self.counter.columns[0] += 3 * len(self.rows)
        result = []
        for layer, site in enumerate(sites):
            difference = corrupt.z[:, layer] - clean.z[:, layer]
            terms = widen(run.gradients[site][:, 0]).double() * difference.double()
            result.append(terms.unflatten(-1, (anatomy.n_heads, -1)).sum(-1))
        change = torch.stack(result, 1)
        if self.score == PROBABILITY:
            # a column at another position than the last does not give the answer
            score = self.metric(run.require_logits()[:, -1], of) if before is None else before
            change = change / score[:, None, None]
        return to_host(change)

    def _receiver_gradients(
        self, receivers: Sequence[Node], group: HeadGroup
    ) -> tuple[list[Observe], Callable[[], Float[Tensor, " B"]], Float[Tensor, " B"]]:
        """Observers of the receivers' inputs in a pass over columns, the sum of these weighted by
        the gradient of the score in a clean pass, and that score.
        """
        channels = self.receiver_channels(receivers, group.via)
        batch = self.batch([row.prompt for row in self.rows])
        of = range(len(self.rows))
        mask = self._position_mask(batch, group.position)
        clean = self.engine.run(self.model, batch, reads=[*channels], keep=0).values
        # as in patching, a receiver's input does not depend on that of an earlier receiver
        held = [
            Replace(site, clean[site][..., index], index, mask) for site, index in channels.items()
        ]
        run = self.engine.run(
            self.model,
            batch,
            edits=held,
            gradients_at=[*channels],
            gradient_of=lambda logits: self.metric(logits[:, -1], of),
            keep=1,
        )
        before = self.metric(run.require_logits()[:, -1], of)
        self.counter.passes[0] += 4 * len(self.rows)
        weights = {site: run.gradients[site][mask][:, index] for site, index in channels.items()}
        seen: dict[Site, Tensor] = {}
        observers = [
            Observe(site, lambda value, site=site: seen.__setitem__(site, value))
            for site in channels
        ]

        def weighted() -> Float[Tensor, " B"]:
            terms = [
                (seen[site][:, 0, index] * weights[site].to(seen[site])).sum(-1)
                for site, index in channels.items()
            ]
            return torch.stack(terms).sum(0)

        return observers, weighted, before

    def _position_mask(self, batch: Batch, name: str) -> Bool[Tensor, "B T"]:
        columns = padded_columns([row.prompt for row in self.rows], name, batch.ids.shape[1])
        mask = torch.zeros(batch.ids.shape, dtype=torch.bool)
        mask[torch.arange(len(columns)), torch.tensor(columns)] = True
        return mask.to(batch.ids.device)

    def _changes(
        self, logits: Float[Tensor, "R V"], of: Sequence[int], heads: int
    ) -> Float[np.ndarray, "B H"]:
        scores = self.metric(logits, of).unflatten(0, (-1, 1 + heads))
        return to_host(self.change(scores[:, 1:], scores[:, :1]))

    def right(self) -> Bool[np.ndarray, " B"]:
        """Whether the model's most likely token is the answer."""
        run = self.engine.run(self.model, self.batch([row.prompt for row in self.rows]), keep=1)
        self.counter.passes[0] += len(self.rows)
        return to_host(run.require_logits()[:, -1].argmax(-1) == self.answers) > 0


def key_value_heads(model: Model) -> int:
    """Heads of keys and values in a block: fewer than heads where queries are grouped."""
    config = model.module.config.get_text_config()
    return setting(config, "num_key_value_heads") or model.anatomy.n_heads


def _at(
    value: Float[Tensor, "B T W"], rows: Int[Tensor, " B"], columns: Int[Tensor, " B"]
) -> Float[Tensor, "B W"]:
    return value[rows.to(value.device), columns.to(value.device)]


@dataclass(frozen=True)
class GroupScores:
    """Scores of every head in one group: the change of each prompt's answer, [N, L, H]."""

    group: HeadGroup
    by_prompt: Float[np.ndarray, "N L H"]

    @property
    def mean(self) -> Float[np.ndarray, "L H"]:
        """Mean over prompts."""
        return self.by_prompt.mean(0)


def clean_and_corrupt(
    patching: Patching, names: Sequence[str]
) -> tuple[Mapping[str, Columns], Mapping[str, Columns]]:
    """Activations of the prompts and of their corrupted texts, each at its own named positions."""
    clean = patching.columns([row.prompt for row in patching.rows], names)
    corrupt = patching.columns([row.corrupt or row.prompt for row in patching.rows], names)
    return clean, corrupt


def scores_of_group(
    batches: Iterator[Patching] | Sequence[Patching],
    group: HeadGroup,
    receivers: Sequence[Node],
    *,
    attribution: bool = False,
    layers: Sequence[int] | None = None,
) -> GroupScores:
    """Scores of all heads of a group, or of those of some blocks, over batches of rows."""
    parts = []
    for patching in batches:
        clean, corrupt = (
            each[group.position] for each in clean_and_corrupt(patching, [group.position])
        )
        wanted = range(patching.model.anatomy.n_layers) if layers is None else layers
        if attribution:
            parts.append(patching.attributed(clean, corrupt, group, receivers))
        elif group.receiver == LOGITS:
            parts.append(patching.direct(clean, corrupt, wanted))
        else:
            parts.append(patching.composed(clean, corrupt, group, receivers, wanted))
    return GroupScores(group, np.concatenate(parts))


__all__ = ["LAST", "SCORES", "GroupScores", "Patching", "scores_of_group"]
