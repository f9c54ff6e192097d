"""``Stitch``: put a few weights of several fine-tuned models into one base. Does it do all tasks?

Localize-and-Stitch (He, Hu, Lin, Zhang and Zhao 2024, arXiv 2408.13656): each fine-tuned model has
a mask, chosen without data by the movement of the weights or learned on questions of its task. The
stitched model has each model's weights within its mask, and their mean where masks overlap. It is
measured on every task and compared with the base, each fine-tuned model, each mask alone, the plain
average of all models, and stitched random masks with the same count in every parameter.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from interp.analyzers.framework import Analyzer, Known, Needs, Result, option
from interp.analyzers.stitch.findings import claims_of
from interp.analyzers.stitch.tables import GradedTasks, StitchRecords, models_table
from interp.claims import evaluate
from interp.display import as_sentence
from interp.errors import OptionError, PairError, required
from interp.experiments import masks
from interp.experiments.mask_overlaps import overlaps_table
from interp.experiments.questions import (
    Questions,
    engine_logits,
    perplexity,
    require_disjoint,
    text_rows,
)
from interp.models.grafts import Scope, scope_parts
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
    Negative prompts of the study, where there are any, are plain text for measuring perplexity.
    ``localise``: ``movement`` takes the share ``density`` of the scope's weights with the largest
    movement; ``learned`` trains the paper's mask, from the share ``start``, see
    ``interp.experiments.masks.localised_mask``. Memory: all fine-tuned models and the base, one
    byte per weight of the scope and model, and one stitched copy. Raises OptionError for invalid
    options and PairError for models that cannot be stitched.

    Returns a table of kind ``stitch``, one row per task, model and metric. ``arrays`` hold the
    masks as ``MODEL/PARAMETER``.
    """

    name: ClassVar[str] = "stitch"
    version: ClassVar[int] = 4
    needs: ClassVar[Needs] = Needs(base=True)

    held_out: PromptSet | None = option(
        None, "Questions to measure on, of the task of the study's model."
    )
    others: tuple[StitchInput, ...] = option((), "Further fine-tuned models with their tasks.")
    runs: tuple[Table, ...] = option(
        (), "Graft runs of all models, in order, whose learned masks are used instead."
    )
    scope: str = option(
        "blocks", "blocks, attention, mlp, embeddings, head, all; joined by commas."
    )
    localise: str = option(
        "movement", "movement (without data) or learned.", choices=LOCALISE_METHODS
    )
    density: float = option(0.05, "Share of weights of each fine-tuned model, by movement.")
    start: float = option(1e-5, "Weights that a learned mask begins with.")
    steps: int = option(10, "Steps of a learned mask.", ge=1)
    rate: float = option(1e7, "Step size for a learned mask.")
    pull: float = option(10.0, "Weight of the regulariser of a learned mask.")
    reg: str = option("l1", "Of a learned mask: l1 or binarise.", choices=masks.REGULARISERS)
    draws: int = option(19, "Number of random masks.", ge=1)

    def check(self, known: Known) -> None:
        """Raise OptionError without held-out questions, and for an unknown density or scope."""
        super().check(known)
        if self.held_out is None:
            raise OptionError(
                "no held-out questions; stitching needs two or more fine-tuned models, each with"
                " held-out questions of its task"
            )
        masks.require_density(self.density, self.start)
        scope_parts(self.scope)

    def require(self, study: Study) -> None:
        """Raise OptionError for too few models or runs and for questions in both splits of a task,
        and PairError for models whose prompts are read differently.
        """
        super().require(study)
        require_models(len(self.others) + 1, len(self.runs))
        for source in self._inputs(study):
            for part in ("tokenizer", "template"):
                if source.pair.digests.get(part) != study.pair.digests.get(part):
                    raise PairError(
                        f"{source.pair.tuned.name} and {study.pair.tuned.name} differ in {part}; a"
                        " stitched model needs a common one"
                    )
            require_disjoint(source.selection, source.held_out)

    def run(self, study: Study) -> Result:
        """Find the masks, stitch, measure."""
        inputs = self._inputs(study)
        scopes = align_scopes([source.pair for source in inputs], self.scope)
        for run, source in zip(self.runs, inputs, strict=False):
            _require_run_of(run, source.pair, scopes[0])
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
        for number, source in enumerate(inputs, 1):
            measurements.measure(f"model {number}", source.pair.tuned)
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
        return _result(inputs, scopes, model_masks, measurements.rows)

    def _inputs(self, study: Study) -> tuple[StitchInput, ...]:
        """The study's own model and its task, then the others."""
        held_out = required(self.held_out, "a held-out task")
        return (StitchInput(study.pair, study.contrast.positive, held_out), *self.others)

    def _mask(
        self, study: Study, index: int, scope: Scope, source: StitchInput
    ) -> Bool[Tensor, " P"]:
        if self.runs:
            return scope.mask(masks.stored_masks(self.runs[index], "learned"))
        if self.localise == "movement":
            count = masks.mask_size(scope, self.density)
            return masks.top_mask(masks.movement_ranking(scope), count)
        selection = Questions.from_prompts(
            study.pair.tokenizer, source.selection.prompts, study.pair.tuned.context_length
        )
        return masks.localised_mask(
            study,
            scope,
            selection,
            masks.mask_size(scope, self.start),
            steps=self.steps,
            learning_rate=self.rate,
            penalty=self.pull,
            regulariser=self.reg,
        )


def _result(
    inputs: Sequence[StitchInput],
    scopes: Sequence[Scope],
    model_masks: Sequence[Tensor],
    rows: StitchRecords,
) -> Result:
    indices = {
        f"model {number}": scope.indices(mask)
        for number, (scope, mask) in enumerate(zip(scopes, model_masks, strict=True), 1)
    }
    names, size = [source.pair.tuned.name for source in inputs], scopes[0].size
    kept = [masks.n_kept(mask) for mask in model_masks]
    measuring = [len(source.held_out) for source in inputs]
    table = rows.table(
        tables={
            "answers": rows.answers_table(),
            "random": rows.random_table(),
            "models": models_table(names, kept, size),
            "overlaps": overlaps_table({"stitched": indices}, size),
        },
        arrays={
            f"{name}/{parameter}": positions
            for name, by_parameter in indices.items()
            for parameter, positions in by_parameter.items()
            if len(positions)
        },
    )
    claims = claims_of(measuring)
    prompt_sets = [part for source in inputs for part in (source.selection, source.held_out)]
    return Result(
        table,
        table.tables,
        claims,
        summary={
            "weights": size,
            "fine_tuned_models": names,
            "kept": kept,
            "claimed_by_several": masks.n_kept(torch.stack(list(model_masks)).sum(0) > 1),
            "kept_gain": {kind: rows.kept_gain(kind) for kind in ("stitched", "average")},
            "measuring": measuring,
        },
        limits=[as_sentence(note) for note in prompt_notes(prompt_sets)],
        supported=all(
            finding.supported
            for finding in evaluate(claims, table)
            if finding.name.startswith("keeps")
        ),
    )


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
            self._add(kind, model, self._grade_tasks(model))

    def measure_draw(self, draw: int, model: Model, context: AbstractContextManager) -> None:
        """Measure a stitch of random masks: the first by every metric, all by correct answers."""
        with context:
            graded = self._grade_tasks(model)
            self.rows.draws += [(task, draw, one.accuracy) for task, one in enumerate(graded, 1)]
            if draw == 0:
                self._add("random", model, graded)

    def _add(self, kind: str, model: Model, graded: GradedTasks) -> None:
        self.rows.graded[kind] = graded
        if self.text:
            logits = engine_logits(self.study.engine, model)
            self.rows.text[kind] = perplexity(self.text, model, logits, self.study.batch_size)

    def _grade_tasks(self, model: Model) -> GradedTasks:
        logits = engine_logits(self.study.engine, model)
        return [
            questions.grade(self.study.batches(questions.read, model), logits, model.device)
            for questions in self.questions
        ]


def require_models(n_models: int, n_runs: int) -> None:
    """Raise OptionError for fewer than two fine-tuned models, or another number of graft runs."""
    if n_models < 2:
        raise OptionError(
            f"{n_models} fine-tuned models; stitching needs two or more, each with held-out"
            " questions of its task"
        )
    if n_runs not in (0, n_models):
        raise OptionError(
            f"{n_runs} graft runs for {n_models} fine-tuned models; give one of each, in order"
        )


def _require_run_of(run: Table, pair: Pair, scope: Scope) -> None:
    masks.require_graft_run(run)
    key = run.require_provenance().key
    if not masks.is_run_of(run, pair):
        raise OptionError(
            f"run {key} is not of {pair.tuned.name}; give graft runs in the order of the models"
        )
    sizes = {piece.name: piece.size for piece in scope.pairs}
    if any(sizes.get(row["parameter"]) != row["size"] for row in run.tables["layers"].rows()):
        raise OptionError(
            f"run {key} has another scope than {', '.join(scope.parts)}; give graft runs of the"
            " same scope"
        )


__all__: Sequence[str] = ("Stitch", "StitchInput", "require_models")
