"""``interp intruders``: which singular vectors of a tune's matrices the base does not have, and what they do."""

from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli.common import Running, takes
from interp.cli.repeat import Request
from interp.cli.results import page_again, tell, write
from interp.errors import OptionError

_FILE: dict[str, Any] = {"metavar": "FILE"}


@takes(Running)
def command(
    tuned: Annotated[str, typer.Argument(metavar="TUNED", help="The tuned model, or a LoRA adapter.")],
    *,
    base: Annotated[str | None, typer.Option(metavar="BASE", help="What it was tuned from.")] = None,
    top_k: Annotated[int, typer.Option(metavar="K", min=1, help="Leading singular vectors of each matrix.")] = 10,
    eps: Annotated[float, typer.Option(metavar="X", help="An intruder's largest |cosine| lies below this.")] = 0.5,
    side: Annotated[str, typer.Option(metavar="SIDE", help="left or right singular vectors.")] = "left",
    gap: Annotated[float, typer.Option(metavar="X", help="Base values this close (relative) count as like.")] = 0.05,
    draws: Annotated[int, typer.Option(metavar="N", min=0, help="Random updates: 20 or more, or 0.")] = 20,
    embeddings: Annotated[bool, typer.Option("--embeddings", help="The embedding and the head too.")] = False,
    jobs: Annotated[int, typer.Option(metavar="N", min=1, help="Pairs of matrices at a time.")] = 1,
    scale: Annotated[
        str | None, typer.Option(metavar="X,X,...", help="Scale intruders in memory by these factors (0,0.25,...,2).")
    ] = None,
    which: Annotated[str, typer.Option(metavar="NAME", help="Scale top1 of each matrix, or all.")] = "top1",
    task: Annotated[Path | None, typer.Option(**_FILE, help="With --scale, if wanted: prompts with answers.")] = None,
    text: Annotated[
        Path | None, typer.Option(**_FILE, help="With --scale: plain text, for loss and divergence.")
    ] = None,
    metric: Annotated[str, typer.Option(metavar="NAME", help="Of the task: logit-diff, answer-loss, accuracy.")] = (
        "auto"
    ),
    max_prompts: Annotated[int | None, typer.Option(metavar="N", min=1, help="At most N of each file.")] = None,
    common: Running,
) -> str:
    """Count intruder dimensions beside random updates of equal singular values, and scale them.

    Weights are read one pair of matrices at a time and no model is built (on the CPU, whatever --device says); only
    --scale loads the pair.

    Example: interp intruders ./tuned --base ./base --scale 0,0.5,1,2 --task task.jsonl --text plain.txt
    """
    request = Request.of("intruders", {**locals()})
    factors = _factors(scale, task, text, metric)
    if (kept := request.recall()) is not None:
        for note in kept.notes:
            common.remark(note)
        return tell(common, kept.runs, page_again(common.store, kept, _title(tuned)))
    from interp.analyzers.intruders import Intruders
    from interp.models.weights import WeightPair
    from interp.store import Store
    from interp.store.bases import Bases

    common.batches()
    analyzer = Intruders(top_k, eps, side, gap, draws)
    analyzer.require()
    if factors is not None:
        from interp.analyzers.intruder_scaling import IntruderScaling

        IntruderScaling(which=which, scales=factors).require()
    contrast = None if factors is None else _contrast(task, text, max_prompts)
    described = request.describe()
    store = Store(common.store)
    common.status(f"reading {tuned}")
    weights = WeightPair.load(
        tuned, base, embeddings=embeddings, seed=common.seed, jobs=jobs, quiet=common.quiet, kept=Bases(common.store)
    )
    for note in weights.notes:
        common.remark(f"note: {note}")
    runs = [store.fetch(analyzer, weights)]
    if factors is not None:
        runs.append(_scaling(common, store, runs[0].table, tuned, base, contrast, metric, factors, which))
    return write(common, request, described, runs, [f"note: {note}" for note in weights.notes], _title(tuned))


def _factors(scale: str | None, task: Path | None, text: Path | None, metric: str) -> tuple[float, ...] | None:
    if scale is None:
        if task is not None or text is not None:
            raise OptionError("--task and --text measure what --scale does; give --scale 0,0.5,1,1.5 too")
        return None
    if text is None:
        raise OptionError(
            "--scale needs --text FILE (plain text, for forgetting); --task FILE (prompts with answers) adds the task"
        )
    if task is None and metric != "auto":
        raise OptionError(f"--metric {metric} is of a task; give --task FILE (prompts with answers) too")
    try:
        return tuple(float(part) for part in scale.split(","))
    except ValueError as error:
        raise OptionError(f"--scale {scale!r} is no list of numbers; write 0,0.25,0.5,1,2") from error


def _contrast(task: Path | None, text: Path, limit: int | None):
    """The task's prompts and the plain text, or the text alone, read before anything is computed."""
    from interp.prompts import Contrast, OneClass, read_prompts, read_task

    if task is None:
        return OneClass(read_prompts(text, name="text")).limit(limit)
    return Contrast(read_task(task, name="task"), read_prompts(text, name="text")).limit(limit)


def _scaling(common, store, located, tuned, base, contrast, metric, factors, which):
    from interp.analyzers.intruder_scaling import IntruderScaling
    from interp.engines import engine_named
    from interp.metrics import Task
    from interp.models.pair import Pair
    from interp.study import Study

    if common.remote:
        raise OptionError("--scale edits weights in memory, which --remote does not have; leave --remote out")
    common.status(f"loading {tuned}")
    pair = Pair.load(tuned, base, device=common.device, dtype=common.dtype)
    aim = None if len(contrast.classes) == 1 else Task.of(pair.tokenizer, contrast.positive.prompts, metric)
    engine = engine_named(common.engine, False)
    study = Study(pair, contrast, aim, common.seed, common.batches(), engine=engine, quiet=common.quiet)
    return store.fetch(IntruderScaling.of(located, which=which, scales=factors), study)


def _title(tuned: str) -> str:
    return f"Intruder dimensions of {tuned}"
