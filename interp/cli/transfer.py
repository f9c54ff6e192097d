"""``interp transfer``: is a set located in one tune what does it in a further one?"""

from typing import Annotated

import typer

from interp.cli.behaviour_options import BehaviourOptions
from interp.cli.common import takes
from interp.cli.request_cache import Request
from interp.cli.results import page_again, remarked, tell, write
from interp.errors import OptionError, required


@takes(BehaviourOptions)
def command(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Key of a locate-neurons run in the store.")
    ],
    tuned: Annotated[
        str, typer.Argument(metavar="TUNED", help="A further fine-tune of the same model.")
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
    given = {**locals()}
    common.check()
    from interp.store import Store

    store = Store(common.store)
    located = store.get(run)
    if located.kind != "locate-neurons":
        raise OptionError(
            f"run {run} is of kind {located.kind}; give the key of a locate-neurons run (interp ls)"
        )
    made = located.require_provenance()
    source, source_base = (
        source or made.context["tuned"],
        source_base or (made.context.get("base") or None),
    )
    request = Request.of(
        "transfer", given | {"run": made.key, "source": source, "source_base": source_base}
    )
    if (kept := request.recall()) is not None:
        for note in kept.notes:
            common.remark(note)
        return tell(common, kept.runs, page_again(common.store, kept, _title(tuned)))
    from interp.analyzers.locate_neurons import LocateNeurons
    from interp.analyzers.transfer import Transfer
    from interp.models.pair import Pair

    common.batches()
    common.warn_of_few(random_sets)
    sought = common.sought()
    located_on, verified_on = common.contrasts(verify=True)
    options = {
        name: value
        for name, value in made.options.items()
        if name not in ("excluded", "from_parent")
    }
    locate = LocateNeurons(**options)
    described = request.describe()
    common.status(f"loading {source}")
    origin = Pair.load(required(source, "--source MODEL"), source_base, **common.loading)
    for role in ("base", "tuned", "adapter"):
        if (before := made.inputs.get(role)) != origin.digests.get(role) and before is not None:
            raise OptionError(
                f"{source} is not what run {run} was made of: its {role} changed; give --source"
                " MODEL"
            )
    common.status(f"loading {tuned}")
    pair = common.templated(Pair.load(tuned, common.base, **common.loading))
    study = common.study(
        pair, located_on, common.measured(pair.tokenizer, sought, located_on, verified_on)
    )
    measuring = study.with_prompts(verified_on.limit(common.max_prompts))
    lines = [
        f"located on {study.counts}",
        *study.notes,
        f"measured on {measuring.counts}",
        *measuring.notes,
    ]
    if made.parent or made.options.get("excluded"):
        lines.append(
            f"run {run} left out units that utility prompts locate too; what is located anew keeps"
            " them"
        )
    if made.inputs["prompts"] != study.contrast.digest:
        lines.append(
            f"run {run} located on other prompts than are located on here; see that none of them"
            " measure"
        )
    notes = remarked(common, *lines)
    again = store.run(locate, study)
    transfer = Transfer.of(
        located,
        origin,
        recomputed=again.table,
        random_sets=random_sets,
        control_prompts=control_prompts,
    )
    measured = store.run(transfer, measuring)
    return write(common, request, described, [measured, again], notes, _title(tuned))


def _title(tuned: str) -> str:
    return f"Does it transfer? {tuned}"
