"""``interp patch-heads``: which attention heads of the fine-tuned model carry its change?"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.behaviour_options import BEHAVIOUR_HELP, require_one_source, specification_of
from interp.cli.common import takes
from interp.cli.graft import split_task
from interp.cli.prompt_options import CONTROL_HELP, controls_on_demand
from interp.cli.request_cache import Request
from interp.cli.runner import Session, answer
from interp.cli.task_options import (
    circuit_groups,
    parse_groups,
    read_limited,
    split_task_file,
)
from interp.cli.template_options import TemplateFlags
from interp.errors import OptionError, required

if TYPE_CHECKING:
    from interp.prompts import OneClass
    from interp.prompts.task_file import TaskFile

_FILE: dict[str, Any] = {"metavar": "FILE"}


@dataclass(frozen=True, kw_only=True)
class PatchHeadsOptions(TemplateFlags):
    """The options of ``interp patch-heads``; the fields are the flags."""

    base: Annotated[str | None, typer.Option("--base", metavar="BASE", help="The base model.")] = (
        None
    )
    positive: Annotated[
        Path | None, typer.Option("--positive", **_FILE, help="Prompts that show the behaviour.")
    ] = None
    task: Annotated[
        Path | None,
        typer.Option(
            "--task", **_FILE, help="A task file (.jsonl) with one-token answers, instead."
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
    position: Annotated[
        str,
        typer.Option(
            "--position", metavar="NAME", help="all, last, or a named word of the task file."
        ),
    ] = "all"
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
                "give either --positive FILE or --task FILE: prompts whose answers are measured"
            )
        if self.task is None and self.position != "all":
            raise OptionError(
                f"--position {self.position} is a word of a task file; give --task FILE, or"
                " --position all"
            )
        if self.task is not None and (self.behaviour is not None or self.markers is not None):
            raise OptionError(
                "--behaviour and --markers define a behaviour and --task has answers; give one of"
                " them"
            )
        if self.task is not None and self.column != "prompt":
            raise OptionError("--column is of plain prompt files; a task file has the key prompt")
        require_one_source(self.behaviour, self.markers)
        if self.remote:
            raise OptionError("--remote runs one model; patch heads on this machine")
        self.batches()
        self.template_arguments()

    def read(self) -> "tuple[OneClass, OneClass]":
        """The prompts that heads are ranked on, and those on which they are measured."""
        from interp.prompts import NO_PROMPTS, Contrast, OneClass, read_prompts

        whole = read_prompts(required(self.positive, "--positive FILE"), self.column, "locate")
        if self.verify_positive is not None:
            halves = whole, read_prompts(self.verify_positive, self.column, "verify")
        else:
            halves = split_task(whole, self.seed)
        first, second = (Contrast(half, NO_PROMPTS) for half in halves)
        first.require_disjoint(second)
        ranked, measured = (OneClass(half).limit(self.max_prompts) for half in halves)
        return ranked, measured

    def read_task(self) -> "tuple[TaskFile, TaskFile]":
        """The same of a task file."""
        from interp.prompts import NO_PROMPTS, Contrast

        path = required(self.task, "--task FILE")
        if self.verify_positive is not None:
            halves = (
                read_limited(path, "locate", self.max_prompts),
                read_limited(self.verify_positive, "verify", self.max_prompts),
            )
        else:
            parts = split_task_file(read_limited(path, "locate", None), self.seed)
            most = self.max_prompts
            halves = parts
            if most is not None:
                one, other = parts
                halves = (
                    one.keep(one.prompts.spread_rows(most)),
                    other.keep(other.prompts.spread_rows(most)),
                )
        first, second = (Contrast(half.prompts, NO_PROMPTS) for half in halves)
        first.require_disjoint(second)
        for half in halves:
            half.require_positions([] if self.position == "all" else [self.position])
        return halves


@takes(PatchHeadsOptions)
def command(
    tuned: Annotated[str, typer.Argument(metavar="TUNED", help="The tuned model, or an adapter.")],
    *,
    control: Annotated[list[str] | None, typer.Option(metavar="MODEL", help=CONTROL_HELP)] = None,
    what: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help=(
                "z: head outputs, through the receiver's output projection; z+o: through the"
                " donor's; q, k, v or qkv: what attention is computed from."
            ),
        ),
    ] = "z",
    heads: Annotated[
        list[str] | None,
        typer.Option(
            metavar="L.H,...",
            help="A group of heads, such as 3.1,3.2; repeatable.  [default: the first by rank]",
        ),
    ] = None,
    circuit: Annotated[
        str | None,
        typer.Option(
            metavar="RUN", help="Instead: the groups of a stored circuit run at --position."
        ),
    ] = None,
    circuit_of: Annotated[
        str, typer.Option(metavar="ROLE", help="Of --circuit: the circuit of base or tuned.")
    ] = "base",
    first: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Heads of the group that ranks first.  [default: 10 % of all]"
        ),
    ] = None,
    exact: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Single heads that are patched, by rank.  [default: all of up to 64, else 20]",
        ),
    ] = None,
    draws: Annotated[
        int, typer.Option(metavar="N", min=0, help="Random groups of each kind; 0: none.")
    ] = 39,
    min_change: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            min=0,
            help=(
                "Least change of the mean metric by fine-tuning that counts, in its unit."
                "  [default: 1; of a probability 0.05]"
            ),
        ),
    ] = None,
    common: PatchHeadsOptions,
) -> str:
    """Put outputs of attention heads of the fine-tuned model into the base, and the base's into the
    fine-tuned model, on the same prompts.

    All heads, every layer, single heads, and groups: how much of the change of the behaviour's
    log-odds (of a task, of the probability of the answer) each gives and takes, compared with random
    groups of as many heads and with control fine-tunes. Heads are ranked by first order on one half
    of the prompts and measured on the other.

    Example: interp patch-heads ./tuned --base ./base --task boxes.jsonl --position label
    """
    arguments = {**locals()}
    common.check()
    named = parse_groups(heads)
    if (named or circuit) and first is not None:
        raise OptionError(
            "--first is the size of the group by rank; --heads and --circuit give groups"
        )
    if named and circuit:
        raise OptionError("--heads and --circuit both give groups; give one of them")
    if circuit_of not in ("base", "tuned"):
        raise OptionError(f"--circuit-of {circuit_of!r} is not a circuit; use base or tuned")

    groups = named
    if circuit is not None:
        from interp.store import Store

        run = Store(common.store).get(circuit)
        groups = circuit_groups(run, circuit_of, common.position)
        arguments["circuit"] = run.require_provenance().key
    request = Request.of("patch-heads", arguments)

    def compute(session: Session) -> list:
        from interp.analyzers.patch_heads import PatchHeads
        from interp.prompts import OneClass, prompt_notes

        task = None
        if common.task is not None:
            ranked, task = common.read_task()
            measured, first_prompts = OneClass(task.prompts), ranked.prompts
        else:
            ranked, measured = common.read()
            first_prompts = ranked.positive

        def analyzer(controls: Any = ()) -> Any:
            return PatchHeads(
                controls,
                ranked,
                task,
                what,
                common.position,
                groups,
                first,
                exact,
                draws,
                min_change,
            )

        analyzer()
        specification = None
        if task is None:
            specification = specification_of(common.behaviour, common.markers, common.store)
            specification.require_number("interp patch-heads")
        pair = session.load(tuned, common.base, "patching heads")
        metric = None if specification is None else specification.metric(pair.tokenizer)
        study = session.study(pair, measured, metric)
        analyzer().require(study)
        made = analyzer(controls_on_demand(common, control, pair))
        made.require(study)
        session.note(study.counts, *study.notes, *prompt_notes([first_prompts]))
        return [session.store.run(made, study)]

    return answer(request, f"Which heads carry it? {tuned}", compute)
