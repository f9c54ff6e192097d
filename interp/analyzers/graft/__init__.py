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
from interp.analyzers.graft.findings import MIN_KEPT_GAIN, claims_of
from interp.analyzers.graft.mask_overlap import (
    all_overlaps,
    is_same_model,
    learned_mask,
    require_comparable,
)
from interp.analyzers.graft.tables import GraftRecords, layers_table
from interp.claims import SUPPORTED, conclude
from interp.display import as_sentence
from interp.errors import OptionError, required
from interp.experiments import masks
from interp.experiments.questions import (
    QuestionResults,
    Questions,
    engine_logits,
    perplexity,
    text_rows,
)
from interp.maths.host import to_host
from interp.maths.statistics import calibration_error
from interp.models.grafts import SCOPES, Scope
from interp.prompts import PromptSet, prompt_notes
from interp.study import Study
from interp.table import Table

RANKED_KINDS = ("learned", "relaxed", "movement", "first-order")


@dataclass(frozen=True)
class Graft(Analyzer):
    """Graft fine-tuned weights into the base. The study's positive prompts are the task's questions
    for selecting masks.

    ``held_out``: the task's questions for measuring. ``other``: questions of another task. Negative
    prompts of the study, where there are any, are plain text for measuring perplexity. ``scope``:
    the parameters, see ``interp.models.grafts``. ``density``: density of the masks that claims are
    about, as a share of the scope's weights. ``sweep``: further densities to measure. ``steps``,
    ``rate``, ``pull`` and ``batch`` train the learned mask; ``relaxed_steps`` (0: none) and
    ``relaxed_rate`` the paper's own mask. ``draws``: random masks of each kind at density ``density``.
    ``shuffles``: masks learned on shuffled movement; a verdict needs 6, 0 leaves them out, and each
    takes as long as the learned mask. ``compare_with``: graft runs of other tasks on the same base and
    scope, for overlaps of masks and, for the same fine-tuned model, the union of the learned masks.
    Memory in addition to both models: 24 bytes per weight of the scope, a float32 copy of the scope
    and one in the model's dtype.

    Returns a table of kind ``graft``, one row per mask and metric. ``arrays`` hold the masks of
    density ``density`` as ``KIND/PARAMETER``: sorted flat indices, in C order of the base's parameter.
    """

    name: ClassVar[str] = "graft"
    version: ClassVar[int] = 5

    held_out: PromptSet | None = None
    other: PromptSet | None = None
    scope: str = "blocks"
    density: float = 0.01
    sweep: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    steps: int = 60
    rate: float = 0.1
    pull: float = 0.3
    batch: int = 32
    relaxed_steps: int = 10
    relaxed_rate: float = 1e7
    draws: int = 19
    shuffles: int = 6
    compare_with: tuple[Table, ...] = ()

    def __call__(self, study: Study) -> Table:
        """Learn and draw masks, graft them, measure the models."""
        self.check()
        self._require_disjoint(study)
        scope = Scope.from_pair(study.pair, self.scope)
        for run in self.compare_with:
            require_comparable(run, study, scope)
        measurements = GraftMeasurements(self, study, scope)
        count = max(1, round(self.density * scope.size))
        mask_by_kind: dict[str, Bool[Tensor, " P"]] = {}
        selection = Questions.from_prompts(
            study.pair.tokenizer, study.contrast.positive.prompts, study.pair.tuned.context_length
        )
        empty_mask = torch.zeros(scope.size, dtype=torch.bool, device=scope.model.device)
        measurements.add_tuned()
        measurements.add_mask("base", empty_mask)
        measurements.add_mask("scope", ~empty_mask)
        for kind in RANKED_KINDS:
            if kind == "relaxed" and not self.relaxed_steps:
                continue
            ranking = self._ranking(kind, study, scope, selection, count)
            mask_by_kind[kind] = masks.top_mask(ranking, count)
            # the paper's mask is trained for one density
            shares = (self.density,) if kind == "relaxed" else sorted({*self.sweep, self.density})
            for share in shares:
                measurements.add_mask(
                    kind, masks.top_mask(ranking, max(1, round(share * scope.size)))
                )
            del ranking
        measurements.add_mask("removed", ~mask_by_kind["learned"])
        if other_masks := [
            learned_mask(run, study, scope)
            for run in self.compare_with
            if is_same_model(run, study)
        ]:
            measurements.add_mask(
                "union", torch.stack([mask_by_kind["learned"], *other_masks]).any(0)
            )
        for share in sorted({*self.sweep, self.density} - {self.density}):
            measurements.add_mask(
                "random", masks.random_mask(scope, max(1, round(share * scope.size)), study.seed)
            )
        for draw in study.progress(range(self.draws), "random masks"):
            for kind in ("random", "matched"):
                mask = self._draw_mask(kind, scope, mask_by_kind["learned"], study.seed + draw)
                mask_by_kind.setdefault(kind, mask)
                measurements.add_draw(kind, draw, mask)
        held_out_sets = [part for part in (self.held_out, self.other) if part]
        limits = [as_sentence(note) for note in prompt_notes(held_out_sets)]
        for shuffle in study.progress(range(self.shuffles), "shuffled movement"):
            shuffled = scope.shuffled(study.seed + shuffle)
            mask = masks.top_mask(
                self._ranking("learned", study, shuffled, selection, count), count
            )
            mask_by_kind.setdefault("shuffled", mask)
            measurements.add_shuffle(shuffle, mask, shuffled)
            limits += _rounding_limits(shuffled) if shuffle == 0 else []
        return self._table(study, scope, measurements.rows, mask_by_kind, count, limits)

    def check(self) -> None:
        """Raise OptionError for invalid options; no model is needed."""
        if self.held_out is None:
            raise OptionError("no held-out questions; a graft needs some to be measured on")
        if bad := [share for share in (self.density, *self.sweep) if not 0 < share <= 1]:
            raise OptionError(
                f"the density of a mask is {bad[0]:g}; use a share above 0 and at most 1"
            )
        if unknown := [part for part in self.scope.split(",") if part.strip() not in SCOPES]:
            raise OptionError(
                f"unknown --scope {unknown[0]!r}; use {', '.join(SCOPES)}, or several joined by"
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
    def _held_out(self) -> PromptSet:
        return required(self.held_out, "a held-out task")

    def _require_disjoint(self, study: Study) -> None:
        study.pair.require_base("grafting")
        if shared := set(study.contrast.positive.shared(self._held_out)):
            raise OptionError(
                f"{len(shared)} questions are in both the selection and the held-out split, first"
                f" {min(shared)[:40]!r}; remove them from one"
            )

    def _ranking(
        self, kind: str, study: Study, scope: Scope, selection: Questions, count: int
    ) -> Tensor:
        if kind == "movement":
            return masks.movement_ranking(scope)
        if kind == "first-order":
            return masks.first_order_ranking(study, scope, selection)
        if kind == "relaxed":
            return masks.relaxed_ranking(
                study,
                scope,
                selection,
                count,
                steps=self.relaxed_steps,
                learning_rate=self.relaxed_rate,
            )
        return masks.learned_ranking(
            study,
            scope,
            selection,
            count,
            steps=self.steps,
            learning_rate=self.rate,
            penalty=self.pull,
            batch=self.batch,
        )

    def _draw_mask(self, kind: str, scope: Scope, learned: Tensor, seed: int) -> Tensor:
        if kind == "matched":
            return masks.matched_mask(scope, learned, seed)
        return masks.random_mask(scope, _mask_size(learned), seed)

    def _table(
        self,
        study: Study,
        scope: Scope,
        rows: GraftRecords,
        mask_by_kind: dict[str, Tensor],
        count: int,
        limits: list[str],
    ) -> Table:
        indices = {kind: scope.indices(mask) for kind, mask in mask_by_kind.items()}
        run = rows.table(
            self.name,
            provenance=study.provenance(self),
            summary={
                "limits": limits,
                "weights": scope.size,
                "kept": count,
                "left_out": scope.n_unchanged,
                "parameters": len(scope.pairs),
                "gain": float(
                    rows.graded["tuned", scope.size].correct.mean()
                    - rows.graded["base", 0].correct.mean()
                ),
                "kept_gain": {kind: rows.kept_gain(kind, count) for kind in mask_by_kind},
                "shuffles": self.shuffles,
                "locating": len(study.contrast.positive),
                "measuring": len(self._held_out),
                "positive": len(study.contrast.positive),
                "negative": len(study.contrast.negative),
            },
            tables={
                "answers": rows.answers_table(),
                "random": rows.random_table(),
                **rows.shuffle_tables(count),
                "layers": layers_table(indices, scope),
                "overlaps": all_overlaps(indices, self.compare_with, study, scope),
            },
            arrays={
                f"{kind}/{parameter}": positions
                for kind, by_parameter in indices.items()
                for parameter, positions in by_parameter.items()
                if len(positions)
            },
        )
        run = conclude(run, claims_of(count, scope.size, len(self._held_out), self.shuffles))
        verdicts = run.summary["verdicts"]
        conclusions = {
            "supported": verdicts["keeps"] == SUPPORTED,
            "k95": rows.smallest_mask(MIN_KEPT_GAIN) if verdicts["gains"] == SUPPORTED else None,
        }
        return replace(run, summary={**run.summary, **conclusions})


def _mask_size(mask: Tensor) -> int:
    return int(to_host(mask.sum()))


def _rounding_limits(shuffled: Scope) -> list[str]:
    """A limit to report where the model's dtype rounds the shuffled movement."""
    n_unchanged, relative_norm = shuffled.rounding()
    if not n_unchanged and abs(relative_norm - 1) < 1e-3:
        return []
    dtype = str(shuffled.pairs[0].base.dtype).removeprefix("torch.")
    return [
        f"The base's {dtype} rounds the shuffled movement: {n_unchanged:,} of"
        f" {_mask_size(shuffled.changes != 0):,} moved weights do not change, and its norm is"
        f" {relative_norm:.3f} times that of the fine-tuned model's movement (first shuffle). Use"
        " --dtype float32 to avoid this."
    ]


class GraftMeasurements:
    """Measures every graft on the held-out questions, another task and plain text."""

    def __init__(self, analyzer: Graft, study: Study, scope: Scope) -> None:
        tokenizer, context = study.pair.tokenizer, study.pair.tuned.context_length
        self.study, self.scope = study, scope
        self.questions = Questions.from_prompts(
            tokenizer, required(analyzer.held_out, "a held-out task").prompts, context
        )
        other = analyzer.other
        self.other = (
            None if other is None else Questions.from_prompts(tokenizer, other.prompts, context)
        )
        self.text = text_rows(tokenizer, study.contrast.negative.texts, context)
        self.rows = GraftRecords(self.questions, scope.size)
        self.tuned: QuestionResults | None = None

    def add_tuned(self) -> None:
        """Measure the fine-tuned model, the reference for the grafts."""
        self.tuned = self._grade(self.questions, self.study.pair.tuned)
        self.rows.add(
            "tuned", self.scope.size, self.tuned, self._metrics(self.study.pair.tuned, self.tuned)
        )

    def add_mask(self, kind: str, mask: Tensor, scope: Scope | None = None) -> None:
        """Measure one graft by every metric."""
        with (scope or self.scope).grafted(mask) as model:
            graded = self._grade(self.questions, model)
            self.rows.add(kind, _mask_size(mask), graded, self._metrics(model, graded))

    def add_draw(self, kind: str, draw: int, mask: Tensor) -> None:
        """Measure a random mask: the first by every metric, the others by correct answers."""
        if draw == 0:
            self.add_mask(kind, mask)
        with self.scope.grafted(mask) as model:
            graded = self._grade(self.questions, model)
        self.rows.add_draw(kind, draw, _mask_size(mask), graded)

    def add_shuffle(self, shuffle: int, mask: Tensor, shuffled: Scope) -> None:
        """Measure a mask on shuffled movement: the first by every metric, all by accuracy."""
        if shuffle == 0:
            self.add_mask("shuffled", mask, shuffled)
            graded = self.rows.graded["shuffled", _mask_size(mask)]
        else:
            with shuffled.grafted(mask) as model:
                graded = self._grade(self.questions, model)
        self.rows.add_shuffle(_mask_size(mask), graded)

    def _grade(self, questions: Questions, model) -> QuestionResults:
        groups = self.study.batches(questions.read, model)
        return questions.grade(groups, engine_logits(self.study.engine, model), model.device)

    def _metrics(self, model, graded: QuestionResults) -> dict[str, float]:
        tuned = required(self.tuned, "what the tuned model itself answers")
        metrics = {"agreement": float(np.mean(graded.choice == tuned.choice))}
        if not np.isnan(graded.confidence).any():
            for bins in (15, 10):
                metrics[f"calibration-error-{bins}"] = calibration_error(
                    graded.confidence, graded.correct, bins
                )
        if self.other is not None:
            other_graded = self._grade(self.other, model)
            metrics |= {
                "other-accuracy": float(other_graded.correct.mean()),
                "other-exact": float(other_graded.exact.mean()),
            }
        if self.text:
            logits = engine_logits(self.study.engine, model)
            metrics["perplexity"] = perplexity(self.text, model, logits, self.study.batch_size)
        return metrics


__all__: Sequence[str] = ("Graft",)
