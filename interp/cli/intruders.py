"""``interp intruders``: which singular vectors of a fine-tuned model are not in the base, and
what they do.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli.common import takes
from interp.cli.request_cache import Request
from interp.cli.runner import Session, answer
from interp.cli.template_options import TemplateFlags
from interp.errors import OptionError

_FILE: dict[str, Any] = {"metavar": "FILE"}


@takes(TemplateFlags)
def command(
    tuned: Annotated[
        str, typer.Argument(metavar="TUNED", help="The tuned model, or a LoRA adapter.")
    ],
    *,
    base: Annotated[str | None, typer.Option(metavar="BASE", help="The base model.")] = None,
    top_k: Annotated[
        int, typer.Option(metavar="K", min=1, help="Leading singular vectors of each matrix.")
    ] = 10,
    eps: Annotated[
        float, typer.Option(metavar="X", help="An intruder's largest |cosine| lies below this.")
    ] = 0.5,
    side: Annotated[
        str, typer.Option(metavar="SIDE", help="left or right singular vectors.")
    ] = "left",
    gap: Annotated[
        float,
        typer.Option(metavar="X", help="Relative tolerance for equal singular values of the base."),
    ] = 0.05,
    draws: Annotated[
        int, typer.Option(metavar="N", min=0, help="Random updates: 20 or more, or 0.")
    ] = 20,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="The embedding and the head too.")
    ] = False,
    jobs: Annotated[int, typer.Option(metavar="N", min=1, help="Pairs of matrices at a time.")] = 1,
    scale: Annotated[
        str | None,
        typer.Option(
            metavar="X,X,...", help="Scale intruders in memory by these factors (0,0.25,...,2)."
        ),
    ] = None,
    scale_set: Annotated[
        str, typer.Option(metavar="NAME", help="Scale top1 of each matrix, or all.")
    ] = "top1",
    task: Annotated[
        Path | None, typer.Option(**_FILE, help="With --scale, if wanted: prompts with answers.")
    ] = None,
    checkpoints: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIR",
            help=(
                "Earlier checkpoints of the run, or the folder that holds them; repeatable. With"
                " --text."
            ),
        ),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(**_FILE, help="With --scale or --checkpoints: plain text, for the loss."),
    ] = None,
    metric: Annotated[
        str, typer.Option(metavar="NAME", help="Of the task: logit-diff, answer-loss, accuracy.")
    ] = "auto",
    max_prompts: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="At most N of each file.")
    ] = None,
    common: TemplateFlags,
) -> str:
    """Count intruder dimensions, compared with random updates of equal singular values, and scale
    them.

    Weights are read one pair of matrices at a time and no model is built (on the CPU, whatever
    --device says); only --scale and --checkpoints load models. --checkpoints correlates the number
    of intruders with forgetting.

    Example: interp intruders ./tuned --base ./base --scale 0,0.5,1,2 --task task.jsonl --text
    plain.txt
    """
    arguments = {**locals()}
    factors = _factors(scale, task, text, metric, bool(checkpoints))
    if (common.template_arguments() or common.system is not None) and task is None:
        raise OptionError(
            "--system and --template-arg are of the prompts of --task FILE; give it, or leave"
            " them out"
        )
    earlier = _checkpoints(arguments.pop("checkpoints") or [], common.remote)
    request = Request.of("intruders", arguments | {"tuned": [tuned, *earlier]})

    def compute(session: Session) -> list:
        from interp.analyzers.framework import Known
        from interp.analyzers.intruder_scaling import IntruderScaling
        from interp.analyzers.intruders import Intruders
        from interp.models.weights import WeightPair
        from interp.store.svd_cache import SvdCache

        common.batches()
        analyzer = Intruders(top_k, eps, side, gap, draws)
        analyzer.check(Known())
        scaling = None
        if factors is not None:
            scaling = IntruderScaling(scale_set=scale_set, scales=factors)
            scaling.check(Known())
        contrast = None if text is None else _contrast(task, text, max_prompts)
        session.begin()
        store = session.store

        def weights_of(name: str) -> WeightPair:
            common.status(f"reading {name}")
            return WeightPair.load(
                name,
                base,
                embeddings=embeddings,
                seed=common.seed,
                jobs=jobs,
                quiet=common.quiet,
                array_cache=SvdCache(common.store),
            )

        weights = weights_of(tuned)
        session.note(*weights.notes)
        runs = [store.run(analyzer, weights)]
        if scaling is not None:
            study = _study(common, tuned, base, contrast, metric)
            session.note(study.counts, *study.notes)
            runs.append(store.run(replace(scaling, located=runs[0].table), study))
        if earlier:
            # the null is of the last checkpoint alone: the others are only counted
            counting = replace(analyzer, draws=0)
            counted, twice = _count_checkpoints(store, counting, weights_of, earlier, weights)
            session.note(*twice)
            counted[tuned] = runs[0].table
            runs.append(_measure_forgetting(common, store, counted, base, contrast))
        return runs

    return answer(request, f"Intruder dimensions of {tuned}", compute)


def _checkpoints(names: list[str], remote: bool) -> list[str]:
    """The checkpoints, in the order given; a folder of checkpoints stands for them, in the order of
    their numbers.
    """
    if names and remote:
        raise OptionError(
            "--checkpoints measures the loss of every checkpoint on this machine; leave"
            " --remote out"
        )
    paths = []
    for name in names:
        inside = (
            [path for path in Path(name).glob("*") if _is_model(path)]
            if Path(name).is_dir()
            else []
        )
        paths += map(str, sorted(inside, key=_by_number)) if inside else [name]
    return list(dict.fromkeys(paths))


def _is_model(path: Path) -> bool:
    return any((path / name).is_file() for name in ("config.json", "adapter_config.json"))


def _by_number(path: Path) -> tuple[int, str]:
    numbers = re.findall(r"\d+", path.name)
    return int(numbers[-1]) if numbers else 0, path.name


def _factors(
    scale: str | None, task: Path | None, text: Path | None, metric: str, checkpoints: bool
) -> tuple[float, ...] | None:
    if checkpoints and text is None:
        raise OptionError("--checkpoints needs --text FILE (plain text, for forgetting)")
    if scale is None:
        if task is not None or (text is not None and not checkpoints):
            raise OptionError(
                "--task and --text measure what --scale does; give --scale 0,0.5,1,1.5 too"
            )
        return None
    if text is None:
        raise OptionError(
            "--scale needs --text FILE (plain text, for forgetting); --task FILE (prompts with"
            " answers) adds the task"
        )
    if task is None and metric != "auto":
        raise OptionError(
            f"--metric {metric} is of a task; give --task FILE (prompts with answers) too"
        )
    try:
        return tuple(float(part) for part in scale.split(","))
    except ValueError as error:
        raise OptionError(
            f"--scale {scale!r} is not a list of numbers; write 0,0.25,0.5,1,2"
        ) from error


def _contrast(task: Path | None, text: Path, limit: int | None):
    """The task's prompts and the plain text, or the text alone, read before anything is computed."""
    from interp.prompts import Contrast, OneClass, read_prompts, read_task

    if task is None:
        return OneClass(read_prompts(text, name="text")).limit(limit)
    return Contrast(read_task(task, name="task"), read_prompts(text, name="text")).limit(limit)


def _study(common, tuned, base, contrast, metric):
    from interp.engines import engine_named
    from interp.metrics import Task
    from interp.models.pair import Pair
    from interp.study import Study

    if common.remote:
        raise OptionError(
            "--scale edits weights in memory, which --remote does not have; leave --remote out"
        )
    common.status(f"loading {tuned}")
    pair = common.templated(Pair.load(tuned, base, **common.loading))
    aim = (
        None
        if len(contrast.classes) == 1
        else Task.from_prompts(pair.tokenizer, contrast.positive.prompts, metric)
    )
    engine = engine_named(common.engine, False)
    return Study(
        pair, contrast, aim, common.seed, common.batches(), engine=engine, quiet=common.quiet
    )


def _count_checkpoints(store, counting, weights_of, checkpoints, final_weights):
    """Runs of intruders by checkpoint, and remarks on checkpoints with the weights of another one."""
    counted, notes, seen = {}, [], {final_weights.digests["tuned"]: final_weights.tuned}
    for name in checkpoints:
        weights = weights_of(name)
        digest = weights.digests["tuned"]
        if digest in seen:
            notes.append(f"{name} has the weights of {seen[digest]}: counted once")
            continue
        seen[digest] = name
        counted[name] = store.run(counting, weights).table
    return counted, notes


def _measure_forgetting(common, store, counted, base, contrast):
    """The run of the correlation, and of every checkpoint one of the loss on plain text."""
    from interp.analyzers.intruder_forgetting import Checkpoints, Forgetting, IntruderForgetting
    from interp.engines import engine_named
    from interp.models.pair import Pair
    from interp.prompts import OneClass
    from interp.study import Study

    if len(counted) < 2:
        raise OptionError(
            "all checkpoints have the same weights: a correlation needs different ones, 5 to be"
            " tested"
        )
    text = OneClass(contrast.positive if len(contrast.classes) == 1 else contrast.negative)
    engine, loss_runs = engine_named(common.engine, False), []
    for name in counted:
        common.status(f"loading {name}")
        pair = Pair.load(name, base, **common.loading)
        study = Study(
            pair, text, None, common.seed, common.batches(), engine=engine, quiet=common.quiet
        )
        loss_runs.append(store.run(Forgetting(), study).table)
    return store.run(
        IntruderForgetting(), Checkpoints(list(counted.values()), loss_runs, common.seed)
    )
