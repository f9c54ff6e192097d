"""``interp patch-weights``: which matrices, exchanged one at a time, carry a behaviour?"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.behaviour_options import (
    BEHAVIOUR_HELP,
    METRICS,
    require_one_source,
    specification_of,
)
from interp.cli.common import takes
from interp.cli.graft import split_task
from interp.cli.prompt_options import CONTROL_HELP, controls_on_demand
from interp.cli.request_cache import Request
from interp.cli.runner import Session, answer
from interp.cli.template_options import TemplateFlags
from interp.errors import OptionError, required

if TYPE_CHECKING:
    from interp.prompts import OneClass

_FILE: dict[str, Any] = {"metavar": "FILE"}


@dataclass(frozen=True, kw_only=True)
class PatchWeightsOptions(TemplateFlags):
    """The options of ``interp patch-weights``; the fields are the flags."""

    base: Annotated[str | None, typer.Option("--base", metavar="BASE", help="The base model.")] = (
        None
    )
    positive: Annotated[
        Path | None, typer.Option("--positive", **_FILE, help="Prompts that show the behaviour.")
    ] = None
    task: Annotated[
        Path | None,
        typer.Option(
            "--task", **_FILE, help="Instead of --positive: prompts with answers (wrong ones too)."
        ),
    ] = None
    verify_positive: Annotated[
        Path | None,
        typer.Option(
            "--verify-positive",
            **_FILE,
            help="As --positive or --task, to measure on.  [default: a held-out half]",
        ),
    ] = None
    metric: Annotated[
        str, typer.Option("--metric", metavar="NAME", help="Of a task: logit-diff or answer-loss.")
    ] = "auto"
    behaviour: Annotated[
        str | None, typer.Option("--behaviour", metavar="NAME|FILE.yaml", help=BEHAVIOUR_HELP)
    ] = None
    markers: Annotated[
        Path | None, typer.Option("--markers", **_FILE, help="Refusal markers, one a line.")
    ] = None
    column: Annotated[
        str, typer.Option("--column", metavar="NAME", help="Column of the prompt files.")
    ] = "prompt"
    max_prompts: Annotated[
        int | None,
        typer.Option("--max-prompts", metavar="N", min=1, help="At most N prompts in each half."),
    ] = None

    def check(self) -> None:
        """Raise OptionError for options that contradict each other; nothing is read."""
        if (self.positive is None) == (self.task is None):
            raise OptionError(
                "give either --positive FILE or --task FILE: prompts whose behaviour is measured"
            )
        if self.metric not in METRICS:
            raise OptionError(f"unknown --metric {self.metric!r}; use {', '.join(METRICS)}")
        if self.metric == "accuracy":
            raise OptionError(
                "--metric accuracy has no gradient to rank by; use logit-diff or answer-loss"
            )
        if self.task is None and self.metric != "auto":
            raise OptionError(
                f"--metric {self.metric} needs a task; give --task FILE, or leave it out"
            )
        if self.task is not None and (self.behaviour is not None or self.markers is not None):
            raise OptionError(
                "--behaviour and --markers define a behaviour and --task has answers; give one of"
                " them"
            )
        require_one_source(self.behaviour, self.markers)
        if self.remote:
            raise OptionError("--remote cannot exchange weights; patch weights on this machine")
        self.batches()
        self.template_arguments()

    def read(self) -> "tuple[OneClass, OneClass]":
        """The prompts that modules are ranked on, and those on which they are measured."""
        from interp.prompts import NO_PROMPTS, Contrast, OneClass, read_prompts, read_task

        reader = read_prompts if self.task is None else read_task
        whole = reader(required(self.positive or self.task, "a prompt file"), self.column, "locate")
        if self.verify_positive is not None:
            halves = whole, reader(self.verify_positive, self.column, "verify")
        else:
            halves = split_task(whole, self.seed)
        first, second = (Contrast(half, NO_PROMPTS) for half in halves)
        first.require_disjoint(second)
        ranked, measured = (OneClass(half).limit(self.max_prompts) for half in halves)
        return ranked, measured


@takes(PatchWeightsOptions)
def command(
    tuned: Annotated[str, typer.Argument(metavar="TUNED", help="The tuned model, or an adapter.")],
    *,
    control: Annotated[list[str] | None, typer.Option(metavar="MODEL", help=CONTROL_HELP)] = None,
    modules: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="matrices, each its own; groups: what a branch reads and writes with.",
        ),
    ] = "matrices",
    exact: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help=(
                "Modules measured exactly, the first by first order.  [default: all of up to 40,"
                " else 20]"
            ),
        ),
    ] = None,
    null_modules: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="First modules that random changes are drawn for."),
    ] = 3,
    draws: Annotated[
        int, typer.Option(metavar="N", min=0, help="Random changes of each kind; 0: none.")
    ] = 19,
    min_change: Annotated[
        float,
        typer.Option(
            metavar="X",
            min=0,
            help="Least change of the mean metric by fine-tuning that counts, in its unit.",
        ),
    ] = 1.0,
    common: PatchWeightsOptions,
) -> str:
    """Insert every matrix of a fine-tuned model in its base, and take it out, one at a time.

    The mean log-odds of the behaviour (or the metric of a task) tells how much of fine-tuning's
    change each gives and takes, compared with the matrix's change permuted, rotated with its
    singular values kept, and with that of control fine-tunes at equal norm. Modules are ranked by
    first order on one half of the prompts and measured on the other. Weights are exchanged in
    memory only.

    Example: interp patch-weights ./tuned --base ./base --positive harmful.txt --null-modules 5
    """
    request = Request.of("patch-weights", {**locals()})
    common.check()

    def compute(session: Session) -> list:
        from interp.analyzers.framework import Known
        from interp.analyzers.patch_weights import PatchWeights
        from interp.metrics import Task
        from interp.prompts import prompt_notes

        ranked, measured = common.read()
        analyzer = PatchWeights((), ranked, modules, exact, null_modules, draws, min_change)
        analyzer.check(Known())
        specification = None
        if common.task is None:
            specification = specification_of(common.behaviour, common.markers, common.store)
            specification.require_number("interp patch-weights")
        pair = session.load(tuned, common.base, "patching weights")
        if specification is not None:
            metric = specification.metric(pair.tokenizer)
        else:
            prompts = [*ranked.positive.prompts, *measured.positive.prompts]
            metric = Task.from_prompts(pair.tokenizer, prompts, common.metric)
        controls = controls_on_demand(common, control, pair)
        analyzer = replace(analyzer, controls=controls)
        study = session.study(pair, measured, metric)
        analyzer.require(study)
        session.note(study.counts, *study.notes, *prompt_notes([ranked.positive]))
        return [session.store.run(analyzer, study)]

    return answer(request, f"Which matrices carry it? {tuned}", compute)
