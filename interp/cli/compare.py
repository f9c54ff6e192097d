"""``interp compare``: a first look at a pair."""

from typing import Annotated

import typer

from interp.cli.common import takes
from interp.cli.prompt_options import CONTROL_HELP, PromptOptions, controls_in_turn
from interp.cli.request_cache import Request
from interp.cli.results import page_again, remarked, tell, write


@takes(PromptOptions)
def command(
    tuned: Annotated[
        str, typer.Argument(metavar="TUNED", help="Directory, Hub id, adapter, or organism:NAME.")
    ],
    *,
    control: Annotated[list[str] | None, typer.Option(metavar="MODEL", help=CONTROL_HELP)] = None,
    cka_tokens: Annotated[
        int, typer.Option(metavar="N", min=4, help="Tokens whose streams are aligned.")
    ] = 512,
    common: PromptOptions,
) -> str:
    """Say what the tuned model says otherwise, where its stream parts from the base's, and which
    weights moved.

    Divergence and another first token after every token; cosine, length and linear CKA of the
    streams by depth; the logit lens of both; the change of every tensor. With --control all of it
    is compared with control fine-tunes.

    Example: interp compare ./tuned --base ./base --prompts prompts.txt --control
    ./controls/seed-0/matched
    """
    request = Request.of("compare", {**locals()})
    common.check()
    if (kept := request.recall()) is not None:
        for note in kept.notes:
            common.remark(note)
        return tell(common, kept.runs, page_again(common.store, kept, _title(tuned)))
    from interp.analyzers.compare import Compare
    from interp.store import Store

    prompts = common.read()
    described = request.describe()
    store = Store(common.store)
    pair = common.load(tuned, "a comparison")
    controls = controls_in_turn(common, control, pair)
    study, look = common.study(pair, prompts), Compare(controls, cka_tokens)
    look.require(study)
    notes = remarked(common, study.counts, *study.notes)
    run = store.run(look, study)
    return write(common, request, described, [run], notes, _title(tuned))


def _title(tuned: str) -> str:
    return f"A first look at {tuned}"
