"""``interp stitch``: do a few weights of several fine-tuned models, put into one base, solve all
their tasks?
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from interp.cli.common import takes
from interp.cli.graft import parse_share, split_task
from interp.cli.request_cache import Request
from interp.cli.runner import Session, answer
from interp.cli.template_options import TemplateFlags
from interp.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class StitchOptions(TemplateFlags):
    """The options of ``interp stitch``; the fields are the flags."""

    base: Annotated[
        str | None, typer.Option("--base", metavar="BASE", help="What all were tuned from.")
    ] = None
    task: Annotated[
        list[Path], typer.Option("--task", metavar="FILE", help="The task of each TUNED, in order.")
    ]
    negative: Annotated[
        Path | None,
        typer.Option("--negative", metavar="FILE", help="Plain text whose perplexity is measured."),
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
        """What to locate on and what to measure on, by task; and the text."""
        from interp.prompts import NO_PROMPTS, Contrast, read_prompts, read_task

        tasks = []
        for path in self.task:
            halves = split_task(read_task(path, self.column, path.stem), self.seed)
            Contrast(halves[0], NO_PROMPTS).require_disjoint(Contrast(halves[1], NO_PROMPTS))
            tasks.append(tuple(part.spread(self.max_prompts or len(part)) for part in halves))
        return tasks, (
            NO_PROMPTS
            if self.negative is None
            else read_prompts(self.negative, self.column, "text")
        )


@takes(StitchOptions)
def command(
    tuned: Annotated[
        list[str],
        typer.Argument(metavar="TUNED...", help="Fine-tuned models of one base, or adapters."),
    ],
    *,
    scope: Annotated[
        str,
        typer.Option(
            metavar="PARTS", help="blocks, attention, mlp, embeddings, head, all; joined by commas."
        ),
    ] = "blocks",
    localise: Annotated[
        str, typer.Option(metavar="HOW", help="movement (without data) or learned.")
    ] = "movement",
    density: Annotated[
        str,
        typer.Option(
            metavar="SHARE", help="Share of weights of each fine-tuned model, by movement."
        ),
    ] = "5%",
    start: Annotated[
        str, typer.Option(metavar="SHARE", help="Weights that a learned mask begins with.")
    ] = "0.001%",
    steps: Annotated[int, typer.Option(metavar="N", min=1, help="Steps of a learned mask.")] = 10,
    reg: Annotated[
        str, typer.Option(metavar="HOW", help="Of a learned mask: l1 or binarise.")
    ] = "l1",
    mask: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RUN",
            help="Instead: learned masks of graft runs, one per TUNED in order; repeatable.",
        ),
    ] = None,
    draws: Annotated[int, typer.Option(metavar="N", min=1, help="Number of random masks.")] = 19,
    common: StitchOptions,
) -> str:
    """Put the weights of several fine-tuned models into one base, each within its own mask, and
    test it on all their tasks.

    It is compared with the base, each fine-tuned model, each mask alone, the plain average and
    random masks of equal size. The stitched model exists in memory only.

    Example: interp stitch ./one ./two --base ./base --task one.jsonl --task two.jsonl --density 10%
    """
    arguments = {**locals()}
    if common.remote:
        raise OptionError("--remote cannot exchange weights; stitch on this machine")
    if len(tuned) != len(common.task):
        said = f"{len(tuned)} fine-tuned models and {len(common.task)} tasks"
        raise OptionError(f"{said}; give one --task FILE for each TUNED")
    from interp.store import Store

    store = Store(common.store)
    runs = tuple(store.get(run) for run in mask or ())
    request = Request.of(
        "stitch", arguments | {"mask": [run.require_provenance().key for run in runs]}
    )
    title = f"Do they fit together? {', '.join(tuned)}"

    def compute(session: Session) -> list:
        from interp.analyzers.framework import Known
        from interp.analyzers.stitch import Stitch, StitchInput, require_models
        from interp.metrics import Task
        from interp.prompts import Contrast, prompt_notes

        common.batches()
        common.template_arguments()
        tasks, text = common.read()
        analyzer = Stitch(
            held_out=tasks[0][1],
            runs=runs,
            scope=scope,
            localise=localise,
            density=parse_share(density),
            start=parse_share(start),
            steps=steps,
            reg=reg,
            draws=draws,
        )
        analyzer.check(Known())
        require_models(len(tuned), len(runs))
        session.begin()
        pairs = _load(tuned, common)
        stitch_inputs = tuple(
            StitchInput(pair, *task) for pair, task in zip(pairs[1:], tasks[1:], strict=True)
        )
        located = Contrast(tasks[0][0], text).limit(common.max_prompts)
        metric = Task.from_prompts(pairs[0].tokenizer, located.positive.prompts, "answer-loss")
        study = session.study(pairs[0], located, metric)
        all_prompts = [part for task in tasks for part in task]
        session.note(
            study.counts,
            *(note for pair in pairs for note in pair.notes),
            *study.notes,
            *prompt_notes(all_prompts),
        )
        return [store.run(replace(analyzer, others=stitch_inputs), study)]

    return answer(request, title, compute)


def _load(tuned: Sequence[str], common: StitchOptions) -> list:
    """All pairs; those that are whole models share the first one's base, so that it is held once."""
    from interp.models.pair import Pair

    pairs = []
    for name in tuned:
        common.status(f"loading {name}")
        pair = common.templated(Pair.load(name, common.base, **common.loading))
        base = pair.require_base("stitching")
        same = pairs and all(
            pair.digests.get(part) == pairs[0].digests.get(part) for part in ("base", "ids")
        )
        if same and base.module is not pair.tuned.module:
            pair = pair.with_base(pairs[0].base)
        pairs.append(pair)
    return pairs
