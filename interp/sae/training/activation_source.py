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
    SPECIAL,
    TURNS,
    Documents,
    Encoded,
    encode_document,
    end_id,
    packed,
    require_rows,
    special_ids,
)
from interp.provenance import file_digest
from interp.sae.core.norms import Norms
from interp.sites import Site

OF = ("tuned", "base", "both", "difference")
LONGEST = 8192
_FULL, _UNLIKE = 512, 1.1
"""A batch with ``_FULL`` cells is closed when the next document is ``_UNLIKE`` times as long as its
shortest one.
"""


@dataclass(frozen=True)
class Reading:
    """Which activations of the documents become rows.

    ``of``: tuned, base, both (concatenated), or difference (tuned minus base). ``context``: maximum
    tokens of a document, by default the context length of the model, at most 8,192. ``pack``:
    concatenate documents into blocks of ``context`` tokens instead of running each separately.
    ``keep``: roles whose tokens are used (``text, system, user, assistant, template``).
    ``special``: whether special tokens are used. ``sinks``: rows whose norm exceeds this many
    running medians are left out; 0 keeps all.
    """

    of: str = "tuned"
    context: int | None = None
    pack: bool = False
    keep: tuple[str, ...] = tuple(TURNS)
    special: bool = True
    sinks: float = 10.0
    window: int = 2048
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if self.of not in OF:
            raise OptionError(f"unknown model role {self.of!r}; use {', '.join(OF)}")
        if unknown := sorted(set(self.keep) - set(TURNS)):
            raise OptionError(f"unknown role {unknown[0]!r}; use {', '.join(TURNS)}")
        if not self.keep:
            raise OptionError(
                f"no tokens would be kept; name at least one role of {', '.join(TURNS)}"
            )
        if self.context is not None and self.context < 2:
            raise OptionError(f"the context must be at least 2 tokens, not {self.context}")
        if self.sinks and self.sinks <= 1:
            raise OptionError(
                f"a norm limit of {self.sinks} medians would remove about half of all rows; use"
                " 10, or 0 to keep every row"
            )


@dataclass(frozen=True, eq=False)
class Activations:
    """Rows of one or several sites of a pair's models on documents; process ``rank`` of ``world``
    reads every ``world``-th document.

    ``report`` gives counts of the tokens read so far.
    """

    pair: Pair
    sites: tuple[Site, ...]
    documents: Documents
    reading: Reading = Reading()
    engine: Engine = field(default_factory=TorchEngine)
    rank: int = 0
    world: int = 1
    _state: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.reading.of != "tuned":
            self.pair.require_base(f"--of {self.reading.of}")
        for site in self.sites:
            for role in self.roles:
                self.pair[role].at(site)
        if len(set(self.sites)) < len(self.sites) or not self.sites:
            raise OptionError("name at least one site, and each site only once")

    @property
    def roles(self) -> tuple[str, ...]:
        """The models that are run."""
        return {"tuned": ("tuned",), "base": ("base",)}.get(self.reading.of, ("base", "tuned"))

    @property
    def models(self) -> int:
        """Number of models whose activations are concatenated in a segment."""
        return 2 if self.reading.of == "both" else 1

    def _wide(self, site: Site) -> int:
        anatomy = self.pair.tuned.anatomy
        heads, neurons = anatomy.n_heads * anatomy.head_width, anatomy.n_neurons
        inner = {"attn.hook_z": heads} | dict.fromkeys(
            ("mlp.hook_pre", "mlp.hook_pre_linear", "mlp.hook_post"), neurons
        )
        return self.models * inner.get(site.hook, anatomy.width)

    @property
    def width(self) -> int:
        """Number of columns."""
        return sum(map(self._wide, self.sites))

    @property
    def segments(self) -> dict[str, tuple[int, int]]:
        """Column range of each site; for "both" it holds base and tuned side by side."""
        found, at = {}, 0
        for site in self.sites:
            found[str(site)] = (at, at + self._wide(site))
            at += self._wide(site)
        return found

    @property
    def context(self) -> int:
        """Maximum tokens of a document."""
        longest = self.pair.tuned.context_length
        if self.reading.context is not None and self.reading.context > longest:
            raise OptionError(
                f"the model's context length is {longest} tokens, not {self.reading.context};"
                " use a smaller context"
            )
        return self.reading.context or min(longest, LONGEST)

    def described(self) -> dict[str, Any]:
        """Everything that determines the rows."""
        kept = {name: getattr(self.reading, name) for name in Reading.__dataclass_fields__}
        return {
            "models": dict(self.pair.digests),
            "sites": [str(site) for site in self.sites],
            "documents": file_digest(self.documents.path),
            "column": self.documents.column,
            "reading": {**kept, "keep": sorted(self.reading.keep), "context": self.context},
            "part": [self.rank, self.world],
            "device": str(self.pair.tuned.device),
            "dtype": str(self.pair.tuned.dtype),
        }

    # ------------------------------------------------------------------ rows

    def chunks(self, cursor: Any = None) -> Iterator[tuple[Tensor, Any]]:
        """Rows batch by batch; the rows of a batch do not depend on where the pass started."""
        cursor = cursor or {"row": 0, "group": 0, "norms": None, "counts": {}}
        state = self._state
        state["norms"] = Norms.from_json(cursor["norms"], len(self.sites) * len(self.roles))
        state["counts"] = Counter(cursor["counts"])
        models = {role: self.pair[role] for role in self.roles}
        for start, after, encoded in self._windows(cursor["row"]):
            wide = len(models) * sum(map(self._wide, self.sites)) * 4
            groups = batches(
                encoded, self.pair.tuned, self.reading.batch_size, per_token_bytes=wide
            )
            if self.reading.batch_size is None:
                groups = [part for group in groups for part in _alike(encoded, group)]
            done = cursor["group"] if start == cursor["row"] else 0
            found = capture(
                self.engine,
                models,
                encoded,
                groups[done:],
                self.sites,
                pad_id=self.pair.pad_id,
                side="right",
            )
            for number, captured in enumerate(found, done + 1):
                rows = self._rows(captured)
                last = number == len(groups)
                place = {"row": after, "group": 0} if last else {"row": start, "group": number}
                yield (
                    rows,
                    {**place, "norms": state["norms"].to_json(), "counts": dict(state["counts"])},
                )

    def _windows(self, start: int) -> Iterator[tuple[int, int, list[Encoded]]]:
        """For each window: the row of its first document, the row after its last, and the encoded
        documents.
        """
        special = special_ids(self.pair.tokenizer)
        mine = (found for found in self.documents.read(start) if found[0] % self.world == self.rank)
        seen = start > 0
        while window := list(islice(mine, self.reading.window)):
            encoded = [self._encoded(number, document, special) for number, document in window]
            encoded = [one for one in encoded if one.ids]
            if self.reading.pack:
                encoded = packed(encoded, self.context, end_id(self.pair.tokenizer), self._first())
            after = window[-1][0] + 1
            if encoded:
                seen = True
                yield start, after, encoded
            start = after
        if not seen:
            part = f" for part {self.rank + 1} of {self.world}" if self.world > 1 else ""
            raise PromptError(
                f"{self.documents.path} contains no documents{part}; write one per line or row"
            )

    def _encoded(self, number: int, document: Any, special: frozenset[int]) -> Encoded:
        try:
            found = encode_document(
                self.pair.tokenizer, document, special, alone=not self.reading.pack
            )
        except PromptError as error:
            raise PromptError(f"{self.documents.path}, row {number}: {error}") from error
        if self.reading.pack:
            return found
        return Encoded(found.ids[: self.context], found.roles[: self.context])

    def _first(self) -> int | None:
        """The tokenizer's beginning-of-text token, if it adds one."""
        ids = self.pair.tokenizer("")["input_ids"]
        require_rows(self.pair.tokenizer, ids, "")
        return ids[0] if ids and ids[0] == self.pair.tokenizer.bos_token_id else None

    def _rows(self, captured: Captured) -> Float[Tensor, "n W"]:
        real, codes = captured.batch.real, captured.roles
        asked = torch.tensor([TURNS[name] for name in self.reading.keep], device=codes.device)
        kept = real & torch.isin(codes % SPECIAL, asked)
        if not self.reading.special:
            kept = kept & (codes < SPECIAL)
        at = {role: kept.to(self.pair[role].device) for role in self.roles}
        values = {key: value[at[key[0]]].float() for key, value in captured.values.items()}
        first = next(iter(values.values()))
        values = {key: value.to(first.device) for key, value in values.items()}
        alive = self._within_norms(values, captured, kept)
        counts = self._state["counts"]
        for name, code in TURNS.items():
            counts[name] += int(
                to_host(((codes[kept] % SPECIAL) == code)[alive.to(codes.device)].sum())
            )
        counts["tokens"] += int(to_host(real.sum()))
        counts["cells"] += real.numel()
        parts = [self._part(values, site) for site in self.sites]
        return torch.cat(parts, 1)[alive]

    def _part(self, values: Mapping[tuple[str, Site], Tensor], site: Site) -> Tensor:
        found = [values[role, site] for role in self.roles]
        return found[1] - found[0] if self.reading.of == "difference" else torch.cat(found, 1)

    def _within_norms(
        self,
        values: Mapping[tuple[str, Site], Tensor],
        captured: Captured,
        kept: Bool[Tensor, "B T"],
    ) -> Bool[Tensor, " n"]:
        first = next(iter(values.values()))
        alive = torch.isfinite(first).all(1)
        if not self.reading.sinks:
            return alive
        for number, value in enumerate(values.values()):
            ratio = self._state["norms"].ratio(number, value.norm(dim=1))
            alive = alive & (ratio <= self.reading.sinks)
        if not bool(to_host(alive.all())):
            sunk = ~alive.to(kept.device)
            counts, ids = self._state["counts"], captured.batch.ids.to(kept.device)[kept][sunk]
            counts["sinks"] += int(to_host(sunk.sum()))
            counts["sinks at a document's start"] += int(
                to_host((captured.batch.positions.to(kept.device)[kept][sunk] == 0).sum())
            )
            for token in to_host(ids).tolist():
                counts[f"sink {token}"] += 1
        return alive

    def report(self) -> dict[str, Any]:
        """Tokens read, tokens kept by role, attention sinks with their most frequent tokens, and
        the share of padding.
        """
        counts = self._state.get("counts", Counter())
        sinks = Counter({name[5:]: n for name, n in counts.items() if name.startswith("sink ")})
        named = {self.pair.tokenizer.decode([int(token)]): n for token, n in sinks.most_common(5)}
        return {
            "tokens": counts["tokens"],
            "kept": {name: counts[name] for name in TURNS if counts[name]},
            "sinks": counts["sinks"],
            "sinks at a document's start": counts["sinks at a document's start"],
            "sinks by token": named,
            "median norms": self._state["norms"].medians() if "norms" in self._state else [],
            "padding": 1 - counts["tokens"] / counts["cells"] if counts["cells"] else 0.0,
        }


def _alike(encoded: Sequence[Encoded], group: Sequence[int]) -> list[list[int]]:
    """Split a batch into parts of similar length: padding costs as much as tokens do."""
    parts: list[list[int]] = [[]]
    for row in group:
        length, shortest = (len(encoded[at].ids) for at in (row, (parts[-1] or [row])[0]))
        if length > _UNLIKE * shortest and len(parts[-1]) * shortest >= _FULL:
            parts.append([])
        parts[-1].append(row)
    return parts
