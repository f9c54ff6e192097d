"""``interp compare``: a first look at a pair."""

from typing import Annotated

import typer

from interp.cli.common import takes
from interp.cli.prompt_options import CONTROL_HELP, PromptOptions, controls_on_demand
from interp.cli.request_cache import Request
from interp.cli.runner import Session, answer


@takes(PromptOptions)
def command(
    tuned: Annotated[
        str, typer.Argument(metavar="TUNED", help="Directory, Hub id, adapter, or organism:NAME.")
    ],
    *,
    control: Annotated[list[str] | None, typer.Option(metavar="MODEL", help=CONTROL_HELP)] = None,
    cka_tokens: Annotated[
        int, typer.Option(metavar="N", min=4, help="Tokens in the CKA of the streams.")
    ] = 512,
    common: PromptOptions,
) -> str:
    """Compare a fine-tuned model with its base: next tokens, residual streams and weights.

    Divergence and another first token after every token; cosine, length and linear CKA of the
    streams by depth; the logit lens of both; the change of every tensor. With --control all of it
    is compared with control fine-tunes.

    Example: interp compare ./tuned --base ./base --prompts prompts.txt --control
    ./controls/seed-0/matched
    """
    request = Request.of("compare", {**locals()})
    common.check()

    def compute(session: Session) -> list:
        from interp.analyzers.compare import Compare

        prompts = common.read()
        pair = session.load(tuned, common.base, "a comparison")
        analyzer = Compare(controls_on_demand(common, control, pair), cka_tokens)
        study = session.study(pair, prompts)
        analyzer.require(study)
        session.note(study.counts, *study.notes)
        return [session.store.run(analyzer, study)]

    return answer(request, f"A first look at {tuned}", compute)
