"""``interp stitch``: do the few weights of several tunes, put into one base, do all their tasks?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from interp.cli.common import takes
from interp.cli.graft import halved, share
from interp.cli.request_cache import Request
from interp.cli.results import page_again, remarked, tell, write
from interp.cli.template_options import Templated
from interp.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class Stitching(Templated):
    """What is stitched and what it is asked; the fields are the flags."""

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
        from interp.prompts import NOTHING, Contrast, read_prompts, read_task

        tasks = []
        for path in self.task:
            halves = halved(read_task(path, self.column, path.stem), self.seed)
            Contrast(halves[0], NOTHING).require_disjoint(Contrast(halves[1], NOTHING))
            tasks.append(tuple(part.spread(self.max_prompts or len(part)) for part in halves))
        return tasks, (
            NOTHING if self.negative is None else read_prompts(self.negative, self.column, "text")
        )


@takes(Stitching)
def command(
    tuned: Annotated[
        list[str], typer.Argument(metavar="TUNED...", help="Tunes of one base, or adapters.")
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
    at: Annotated[
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
    draws: Annotated[int, typer.Option(metavar="N", min=1, help="Times random masks.")] = 19,
    common: Stitching,
) -> str:
    """Put the weights of several tunes into one base, each in its own mask, and ask it all their
    tasks.

    Beside it stand the base, each tune, each mask alone, the plain average and random masks of
    equal size. The stitched model lives in memory only.

    Example: interp stitch ./one ./two --base ./base --task one.jsonl --task two.jsonl --at 10%
    """
    given = {**locals()}
    if common.remote:
        raise OptionError("--remote cannot exchange weights; stitch on this machine")
    if len(tuned) != len(common.task):
        said = f"{len(tuned)} fine-tuned models and {len(common.task)} tasks"
        raise OptionError(f"{said}; give one --task FILE for each TUNED")
    from interp.store import Store

    store = Store(common.store)
    runs = tuple(store.get(run) for run in mask or ())
    request = Request.of("stitch", given | {"mask": [run.require_provenance().key for run in runs]})
    title = f"Do they fit together? {', '.join(tuned)}"
    if (kept := request.recall()) is not None:
        for note in kept.notes:
            common.remark(note)
        return tell(common, kept.runs, page_again(common.store, kept, title))
    from interp.analyzers.stitch import Stitch, StitchInput
    from interp.engines import engine_named
    from interp.metrics import Task
    from interp.prompts import Contrast, prompt_notes
    from interp.study import Study

    common.batches()
    common.template_arguments()
    tasks, text = common.read()
    analyzer = Stitch(
        held_out=tasks[0][1],
        runs=runs,
        scope=scope,
        localise=localise,
        at=share(at),
        start=share(start),
        steps=steps,
        reg=reg,
        draws=draws,
    )
    analyzer.check(len(tuned))
    described = request.describe()
    pairs = _load(tuned, common)
    others = tuple(
        StitchInput(pair, *task) for pair, task in zip(pairs[1:], tasks[1:], strict=True)
    )
    located = Contrast(tasks[0][0], text).limit(common.max_prompts)
    metric = Task.of(pairs[0].tokenizer, located.positive.prompts, "answer-loss")
    study = Study(
        pairs[0],
        located,
        metric,
        common.seed,
        common.batches(),
        engine=engine_named(common.engine, False),
        quiet=common.quiet,
    )
    read = [part for task in tasks for part in task]
    notes = remarked(
        common,
        study.counts,
        *(note for pair in pairs for note in pair.notes),
        *study.notes,
        *prompt_notes(read),
    )
    return write(
        common,
        request,
        described,
        [store.run(replace(analyzer, others=others), study)],
        notes,
        title,
    )


def _load(tuned: Sequence[str], common: Stitching) -> list:
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
            pair = pair.sharing(pairs[0].base)
        pairs.append(pair)
    return pairs
