"""``interp cross-patch``: which half of the network decides where the models' answers first differ?"""

from dataclasses import replace
from typing import Annotated

import typer

from interp.cli.common import takes
from interp.cli.prompt_options import CONTROL_HELP, PromptOptions, controls_on_demand
from interp.cli.request_cache import Request
from interp.cli.runner import Session, answer
from interp.errors import OptionError


@takes(PromptOptions)
def command(
    tuned: Annotated[
        str, typer.Argument(metavar="TUNED", help="Directory, Hub id, adapter, or organism:NAME.")
    ],
    *,
    control: Annotated[list[str] | None, typer.Option(metavar="MODEL", help=CONTROL_HELP)] = None,
    max_new_tokens: Annotated[
        int, typer.Option(metavar="N", min=1, help="Tokens within which answers have to differ.")
    ] = 128,
    depth: Annotated[
        float,
        typer.Option(
            metavar="X", min=0, max=1, help="Depth of the claims, as a share of the blocks."
        ),
    ] = 0.6,
    rotations: Annotated[
        int, typer.Option(metavar="N", min=0, help="Random rotations of the change; 0: none.")
    ] = 39,
    common: PromptOptions,
) -> str:
    """Run one model's blocks up to a depth and the other's from there on, at the first token at
    which both models' greedy answers differ.

    All four cells are read by one final norm and head. What the fine-tuned model's late blocks add
    on the base's stream, on their own, and the difference (interaction) are compared with the
    change rotated at random, and with control fine-tunes, at their own divergences.

    Example: interp cross-patch ./tuned --base ./base --prompts prompts.txt --control
    ./controls/seed-0/matched
    """
    request = Request.of("cross-patch", {**locals()})
    common.check()
    if common.remote:
        raise OptionError("--remote cannot exchange weights; cross-patch on this machine")

    def compute(session: Session) -> list:
        from interp.analyzers.cross_patch import CrossPatch

        prompts = common.read()
        pair = session.load(tuned, common.base, "cross-patching")
        controls = controls_on_demand(common, control, pair)
        analyzer = CrossPatch(controls, max_new_tokens, depth, rotations)
        study = replace(session.study(pair, prompts), max_new_tokens=max_new_tokens)
        analyzer.require(study)
        session.note(study.counts, *study.notes)
        return [session.store.run(analyzer, study)]

    return answer(request, f"Which half decides? {tuned}", compute)
