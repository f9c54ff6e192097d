"""``interp report``: one page and one JSON over stored runs, to share and to check."""

from pathlib import Path
from typing import Annotated

import typer

from interp.cli.common import Common, takes
from interp.errors import OptionError
from interp.store import Store


@takes(Common)
def command(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN...", help="Keys of stored runs; their parents come with them."),
    ] = None,
    *,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE.html",
            help="The page; FILE.json is written next to it. Of --brief: the file.",
        ),
    ],
    title: Annotated[
        str | None, typer.Option(metavar="TEXT", help="By default the names of the models.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All runs of the store.")] = False,
    agreement: Annotated[
        bool,
        typer.Option(
            "--agreement",
            help="Also compare the locations of the change by method (interp agree).",
        ),
    ] = False,
    brief: Annotated[
        bool,
        typer.Option(
            "--brief",
            help="Instead of a page, compact JSON: nulls and what was not found come first.",
        ),
    ] = False,
    draws: Annotated[
        int, typer.Option(metavar="N", min=19, help="Random draws of the agreement's nulls.")
    ] = 999,
    common: Common,
) -> None:
    """Write one offline page over any stored runs, with a JSON file of the same that can be
    checked.

    What was compared, which claims are supported and which are not, each with its control; with
    --agreement also whether methods agree on where fine-tuning changed the model. `interp verify
    FILE.json` and `pytest --interp-report FILE.json` compute every claim again from the stored
    tables. With --brief, one line of JSON for programs that read results.

    Example: interp report 1facf37b 2922ca53 --out report.html
    """
    from interp.report.document import RECOMMENDED_PAGE_BYTES, read, write_report

    if every == bool(runs):
        raise OptionError(
            "give keys of stored runs, or --all"
            + (", not both" if every else " (interp ls lists them)")
        )
    store = Store(common.store)
    keys = [run.key for run in store.runs() if run.kind != "places"] if every else runs or []
    if brief:
        if agreement or title is not None:
            raise OptionError("--brief has neither a title nor --agreement; leave them out")
        from interp.report.brief import write_brief

        content = write_brief(out, keys, store)
        counts = {name: len(content[name]) for name in ("not_found", "found", "evidence")}
        lines = [
            f"not found: {counts['not_found']} claims or methods",
            f"found:     {counts['found']} claims, {counts['evidence']} items of evidence",
            f"brief:     {out}",
        ]
        common.result({"brief": str(out), **counts}, "\n".join(lines))
        return
    report_path = write_report(out, keys, store, title=title, draws=draws if agreement else None)
    value, size = read(report_path).value, out.stat().st_size
    if size > RECOMMENDED_PAGE_BYTES:
        common.remark(f"note: the page has {size / 1e6:.1f} MB; fewer runs make a smaller one")
    supported = sum(claim["supported"] for claim in value["claims"])
    record = {
        "report": str(report_path),
        "page": str(out),
        "bytes": size,
        "runs": [run["key"] for run in value["runs"]],
        "claims": len(value["claims"]),
        "supported": supported,
        "findings": value["findings"],
        "agreement": value["agreement"],
    }
    lines = [
        *(f"found:    {line}" for line in value["findings"]),
        f"claims:   {supported} of {len(value['claims'])} supported",
        f"page:     {out} ({size / 1e6:.1f} MB)",
        f"report:   {report_path}",
        f"check:    interp verify {report_path}",
    ]
    common.result(record, "\n".join(lines))
