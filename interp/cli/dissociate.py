"""``interp dissociate``: do two behaviours of one fine-tuned model depend on different sets of
units?
"""

from pathlib import Path
from typing import Annotated

import typer

from interp.cli.behaviour_options import METRICS, BehaviourOptions
from interp.cli.common import takes
from interp.cli.request_cache import Request
from interp.cli.runner import Session, answer
from interp.errors import OptionError


@takes(BehaviourOptions, without=("verify_positive", "verify_negative"))
def command(
    tuned: Annotated[
        str, typer.Argument(metavar="TUNED", help="Directory, Hub id, adapter, or organism:NAME.")
    ],
    *,
    other_task: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The second behaviour: prompts with answers."),
    ] = None,
    other_positive: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Instead: prompts that show the second behaviour."),
    ] = None,
    other_behaviour: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE.yaml", help="As --behaviour, of --other-positive."),
    ] = None,
    other_metric: Annotated[
        str, typer.Option(metavar="NAME", help="As --metric, of --other-task.")
    ] = "auto",
    method: Annotated[str, typer.Option(metavar="NAME", help="As of locate-neurons.")] = "auto",
    top: Annotated[
        str, typer.Option(metavar="N|P%|zX|smallest", help="How large the sets are.")
    ] = "smallest",
    unit: Annotated[
        str, typer.Option(metavar="NAME", help="What is scored: neuron or head.")
    ] = "neuron",
    random_sets: Annotated[
        int, typer.Option(metavar="N", min=1, help="Matched random sets of each size.")
    ] = 40,
    control_prompts: Annotated[
        int, typer.Option(metavar="N", min=1, help="Prompts for random sets.")
    ] = 48,
    common: BehaviourOptions,
) -> str:
    """Locate two behaviours in one fine-tuned model, ablate each set, and measure both: is there a
    double dissociation?

    Half of the clusters of each behaviour locate, the other half measures. Large sets contain units
    that neither behaviour needs; the default is the smallest set that restores the base's
    behaviour.

    Example: interp dissociate ./tuned --base ./base --positive yes.txt --negative no.txt
    --other-task task.csv
    """
    request = Request.of("dissociate", {**locals()})
    common.check()
    if (other_task is None) == (other_positive is None):
        raise OptionError(
            "give either --other-task FILE or --other-positive FILE: the second behaviour"
        )
    if other_behaviour is not None and other_positive is None:
        raise OptionError(
            "--other-behaviour belongs to --other-positive, and --other-task has right answers;"
            " give one"
        )
    if other_metric != "auto" and other_task is None:
        raise OptionError(
            f"--other-metric {other_metric} belongs to a task; give --other-task FILE"
        )
    if other_metric not in METRICS:
        raise OptionError(f"unknown --other-metric {other_metric!r}; use {', '.join(METRICS)}")

    def compute(session: Session) -> list:
        from interp.analyzers.dissociation import Dissociation
        from interp.analyzers.framework import Known
        from interp.analyzers.locate_neurons import LocateNeurons
        from interp.models.sources import find

        common.batches()
        common.warn_of_few(random_sets)
        second_options = common.for_second_behaviour(
            other_task, other_positive, other_metric, other_behaviour
        )
        behaviours = [asked.specification() for asked in (common, second_options)]
        halves = [asked.selection_and_held_out(verify=True) for asked in (common, second_options)]
        if shared := {
            text
            for one in halves[0]
            for other in halves[1]
            for text in one.positive.shared(other.positive)
        }:
            raise OptionError(
                f"both behaviours have the prompt {min(shared)[:40]!r}; give two that share none"
            )
        locate = LocateNeurons(method=method, top=top, unit=unit)
        has_base = common.base is not None or find(tuned).base_name is not None
        if not has_base:
            raise OptionError("a dissociation needs a base model to return to; add --base MODEL")
        for asked, what in zip((common, second_options), behaviours, strict=True):
            locate.check(Known(has_base, differentiable=asked.differentiable(what)))
        pair = session.load(tuned, common.base)
        studies = []
        for asked, what, (locating, measuring) in zip(
            (common, second_options), behaviours, halves, strict=True
        ):
            metric = asked.make_metric(pair.tokenizer, what, locating, measuring)
            studies.append(
                (asked.study(pair, locating, metric), asked.study(pair, measuring, metric))
            )
        session.note(
            *(line for halves in studies for half in halves for line in (half.counts, *half.notes)),
        )
        store = session.store
        first_run, second_run = (store.run(locate, locating) for locating, _ in studies)
        dissociation = Dissociation(
            first_run.table,
            second_run.table,
            studies[1][1],
            random_sets=random_sets,
            control_prompts=control_prompts,
        )
        return [store.run(dissociation, studies[0][1]), first_run, second_run]

    return answer(request, f"One set for each behaviour? {tuned}", compute)
