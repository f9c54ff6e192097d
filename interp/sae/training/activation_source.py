"""Activations of a pair's models on documents, as rows to train a dictionary on.

Documents are read in windows, sorted by length and run in batches of similar cost, each document in
its own sequence (as in "FAST", finetuning-aligned sequential training) unless they are packed.
Padding never becomes a row. Tokens are filtered by role, and rows of very large norm (attention
sinks) are left out and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.capture import Captured, batches, capture
from interp.engines import Engine, TorchEngine
from interp.errors import OptionError, PromptError
from interp.maths.host import to_host
from interp.models.pair import Pair
from interp.prompts import (
    SPECIAL_TOKEN,
    TOKEN_SOURCES,
    Documents,
    Encoded,
    encode_document,
    end_id,
    pack_documents,
    require_usable_ids,
    special_ids,
)
from interp.provenance import file_digest
from interp.sae.core.norms import RunningMedianNorms
from interp.sites import Site

MODEL_ROLES = ("tuned", "base", "both", "difference")
MAX_CONTEXT = 8192
_MIN_CELLS, _LENGTH_RATIO = 512, 1.1
"""A batch with ``_MIN_CELLS`` cells is closed when the next document is ``_LENGTH_RATIO`` times as
long as its shortest one.
"""


@dataclass(frozen=True)
class ReadingOptions:
    """Which activations of the documents become rows.

    ``model_role``: tuned, base, both (concatenated), or difference (tuned minus base). ``context``: maximum
    tokens of a document, by default the context length of the model, at most 8,192. ``pack``:
    concatenate documents into blocks of ``context`` tokens instead of running each separately.
    ``keep``: roles whose tokens are used (``text, system, user, assistant, template``).
    ``special``: whether special tokens are used. ``max_norm_ratio``: rows whose norm exceeds this many
    running medians are left out; 0 keeps all.
    """

    model_role: str = "tuned"
    context: int | None = None
    pack: bool = False
    keep: tuple[str, ...] = tuple(TOKEN_SOURCES)
    special: bool = True
    max_norm_ratio: float = 10.0
    window: int = 2048
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if self.model_role not in MODEL_ROLES:
            raise OptionError(
                f"unknown model role {self.model_role!r}; use {', '.join(MODEL_ROLES)}"
            )
        if unknown := sorted(set(self.keep) - set(TOKEN_SOURCES)):
            raise OptionError(f"unknown role {unknown[0]!r}; use {', '.join(TOKEN_SOURCES)}")
        if not self.keep:
            raise OptionError(
                f"no tokens would be kept; name at least one role of {', '.join(TOKEN_SOURCES)}"
            )
        if self.context is not None and self.context < 2:
            raise OptionError(f"the context must be at least 2 tokens, not {self.context}")
        if self.max_norm_ratio and self.max_norm_ratio <= 1:
            raise OptionError(
                f"a norm limit of {self.max_norm_ratio} medians would remove about half of all rows; use"
                " 10, or 0 to keep every row"
            )


@dataclass(frozen=True, eq=False)
class ActivationSource:
    """Rows of one or several sites of a pair's models on documents; process ``rank`` of ``world``
    reads every ``world``-th document.

    ``report`` gives counts of the tokens read so far.
    """

    pair: Pair
    sites: tuple[Site, ...]
    documents: Documents
    options: ReadingOptions = ReadingOptions()
    engine: Engine = field(default_factory=TorchEngine)
    rank: int = 0
    world: int = 1
    _state: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.options.model_role != "tuned":
            self.pair.require_base(f"--model-role {self.options.model_role}")
        for site in self.sites:
            for role in self.roles:
                self.pair[role].at(site)
        if len(set(self.sites)) < len(self.sites) or not self.sites:
            raise OptionError("name at least one site, and each site only once")

    @property
    def roles(self) -> tuple[str, ...]:
        """The models that are run."""
        return {"tuned": ("tuned",), "base": ("base",)}.get(
            self.options.model_role, ("base", "tuned")
        )

    @property
    def models(self) -> int:
        """Number of models whose activations are concatenated in a segment."""
        return 2 if self.options.model_role == "both" else 1

    def _width_of(self, site: Site) -> int:
        anatomy = self.pair.tuned.anatomy
        heads, neurons = anatomy.n_heads * anatomy.head_width, anatomy.n_neurons
        inner = {"attn.hook_z": heads} | dict.fromkeys(
            ("mlp.hook_pre", "mlp.hook_pre_linear", "mlp.hook_post"), neurons
        )
        return self.models * inner.get(site.hook, anatomy.width)

    @property
    def width(self) -> int:
        """Number of columns."""
        return sum(map(self._width_of, self.sites))

    @property
    def segments(self) -> dict[str, tuple[int, int]]:
        """Column range of each site; for "both" it holds base and tuned side by side."""
        segments, start = {}, 0
        for site in self.sites:
            segments[str(site)] = (start, start + self._width_of(site))
            start += self._width_of(site)
        return segments

    @property
    def context(self) -> int:
        """Maximum tokens of a document."""
        longest = self.pair.tuned.context_length
        if self.options.context is not None and self.options.context > longest:
            raise OptionError(
                f"the model's context length is {longest} tokens, not {self.options.context};"
                " use a smaller context"
            )
        return self.options.context or min(longest, MAX_CONTEXT)

    def described(self) -> dict[str, Any]:
        """Everything that determines the rows."""
        options = {
            name: getattr(self.options, name) for name in ReadingOptions.__dataclass_fields__
        }
        return {
            "models": dict(self.pair.digests),
            "sites": [str(site) for site in self.sites],
            "documents": file_digest(self.documents.path),
            "column": self.documents.column,
            "reading": {**options, "keep": sorted(self.options.keep), "context": self.context},
            "part": [self.rank, self.world],
            "device": str(self.pair.tuned.device),
            "dtype": str(self.pair.tuned.dtype),
        }

    # ------------------------------------------------------------------ rows

    def chunks(self, cursor: Any = None) -> Iterator[tuple[Tensor, Any]]:
        """Rows batch by batch; the rows of a batch do not depend on where the pass started."""
        cursor = cursor or {"row": 0, "group": 0, "norms": None, "counts": {}}
        state = self._state
        state["norms"] = RunningMedianNorms.from_json(
            cursor["norms"], len(self.sites) * len(self.roles)
        )
        state["counts"] = Counter(cursor["counts"])
        models = {role: self.pair[role] for role in self.roles}
        for start, after, encoded in self._windows(cursor["row"]):
            bytes_per_token = len(models) * sum(map(self._width_of, self.sites)) * 4
            groups = batches(
                encoded, self.pair.tuned, self.options.batch_size, per_token_bytes=bytes_per_token
            )
            if self.options.batch_size is None:
                groups = [part for group in groups for part in _split_by_length(encoded, group)]
            done = cursor["group"] if start == cursor["row"] else 0
            batches_read = capture(
                self.engine,
                models,
                encoded,
                groups[done:],
                self.sites,
                pad_id=self.pair.pad_id,
                side="right",
            )
            for number, captured in enumerate(batches_read, done + 1):
                rows = self._rows(captured)
                is_last = number == len(groups)
                position = (
                    {"row": after, "group": 0} if is_last else {"row": start, "group": number}
                )
                yield (
                    rows,
                    {
                        **position,
                        "norms": state["norms"].to_json(),
                        "counts": dict(state["counts"]),
                    },
                )

    def _windows(self, start: int) -> Iterator[tuple[int, int, list[Encoded]]]:
        """For each window: the row of its first document, the row after its last, and the encoded
        documents.
        """
        special = special_ids(self.pair.tokenizer)
        documents = (
            found for found in self.documents.read(start) if found[0] % self.world == self.rank
        )
        any_read = start > 0
        while window := list(islice(documents, self.options.window)):
            encoded = [self._encoded(number, document, special) for number, document in window]
            encoded = [one for one in encoded if one.ids]
            if self.options.pack:
                encoded = pack_documents(
                    encoded, self.context, end_id(self.pair.tokenizer), self._first()
                )
            after = window[-1][0] + 1
            if encoded:
                any_read = True
                yield start, after, encoded
            start = after
        if not any_read:
            part = f" for part {self.rank + 1} of {self.world}" if self.world > 1 else ""
            raise PromptError(
                f"{self.documents.path} contains no documents{part}; write one per line or row"
            )

    def _encoded(self, number: int, document: Any, special: frozenset[int]) -> Encoded:
        try:
            encoded = encode_document(
                self.pair.tokenizer, document, special, add_special_tokens=not self.options.pack
            )
        except PromptError as error:
            raise PromptError(f"{self.documents.path}, row {number}: {error}") from error
        if self.options.pack:
            return encoded
        return Encoded(encoded.ids[: self.context], encoded.roles[: self.context])

    def _first(self) -> int | None:
        """The tokenizer's beginning-of-text token, if it adds one."""
        ids = self.pair.tokenizer("")["input_ids"]
        require_usable_ids(self.pair.tokenizer, ids, "")
        return ids[0] if ids and ids[0] == self.pair.tokenizer.bos_token_id else None

    def _rows(self, captured: Captured) -> Float[Tensor, "n W"]:
        real, codes = captured.batch.real, captured.roles
        kept_roles = torch.tensor(
            [TOKEN_SOURCES[name] for name in self.options.keep], device=codes.device
        )
        mask = real & torch.isin(codes % SPECIAL_TOKEN, kept_roles)
        if not self.options.special:
            mask = mask & (codes < SPECIAL_TOKEN)
        mask_of = {role: mask.to(self.pair[role].device) for role in self.roles}
        values = {key: value[mask_of[key[0]]].float() for key, value in captured.values.items()}
        first = next(iter(values.values()))
        values = {key: value.to(first.device) for key, value in values.items()}
        within_norms = self._within_norms(values, captured, mask)
        counts = self._state["counts"]
        for name, code in TOKEN_SOURCES.items():
            counts[name] += int(
                to_host(
                    ((codes[mask] % SPECIAL_TOKEN) == code)[within_norms.to(codes.device)].sum()
                )
            )
        counts["tokens"] += int(to_host(real.sum()))
        counts["cells"] += real.numel()
        parts = [self._part(values, site) for site in self.sites]
        return torch.cat(parts, 1)[within_norms]

    def _part(self, values: Mapping[tuple[str, Site], Tensor], site: Site) -> Tensor:
        activations = [values[role, site] for role in self.roles]
        return (
            activations[1] - activations[0]
            if self.options.model_role == "difference"
            else torch.cat(activations, 1)
        )

    def _within_norms(
        self,
        values: Mapping[tuple[str, Site], Tensor],
        captured: Captured,
        mask: Bool[Tensor, "B T"],
    ) -> Bool[Tensor, " n"]:
        first = next(iter(values.values()))
        within = torch.isfinite(first).all(1)
        if not self.options.max_norm_ratio:
            return within
        for number, value in enumerate(values.values()):
            ratio = self._state["norms"].ratio(number, value.norm(dim=1))
            within = within & (ratio <= self.options.max_norm_ratio)
        if not bool(to_host(within.all())):
            is_sink = ~within.to(mask.device)
            counts, ids = self._state["counts"], captured.batch.ids.to(mask.device)[mask][is_sink]
            counts["sinks"] += int(to_host(is_sink.sum()))
            counts["sinks at a document's start"] += int(
                to_host((captured.batch.positions.to(mask.device)[mask][is_sink] == 0).sum())
            )
            for token in to_host(ids).tolist():
                counts[f"sink {token}"] += 1
        return within

    def report(self) -> dict[str, Any]:
        """Tokens read, tokens kept by role, attention sinks with their most frequent tokens, and
        the share of padding.
        """
        counts = self._state.get("counts", Counter())
        sinks = Counter({name[5:]: n for name, n in counts.items() if name.startswith("sink ")})
        named = {self.pair.tokenizer.decode([int(token)]): n for token, n in sinks.most_common(5)}
        return {
            "tokens": counts["tokens"],
            "kept": {name: counts[name] for name in TOKEN_SOURCES if counts[name]},
            "sinks": counts["sinks"],
            "sinks at a document's start": counts["sinks at a document's start"],
            "sinks by token": named,
            "median norms": self._state["norms"].medians() if "norms" in self._state else [],
            "padding": 1 - counts["tokens"] / counts["cells"] if counts["cells"] else 0.0,
        }


def _split_by_length(encoded: Sequence[Encoded], group: Sequence[int]) -> list[list[int]]:
    """Split a batch into parts of similar length: padding costs as much as tokens do."""
    parts: list[list[int]] = [[]]
    for row in group:
        length, shortest = (len(encoded[at].ids) for at in (row, (parts[-1] or [row])[0]))
        if length > _LENGTH_RATIO * shortest and len(parts[-1]) * shortest >= _MIN_CELLS:
            parts.append([])
        parts[-1].append(row)
    return parts
