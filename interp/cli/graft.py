"""``interp graft``: how few of a fine-tuned model's weights, put into the base, do what it learned?"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.common import takes
from interp.cli.request_cache import Request
from interp.cli.runner import Session, answer
from interp.cli.template_options import TemplateFlags
from interp.errors import OptionError

if TYPE_CHECKING:
    from interp.prompts import PromptSet

_FILE: dict[str, Any] = {"metavar": "FILE"}


@dataclass(frozen=True, kw_only=True)
class GraftOptions(TemplateFlags):
    """The options of ``interp graft``; the fields are the flags."""

    base: Annotated[str | None, typer.Option("--base", metavar="BASE", help="The base model.")] = (
        None
    )
    task: Annotated[
        Path, typer.Option("--task", **_FILE, help="Prompts with answers (wrong ones too).")
    ]
    verify_task: Annotated[
        Path | None,
        typer.Option(
            "--verify-task", **_FILE, help="As --task, to measure on.  [default: a held-out half]"
        ),
    ] = None
    other_task: Annotated[
        Path | None,
        typer.Option("--other-task", **_FILE, help="Another task, measured in every graft."),
    ] = None
    negative: Annotated[
        Path | None,
        typer.Option("--negative", **_FILE, help="Plain text whose perplexity is measured."),
    ] = None
    column: Annotated[
        str, typer.Option("--column", metavar="NAME", help="Column of the prompt files.")
    ] = "prompt"
    max_prompts: Annotated[
        int | None,
        typer.Option(
            "--max-prompts", metavar="N", min=1, help="At most N prompts of each file and half."
        ),
    ] = None

    def read(self):
        """What to locate on (with the text), what to measure on, and the other task."""
        from interp.prompts import NO_PROMPTS, Contrast, read_prompts, read_task

        whole = read_task(self.task, self.column, "locate")
        if self.verify_task is not None:
            located_on, verified_on = whole, read_task(self.verify_task, self.column, "verify")
        else:
            located_on, verified_on = split_task(whole, self.seed)
        text = (
            NO_PROMPTS
            if self.negative is None
            else read_prompts(self.negative, self.column, "text")
        )
        other = (
            None if self.other_task is None else read_task(self.other_task, self.column, "other")
        )
        if other is not None and (halves := other.given_splits()) is not None:
            other = halves[1]
        Contrast(located_on, NO_PROMPTS).require_disjoint(Contrast(verified_on, NO_PROMPTS))
        parts = (
            part and part.spread(self.max_prompts or len(part)) for part in (verified_on, other)
        )
        return Contrast(located_on, text).limit(self.max_prompts), *parts


def split_task(prompts: "PromptSet", seed: int) -> "tuple[PromptSet, PromptSet]":
    """What of a task locates and what measures: by its column ``split``, else half of the clusters
    each.
    """
    from interp.prompts import NO_PROMPTS, Contrast

    if (halves := prompts.given_splits()) is not None:
        return halves
    first, second = Contrast(prompts, NO_PROMPTS).split(seed)
    return first.positive, second.positive


def parse_share(text: str) -> float:
    """``1%`` or ``0.01`` as a share; raises OptionError for what is neither."""
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise OptionError(f"{text!r} is not a share of weights; use 1% or 0.01") from None


@takes(GraftOptions)
def command(
    tuned: Annotated[str, typer.Argument(metavar="TUNED", help="The tuned model, or an adapter.")],
    *,
    scope: Annotated[
        str,
        typer.Option(
            metavar="PARTS", help="blocks, attention, mlp, embeddings, head, all; joined by commas."
        ),
    ] = "blocks",
    density: Annotated[
        str, typer.Option(metavar="SHARE", help="Weights to keep, for masks and claims.")
    ] = "1%",
    sweep: Annotated[
        str, typer.Option(metavar="SHARES", help="Shares at which accuracy is measured too.")
    ] = "0.1%,0.3%,1%,3%,10%,30%",
    steps: Annotated[int, typer.Option(metavar="N", min=1, help="Steps of the learned mask.")] = 60,
    relaxed_steps: Annotated[
        int, typer.Option(metavar="N", min=0, help="Of the paper's descent; 0: without.")
    ] = 10,
    draws: Annotated[int, typer.Option(metavar="N", min=1, help="Random masks of each kind.")] = 19,
    shuffles: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="Masks learned on shuffled movement; fewer than 6: the claim is not tested; 0: none.",
        ),
    ] = 6,
    compare_with: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RUN", help="A graft run of another task, to compare with; repeatable."
        ),
    ] = None,
    common: GraftOptions,
) -> str:
    """Put some of a fine-tuned model's weights into its base, and compare learned masks with other
    masks of equal size on held-out questions.

    Masks are located on one part of the task (rows whose column split says locate, else half of the
    clusters) and measured on the other. The grafted model lives in memory only.

    Example: interp graft ./tuned --base ./base --task task.jsonl --negative text.txt
    """
    arguments = {**locals()}
    if common.remote:
        raise OptionError("--remote cannot exchange weights; graft on this machine")
    from interp.store import Store

    store = Store(common.store)
    compared_runs = tuple(store.get(run) for run in compare_with or ())
    request = Request.of(
        "graft",
        arguments | {"compare_with": [run.require_provenance().key for run in compared_runs]},
    )

    def compute(session: Session) -> list:
        from interp.analyzers.framework import Known
        from interp.analyzers.graft import Graft
        from interp.metrics import Task
        from interp.prompts import prompt_notes

        common.batches()
        common.template_arguments()
        located_on, verified_on, other_prompts = common.read()
        analyzer = Graft(
            held_out=verified_on,
            other=other_prompts,
            scope=scope,
            density=parse_share(density),
            sweep=tuple(map(parse_share, sweep.split(","))),
            steps=steps,
            relaxed_steps=relaxed_steps,
            draws=draws,
            shuffles=shuffles,
            compare_with=compared_runs,
        )
        analyzer.check(Known())
        pair = session.load(tuned, common.base, "grafting")
        metric = Task.from_prompts(pair.tokenizer, located_on.positive.prompts, "answer-loss")
        study = session.study(pair, located_on, metric)
        session.note(
            study.counts,
            *study.notes,
            *prompt_notes(part for part in (verified_on, other_prompts) if part),
        )
        return [store.run(analyzer, study)]

    return answer(request, f"How few weights carry it? {tuned}", compute)
