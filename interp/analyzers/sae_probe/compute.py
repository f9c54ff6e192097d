"""Passes over prompts: codes of each prompt, and the metric and the base's answers under edits of
latents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.capture import Captured, capture, make_batch
from interp.engines import Batch
from interp.experiments.answer_groups import by_row, equal_batches
from interp.interventions.intervention import Intervention
from interp.interventions.teacher_forcing import Text, answer_logits, read_donor, would_answer
from interp.maths.host import to_host
from interp.maths.precision import widen
from interp.metrics import Objective
from interp.sae import Dictionary
from interp.sae.analysis.baselines import Covariance
from interp.sae.core.edits import LatentEdit, dictionary_inputs, latent_intervention
from interp.sites import Site
from interp.study import Study

POOLS = ("last", "max", "mean")
ABLATE, STEER = "ablate", "steer"
GROUP = {ABLATE: "positive", STEER: "negative"}
"""Prompts on which each edit is measured: those that show the behaviour, and those that do not."""


@dataclass(frozen=True, eq=False)
class DictionaryReader:
    """A dictionary at its site; ``model_role`` says which model it reads, ``pooling`` how the
    tokens of a prompt are pooled.
    """

    dictionary: Dictionary
    site: Site
    model_role: str
    pooling: str
    revert: bool = False

    @property
    def roles(self) -> tuple[str, ...]:
        """The models that run to compute its codes."""
        return ("tuned",) if self.model_role == "tuned" else ("base", "tuned")

    def rows(self, captured: Captured, role: str = "tuned") -> tuple[Tensor, Tensor, Tensor]:
        """Inputs of the dictionary for a batch's non-padding tokens, the batch row of each, and
        which are last tokens.

        With ``role`` "base" the base's activations are read instead of the tuned model's.
        """
        is_token = captured.roles >= 0
        prompt_row = torch.arange(len(is_token), device=is_token.device)[:, None].expand_as(
            is_token
        )[is_token]
        is_last = torch.ones_like(prompt_row, dtype=torch.bool)
        is_last[:-1] = prompt_row[1:] != prompt_row[:-1]
        base_values = (
            captured.values.get(("base", self.site)) if self.model_role != "tuned" else None
        )
        value = widen(captured.values[role, self.site])[is_token]
        return (
            dictionary_inputs(
                self.dictionary,
                self.model_role,
                value,
                None if base_values is None else widen(base_values)[is_token],
            ),
            prompt_row,
            is_last,
        )

    def change(
        self, study: Study, kind: str, latents: Sequence[int], amount: float
    ) -> Intervention:
        """``ablate`` these latents (or revert them to the base's part), or ``steer`` each by
        ``amount``.
        """
        chosen = torch.tensor([int(latent) for latent in latents], dtype=torch.int64)
        edit = LatentEdit(self.site, self.dictionary, chosen, model_role=self.model_role)
        edit = (
            replace(edit, revert=self.revert)
            if kind == ABLATE
            else replace(edit, factor=1.0, amount=amount)
        )
        return latent_intervention(f"{kind} {len(latents)} latents", [edit], study.pair.base)


@dataclass
class FiringSums:
    """Sums over tokens per latent: number of active tokens, codes, squared codes."""

    tokens: int
    count: NDArray[np.float64]
    sum: NDArray[np.float64]
    square: NDArray[np.float64]

    @property
    def rates(self) -> NDArray[np.float64]:
        """Firing rate of each latent."""
        return self.count / max(self.tokens, 1)

    def mean_active(self, latents: Sequence[int]) -> float:
        """Mean code of these latents where they fire; 1 if none does."""
        chosen = list(latents)
        fired = self.count[chosen].sum()
        return float(self.sum[chosen].sum() / fired) if fired else 1.0

    def size(self, latents: Sequence[int], norms: NDArray[np.float64]) -> float:
        """Root mean square contribution of these latents per token, as if their directions were
        orthogonal.
        """
        chosen = list(latents)
        return float(
            np.sqrt((self.square[chosen] * norms[chosen] ** 2).sum() / max(self.tokens, 1))
        )


def _capture(study: Study, reader: DictionaryReader, group: str, roles: Sequence[str], what: str):
    # only the codes per prompt are kept after a batch
    groups = study.groups(
        group, study.pair.tuned, 8 * (len(roles) * reader.dictionary.config.inputs + 64)
    )
    return capture(
        study.engine,
        {role: study.pair[role] for role in roles},
        study.encoded(group),
        study.progress(groups, f"{what}, {group}"),
        [reader.site],
        pad_id=study.pad_id,
    )


def covariance(study: Study, reader: DictionaryReader) -> Covariance:
    """Mean and covariance of the dictionary's inputs, over the tokens of both classes that are used
    for codes.
    """
    statistics = Covariance.empty(reader.dictionary.config.inputs, study.pair.tuned.device)
    for group in study.classes:
        for captured in _capture(study, reader, group, reader.roles, "rows"):
            rows, _, last = reader.rows(captured)
            statistics.update(rows[last] if reader.pooling == "last" else rows)
    return statistics


@torch.no_grad()
def codes(
    study: Study, reader: DictionaryReader, dictionaries: Mapping[str, Dictionary], with_base: bool
) -> tuple[dict[str, NDArray[np.float64]], FiringSums]:
    """Codes [N, F] of each prompt (positive ones first) in each dictionary, and firing sums of the
    first dictionary.

    ``with_base``: also the first dictionary's codes of the base's activations, under the name
    "base".
    """
    sizes = [len(study.prompts(group)) for group in study.classes]
    named = {**dictionaries, **({"base": reader.dictionary} if with_base else {})}
    pooled_codes = {name: np.zeros((sum(sizes), one.config.width)) for name, one in named.items()}
    width = reader.dictionary.config.width
    device = reader.dictionary.W_dec.device
    sums = torch.zeros(3, width, dtype=torch.float64, device=device)
    tokens, first_name = 0, next(iter(dictionaries))
    roles = tuple(dict.fromkeys((*reader.roles, *(("base",) if with_base else ()))))
    for start, group in zip((0, sizes[0]), study.classes, strict=False):
        for captured in _capture(study, reader, group, roles, "codes"):
            for name, dictionary in named.items():
                rows, owner, last = reader.rows(captured, "base" if name == "base" else "tuned")
                if reader.pooling == "last" and name != first_name:
                    rows, owner, last = rows[last], owner[last], last[last]
                coded = dictionary.encode_sparse(rows)
                which, values = coded.pattern.latents, coded.values.double()
                if name == first_name:
                    sums.index_add_(
                        1, which, torch.stack([(values != 0).double(), values, values.square()])
                    )
                    tokens += len(rows)
                if reader.pooling == "last":
                    values = values * last[coded.pattern.rows]
                cells, count = (
                    owner[coded.pattern.rows] * dictionary.config.width + which,
                    len(captured.rows),
                )
                pooled = values.new_zeros(count * dictionary.config.width)
                pooled = (
                    pooled.scatter_reduce(0, cells, values, "amax")
                    if reader.pooling == "max"
                    else pooled.index_add(0, cells, values)
                ).view(count, -1)
                if reader.pooling == "mean":
                    pooled = pooled / torch.bincount(owner, minlength=count)[:, None]
                pooled_codes[name][start + to_host(captured.rows)] = to_host(pooled)
    return pooled_codes, FiringSums(tokens, *to_host(sums))


class MetricValues:
    """The metric of some prompts of a class under edits of latents; the base is read once."""

    def __init__(
        self, study: Study, reader: DictionaryReader, group: str, rows: Sequence[int]
    ) -> None:
        self._study, inputs = study, study.decision_inputs(group)
        self._rows = equal_batches(study, rows, lambda row: len(inputs[row].ids))
        self._chunks: list[tuple[Batch, dict[Site, Tensor], Objective]] = []
        for part in self._rows:
            batch, _ = make_batch(inputs, part, study.pad_id, study.pair.tuned.device)
            base = {}
            if reader.model_role != "tuned":
                base = study.engine.run(
                    study.pair["base"], batch, reads=[reader.site], keep=0
                ).values
            self._chunks.append((batch, base, study.objective(group, part)))

    def values(self, change: Intervention | None) -> NDArray[np.float64]:
        """The metric of each prompt, by increasing row."""
        parts = []
        for batch, base, aim in self._chunks:
            edits = change.bind(base) if change else ()
            run = self._study.engine.run(self._study.pair.tuned, batch, edits=edits, keep=aim.keep)
            parts.append(to_host(aim.function(run.require_logits())))
        return by_row(self._rows, parts).astype(np.float64)


class BaseAnswers:
    """Whether the tuned model's greedy answers to positive prompts equal the base's under edits of
    latents.

    The answer equals the base's if, reading the prompt and that answer, the argmax at every
    position is the next token; this takes one pass per set and no generation.
    """

    def __init__(self, study: Study, reader: DictionaryReader, rows: Sequence[int]) -> None:
        self._study, base_answers = study, study.answers("base", "positive")
        encoded = study.encoded("positive")
        self._rows = equal_batches(
            study, rows, lambda row: len(base_answers[row]) + len(encoded[row].ids)
        )
        self._chunks = []
        reading = reader.change(study, ABLATE, [0], 0.0)
        for part in self._rows:
            text, answers = study.text("positive", part), [base_answers[row] for row in part]
            text = Text(text.prompts, None, text.pad_id, text.stop_ids)
            self._chunks.append(
                (text, answers, read_donor(study.engine, reading, text, answers).values)
            )

    def matches(self, change: Intervention) -> NDArray[np.bool_]:
        """Whether the answer equals the base's, by increasing row."""
        parts = []
        for text, answers, base in self._chunks:
            logits = answer_logits(
                self._study.engine, self._study.pair.tuned, text, answers, change, base
            )
            parts.append(to_host(would_answer(*logits)))
        return by_row(self._rows, parts)
