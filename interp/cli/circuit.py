"""``interp circuit``: which attention heads carry a task in the base and in the fine-tuned model?"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.common import RuntimeOptions, takes
from interp.cli.prompt_options import CONTROL_HELP, controls_on_demand
from interp.cli.request_cache import Request
from interp.cli.runner import Session, answer

if TYPE_CHECKING:
    from interp.prompts import TaskFile

_FILE: dict[str, Any] = {"metavar": "FILE"}


@dataclass(frozen=True, kw_only=True)
class TaskOptions(RuntimeOptions):
    """The pair and the task files of a command that patches activations; the fields are the flags."""

    base: Annotated[str | None, typer.Option("--base", metavar="BASE", help="The base model.")] = (
        None
    )
    task: Annotated[
        Path,
        typer.Option("--task", **_FILE, help="Prompts with answers, positions, corrupt texts."),
    ]
    verify_task: Annotated[
        Path | None,
        typer.Option(
            "--verify-task", **_FILE, help="As --task, to measure on.  [default: a held-out half]"
        ),
    ] = None

    def read(self) -> "tuple[TaskFile, TaskFile]":
        """What to find circuits on, and what to measure on: rows whose column ``split`` says
        locate and verify, else half of the clusters each.
        """
        from interp.prompts import NO_PROMPTS, Contrast, read_task_file

        self.batches()
        whole = read_task_file(self.task, "task")
        if self.verify_task is not None:
            held_out = read_task_file(self.verify_task, "verify")
            Contrast(whole.prompts, NO_PROMPTS).require_disjoint(
                Contrast(held_out.prompts, NO_PROMPTS)
            )
            return whole, held_out
        halves = whole.prompts.given_splits()
        if halves is None:
            first, second = Contrast(whole.prompts, NO_PROMPTS).split(self.seed)
            halves = first.positive, second.positive
        at = {row.id: number for number, row in enumerate(whole.rows)}
        first, second = (whole.keep([at[prompt.id] for prompt in half]) for half in halves)
        return first, second


@takes(TaskOptions)
def command(
    tuned: Annotated[
        str, typer.Argument(metavar="TUNED", help="Directory, Hub id, adapter, or organism:NAME.")
    ],
    *,
    control: Annotated[list[str] | None, typer.Option(metavar="MODEL", help=CONTROL_HELP)] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME:POSITION:RECEIVER:VIA[:SIZE]",
            help="Heads at a position, acting on logits or on a group before; repeatable."
            "  [default: A, B, C, D]",
        ),
    ] = None,
    size: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="Heads of a group at most; 0: 2 % of all, at least 3."
        ),
    ] = 0,
    min_share: Annotated[
        float,
        typer.Option(
            metavar="X",
            min=0,
            max=1,
            help="Smallest effect of a head, as a share of its group's largest; 0: any.",
        ),
    ] = 0.02,
    score: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="What a patch changes: probability (relative), or logit-difference.",
        ),
    ] = "probability",
    attribution: Annotated[
        bool, typer.Option("--attribution", help="Estimate scores by gradients, for deep models.")
    ] = False,
    max_prompts: Annotated[
        int, typer.Option(metavar="N", min=1, help="Scores are means over N prompts at most.")
    ] = 100,
    draws: Annotated[int, typer.Option(metavar="N", min=0, help="Random circuits; 0: none.")] = 39,
    bands: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Bands of blocks that random heads are drawn in."),
    ] = 3,
    completeness_draws: Annotated[
        int, typer.Option(metavar="N", min=0, help="Random sets of heads taken out; 0: none.")
    ] = 20,
    minimality_prompts: Annotated[
        int, typer.Option(metavar="N", min=0, help="Prompts for minimality; 0: not measured.")
    ] = 100,
    common: TaskOptions,
) -> str:
    """Find the circuit of attention heads that answers a task, in both models, by path patching.

    Each circuit is evaluated in both models by mean ablation on held-out prompts (faithfulness,
    completeness, minimality) and compared with the other, next to random circuits of equal size.

    Example: interp circuit ./tuned --base ./base --task boxes.jsonl
    """
    request = Request.of("circuit", {**locals()})

    def compute(session: Session) -> list:
        from interp.analyzers.circuit import FindCircuit
        from interp.analyzers.framework import Known
        from interp.experiments.head_groups import parse_group
        from interp.prompts import OneClass

        task, held_out = common.read()
        analyzer = FindCircuit(
            task,
            held_out,
            groups=tuple(map(parse_group, group or ())),
            score=score,
            size=size,
            min_share=min_share,
            attribution=attribution,
            max_prompts=max_prompts,
            draws=draws,
            bands=bands,
            completeness_draws=completeness_draws,
            minimality_prompts=minimality_prompts,
        )
        analyzer.check(Known())
        pair = session.load(tuned, common.base, "finding circuits")
        analyzer = analyzer.with_controls(controls_on_demand(common, control, pair))
        study = session.study(pair, OneClass(task.prompts))
        analyzer.require(study)
        session.note(study.counts, *study.notes)
        return [session.store.run(analyzer, study)]

    return answer(request, f"Which heads carry it? {tuned}", compute)
