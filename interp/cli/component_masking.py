"""``interp component-masking``: which heads at a word carry a kind of information?"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli.common import takes
from interp.cli.prompt_options import CONTROL_HELP, controls_on_demand
from interp.cli.request_cache import Request
from interp.cli.runner import Session, answer
from interp.cli.task_options import parse_heads, read_limited
from interp.cli.template_options import TemplateFlags
from interp.errors import OptionError, required

_FILE: dict[str, Any] = {"metavar": "FILE"}


@dataclass(frozen=True, kw_only=True)
class MaskingOptions(TemplateFlags):
    """The options of ``interp component-masking``; the fields are the flags."""

    base: Annotated[str | None, typer.Option("--base", metavar="BASE", help="The base model.")] = (
        None
    )
    task: Annotated[
        Path | None, typer.Option("--task", **_FILE, help="A task file (.jsonl) with sources.")
    ] = None
    source: Annotated[
        str,
        typer.Option(
            "--source", metavar="NAME", help="The source prompts that heads are patched from."
        ),
    ] = ""
    position: Annotated[
        str,
        typer.Option(
            "--position", metavar="NAME", help="last, or a named word at which heads are patched."
        ),
    ] = "last"
    max_prompts: Annotated[
        int | None, typer.Option("--max-prompts", metavar="N", min=1, help="At most N rows.")
    ] = None

    def check(self) -> None:
        """Raise OptionError for options that contradict each other; nothing is read."""
        if self.task is None:
            raise OptionError(
                "give --task FILE: a task file (.jsonl) with sources and their targets"
            )
        if not self.source:
            raise OptionError("give --source NAME: one of the sources of the task file")
        if self.remote:
            raise OptionError("--remote runs one model; mask heads on this machine")
        self.batches()
        self.template_arguments()


@takes(MaskingOptions)
def command(
    tuned: Annotated[str, typer.Argument(metavar="TUNED", help="The tuned model, or an adapter.")],
    *,
    control: Annotated[list[str] | None, typer.Option(metavar="MODEL", help=CONTROL_HELP)] = None,
    heads: Annotated[
        str | None,
        typer.Option(
            metavar="L.H,...", help="Heads that can be patched, such as 3.1,3.2.  [default: all]"
        ),
    ] = None,
    penalty: Annotated[
        float, typer.Option(metavar="X", min=0, help="Penalty of every patched head, in logits.")
    ] = 0.01,
    learning_rate: Annotated[float, typer.Option(metavar="X", min=0, help="Step of Adam.")] = 0.1,
    epochs: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Times that training rows are seen.  [default: 2, or so many as give 60 batches]",
        ),
    ] = None,
    fit_batch: Annotated[
        int, typer.Option(metavar="N", min=1, help="Rows in a training batch.")
    ] = 32,
    ties: Annotated[
        str,
        typer.Option(metavar="NAME", help="Of masks that are equally good: more heads, or fewer."),
    ] = "more",
    draws: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="Random sets of as many heads, and exchanges of sources; 0: none.",
        ),
    ] = 39,
    common: MaskingOptions,
) -> str:
    """Learn a mask over attention heads at a word, so that patching them from source prompts makes
    the model give the source's target, in the base and in the fine-tuned model.

    Held-out rows tell how often the selected heads give the target, next to no head and all heads,
    as many random heads, and sources exchanged between rows. The base's heads are patched in the fine-tuned model
    and in control fine-tunes too.

    Example: interp component-masking ./tuned --base ./base --task boxes.jsonl --source object
    """
    request = Request.of("component-masking", {**locals()})
    common.check()
    pool = () if heads is None else parse_heads(heads)

    def compute(session: Session) -> list:
        from interp.analyzers.component_masking import ComponentMasking
        from interp.prompts import OneClass

        task = read_limited(required(common.task, "--task FILE"), "task", common.max_prompts)

        def analyzer(controls: Any = ()) -> Any:
            return ComponentMasking(
                controls,
                task,
                common.source,
                common.position,
                pool,
                penalty,
                learning_rate,
                epochs,
                fit_batch,
                ties,
                draws,
            )

        analyzer()
        pair = session.load(tuned, common.base, "component masking")
        study = session.study(pair, OneClass(task.prompts))
        analyzer().require(study)
        made = analyzer(controls_on_demand(common, control, pair))
        made.require(study)
        session.note(study.counts, *study.notes)
        return [session.store.run(made, study)]

    return answer(request, f"Which heads carry {common.source or 'it'}? {tuned}", compute)
