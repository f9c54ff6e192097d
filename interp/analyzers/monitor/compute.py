"""Texts as tokens of user, assistant or neither, and the extremes of their cosines with directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.engines import Batch
from interp.errors import PromptError
from interp.experiments.discovery.update_directions import ModelDirections
from interp.maths.host import to_host
from interp.maths.precision import widen
from interp.models.pair import Pair
from interp.prompts import (
    CONTENT,
    DECISION,
    TOKEN_SOURCES,
    Encoded,
    Prompt,
    Tokenizer,
    encode,
    encode_document,
    special_ids,
)
from interp.sites import Site, Weight
from interp.study import Study

SOURCES = ("text", "user", "assistant")
"""Whose tokens extremes are taken over, each apart."""


def read_texts(study: Study, group: str, max_tokens: int, turns: bool) -> list[Encoded]:
    """The texts of a class: conversations through the chat template, others as plain text, or with
    ``turns`` as a user turn and the template's tokens where the answer begins ("assistant").

    A role is the place of its source in ``SOURCES``, -1 for tokens that are not read: special ones,
    other tokens of the template, system messages, the first of a text (an attention sink), and all
    after ``max_tokens`` that are. Raises PromptError for a text of which no token is read.
    """
    tokenizer, limit = study.pair.tokenizer, study.pair.tuned.context_length
    special = special_ids(tokenizer)
    texts = []
    for prompt in study.prompts(group):
        coded, sources = _sources(tokenizer, prompt, special, turns)
        roles, n_read = [], 0
        for at, source in enumerate(sources[:limit]):
            role = source if at and n_read < max_tokens else -1
            n_read += role >= 0
            roles.append(role)
        if not n_read:
            raise PromptError(
                f"{group} text {prompt.id} has no token that can be read after the first; use"
                " longer texts"
            )
        texts.append(Encoded(coded.ids[:limit], tuple(roles)))
    return texts


def _sources(
    tokenizer: Tokenizer, prompt: Prompt, special: frozenset[int], turns: bool
) -> tuple[Encoded, list[int]]:
    """Tokens, and the place of each one's source in ``SOURCES`` or -1."""
    if turns and not prompt.messages:
        if tokenizer.chat_template is None:
            raise PromptError(
                "the tokenizer has no chat template to read texts as user turns; leave out turns"
            )
        coded = encode(tokenizer, prompt.text)
        places = {CONTENT: SOURCES.index("user"), DECISION: SOURCES.index("assistant")}
    else:
        messages = [{"role": role, "content": words} for role, words in prompt.messages or ()]
        coded = encode_document(tokenizer, messages or prompt.text, special)
        places = {TOKEN_SOURCES[name]: at for at, name in enumerate(SOURCES)}
    return coded, [places.get(role, -1) for role in coded.roles]


@dataclass(frozen=True)
class Vectors:
    """Unit vectors of the residual stream by block, ``by_layer`` [n, D]; ``keys``: matrix and rank
    of every one, in the order of the blocks.
    """

    by_layer: Mapping[int, Float[Tensor, "n D"]]
    keys: Sequence[tuple[Weight, int]]

    @classmethod
    def from_directions(cls, directions: ModelDirections) -> Vectors:
        """The directions of a model's update."""
        by_layer: dict[int, list[np.ndarray]] = {}
        for weight, one in directions.matrices.items():
            by_layer.setdefault(weight.layer, []).extend(one.left.T)
        return cls(
            {
                layer: torch.from_numpy(np.stack(rows)).float()
                for layer, rows in sorted(by_layer.items())
            },
            sorted(directions.keys, key=lambda each: each[0].layer),
        )

    def rows(self, keys: Sequence[tuple[Weight, int]]) -> Float[np.ndarray, "k D"]:
        """Some of the vectors, in this order."""
        place = {key: at for at, key in enumerate(self.keys)}
        every = to_host(torch.cat(list(self.by_layer.values())))
        return every[[place[key] for key in keys]]

    def random(self, seed: int, draw: int) -> Vectors:
        """As many random unit vectors in every block (normal numbers, normalised)."""
        made = {}
        for layer, own in self.by_layer.items():
            rng = np.random.default_rng((seed, draw, layer))
            values = torch.from_numpy(rng.standard_normal(tuple(own.shape))).float()
            made[layer] = values / values.norm(dim=1, keepdim=True)
        return Vectors(made, self.keys)


@dataclass(frozen=True)
class Extremes:
    """Extremes over the tokens of every text: ``features`` [P, F] with F = sources x 2 x n: the
    largest cosine with every direction and minus the smallest, for every source of tokens (NaN
    where a text has none of them); ``positions`` [P, F]: where in the text; ``sources``: places in
    ``SOURCES`` of those that occur.
    """

    features: Float[np.ndarray, "P F"]
    positions: Int[np.ndarray, "P F"]
    sources: Sequence[int]


@torch.no_grad()
def cosine_extremes(
    study: Study, pair: Pair, texts: Sequence[Encoded], sets: Sequence[Vectors], title: str
) -> list[Extremes]:
    """Extremes of the cosine of each block's output (before any final norm) with the vectors of
    that block, in the fine-tuned model of ``pair``, for several sets of vectors in one pass.
    """
    model, layers = pair.tuned, list(sets[0].by_layer)
    counts = [len(one.keys) for one in sets]
    sources = present_sources(texts)
    shape = len(texts), 2 * len(sources) * sum(counts)
    features, positions = np.full(shape, np.nan, np.float32), np.zeros(shape, np.int32)
    stacked = {
        layer: torch.cat([one.by_layer[layer] for one in sets]).to(model.device) for layer in layers
    }
    columns = _columns(sets)
    per_token = 4 * (len(layers) * model.anatomy.width + 2 * sum(counts))
    for rows in study.progress(study.batches(texts, model, per_token), title):
        batch = Batch.pad([texts[row].ids for row in rows], study.pad_id, "right", model.device)
        roles = torch.full(batch.ids.shape, -1, device=model.device)
        roles[batch.mask] = torch.tensor(
            [role for row in rows for role in texts[row].roles], device=model.device
        )
        sites = [Site(layer, "hook_resid_post") for layer in layers]
        values = study.engine.run(model, batch, reads=sites, keep=0).values
        for layer, site in zip(layers, sites, strict=True):
            stream = widen(values[site])
            stream = stream / stream.norm(dim=-1, keepdim=True).clamp(min=1e-30)
            cosines = stream @ stacked[layer].to(stream).T
            for number, source in enumerate(sources):
                for side, sign in enumerate((1, -1)):
                    found, where = _largest(sign * cosines, (roles == source).to(stream.device))
                    at = columns[layer] + (2 * number + side) * sum(counts)
                    cells = np.asarray(rows)[:, None], at[None]
                    features[cells], positions[cells] = found, where
    return [
        Extremes(_of_set(features, counts, number), _of_set(positions, counts, number), sources)
        for number in range(len(sets))
    ]


def _columns(sets: Sequence[Vectors]) -> dict[int, np.ndarray]:
    """For every block, the columns of its vectors of all sets, where each set is in one piece."""
    starts = np.cumsum([0, *(len(one.keys) for one in sets)])
    columns: dict[int, list[np.ndarray]] = {}
    for one, start in zip(sets, starts, strict=False):
        for layer, vectors in one.by_layer.items():
            columns.setdefault(layer, []).append(np.arange(start, start + len(vectors)))
            start += len(vectors)
    return {layer: np.concatenate(parts) for layer, parts in columns.items()}


def _of_set(values: np.ndarray, counts: Sequence[int], number: int) -> np.ndarray:
    parts = values.reshape(len(values), -1, sum(counts))
    start = sum(counts[:number])
    return parts[:, :, start : start + counts[number]].reshape(len(values), -1)


def _largest(
    cosines: Float[Tensor, "B T n"], read: Bool[Tensor, "B T"]
) -> tuple[np.ndarray, np.ndarray]:
    """The largest value over the tokens that are read, NaN without any, and its position."""
    value, position = cosines.masked_fill(~read[..., None], -2.0).max(1)
    value = value.masked_fill(~read.any(1)[:, None], float("nan"))
    return to_host(value), to_host(position)


def present_sources(texts: Sequence[Encoded]) -> list[int]:
    """Places in ``SOURCES`` of the sources whose tokens are read in some of the texts."""
    return sorted({role for text in texts for role in text.roles if role >= 0})


def feature_of(
    column: int, vectors: Vectors, sources: Sequence[int]
) -> tuple[str, str, tuple[Weight, int]]:
    """Source of the tokens, side ("above" or "below" the usual range) and direction of a feature."""
    kind, direction = divmod(column, len(vectors.keys))
    source, side = divmod(kind, 2)
    return SOURCES[sources[source]], ("above", "below")[side], vectors.keys[direction]
