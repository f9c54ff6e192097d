"""``Stitch``: put a few weights of several fine-tuned models into one base. Does it do all tasks?

Localize-and-Stitch (He, Hu, Lin, Zhang and Zhao 2024, arXiv 2408.13656): each fine-tuned model has
a mask, chosen without data by the movement of the weights or learned on questions of its task. The
stitched model has each model's weights within its mask, and their mean where masks overlap. It is
measured on every task and compared with the base, each fine-tuned model, each mask alone, the plain
average of all models, and stitched random masks with the same count in every parameter.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from interp.analyzers.base import Analyzer
from interp.analyzers.stitch.findings import claims_of
from interp.analyzers.stitch.tables import GradedTasks, StitchRecords
from interp.claims import SUPPORTED, conclude
from interp.display import as_sentence
from interp.errors import OptionError, PairError, required
from interp.experiments import masks
from interp.experiments.mask_overlaps import overlaps_table
from interp.experiments.questions import Questions, engine_logits, perplexity, text_rows
from interp.maths.host import to_host
from interp.models.grafts import SCOPES, Scope
from interp.models.model import Model
from interp.models.pair import Pair
from interp.models.stitches import align_scopes, averaged, stitched
from interp.prompts import PromptSet, prompt_notes
from interp.study import Study
from interp.table import Table

LOCALISE_METHODS = ("movement", "learned")


@dataclass(frozen=True, eq=False)
class StitchInput:
    """A further fine-tuned model of the study's base, with the selection and held-out questions of
    its task.
    """

    pair: Pair
    selection: PromptSet
    held_out: PromptSet


@dataclass(frozen=True)
class Stitch(Analyzer):
    """Stitch the study's fine-tuned model and ``others`` into the base.

    The task of the study's model is given by the study's positive prompts and ``held_out``.
    ``localise``: ``movement`` takes the share ``density`` of the scope's weights with the largest
    movement; ``learned`` trains the paper's mask, from the share ``start``, for ``steps`` steps at
    ``rate`` with ``pull`` and ``reg`` (``l1`` or ``binarise``, see
    ``interp.experiments.masks.localised_mask``). ``runs``: graft runs of these models, in this
    order, whose learned masks are used instead. ``draws``: stitches of random masks. Negative
    prompts of the study, where there are any, are plain text for measuring perplexity. Memory: all
    fine-tuned models and the base, one byte per weight of the scope and model, and one stitched
    copy. Raises OptionError for invalid options and PairError for models that cannot be stitched.

    Returns a table of kind ``stitch``, one row per task, model and metric. ``arrays`` hold the
    masks as ``MODEL/PARAMETER``.
    """

    name: ClassVar[str] = "stitch"
    version: ClassVar[int] = 3

    held_out: PromptSet | None = None
    others: tuple[StitchInput, ...] = ()
    runs: tuple[Table, ...] = ()
    scope: str = "blocks"
    localise: str = "movement"
    density: float = 0.05
    start: float = 1e-5
    steps: int = 10
    rate: float = 1e7
    pull: float = 10.0
    reg: str = "l1"
    draws: int = 19

    def check(self, n_models: int | None = None) -> None:
        """Raise OptionError for invalid options; ``n_models``: number of fine-tuned models, if
        ``others`` is not set.
        """
        n_models = len(self.others) + 1 if n_models is None else n_models
        if self.held_out is None or n_models < 2:
            raise OptionError(
                f"{n_models} fine-tuned models; stitching needs two or more, each with held-out"
                " questions of its task"
            )
        if self.runs and len(self.runs) != n_models:
            raise OptionError(
                f"{len(self.runs)} graft runs for {n_models} fine-tuned models; give one of each,"
                " in order"
            )
        if self.localise not in LOCALISE_METHODS:
            raise OptionError(
                f"unknown --localise {self.localise!r}; use {' or '.join(LOCALISE_METHODS)}"
            )
        if self.reg not in masks.REGULARISERS:
            raise OptionError(
                f"unknown regulariser {self.reg!r}; use {' or '.join(masks.REGULARISERS)}"
            )
        if bad := [share for share in (self.density, self.start) if not 0 < share <= 1]:
            raise OptionError(
                f"the density of a mask is {bad[0]:g}; use a share above 0 and at most 1"
            )
        if unknown := [part for part in self.scope.split(",") if part.strip() not in SCOPES]:
            raise OptionError(
                f"unknown --scope {unknown[0]!r}; use {', '.join(SCOPES)}, or several joined by"
                " commas"
            )
        if min(self.steps, self.draws) < 1:
            raise OptionError(f"steps {self.steps} and draws {self.draws}: use at least 1 of each")

    def __call__(self, study: Study) -> Table:
        """Find the masks, stitch, measure."""
        self.check()
        inputs = (
            StitchInput(
                study.pair, study.contrast.positive, required(self.held_out, "a held-out task")
            ),
            *self.others,
        )
        _require_comparable(inputs)
        scopes = align_scopes([source.pair for source in inputs], self.scope)
        for run, stitch_input in zip(self.runs, inputs, strict=False):
            _require_run_of(run, stitch_input.pair, scopes[0])
        tokenizer, context = study.pair.tokenizer, study.pair.tuned.context_length
        questions = [
            Questions.from_prompts(tokenizer, source.held_out.prompts, context) for source in inputs
        ]
        model_masks = [
            self._mask(study, index, scope, source)
            for index, (scope, source) in enumerate(zip(scopes, inputs, strict=True))
        ]
        measurements = StitchMeasurements(
            study, questions, text_rows(tokenizer, study.contrast.negative.texts, context)
        )
        base = scopes[0].model
        for number, stitch_input in enumerate(inputs, 1):
            measurements.measure(f"tune {number}", stitch_input.pair.tuned)
        measurements.measure("base", base)
        for number, (scope, mask) in enumerate(zip(scopes, model_masks, strict=True), 1):
            measurements.measure(f"graft {number}", base, scope.grafted(mask))
        measurements.measure(
            "stitched", base, scopes[0].weights_replaced(stitched(scopes, model_masks))
        )
        measurements.measure("average", base, scopes[0].weights_replaced(averaged(scopes)))
        for draw in study.progress(range(self.draws), "random masks"):
            random_masks = [
                masks.matched_mask(scope, mask, study.seed + draw * len(scopes) + index)
                for index, (scope, mask) in enumerate(zip(scopes, model_masks, strict=True))
            ]
            measurements.measure_draw(
                draw, base, scopes[0].weights_replaced(stitched(scopes, random_masks))
            )
        return self._table(study, inputs, scopes, model_masks, measurements.rows)

    def _mask(
        self, study: Study, index: int, scope: Scope, source: StitchInput
    ) -> Bool[Tensor, " P"]:
        if self.runs:
            return scope.mask(masks.stored_masks(self.runs[index], "learned"))
        if self.localise == "movement":
            return masks.top_mask(
                masks.movement_ranking(scope), max(1, round(self.density * scope.size))
            )
        context = study.pair.tuned.context_length
        selection = Questions.from_prompts(study.pair.tokenizer, source.selection.prompts, context)
        start = max(1, round(self.start * scope.size))
        return masks.localised_mask(
            study,
            scope,
            selection,
            start,
            steps=self.steps,
            learning_rate=self.rate,
            penalty=self.pull,
            regulariser=self.reg,
        )

    def _table(
        self,
        study: Study,
        inputs: Sequence[StitchInput],
        scopes: Sequence[Scope],
        model_masks: Sequence[Tensor],
        rows: StitchRecords,
    ) -> Table:
        indices = {
            f"tune {number}": scope.indices(mask)
            for number, (scope, mask) in enumerate(zip(scopes, model_masks, strict=True), 1)
        }
        mask_sizes = [int(to_host(mask.sum())) for mask in model_masks]
        n_overlapping = int(to_host((torch.stack(list(model_masks)).sum(0) > 1).sum()))
        run = rows.table(
            self.name,
            provenance=study.provenance(self),
            summary={
                "weights": scopes[0].size,
                "fine_tuned_models": [source.pair.tuned.name for source in inputs],
                "kept": mask_sizes,
                "claimed_by_several": n_overlapping,
                "kept_gain": {kind: rows.kept_gain(kind) for kind in ("stitched", "average")},
                "limits": [
                    as_sentence(note)
                    for note in prompt_notes(
                        prompts
                        for source in inputs
                        for prompts in (source.selection, source.held_out)
                    )
                ],
                "measuring": [len(source.held_out) for source in inputs],
                "positive": len(study.contrast.positive),
                "negative": len(study.contrast.negative),
            },
            tables={
                "answers": rows.answers_table(),
                "random": rows.random_table(),
                "models": rows.models_table(
                    [source.pair.tuned.name for source in inputs], mask_sizes, scopes[0].size
                ),
                "overlaps": overlaps_table({"stitched": indices}, scopes[0].size),
            },
            arrays={
                f"{name}/{parameter}": positions
                for name, by_parameter in indices.items()
                for parameter, positions in by_parameter.items()
                if len(positions)
            },
        )
        run = conclude(run, claims_of([len(source.held_out) for source in inputs]))
        verdicts = run.summary["verdicts"].items()
        kept_all = all(
            verdict == SUPPORTED for name, verdict in verdicts if name.startswith("keeps")
        )
        return replace(run, summary={**run.summary, "supported": kept_all})


class StitchMeasurements:
    """Measures every model on every task."""

    def __init__(
        self, study: Study, questions: Sequence[Questions], text: Sequence[tuple[int, ...]]
    ) -> None:
        self.study, self.questions, self.text = study, questions, text
        self.rows = StitchRecords(questions)

    def measure(
        self, kind: str, model: Model, context: AbstractContextManager | None = None
    ) -> None:
        """Measure one model by every metric, within a context that sets its weights."""
        with context or nullcontext():
            self.rows.add(kind, self._grade_tasks(model))
            self._measure_text(kind, model)

    def measure_draw(self, draw: int, model: Model, context: AbstractContextManager) -> None:
        """Measure a stitch of random masks: the first by every metric, all by correct answers."""
        with context:
            graded = self._grade_tasks(model)
            self.rows.add_draw(draw, graded)
            if draw == 0:
                self.rows.add("random", graded)
                self._measure_text("random", model)

    def _measure_text(self, kind: str, model: Model) -> None:
        if self.text:
            logits = engine_logits(self.study.engine, model)
            self.rows.add_text(kind, perplexity(self.text, model, logits, self.study.batch_size))

    def _grade_tasks(self, model: Model) -> GradedTasks:
        logits = engine_logits(self.study.engine, model)
        return [
            questions.grade(self.study.batches(questions.read, model), logits, model.device)
            for questions in self.questions
        ]


def _require_comparable(inputs: Sequence[StitchInput]) -> None:
    first = inputs[0].pair
    for source in inputs[1:]:
        for part in ("tokenizer", "template"):
            if source.pair.digests.get(part) != first.digests.get(part):
                raise PairError(
                    f"{source.pair.tuned.name} and {first.tuned.name} differ in {part}; a stitched"
                    " model needs a common one"
                )
    for source in inputs:
        if shared := set(source.selection.shared(source.held_out)):
            raise OptionError(
                f"{len(shared)} questions are in both the selection and the held-out split, first"
                f" {min(shared)[:40]!r}; remove them from one"
            )


def _require_run_of(run: Table, pair: Pair, scope: Scope) -> None:
    provenance = run.require_provenance()
    if run.kind != "graft":
        raise OptionError(
            f"run {provenance.key} is of kind {run.kind}; give keys of graft runs (interp ls)"
        )
    if any(
        provenance.inputs.get(role) != pair.digests.get(role)
        for role in ("base", "tuned", "adapter")
    ):
        raise OptionError(
            f"run {provenance.key} is not of {pair.tuned.name}; give graft runs in the order of the"
            " models"
        )
    sizes = {piece.name: piece.size for piece in scope.pairs}
    if any(sizes.get(row["parameter"]) != row["size"] for row in run.tables["layers"].rows()):
        raise OptionError(
            f"run {provenance.key} has another scope than {', '.join(scope.parts)}; give graft runs"
            " of the same scope"
        )


__all__: Sequence[str] = ("Stitch", "StitchInput")
