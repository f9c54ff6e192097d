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
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from interp.analyzers.framework import Analyzer, Known, Needs, Result, option
from interp.analyzers.graft.findings import MIN_KEPT_GAIN, claims_of
from interp.analyzers.graft.mask_overlap import RANKED_KINDS, all_overlaps, require_comparable
from interp.analyzers.graft.tables import GraftRecords, layers_table
from interp.claims import evaluate
from interp.display import as_sentence
from interp.errors import OptionError, required
from interp.experiments import masks
from interp.experiments.questions import (
    QuestionResults,
    Questions,
    engine_logits,
    perplexity,
    require_disjoint,
    text_rows,
)
from interp.models.grafts import Scope, scope_parts
from interp.models.model import Model
from interp.prompts import PromptSet, prompt_notes
from interp.study import Study
from interp.table import Table


@dataclass(frozen=True)
class Graft(Analyzer):
    """Graft fine-tuned weights into the base. The study's positive prompts are the task's questions
    for selecting masks.

    Negative prompts of the study, where there are any, are plain text for measuring perplexity.
    Scopes are those of ``interp.models.grafts``; densities are shares of the scope's weights. Each
    shuffle takes as long as the learned mask, and a verdict needs 6. For runs in ``compare_with``
    of the same fine-tuned model the union of the learned masks is measured too. Memory in addition
    to both models: 24 bytes per weight of the scope, a float32 copy of the scope and one in the
    model's dtype. Raises OptionError for invalid options, for questions in both splits and for runs
    of another base or scope.

    Returns a table of kind ``graft``, one row per mask and metric. ``arrays`` hold the masks of
    density ``density`` as ``KIND/PARAMETER``: sorted flat indices, in C order of the base's
    parameter.
    """

    name: ClassVar[str] = "graft"
    version: ClassVar[int] = 5
    needs: ClassVar[Needs] = Needs(base=True)

    held_out: PromptSet | None = option(None, "The task's questions to measure on.")
    other: PromptSet | None = option(None, "Questions of another task, measured in every graft.")
    scope: str = option(
        "blocks", "blocks, attention, mlp, embeddings, head, all; joined by commas."
    )
    density: float = option(0.01, "Weights to keep, for masks and claims.")
    sweep: tuple[float, ...] = option(
        (0.001, 0.003, 0.01, 0.03, 0.1, 0.3), "Shares at which accuracy is measured too."
    )
    steps: int = option(60, "Steps of the learned mask.", ge=1)
    rate: float = option(0.1, "Adam's step size for the learned mask.")
    pull: float = option(0.3, "Weight of the penalty on the size of the learned mask.")
    batch: int = option(32, "Questions per step of the learned mask.", ge=1)
    relaxed_steps: int = option(10, "Of the paper's descent; 0: without.", ge=0)
    relaxed_rate: float = option(1e7, "Step size of the paper's descent.")
    draws: int = option(19, "Random masks of each kind.", ge=1)
    shuffles: int = option(
        6,
        "Masks learned on shuffled movement; fewer than 6: the claim is not tested; 0: none.",
        ge=0,
    )
    compare_with: tuple[Table, ...] = option(
        (), "A graft run of another task, to compare with; repeatable."
    )

    def check(self, known: Known) -> None:
        """Raise OptionError without held-out questions, and for an unknown density or scope."""
        super().check(known)
        if self.held_out is None:
            raise OptionError("no held-out questions; a graft needs some to be measured on")
        masks.require_density(self.density, *self.sweep)
        scope_parts(self.scope)

    def require(self, study: Study) -> None:
        """Raise OptionError for questions in both splits too."""
        super().require(study)
        require_disjoint(study.contrast.positive, required(self.held_out, "a held-out task"))

    def run(self, study: Study) -> Result:
        """Learn and draw masks, graft them, measure the models."""
        scope = Scope.from_pair(study.pair, self.scope)
        for run in self.compare_with:
            require_comparable(run, study.pair, scope)
        held_out = required(self.held_out, "a held-out task")
        measurements = GraftMeasurements(study, scope, held_out, self.other)
        count = masks.mask_size(scope, self.density)
        mask_by_kind: dict[str, Bool[Tensor, " P"]] = {}
        selection = Questions.from_prompts(
            study.pair.tokenizer, study.contrast.positive.prompts, study.pair.tuned.context_length
        )
        densities = sorted({*self.sweep, self.density})
        empty_mask = torch.zeros(scope.size, dtype=torch.bool, device=scope.model.device)
        measurements.add_mask("base", empty_mask)
        measurements.add_mask("scope", ~empty_mask)
        for kind in RANKED_KINDS:
            if kind == "relaxed" and not self.relaxed_steps:
                continue
            ranking = self._ranking(kind, study, scope, selection, count)
            mask_by_kind[kind] = masks.top_mask(ranking, count)
            # the paper's mask is trained for one density
            for share in (self.density,) if kind == "relaxed" else densities:
                measurements.add_mask(kind, masks.top_mask(ranking, masks.mask_size(scope, share)))
            del ranking
        learned = mask_by_kind["learned"]
        measurements.add_mask("removed", ~learned)
        if other_masks := [
            scope.mask(masks.stored_masks(run, "learned"))
            for run in self.compare_with
            if masks.is_run_of(run, study.pair)
        ]:
            measurements.add_mask("union", torch.stack([learned, *other_masks]).any(0))
        for share in densities:
            if share != self.density:
                mask = masks.random_mask(scope, masks.mask_size(scope, share), study.seed)
                measurements.add_mask("random", mask)
        for draw in study.progress(range(self.draws), "random masks"):
            for kind in ("random", "matched"):
                mask = (
                    masks.random_mask(scope, count, study.seed + draw)
                    if kind == "random"
                    else masks.matched_mask(scope, learned, study.seed + draw)
                )
                mask_by_kind.setdefault(kind, mask)
                measurements.add_draw(kind, draw, mask)
        held_out_sets = [part for part in (held_out, self.other) if part]
        limits = [as_sentence(note) for note in prompt_notes(held_out_sets)]
        for shuffle in study.progress(range(self.shuffles), "shuffled movement"):
            shuffled = scope.shuffled(study.seed + shuffle)
            ranking = self._ranking("learned", study, shuffled, selection, count)
            mask = masks.top_mask(ranking, count)
            mask_by_kind.setdefault("shuffled", mask)
            measurements.add_draw("shuffled", shuffle, mask, shuffled)
            limits += _rounding_limits(shuffled) if shuffle == 0 else []
        return self._result(study, scope, measurements.rows, mask_by_kind, limits)

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

    def _result(
        self,
        study: Study,
        scope: Scope,
        rows: GraftRecords,
        mask_by_kind: dict[str, Tensor],
        limits: list[str],
    ) -> Result:
        count, measuring = masks.mask_size(scope, self.density), len(rows.questions)
        indices = {kind: scope.indices(mask) for kind, mask in mask_by_kind.items()}
        table = rows.table(
            tables={
                "answers": rows.answers_table(),
                "random": rows.random_table(),
                **rows.shuffle_tables(count),
                "layers": layers_table(indices, scope),
                "overlaps": all_overlaps(indices, self.compare_with, study.pair, scope.size),
            },
            arrays={
                f"{kind}/{parameter}": positions
                for kind, by_parameter in indices.items()
                for parameter, positions in by_parameter.items()
                if len(positions)
            },
        )
        claims = claims_of(count, scope.size, measuring, self.shuffles)
        supported = {finding.name: finding.supported for finding in evaluate(claims, table)}
        base_accuracy, tuned_accuracy = rows.ends
        summary = {
            "weights": scope.size,
            "kept": count,
            "left_out": scope.n_unchanged,
            "parameters": len(scope.pairs),
            "gain": tuned_accuracy - base_accuracy,
            "kept_gain": {kind: rows.kept_gain(kind, count) for kind in mask_by_kind},
            "shuffles": self.shuffles,
            "locating": len(study.contrast.positive),
            "measuring": measuring,
            "k95": rows.smallest_mask(MIN_KEPT_GAIN) if supported["gains"] else None,
        }
        return Result(table, table.tables, claims, summary, limits, supported=supported["keeps"])


def _rounding_limits(shuffled: Scope) -> list[str]:
    """A limit to report where the model's dtype rounds the shuffled movement."""
    n_unchanged, relative_norm = shuffled.rounding()
    if not n_unchanged and abs(relative_norm - 1) < 1e-3:
        return []
    dtype = str(shuffled.pairs[0].base.dtype).removeprefix("torch.")
    return [
        f"The base's {dtype} rounds the shuffled movement: {n_unchanged:,} of"
        f" {masks.n_kept(shuffled.changes != 0):,} moved weights do not change, and its norm is"
        f" {relative_norm:.3f} times that of the fine-tuned model's movement (first shuffle). Use"
        " --dtype float32 to avoid this."
    ]


class GraftMeasurements:
    """Measures the fine-tuned model, then every graft, on the held-out questions, another task and
    plain text.
    """

    def __init__(
        self, study: Study, scope: Scope, held_out: PromptSet, other: PromptSet | None
    ) -> None:
        tokenizer, context = study.pair.tokenizer, study.pair.tuned.context_length
        self.study, self.scope = study, scope
        self.questions = Questions.from_prompts(tokenizer, held_out.prompts, context)
        self.other = (
            None if other is None else Questions.from_prompts(tokenizer, other.prompts, context)
        )
        self.text = text_rows(tokenizer, study.contrast.negative.texts, context)
        self.rows = GraftRecords(self.questions, scope.size)
        self._add("tuned", scope.size, study.pair.tuned)

    def add_mask(self, kind: str, mask: Tensor, scope: Scope | None = None) -> QuestionResults:
        """Measure one graft by every metric, unless one of as many weights was measured."""
        size = masks.n_kept(mask)
        if (kind, size) not in self.rows.graded:
            with (scope or self.scope).grafted(mask) as model:
                self._add(kind, size, model)
        return self.rows.graded[kind, size]

    def add_draw(self, kind: str, draw: int, mask: Tensor, scope: Scope | None = None) -> None:
        """Measure one of several masks: the first by every metric, all by correct answers."""
        if draw == 0:
            graded = self.add_mask(kind, mask, scope)
        else:
            with (scope or self.scope).grafted(mask) as model:
                graded = self._grade(self.questions, model)
        self.rows.draws.append((kind, draw, masks.n_kept(mask), graded))

    def _grade(self, questions: Questions, model: Model) -> QuestionResults:
        groups = self.study.batches(questions.read, model)
        return questions.grade(groups, engine_logits(self.study.engine, model), model.device)

    def _add(self, kind: str, n_weights: int, model: Model) -> None:
        graded, metrics = self._grade(self.questions, model), {}
        if self.other is not None:
            other = self._grade(self.other, model)
            metrics |= {"other-accuracy": other.accuracy, "other-exact": float(other.exact.mean())}
        if self.text:
            logits = engine_logits(self.study.engine, model)
            metrics["perplexity"] = perplexity(self.text, model, logits, self.study.batch_size)
        self.rows.add(kind, n_weights, graded, metrics)


__all__: Sequence[str] = ("Graft",)
