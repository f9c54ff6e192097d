"""``interp sae probe``: which latents of a dictionary predict a behaviour, and do they cause it?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.behaviour_options import BehaviourOptions
from interp.cli.common import takes
from interp.cli.prompt_options import site_of
from interp.cli.request_cache import Request
from interp.cli.runner import Session, answer
from interp.errors import OptionError
from interp.provenance import directory_digest, file_digest

if TYPE_CHECKING:
    from interp.sae import Dictionary
    from interp.table import Table

RANDOM_SETS_ORGANISM, RANDOM_SETS = 200, 20
CLASS_SETS = {
    "tuned-only": ("tuned-only",),
    "base-only": ("base-only",),
    "changed": ("rotated", "rescaled"),
}


@takes(BehaviourOptions)
def command(
    dictionary: Annotated[
        Path, typer.Argument(metavar="DICTIONARY", help="Folder (or weight file) of a dictionary.")
    ],
    *,
    model: Annotated[
        str, typer.Option("--model", metavar="TUNED", help="The fine-tuned model (or adapter).")
    ],
    site: Annotated[
        str | None,
        typer.Option(
            metavar="SITE", help="blocks.3.hook_resid_post.  [default: from the dictionary's files]"
        ),
    ] = None,
    model_role: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Model it reads: tuned, both (a crosscoder), difference, auto."
        ),
    ] = "auto",
    position: Annotated[
        str,
        typer.Option(metavar="NAME", help="Code of a prompt: of its last token, or max or mean."),
    ] = "last",
    k: Annotated[
        str, typer.Option("-k", "--k", metavar="N,...", help="Numbers of latents in a probe.")
    ] = "1,2,4",
    latents: Annotated[
        str | None,
        typer.Option(metavar="N,...", help="Also test these latents causally."),
    ] = None,
    diff: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Also test latents claimed by this sae diff run."),
    ] = None,
    which: Annotated[
        str,
        typer.Option(
            "--class", metavar="NAME", help="Class for --diff: tuned-only, base-only, changed."
        ),
    ] = "tuned-only",
    revert: Annotated[
        bool,
        typer.Option(
            "--revert",
            help="Crosscoders: replace a latent by the base's part instead of removing it.",
        ),
    ] = False,
    permutations: Annotated[
        int, typer.Option(metavar="N", min=1, help="Permutations of labels, for the probes' null.")
    ] = 199,
    random_sets: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Matched random sets.  [default: 200 for organisms, else 20]"
        ),
    ] = None,
    control_prompts: Annotated[
        int, typer.Option(metavar="N", min=1, help="Prompts per class for random sets.")
    ] = 96,
    steer: Annotated[
        float, typer.Option(metavar="X", help="Steering strength in mean codes of the set.")
    ] = 1.0,
    common: BehaviourOptions,
) -> str:
    """Find latents that predict a behaviour, then ablate and steer them on held-out prompts.

    Half of the clusters are used for selection and half are held out, unless --verify-positive and
    --verify-negative give held-out files. Ablation keeps the dictionary's error, and is compared
    with ablating random latents with similar firing rates. A crosscoder and a dictionary of
    differences also need the base, which runs in parallel with the tuned model.

    Example: interp sae probe ./sae --model ./tuned --base ./base --positive harmful.txt --negative
    harmless.txt
    """
    if common.remote:
        raise OptionError(
            "--remote does not support inserting a dictionary into a pass; run without it"
        )
    common.check()
    counts = parse_integers(k, "-k")
    given = parse_integers(latents, "--latents") if latents is not None else ()
    if latents is not None and diff is not None:
        raise OptionError("give only one of --latents and --diff")
    if which not in CLASS_SETS:
        raise OptionError(f"unknown --class {which!r}; use {', '.join(CLASS_SETS)}")
    named = {**locals()}
    for name in ("counts", "given"):
        named.pop(name)
    digest = directory_digest(dictionary) if dictionary.is_dir() else file_digest(dictionary)
    request = Request.of("sae-probe", named | {"dictionary": digest, "tuned": named.pop("model")})
    title = f"Latents that predict and cause a behaviour: {dictionary} in {model}"

    def compute(session: Session) -> list:
        from interp.analyzers.framework import Known
        from interp.analyzers.sae_probe import SaeProbe
        from interp.models.sources import find
        from interp.sae.formats import read

        common.batches()
        is_organism = model.startswith("organism:")
        n_random_sets = random_sets or (RANDOM_SETS_ORGANISM if is_organism else RANDOM_SETS)
        common.warn_of_few(n_random_sets)
        specification = common.specification()
        if common.task is None:
            specification.require_number("effects of latents")
        selection, held_out = common.selection_and_held_out(verify=True)
        loaded, about = read(dictionary)
        where = site_of(common, dictionary, about, site, (model, common.base))
        chosen, set_name, store = given, "given", session.store
        if diff is not None:
            chosen, set_name = (
                claimed_latents(store.get(diff), loaded.digest, loaded, diff, which),
                which,
            )
        analyzer = SaeProbe(
            loaded,
            where,
            _model_role(model_role, loaded, about),
            position,
            counts,
            chosen,
            set_name,
            held_out.limit(common.max_prompts),
            permutations,
            n_random_sets,
            control_prompts,
            steer,
            revert,
        )
        has_base = common.base is not None or find(model).base_name is not None
        analyzer.check(Known(has_base=has_base))
        pair = session.load(model, common.base)
        metric = common.make_metric(pair.tokenizer, specification, selection, held_out)
        study = common.study(pair, selection, metric)
        held_out_study = study.with_prompts(held_out.limit(common.max_prompts))
        session.note(
            f"selection split: {study.counts}",
            *study.notes,
            f"held-out split: {held_out_study.counts}",
            *held_out_study.notes,
        )
        return [store.run(analyzer, study)]

    return answer(request, title, compute)


def parse_integers(text: str, flag: str) -> tuple[int, ...]:
    """Integers separated by commas; raises OptionError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise OptionError(f"{flag} {text} is not a list of integers; write 3 or 3,17")
    return tuple(map(int, parts))


def claimed_latents(
    table: "Table", digest: str, dictionary: "Dictionary", run: str, which: str
) -> tuple[int, ...]:
    """The latents that a run of ``interp sae diff`` claims to be of a class; raises OptionError for
    other runs.
    """
    if table.kind != "sae-diff":
        raise OptionError(f"run {run} has kind {table.kind}; --diff needs a run of interp sae diff")
    run_digest = table.provenance.options.get("dictionary") if table.provenance else None
    if run_digest != digest or len(table) != dictionary.config.width:
        raise OptionError(
            f"run {run} used another dictionary; run interp sae diff on this one first"
        )
    import numpy as np

    latents = table["latent"][np.isin(table["class"], CLASS_SETS[which]) & table["claimed"]]
    if not len(latents):
        raise OptionError(
            f"run {run} claims no {which} latent; give latents with --latents, or leave --diff out"
        )
    return tuple(int(latent) for latent in latents)


def _model_role(requested: str, dictionary: "Dictionary", about: dict[str, Any]) -> str:
    """The model that the dictionary reads: as requested, otherwise from its number of models and
    its metadata.
    """
    if requested != "auto":
        return requested
    if dictionary.config.models == 2:
        return "both"
    return "difference" if about.get("of") == "difference" else "tuned"
