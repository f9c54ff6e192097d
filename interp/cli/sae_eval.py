"""``interp sae eval``: how well a dictionary stands in for a site of a model, or of a pair, beside
baselines.
"""

from pathlib import Path
from typing import Annotated

import typer

from interp.cli.common import RuntimeOptions, takes
from interp.cli.prompt_options import site_of
from interp.cli.request_cache import Request
from interp.cli.results import page_again, remarked, tell, write
from interp.errors import OptionError
from interp.provenance import directory_digest, file_digest


@takes(RuntimeOptions)
def command(
    dictionary: Annotated[
        Path, typer.Argument(metavar="DICTIONARY", help="Folder (or weight file) of a dictionary.")
    ],
    *,
    model: Annotated[
        str, typer.Option("--model", metavar="MODEL", help="The model (or adapter) it is read in.")
    ],
    data: Annotated[
        Path, typer.Option("--data", metavar="FILE", help="Text or prompts, one a row.")
    ],
    site: Annotated[
        str | None,
        typer.Option(
            metavar="SITE", help="blocks.3.hook_resid_post.  [default: what the dictionary says]"
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="SITE", help="What a transcoder writes.  [default: what the dictionary says]"
        ),
    ] = None,
    base: Annotated[
        str | None, typer.Option(metavar="BASE", help="What the model was tuned from.")
    ] = None,
    column: Annotated[
        str, typer.Option(metavar="NAME", help="Of the file; messages: conversations, whole.")
    ] = ("prompt"),
    max_prompts: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="At most N of the file's rows.")
    ] = None,
    content_only: Annotated[
        bool,
        typer.Option("--content-only", help="Special tokens and the template's count nowhere."),
    ] = False,
    common: RuntimeOptions,
) -> str:
    """Score a sparse dictionary: L0, explained variance, dead and dense latents, loss and
    divergence recovered.

    Beside every figure stand principal components and random rows with as many codes; loss and
    divergence are recovered against the mean in the site's place, and against zero. Errors are
    given by token and by conversation; of special tokens, content and, with --column messages, of
    every role. Crosscoders and dictionaries of differences need --base.

    Example: interp sae eval ./sae --model ./tuned --site blocks.2.hook_resid_post --data text.txt
    """
    if common.remote:
        raise OptionError(
            "--remote cannot put a dictionary into the pass; evaluate on this machine"
        )
    given = {**locals()}
    named = {"dictionary": _digest(dictionary), "tuned": given.pop("model")}
    request = Request.of("sae-eval", given | named)
    title = f"{dictionary} in {model}"
    if (kept := request.recall()) is not None:
        for note in kept.notes:
            common.remark(note)
        return tell(common, kept.runs, page_again(common.store, kept, title))
    from interp.analyzers.dictionary_eval import DictionaryEval
    from interp.engines import engine_named
    from interp.models.pair import Pair
    from interp.models.sources import find
    from interp.prompts import OneClass, read_chats
    from interp.sae.formats import read
    from interp.store import Store
    from interp.study import Study

    common.batches()
    prompts = OneClass(read_chats(data, column, "data")).limit(max_prompts)
    loaded, about = read(dictionary)
    where = site_of(common, dictionary, about, site, (model, base))
    writes = target or (about.get("target") if loaded.config.is_transcoder else None)
    of = (
        "both"
        if loaded.config.models > 1
        else "difference"
        if about.get("of") == "difference"
        else "tuned"
    )
    analyzer = DictionaryEval(loaded, where, content_only, str(writes or ""), of)
    analyzer.require(base is not None or find(model).base_name is not None)
    described = request.describe()
    common.status(f"loading {model}")
    pair = Pair.load(model, base, **common.loading)
    study = Study(
        pair,
        prompts,
        None,
        common.seed,
        common.batches(),
        engine=engine_named(common.engine, False),
        quiet=common.quiet,
    )
    notes = remarked(common, study.counts, *study.notes)
    return write(
        common, request, described, [Store(common.store).run(analyzer, study)], notes, title
    )


def _digest(path: Path) -> str:
    """Of what the dictionary's files hold, wherever they lie; OptionError where there are none."""
    return directory_digest(path) if path.is_dir() else file_digest(path)
