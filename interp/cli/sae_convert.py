"""``interp sae convert``: convert a dictionary between libraries."""

from pathlib import Path
from typing import Annotated

import typer

from interp.cli.common import Common, takes
from interp.errors import OptionError


@takes(Common)
def command(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Folder (or weight file) of a dictionary.")
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="Folder to write, which does not exist yet.")
    ],
    *,
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="FORMAT", help="interp, saelens, sparsify or dictionary-learning."
        ),
    ] = "interp",
    kind: Annotated[
        str | None,
        typer.Option("--kind", metavar="NAME", help="For Gemma Scope: transcoder or embeddings."),
    ] = None,
    site: Annotated[
        str | None,
        typer.Option("--site", metavar="SITE", help="Site it reads, if its files do not state it."),
    ] = None,
    as_is: Annotated[
        bool, typer.Option("--as-is", help="Read files even if they contradict themselves.")
    ] = False,
    common: Common,
) -> None:
    """Convert a sparse dictionary between libraries; refused if the other library cannot express
    it.

    Read: interp, saelens, sparsify, dictionary-learning, crosscoder, kissane-crosscoder,
    gemma-scope, llama-scope. The format is recognised by names of files and keys, not by the
    folder's name; give as options what the files do not state.

    Example: interp sae convert ./gpt2-res-jb ./ours --to interp
    """
    from interp.sae.formats import read, write
    from interp.sae.formats.base import describe

    dictionary, about = read(source, as_is=as_is, kind=kind)
    if site is not None and about.get("site") not in (None, site):
        raise OptionError(
            f"the files of {source} say that it reads {about['site']}, not --site {site}; leave"
            " --site out"
        )
    if site is not None:
        about |= {"site": site, "layer": describe("", site=site)["layer"]}
    path = write(dictionary, out, to, about)
    config = dictionary.config
    for note in (*about.get("notes", ()), *about.get("doubts", ())):
        common.remark(f"note: {note}")
    size = f"{config.d_in} x {config.width}" + (
        f", {config.models} models" if config.models > 1 else ""
    )
    record = {
        "path": str(path),
        "from": about["format"],
        "to": to,
        "architecture": config.architecture,
        "d_in": config.d_in,
        "width": config.width,
        "models": config.models,
        "k": config.k,
        "site": about.get("site"),
        "model": about.get("model"),
        "layer": about.get("layer"),
        "notes": about.get("notes", []),
        "doubts": about.get("doubts", []),
    }
    common.result(record, f"{path}: {config.architecture} {size}, {about['format']} -> {to}")
