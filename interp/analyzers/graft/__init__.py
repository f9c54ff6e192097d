"""``Graft``: how few fine-tuned weights, put into the base, reproduce what fine-tuning taught?

Panigrahi, Saunshi, Zhao and Arora (2023, arXiv 2302.06600) search for a small mask such that the
base with the fine-tuned weights at its positions performs the task. Learned masks are compared with
masks of the same size: the weights with the largest movement or first-order effect, random weights,
and random weights with the same count in every parameter. They are also compared with masks learned
in the same way on the movement shuffled within every parameter. Where those perform as well,
selecting weights is itself a way to train, and the mask does not locate the skill. Shuffles differ
by chance, so there are several, and their variance enters the claim.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from interp.analyzers.base import Analyzer
from interp.analyzers.graft.findings import KEEPS, claims_of
from interp.analyzers.graft.mask_overlap import (
    all_overlaps,
    others_mask,
    require_comparable,
    same_tune,
)
from interp.analyzers.graft.tables import Rows, layers_table
from interp.claims import SUPPORTED, conclude
from interp.display import as_sentence
from interp.errors import OptionError, required
from interp.experiments import masks
from interp.experiments.questions import Graded, Questions, perplexity, run_logits, text_rows
from interp.maths.host import to_host
from interp.maths.statistics import calibration_error
from interp.models.grafts import PARTS, Scope
from interp.prompts import PromptSet, prompt_notes
from interp.study import Study
from interp.table import Table

RANKED = ("learned", "relaxed", "movement", "first-order")


@dataclass(frozen=True)
class Graft(Analyzer):
    """Graft fine-tuned weights into the base. The study's positive prompts are the task's questions
    for selecting masks.

    ``held_out``: the task's questions for measuring. ``other``: questions of another task. Negative
    prompts of the study, where there are any, are plain text for measuring perplexity. ``scope``:
    the parameters, see ``interp.models.grafts``. ``at``: density of the masks that claims are
    about, as a share of the scope's weights. ``sweep``: further densities to measure. ``steps``,
    ``rate``, ``pull`` and ``batch`` train the learned mask; ``relaxed_steps`` (0: none) and
    ``relaxed_rate`` the paper's own mask. ``draws``: random masks of each kind at density ``at``.
    ``shuffles``: masks learned on shuffled movement; a verdict needs 6, 0 leaves them out, and each
    takes as long as the learned mask. ``beside``: graft runs of other tasks on the same base and
    scope, for overlaps of masks and, for the same fine-tuned model, the union of the learned masks.
    Memory in addition to both models: 24 bytes per weight of the scope, a float32 copy of the scope
    and one in the model's dtype.

    Returns a table of kind ``graft``, one row per mask and metric. ``arrays`` hold the masks of
    density ``at`` as ``KIND/PARAMETER``: sorted flat indices, in C order of the base's parameter.
    """

    name: ClassVar[str] = "graft"
    version: ClassVar[int] = 5

    held_out: PromptSet | None = None
    other: PromptSet | None = None
    parent: str | None = None
    scope: str = "blocks"
    at: float = 0.01
    sweep: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    steps: int = 60
    rate: float = 0.1
    pull: float = 0.3
    batch: int = 32
    relaxed_steps: int = 10
    relaxed_rate: float = 1e7
    draws: int = 19
    shuffles: int = 6
    beside: tuple[Table, ...] = ()

    def __call__(self, study: Study) -> Table:
        """Learn and draw masks, graft them, measure the models."""
        self.check()
        self._require_disjoint(study)
        scope = Scope.of(study.pair, self.scope)
        for run in self.beside:
            require_comparable(run, study, scope)
        measured = _Measured(self, study, scope)
        count = max(1, round(self.at * scope.size))
        kept: dict[str, Bool[Tensor, " P"]] = {}
        located = Questions.of(
            study.pair.tokenizer, study.contrast.positive.prompts, study.pair.tuned.context_length
        )
        nothing = torch.zeros(scope.size, dtype=torch.bool, device=scope.model.device)
        measured.of_tune()
        measured.of_mask("base", nothing)
        measured.of_mask("scope", ~nothing)
        for kind in RANKED:
            if kind == "relaxed" and not self.relaxed_steps:
                continue
            ranking = self._ranking(kind, study, scope, located, count)
            kept[kind] = masks.top(ranking, count)
            # the paper's mask is trained for one density
            shares = (self.at,) if kind == "relaxed" else sorted({*self.sweep, self.at})
            for share in shares:
                measured.of_mask(kind, masks.top(ranking, max(1, round(share * scope.size))))
            del ranking
        measured.of_mask("removed", ~kept["learned"])
        if union := [
            others_mask(run, study, scope) for run in self.beside if same_tune(run, study)
        ]:
            measured.of_mask("union", torch.stack([kept["learned"], *union]).any(0))
        for share in sorted({*self.sweep, self.at} - {self.at}):
            measured.of_mask(
                "random", masks.random_mask(scope, max(1, round(share * scope.size)), study.seed)
            )
        for draw in study.progress(range(self.draws), "random masks"):
            for kind in ("random", "matched"):
                mask = self._drawn(kind, scope, kept["learned"], study.seed + draw)
                kept.setdefault(kind, mask)
                measured.of_draw(kind, draw, mask)
        measuring = [part for part in (self.held_out, self.other) if part]
        limits = [as_sentence(note) for note in prompt_notes(measuring)]
        for shuffle in study.progress(range(self.shuffles), "shuffled movement"):
            shuffled = scope.shuffled(study.seed + shuffle)
            mask = masks.top(self._ranking("learned", study, shuffled, located, count), count)
            kept.setdefault("shuffled", mask)
            measured.of_shuffle(shuffle, mask, shuffled)
            limits += _rounded(shuffled) if shuffle == 0 else []
        return self._table(study, scope, measured.rows, kept, count, limits)

    def check(self) -> None:
        """Raise OptionError for invalid options; no model is needed."""
        if self.held_out is None:
            raise OptionError("no held-out questions; a graft needs some to be measured on")
        if bad := [share for share in (self.at, *self.sweep) if not 0 < share <= 1]:
            raise OptionError(
                f"the density of a mask is {bad[0]:g}; use a share above 0 and at most 1"
            )
        if unknown := [part for part in self.scope.split(",") if part.strip() not in PARTS]:
            raise OptionError(
                f"unknown --scope {unknown[0]!r}; use {', '.join(PARTS)}, or several joined by"
                " commas"
            )
        if (
            min(self.steps, self.draws, self.batch) < 1
            or min(self.relaxed_steps, self.shuffles) < 0
        ):
            raise OptionError(
                f"steps {self.steps}, batch {self.batch}, draws {self.draws}, relaxed steps"
                f" {self.relaxed_steps} and shuffles {self.shuffles}: use at least 1 of the first"
                " three and 0 of the last two"
            )

    @property
    def _measuring(self) -> PromptSet:
        return required(self.held_out, "a held-out task")

    def _require_disjoint(self, study: Study) -> None:
        study.pair.require_base("grafting")
        if shared := set(study.contrast.positive.shared(self._measuring)):
            raise OptionError(
                f"{len(shared)} questions are in both the selection and the held-out split, first"
                f" {min(shared)[:40]!r}; remove them from one"
            )

    def _ranking(
        self, kind: str, study: Study, scope: Scope, located: Questions, count: int
    ) -> Tensor:
        if kind == "movement":
            return masks.movement(scope)
        if kind == "first-order":
            return masks.first_order(study, scope, located)
        if kind == "relaxed":
            return masks.relaxed(
                study, scope, located, count, steps=self.relaxed_steps, rate=self.relaxed_rate
            )
        return masks.learned(
            study,
            scope,
            located,
            count,
            steps=self.steps,
            rate=self.rate,
            pull=self.pull,
            batch=self.batch,
        )

    def _drawn(self, kind: str, scope: Scope, like: Tensor, seed: int) -> Tensor:
        if kind == "matched":
            return masks.matched_mask(scope, like, seed)
        return masks.random_mask(scope, _count(like), seed)

    def _table(
        self,
        study: Study,
        scope: Scope,
        rows: Rows,
        kept: dict[str, Tensor],
        count: int,
        limits: list[str],
    ) -> Table:
        indices = {kind: scope.indices(mask) for kind, mask in kept.items()}
        run = rows.table(
            self.name,
            provenance=study.provenance(self),
            summary={
                "limits": limits,
                "weights": scope.size,
                "kept": count,
                "left_out": scope.left_out,
                "parameters": len(scope.pieces),
                "gain": float(
                    rows.seen["tuned", scope.size].correct.mean()
                    - rows.seen["base", 0].correct.mean()
                ),
                "kept_gain": {kind: rows.kept_gain(kind, count) for kind in kept},
                "shuffles": self.shuffles,
                "locating": len(study.contrast.positive),
                "measuring": len(self._measuring),
                "positive": len(study.contrast.positive),
                "negative": len(study.contrast.negative),
            },
            tables={
                "answers": rows.answers_table(),
                "random": rows.drawn(),
                **rows.shuffle_tables(count),
                "layers": layers_table(indices, scope),
                "overlaps": all_overlaps(indices, self.beside, study, scope),
            },
            arrays={
                f"{kind}/{parameter}": positions
                for kind, by_parameter in indices.items()
                for parameter, positions in by_parameter.items()
                if len(positions)
            },
        )
        run = conclude(run, claims_of(count, scope.size, len(self._measuring), self.shuffles))
        verdicts = run.summary["verdicts"]
        own = {
            "supported": verdicts["keeps"] == SUPPORTED,
            "k95": rows.smallest(KEEPS) if verdicts["gains"] == SUPPORTED else None,
        }
        return replace(run, summary={**run.summary, **own})


def _count(mask: Tensor) -> int:
    return int(to_host(mask.sum()))


def _rounded(shuffled: Scope) -> list[str]:
    """A limit to report where the model's dtype rounds the shuffled movement."""
    still, length = shuffled.rounding()
    if not still and abs(length - 1) < 1e-3:
        return []
    dtype = str(shuffled.pieces[0].base.dtype).removeprefix("torch.")
    return [
        f"The base's {dtype} rounds the shuffled movement: {still:,} of"
        f" {_count(shuffled.moved != 0):,} moved weights do not change, and its norm is"
        f" {length:.3f} times that of the fine-tuned model's movement (first shuffle). Use --dtype"
        " float32 to avoid this."
    ]


class _Measured:
    """Measures every graft on the held-out questions, another task and plain text."""

    def __init__(self, analyzer: Graft, study: Study, scope: Scope) -> None:
        tokenizer, context = study.pair.tokenizer, study.pair.tuned.context_length
        self.study, self.scope = study, scope
        self.questions = Questions.of(
            tokenizer, required(analyzer.held_out, "a held-out task").prompts, context
        )
        other = analyzer.other
        self.other = None if other is None else Questions.of(tokenizer, other.prompts, context)
        self.text = text_rows(tokenizer, study.contrast.negative.texts, context)
        self.rows = Rows(self.questions, scope.size)
        self.tuned: Graded | None = None

    def of_tune(self) -> None:
        """Measure the fine-tuned model, the reference for the grafts."""
        self.tuned = self._graded(self.questions, self.study.pair.tuned)
        self.rows.add(
            "tuned", self.scope.size, self.tuned, self._numbers(self.study.pair.tuned, self.tuned)
        )

    def of_mask(self, kind: str, mask: Tensor, scope: Scope | None = None) -> None:
        """Measure one graft by every metric."""
        with (scope or self.scope).grafted(mask) as model:
            seen = self._graded(self.questions, model)
            self.rows.add(kind, _count(mask), seen, self._numbers(model, seen))

    def of_draw(self, kind: str, draw: int, mask: Tensor) -> None:
        """Measure a random mask: the first by every metric, the others by correct answers."""
        if draw == 0:
            self.of_mask(kind, mask)
        with self.scope.grafted(mask) as model:
            seen = self._graded(self.questions, model)
        self.rows.add_draw(kind, draw, _count(mask), seen)

    def of_shuffle(self, shuffle: int, mask: Tensor, shuffled: Scope) -> None:
        """Measure a mask on shuffled movement: the first by every metric, all by accuracy."""
        if shuffle == 0:
            self.of_mask("shuffled", mask, shuffled)
            seen = self.rows.seen["shuffled", _count(mask)]
        else:
            with shuffled.grafted(mask) as model:
                seen = self._graded(self.questions, model)
        self.rows.add_shuffle(_count(mask), seen)

    def _graded(self, questions: Questions, model) -> Graded:
        groups = self.study.batches(questions.read, model)
        return questions.graded(groups, run_logits(self.study.engine, model), model.device)

    def _numbers(self, model, seen: Graded) -> dict[str, float]:
        tuned = required(self.tuned, "what the tuned model itself answers")
        numbers = {"agreement": float(np.mean(seen.choice == tuned.choice))}
        if not np.isnan(seen.confidence).any():
            for bins in (15, 10):
                numbers[f"calibration-error-{bins}"] = calibration_error(
                    seen.confidence, seen.correct, bins
                )
        if self.other is not None:
            graded = self._graded(self.other, model)
            numbers |= {
                "other-accuracy": float(graded.correct.mean()),
                "other-exact": float(graded.exact.mean()),
            }
        if self.text:
            logits = run_logits(self.study.engine, model)
            numbers["perplexity"] = perplexity(self.text, model, logits, self.study.batch_size)
        return numbers


__all__: Sequence[str] = ("Graft",)
