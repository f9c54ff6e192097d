"""``interp locate-neurons``: from models and prompt files to a verified, stored, plotted result."""

from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli.common import Running, takes
from interp.errors import OptionError

METHODS_HELP = (
    "auto, integrated, integrated-fixed, integrated-zero, cross, change, change-difference, act-grad, gradient, "
    "gradient-counterfactual, contrast, probe, weight."
)
POSITIONS_HELP = "Tokens that are read: auto, prompt, content, decision, last, completion."
CONTROLS_ORGANISM, CONTROLS = 200, 20


@takes(Running)
def command(
    tuned: Annotated[str, typer.Argument(metavar="TUNED", help="Directory, Hub id, adapter, or organism:NAME.")],
    *,
    base: Annotated[str | None, typer.Option(metavar="BASE", help="What it was tuned from.")] = None,
    positive: Annotated[Path, typer.Option(metavar="FILE", help="Prompts that show the behaviour.")],
    negative: Annotated[Path, typer.Option(metavar="FILE", help="Prompts that do not.")],
    verify_positive: Annotated[
        Path | None, typer.Option(metavar="FILE", help="As --positive, to verify on.  [default: a held-out half]")
    ] = None,
    verify_negative: Annotated[
        Path | None, typer.Option(metavar="FILE", help="As --negative, to verify on.  [default: a held-out half]")
    ] = None,
    column: Annotated[str, typer.Option(metavar="NAME", help="Column of the prompt files.")] = "prompt",
    method: Annotated[str, typer.Option(metavar="NAME", help=METHODS_HELP)] = "auto",
    top: Annotated[str, typer.Option(metavar="N|P%|zX", help="How many are selected: 30, 0.5%, z3.")] = "0.5%",
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
) -> Any:
    """Find the MLP neurons that carry a tuned behaviour, and verify them on held-out prompts against random sets.

    Prompt files are .txt (a prompt a line), .jsonl, .csv or .parquet. Half of the clusters locate and half verify,
    unless two more files verify or --no-verify locates on all; to show anything the verifying half needs 36 clusters a
    class. METHOD auto is integrated with a base and act-grad without; act-grad and contrast need no base. The run is
    kept in the store, with one offline HTML page beside it.

    Example: interp locate-neurons ./tuned --base ./base --positive harmful.txt --negative harmless.txt --top 30
    """
    if (verify_positive is None) != (verify_negative is None):
        raise OptionError("only one of --verify-positive and --verify-negative was given; give both or neither")
    # torch is imported only now, so that help and usage errors answer at once
    from interp.analyzers.locate_neurons import LocateNeurons
    from interp.analyzers.verify_neurons import VerifyNeurons, fewest_clusters
    from interp.engines import engine_named
    from interp.metrics import REFUSAL_MARKERS, Refusal, read_markers
    from interp.models.pair import Pair
    from interp.models.sources import find
    from interp.prompts import Contrast, read_prompts
    from interp.store import Store
    from interp.study import Study

    def contrast(first: Path, second: Path, name: str) -> Contrast:
        return Contrast(read_prompts(first, column, f"{name}+"), read_prompts(second, column, f"{name}-"))

    batch_size, engine = common.batches(), engine_named(common.engine, common.remote)
    spoken = REFUSAL_MARKERS if markers is None else read_markers(markers)
    located_on = contrast(positive, negative, "locate")
    if verify_positive is not None:
        verified_on = contrast(verify_positive, verify_negative, "verify")
        located_on.require_disjoint(verified_on)
    elif verify:
        located_on, verified_on = located_on.split(common.seed)
    locate = LocateNeurons(method=method, top=top, positions=positions)
    locate.check(has_base=base is not None or find(tuned).base_name is not None)
    common.status(f"loading {tuned}" + (f" and {base}" if base else ""))
    pair = Pair.load(tuned, base, device=common.device, dtype=common.dtype)
    anatomy = pair.tuned.anatomy
    anatomy.require_neurons()
    locate.check(pair.base is not None, anatomy.n_layers * anatomy.n_neurons)
    metric = Refusal.of(pair.tokenizer, spoken)
    for note in pair.notes:
        common.remark(f"note: {note}")
    if verify and (few := verified_on.limit(max_prompts).n_clusters) < fewest_clusters():
        common.remark(
            f"note: {few} clusters of prompts verify, at least {fewest_clusters()} are needed to show anything"
        )
    study = Study(
        pair, located_on.limit(max_prompts), metric, common.seed, batch_size, engine=engine, quiet=common.quiet
    )
    store = Store(common.store)
    run = store.fetch(locate, study)
    runs, summary = [run], dict(run.table.summary)
    if verify:
        if controls is None:
            controls = CONTROLS_ORGANISM if tuned.startswith("organism:") else CONTROLS
        checker = VerifyNeurons.of(run.table, controls=controls, control_prompts=control_prompts)
        runs.append(store.fetch(checker, study.on(verified_on.limit(max_prompts))))
        summary |= {"shown": runs[1].table.summary["shown"], "verified_by": runs[1].key}
        summary["verification"] = runs[1].table.summary
    for item in runs:
        if item.aside:
            common.remark(f"note: run {item.key} was damaged; it was made again, what was there is in {item.aside}")
    page = _page(run.path, [item.table for item in runs], tuned)
    record = {"run": run.key, "path": str(run.path), "cached": run.cached, "rows": len(run.table), "summary": summary}
    common.result(record | {"page": str(page)}, _text(runs, page))
    return run.table


def _page(directory: Path, tables: list[Any], tuned: str) -> Path:
    from interp.report.page import write_page

    return write_page(directory / "page.html", tables, f"Which neurons carry it? {tuned}")


def _text(runs: list[Any], page: Path) -> str:
    lines = [f"located:  {runs[0].table.summary['sentence']}"]
    if len(runs) > 1:
        lines.append(f"verified: {runs[1].table.summary['sentence']}")
    for name, run in zip(("table", "checks"), runs, strict=False):
        lines.append(f"{name + ':':9} {run.path / 'table.parquet'}" + ("  (kept from before)" if run.cached else ""))
    return "\n".join([*lines, f"page:     {page}"])
