"""``interp locate-neurons``: from models and prompt files to a verified, stored, plotted result."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli.common import Running, takes
from interp.cli.repeat import Request
from interp.errors import OptionError
from interp.provenance import sha256_of
from interp.store.requests import Remembered

METHODS_HELP = (
    "auto, integrated, integrated-fixed, integrated-zero, cross, change, change-difference, act-grad, gradient, "
    "gradient-counterfactual, contrast, probe, weight."
)
POSITIONS_HELP = "Tokens that are read: auto, prompt, content, decision, last, completion."
CONTROLS_ORGANISM, CONTROLS = 200, 20
PAGE = "page.html"


@takes(Running)
def command(
    tuned: Annotated[str, typer.Argument(metavar="TUNED", help="Directory, Hub id, adapter, or organism:NAME.")],
    *,
    base: Annotated[str | None, typer.Option(metavar="BASE", help="What it was tuned from.")] = None,
    positive: Annotated[Path | None, typer.Option(metavar="FILE", help="Prompts that show the behaviour.")] = None,
    task: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Instead of --positive: prompts with answers (and wrong ones).")
    ] = None,
    negative: Annotated[Path, typer.Option(metavar="FILE", help="Prompts that do not.")],
    metric: Annotated[
        str, typer.Option(metavar="NAME", help="Of a task: logit-diff, answer-loss or accuracy.")
    ] = "auto",
    verify_positive: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="As --positive or --task, to verify on.  [default: a held-out half]"),
    ] = None,
    verify_negative: Annotated[
        Path | None, typer.Option(metavar="FILE", help="As --negative, to verify on.  [default: a held-out half]")
    ] = None,
    column: Annotated[str, typer.Option(metavar="NAME", help="Column of the prompt files.")] = "prompt",
    method: Annotated[str, typer.Option(metavar="NAME", help=METHODS_HELP)] = "auto",
    top: Annotated[str, typer.Option(metavar="N|P%|zX|smallest", help="How many are selected: 30, 0.5%, z3.")] = "0.5%",
    unit: Annotated[str, typer.Option(metavar="NAME", help="What is scored: neuron or head.")] = "neuron",
    subtract: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Leave out what is located on these utility prompts too.")
    ] = None,
    positions: Annotated[str, typer.Option(metavar="NAME", help=POSITIONS_HELP)] = "auto",
    markers: Annotated[Path | None, typer.Option(metavar="FILE", help="Refusal markers, one a line.")] = None,
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="Verify what was located.")] = True,
    controls: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Matched random sets.  [default: 200 for organisms, else 20]")
    ] = None,
    control_prompts: Annotated[
        int, typer.Option(metavar="N", min=1, help="Prompts for doses and random sets; the conditions use all.")
    ] = 48,
    max_prompts: Annotated[int | None, typer.Option(metavar="N", min=1, help="At most N prompts per class.")] = None,
    common: Running,
) -> str:
    """Find the MLP neurons (or heads) that carry a tuned behaviour; verify them, held out, against random sets.

    Prompt files are .txt (a prompt a line), .jsonl, .csv or .parquet. Half of the clusters locate and half verify,
    unless two more files verify or --no-verify locates on all; to show anything the verifying half needs 36 clusters a
    class. METHOD auto is integrated with a base and act-grad without. With --task the behaviour is to answer rightly,
    and --metric auto is logit-diff where the file has wrong answers, else answer-loss. The run is kept in the store,
    with one offline HTML page beside it.

    Example: interp locate-neurons ./tuned --base ./base --positive harmful.txt --negative harmless.txt --top 30
    """
    request = Request.of("locate-neurons", {**locals()})
    if (verify_positive is None) != (verify_negative is None):
        raise OptionError("only one of --verify-positive and --verify-negative was given; give both or neither")
    if (positive is None) == (task is None):
        raise OptionError("give either --positive FILE or --task FILE: the prompts whose behaviour is located")
    if task is None and metric != "auto":
        raise OptionError(f"--metric {metric} is of a task; give --task FILE, or leave it out to measure refusals")
    if task is not None and markers is not None:
        raise OptionError("--markers are of refusals and --task has answers; give one of them")
    if (kept := request.recall()) is not None:
        for note in kept.notes:
            common.remark(note)
        return _tell(common, kept.runs, _page_again(common.store, kept, tuned))
    # torch is imported only now, so that help, usage errors and repeats answer at once
    from interp.analyzers.locate_neurons import LocateNeurons
    from interp.analyzers.verify_neurons import VerifyNeurons, fewest_clusters
    from interp.engines import engine_named
    from interp.metrics import REFUSAL_MARKERS, TASK_METRICS, Refusal, Task, read_markers
    from interp.models.pair import Pair
    from interp.models.sources import find
    from interp.models.units import unit_named
    from interp.prompts import Contrast, read_prompts, read_task
    from interp.store import Store
    from interp.study import Study

    def contrast(first: Path, second: Path, name: str) -> Contrast:
        return Contrast(read(first, column, f"{name}+"), read_prompts(second, column, f"{name}-"))

    read = read_prompts if task is None else read_task
    if metric not in ("auto", *TASK_METRICS):
        raise OptionError(f"unknown --metric {metric!r}; use auto, {', '.join(TASK_METRICS)}")
    batch_size, engine = common.batches(), engine_named(common.engine, common.remote)
    spoken = REFUSAL_MARKERS if markers is None else read_markers(markers)
    located_on = contrast(positive or task, negative, "locate")
    if verify_positive is not None:
        verified_on = contrast(verify_positive, verify_negative, "verify")
        located_on.require_disjoint(verified_on)
    elif verify:
        located_on, verified_on = located_on.split(common.seed)
    utility = None
    if subtract is not None:
        utility = Contrast(read(subtract, column, "utility"), located_on.negative)
        if shared := {*utility.positive.texts} & {*located_on.positive.texts}:
            raise OptionError(f"--subtract {subtract} shares prompts with those located on, first {min(shared)[:40]!r}")
    locate = LocateNeurons(method=method, top=top, positions=positions, unit=unit)
    smooth = metric != "accuracy"
    locate.check(base is not None or find(tuned).base_name is not None, differentiable=smooth)
    described, notes = request.describe(), []
    common.status(f"loading {tuned}" + (f" and {base}" if base else ""))
    pair = Pair.load(tuned, base, device=common.device, dtype=common.dtype)
    anatomy, kind = pair.tuned.anatomy, unit_named(unit)
    kind.require(anatomy)
    locate.check(pair.base is not None, anatomy.n_layers * kind.count(anatomy), smooth)
    measured = Refusal.of(pair.tokenizer, spoken)
    if task is not None:
        answered = [
            *located_on.positive,
            *(verified_on.positive if verify else ()),
            *(utility.positive if utility else ()),
        ]
        measured = Task.of(pair.tokenizer, answered, metric)
    notes += [f"note: {note}" for note in pair.notes]
    if verify and (few := verified_on.limit(max_prompts).n_clusters) < fewest_clusters():
        notes.append(
            f"note: {few} clusters of prompts verify, at least {fewest_clusters()} are needed to show anything"
        )
    for note in notes:
        common.remark(note)
    study = Study(
        pair, located_on.limit(max_prompts), measured, common.seed, batch_size, engine=engine, quiet=common.quiet
    )
    store = Store(common.store)
    if utility is not None:
        locate = locate.minus(store.fetch(locate, study.on(utility.limit(max_prompts))).table)
    run = store.fetch(locate, study)
    runs = [run]
    if verify:
        if controls is None:
            controls = CONTROLS_ORGANISM if tuned.startswith("organism:") else CONTROLS
        checker = VerifyNeurons.of(run.table, controls=controls, control_prompts=control_prompts)
        runs.append(store.fetch(checker, study.on(verified_on.limit(max_prompts))))
    for item in runs:
        if item.aside:
            common.remark(f"note: run {item.key} was damaged; it was made again, what was there is in {item.aside}")
    page = _page(run.path, [item.table for item in runs], tuned)
    request.remember(described, [item.key for item in runs], notes, page)
    return _tell(common, runs, page)


def _tell(common: Running, runs: Sequence[Any], page: Path) -> str:
    """Print the result of the locating run and, where there is one, the verifying run; returns the first's key."""
    located, summary = runs[0], dict(runs[0].summary)
    for checked in runs[1:]:
        summary |= {"shown": checked.summary["shown"], "verified_by": checked.key, "verification": checked.summary}
    record = {"run": located.key, "path": str(located.path), "cached": located.cached, "rows": located.rows}
    common.result(record | {"summary": summary, "page": str(page)}, _text(runs, page))
    return located.key


def _page_again(root: Path, kept: Remembered, tuned: str) -> Path:
    """The page of a recalled request: what stands there if it is that page, else made again from the tables."""
    page = kept.runs[0].path / PAGE
    if page.is_file() and sha256_of(page) == kept.page:
        return page
    from interp.store import Store

    store = Store(root)
    return _page(page.parent, [store.get(run.key) for run in kept.runs], tuned)


def _page(directory: Path, tables: Sequence[Any], tuned: str) -> Path:
    from interp.report.page import write_page

    return write_page(directory / PAGE, tables, f"What carries it? {tuned}")


def _text(runs: Sequence[Any], page: Path) -> str:
    lines = [f"located:  {runs[0].summary['sentence']}"]
    if len(runs) > 1:
        lines.append(f"verified: {runs[1].summary['sentence']}")
    for name, run in zip(("table", "checks"), runs, strict=False):
        lines.append(f"{name + ':':9} {run.path / 'table.parquet'}" + ("  (kept from before)" if run.cached else ""))
    return "\n".join([*lines, f"page:     {page}"])
