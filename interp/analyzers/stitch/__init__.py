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
from interp.analyzers.stitch.tables import Asked, Rows
from interp.claims import SUPPORTED, conclude
from interp.display import as_sentence
from interp.errors import OptionError, PairError, required
from interp.experiments import masks
from interp.experiments.mask_overlaps import overlaps_table
from interp.experiments.questions import Questions, perplexity, run_logits, text_rows
from interp.maths.host import to_host
from interp.models.grafts import PARTS, Scope
from interp.models.model import Model
from interp.models.pair import Pair
from interp.models.stitches import aligned, averaged, stitched
from interp.prompts import PromptSet, prompt_notes
from interp.study import Study
from interp.table import Table

LOCALISE = ("movement", "learned")


@dataclass(frozen=True, eq=False)
class StitchInput:
    """A further fine-tuned model of the study's base, with the selection and held-out questions of
    its task.
    """

    pair: Pair
    located: PromptSet
    held_out: PromptSet


@dataclass(frozen=True)
class Stitch(Analyzer):
    """Stitch the study's fine-tuned model and ``others`` into the base.

    The task of the study's model is given by the study's positive prompts and ``held_out``.
    ``localise``: ``movement`` takes the share ``at`` of the scope's weights with the largest
    movement; ``learned`` trains the paper's mask, from the share ``start``, for ``steps`` steps at
    ``rate`` with ``pull`` and ``reg`` (``l1`` or ``binarise``, see
    ``interp.experiments.masks.localised``). ``runs``: graft runs of these models, in this order,
    whose learned masks are used instead. ``draws``: stitches of random masks. Negative prompts of
    the study, where there are any, are plain text for measuring perplexity. Memory: all fine-tuned
    models and the base, one byte per weight of the scope and model, and one stitched copy. Raises
    OptionError for invalid options and PairError for models that cannot be stitched.

    Returns a table of kind ``stitch``, one row per task, model and metric. ``arrays`` hold the
    masks as ``MODEL/PARAMETER``.
    """

    name: ClassVar[str] = "stitch"
    version: ClassVar[int] = 3

    held_out: PromptSet | None = None
    others: tuple[StitchInput, ...] = ()
    runs: tuple[Table, ...] = ()
    parent: str | None = None
    scope: str = "blocks"
    localise: str = "movement"
    at: float = 0.05
    start: float = 1e-5
    steps: int = 10
    rate: float = 1e7
    pull: float = 10.0
    reg: str = "l1"
    draws: int = 19

    def check(self, tunes: int | None = None) -> None:
        """Raise OptionError for invalid options; ``tunes``: number of fine-tuned models, if
        ``others`` is not set.
        """
        tunes = len(self.others) + 1 if tunes is None else tunes
        if self.held_out is None or tunes < 2:
            raise OptionError(
                f"{tunes} fine-tuned models; stitching needs two or more, each with held-out"
                " questions of its task"
            )
        if self.runs and len(self.runs) != tunes:
            raise OptionError(
                f"{len(self.runs)} graft runs for {tunes} fine-tuned models; give one of each, in"
                " order"
            )
        if self.localise not in LOCALISE:
            raise OptionError(f"unknown --localise {self.localise!r}; use {' or '.join(LOCALISE)}")
        if self.reg not in masks.REGULARISERS:
            raise OptionError(
                f"unknown regulariser {self.reg!r}; use {' or '.join(masks.REGULARISERS)}"
            )
        if bad := [share for share in (self.at, self.start) if not 0 < share <= 1]:
            raise OptionError(
                f"the density of a mask is {bad[0]:g}; use a share above 0 and at most 1"
            )
        if unknown := [part for part in self.scope.split(",") if part.strip() not in PARTS]:
            raise OptionError(
                f"unknown --scope {unknown[0]!r}; use {', '.join(PARTS)}, or several joined by"
                " commas"
            )
        if min(self.steps, self.draws) < 1:
            raise OptionError(f"steps {self.steps} and draws {self.draws}: use at least 1 of each")

    def __call__(self, study: Study) -> Table:
        """Find the masks, stitch, measure."""
        self.check()
        tunes = (
            StitchInput(
                study.pair, study.contrast.positive, required(self.held_out, "a held-out task")
            ),
            *self.others,
        )
        _require_comparable(tunes)
        scopes = aligned([source.pair for source in tunes], self.scope)
        for run, tune in zip(self.runs, tunes, strict=False):
            _require_of(run, tune.pair, scopes[0])
        tokenizer, context = study.pair.tokenizer, study.pair.tuned.context_length
        asked = [Questions.of(tokenizer, source.held_out.prompts, context) for source in tunes]
        found = [
            self._mask(study, index, scope, source)
            for index, (scope, source) in enumerate(zip(scopes, tunes, strict=True))
        ]
        measured = _Measured(
            study, asked, text_rows(tokenizer, study.contrast.negative.texts, context)
        )
        base = scopes[0].model
        for at, tune in enumerate(tunes, 1):
            measured.measure(f"tune {at}", tune.pair.tuned)
        measured.measure("base", base)
        for at, (scope, mask) in enumerate(zip(scopes, found, strict=True), 1):
            measured.measure(f"graft {at}", base, scope.grafted(mask))
        measured.measure("stitched", base, scopes[0].standing(stitched(scopes, found)))
        measured.measure("average", base, scopes[0].standing(averaged(scopes)))
        for draw in study.progress(range(self.draws), "random masks"):
            drawn = [
                masks.matched_mask(scope, mask, study.seed + draw * len(scopes) + index)
                for index, (scope, mask) in enumerate(zip(scopes, found, strict=True))
            ]
            measured.of_draw(draw, base, scopes[0].standing(stitched(scopes, drawn)))
        return self._table(study, tunes, scopes, found, measured.rows)

    def _mask(self, study: Study, at: int, scope: Scope, tune: StitchInput) -> Bool[Tensor, " P"]:
        if self.runs:
            return scope.mask(masks.masks_of(self.runs[at], "learned"))
        if self.localise == "movement":
            return masks.top(masks.movement(scope), max(1, round(self.at * scope.size)))
        context = study.pair.tuned.context_length
        located = Questions.of(study.pair.tokenizer, tune.located.prompts, context)
        start = max(1, round(self.start * scope.size))
        return masks.localised(
            study,
            scope,
            located,
            start,
            steps=self.steps,
            rate=self.rate,
            pull=self.pull,
            reg=self.reg,
        )

    def _table(
        self,
        study: Study,
        tunes: Sequence[StitchInput],
        scopes: Sequence[Scope],
        found: Sequence[Tensor],
        rows: Rows,
    ) -> Table:
        indices = {
            f"tune {number}": scope.indices(mask)
            for number, (scope, mask) in enumerate(zip(scopes, found, strict=True), 1)
        }
        kept = [int(to_host(mask.sum())) for mask in found]
        met = int(to_host((torch.stack(list(found)).sum(0) > 1).sum()))
        run = rows.table(
            self.name,
            provenance=study.provenance(self),
            summary={
                "weights": scopes[0].size,
                "tunes": [source.pair.tuned.name for source in tunes],
                "kept": kept,
                "claimed_by_several": met,
                "kept_gain": {kind: rows.kept_gain(kind) for kind in ("stitched", "average")},
                "limits": [
                    as_sentence(note)
                    for note in prompt_notes(
                        prompts for source in tunes for prompts in (source.located, source.held_out)
                    )
                ],
                "measuring": [len(source.held_out) for source in tunes],
                "positive": len(study.contrast.positive),
                "negative": len(study.contrast.negative),
            },
            tables={
                "answers": rows.answers(),
                "random": rows.drawn(),
                "tunes": rows.tunes(
                    [source.pair.tuned.name for source in tunes], kept, scopes[0].size
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
        run = conclude(run, claims_of([len(source.held_out) for source in tunes]))
        verdicts = run.summary["verdicts"].items()
        kept_all = all(
            verdict == SUPPORTED for name, verdict in verdicts if name.startswith("keeps")
        )
        return replace(run, summary={**run.summary, "supported": kept_all})


class _Measured:
    """Measures every model on every task."""

    def __init__(
        self, study: Study, asked: Sequence[Questions], text: Sequence[tuple[int, ...]]
    ) -> None:
        self.study, self.asked, self.text = study, asked, text
        self.rows = Rows(asked)

    def measure(
        self, kind: str, model: Model, standing: AbstractContextManager | None = None
    ) -> None:
        """Measure one model by every metric, within a context that sets its weights."""
        with standing or nullcontext():
            self.rows.add(kind, self._all(model))
            self._read(kind, model)

    def of_draw(self, draw: int, model: Model, standing: AbstractContextManager) -> None:
        """Measure a stitch of random masks: the first by every metric, all by correct answers."""
        with standing:
            seen = self._all(model)
            self.rows.add_draw(draw, seen)
            if draw == 0:
                self.rows.add("random", seen)
                self._read("random", model)

    def _read(self, kind: str, model: Model) -> None:
        if self.text:
            logits = run_logits(self.study.engine, model)
            self.rows.add_text(kind, perplexity(self.text, model, logits, self.study.batch_size))

    def _all(self, model: Model) -> Asked:
        logits = run_logits(self.study.engine, model)
        return [
            questions.graded(self.study.batches(questions.read, model), logits, model.device)
            for questions in self.asked
        ]


def _require_comparable(tunes: Sequence[StitchInput]) -> None:
    first = tunes[0].pair
    for tune in tunes[1:]:
        for part in ("tokenizer", "template"):
            if tune.pair.digests.get(part) != first.digests.get(part):
                raise PairError(
                    f"{tune.pair.tuned.name} and {first.tuned.name} differ in {part}; a stitched"
                    " model needs a common one"
                )
    for tune in tunes:
        if shared := set(tune.located.shared(tune.held_out)):
            raise OptionError(
                f"{len(shared)} questions are in both the selection and the held-out split, first"
                f" {min(shared)[:40]!r}; remove them from one"
            )


def _require_of(run: Table, pair: Pair, scope: Scope) -> None:
    made = run.require_provenance()
    if run.kind != "graft":
        raise OptionError(
            f"run {made.key} is of kind {run.kind}; give keys of graft runs (interp ls)"
        )
    if any(
        made.inputs.get(role) != pair.digests.get(role) for role in ("base", "tuned", "adapter")
    ):
        raise OptionError(
            f"run {made.key} is not of {pair.tuned.name}; give graft runs in the order of the"
            " models"
        )
    sizes = {piece.name: piece.size for piece in scope.pieces}
    if any(sizes.get(row["parameter"]) != row["size"] for row in run.tables["layers"].rows()):
        raise OptionError(
            f"run {made.key} has another scope than {', '.join(scope.parts)}; give graft runs of"
            " the same scope"
        )


__all__: Sequence[str] = ("Stitch", "StitchInput")
