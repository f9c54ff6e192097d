"""``interp transfer``: does a set located in one fine-tuned model carry the behaviour in another
one?
"""

from typing import Annotated

import typer

from interp.cli.behaviour_options import BehaviourOptions
from interp.cli.common import takes
from interp.cli.located_source import located_run, source_pair
from interp.cli.request_cache import Request
from interp.cli.runner import Session, answer


@takes(BehaviourOptions)
def command(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Key of a locate-neurons run in the store.")
    ],
    tuned: Annotated[
        str, typer.Argument(metavar="TUNED", help="Another fine-tuned model of the same base.")
    ],
    *,
    source: Annotated[
        str | None,
        typer.Option(
            metavar="TUNED", help="Where the run's tuned model is.  [default: as the run says]"
        ),
    ] = None,
    source_base: Annotated[
        str | None,
        typer.Option(metavar="BASE", help="Where the run's base is.  [default: as the run says]"),
    ] = None,
    random_sets: Annotated[int, typer.Option(metavar="N", min=1, help="Matched random sets.")] = 40,
    control_prompts: Annotated[
        int, typer.Option(metavar="N", min=1, help="Prompts that measure the set.")
    ] = 48,
    common: BehaviourOptions,
) -> str:
    """Reuse the set of a stored run in a further fine-tuned model, and compare it with what is
    located there.

    The set is reused only where units of equal index write in like directions in both models. Half
    of the clusters locate anew, with the run's own method, and half measure, unless two more files
    do.

    Example: interp transfer 1facf37b ./further --base ./base --positive harmful.txt --negative
    harmless.txt
    """
    arguments = {**locals()}
    common.check()
    from interp.store import Store

    store = Store(common.store)
    located = located_run(store, run)
    provenance = located.require_provenance()
    source = source or provenance.context["tuned"]
    source_base = source_base or provenance.context.get("base") or None
    request = Request.of(
        "transfer",
        arguments | {"run": provenance.key, "source": source, "source_base": source_base},
    )

    def compute(session: Session) -> list:
        from interp.analyzers.locate_neurons import LocateNeurons
        from interp.analyzers.transfer import Transfer

        common.batches()
        common.warn_of_few(random_sets)
        specification = common.specification()
        located_on, verified_on = common.selection_and_held_out(verify=True)
        options = {
            name: value
            for name, value in provenance.options.items()
            if name not in ("excluded", "from_parent")
        }
        locate = LocateNeurons(**options)
        session.begin()
        of_source = source_pair(common, located, source, source_base)
        pair = session.load(tuned, common.base)
        study = common.study(
            pair,
            located_on,
            common.make_metric(pair.tokenizer, specification, located_on, verified_on),
        )
        measuring = study.with_prompts(verified_on.limit(common.max_prompts))
        lines = [
            f"located on {study.counts}",
            *study.notes,
            f"measured on {measuring.counts}",
            *measuring.notes,
        ]
        if provenance.parent or provenance.options.get("excluded"):
            lines.append(
                f"run {run} left out units that utility prompts locate too; what is located anew"
                " keeps them"
            )
        if provenance.inputs["prompts"] != study.contrast.digest:
            lines.append(
                f"run {run} located on other prompts than are located on here; see that none of"
                " them measure"
            )
        session.note(*lines)
        recomputed = store.run(locate, study)
        transfer = Transfer(
            located,
            of_source,
            recomputed=recomputed.table,
            random_sets=random_sets,
            control_prompts=control_prompts,
        )
        return [store.run(transfer, measuring), recomputed]

    return answer(request, f"Does it transfer? {tuned}", compute)
