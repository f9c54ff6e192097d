"""``interp lofit``: which attention heads suffice to give the base the fine-tuned model's answers?"""

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
    answer_tokens: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="Tokens of the fine-tuned model's greedy answers to learn."
        ),
    ] = 24,
    heads: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Heads to locate.  [default: --share of all]"),
    ] = None,
    share: Annotated[
        float,
        typer.Option(metavar="SHARE", min=0.001, max=1, help="Share of all heads to locate."),
    ] = 0.03,
    scale_rate: Annotated[
        float, typer.Option(metavar="RATE", help="Learning rate of scales.")
    ] = 5e-3,
    l1: Annotated[
        float, typer.Option("--l1", metavar="X", min=0, help="Factor of the L1 penalty on scales.")
    ] = 5e-4,
    offset_rate: Annotated[
        float, typer.Option(metavar="RATE", help="Learning rate of offsets.")
    ] = 1e-2,
    epochs: Annotated[
        int, typer.Option(metavar="N", min=1, help="Passes over the selection split.")
    ] = 5,
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Prompts per step.")] = 8,
    draws: Annotated[
        int, typer.Option(metavar="N", min=0, help="Random sets of heads; 0: none.")
    ] = 19,
    common: PromptOptions,
) -> str:
    """Train scales of all attention heads of the base on the fine-tuned model's answers, and then
    offsets of the heads with the largest scales alone (LoFiT).

    How much of the difference in loss do they recover on held-out prompts, compared with as many
    heads at random, by integrated gradients and by probes, with all heads, and with the heads
    located for the answers of control fine-tunes? Trained in memory and never written.

    Example: interp lofit organism:refusal/lora --base organism:refusal/base --prompts
    requests.jsonl --epochs 20
    """
    request = Request.of("lofit", {**locals()})
    common.check()
    if common.remote:
        raise OptionError("--remote cannot train offsets of heads; run on this machine")

    def compute(session: Session) -> list:
        from dataclasses import replace

        from interp.analyzers.framework import Known
        from interp.analyzers.lofit import Lofit

        analyzer = Lofit(
            heads=heads,
            share=share,
            scale_rate=scale_rate,
            l1=l1,
            offset_rate=offset_rate,
            epochs=epochs,
            batch=batch,
            draws=draws,
        )
        analyzer.check(Known())
        prompts = common.read()
        pair = session.load(tuned, common.base, "interp lofit")
        analyzer = replace(analyzer, controls=controls_on_demand(common, control, pair))
        study = replace(session.study(pair, prompts), max_new_tokens=answer_tokens)
        analyzer.require(study)
        run = session.store.run(analyzer, study)
        session.note(study.counts, *study.notes, *run.summary["limits"])
        return [run]

    return answer(request, f"Which heads suffice? {tuned}", compute)
