"""``interp sae eval``: how well a dictionary replaces a site of a model or a pair, compared with
baselines.
"""

from pathlib import Path
from typing import Annotated

import typer

from interp.cli.common import RuntimeOptions, takes
from interp.cli.prompt_options import site_of
from interp.cli.request_cache import Request
from interp.cli.runner import Session, answer
from interp.errors import OptionError
from interp.provenance import directory_digest, file_digest


@takes(RuntimeOptions)
def command(
    dictionary: Annotated[
        Path, typer.Argument(metavar="DICTIONARY", help="Folder (or weight file) of a dictionary.")
    ],
    *,
    model: Annotated[
        str, typer.Option("--model", metavar="MODEL", help="The model (or adapter) to read.")
    ],
    data: Annotated[
        Path, typer.Option("--data", metavar="FILE", help="Text or prompts, one a row.")
    ],
    site: Annotated[
        str | None,
        typer.Option(
            metavar="SITE", help="blocks.3.hook_resid_post.  [default: from the dictionary's files]"
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="SITE",
            help="Target site of a transcoder.  [default: from the dictionary's files]",
        ),
    ] = None,
    base: Annotated[
        str | None, typer.Option(metavar="BASE", help="The base model it was fine-tuned from.")
    ] = None,
    column: Annotated[
        str,
        typer.Option(metavar="NAME", help="Column of the file; messages: entire conversations."),
    ] = "prompt",
    max_prompts: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="At most N of the file's rows.")
    ] = None,
    content_only: Annotated[
        bool,
        typer.Option("--content-only", help="Ignore special tokens and those of the template."),
    ] = False,
    common: RuntimeOptions,
) -> str:
    """Score a sparse dictionary: L0, explained variance, dead and dense latents, recovered loss and
    divergence.

    Every score is compared with principal components and random rows with as many codes. Loss and
    divergence are recovered relative to mean and to zero ablation of the site. Errors are given per
    token and per conversation, and for special tokens, content and, with --column messages, each
    role. Crosscoders and dictionaries of differences need --base.

    Example: interp sae eval ./sae --model ./tuned --site blocks.2.hook_resid_post --data text.txt
    """
    if common.remote:
        raise OptionError(
            "--remote does not support inserting a dictionary into a pass; run without it"
        )
    arguments = {**locals()}
    # independent of where the files are; raises OptionError if there are none
    digest = directory_digest(dictionary) if dictionary.is_dir() else file_digest(dictionary)
    arguments |= {"dictionary": digest, "tuned": arguments.pop("model")}

    def compute(session: Session) -> list:
        from interp.analyzers.framework import Known
        from interp.analyzers.sae_eval import SaeEval
        from interp.models.sources import find
        from interp.prompts import OneClass, read_chats
        from interp.sae.formats import read

        common.batches()
        prompts = OneClass(read_chats(data, column, "data")).limit(max_prompts)
        loaded, about = read(dictionary)
        where = site_of(common, dictionary, about, site, (model, base))
        writes = target or (about.get("target") if loaded.config.is_transcoder else None)
        model_role = (
            "both"
            if loaded.config.models > 1
            else "difference"
            if about.get("of") == "difference"
            else "tuned"
        )
        analyzer = SaeEval(loaded, where, content_only, str(writes or ""), model_role)
        analyzer.check(Known(has_base=base is not None or find(model).base_name is not None))
        pair = session.load(model, base)
        study = session.study(pair, prompts, None)
        session.note(study.counts, *study.notes)
        return [session.store.run(analyzer, study)]

    return answer(Request.of("sae-eval", arguments), f"{dictionary} in {model}", compute)
