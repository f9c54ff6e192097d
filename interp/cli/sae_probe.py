"""``interp sae probe``: which latents of a dictionary tell a behaviour, and do they cause it?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.behaviour_options import BehaviourOptions
from interp.cli.common import takes
from interp.cli.prompt_options import site_of
from interp.cli.request_cache import Request
from interp.cli.results import page_again, remarked, tell, write
from interp.errors import OptionError
from interp.provenance import directory_digest, file_digest

if TYPE_CHECKING:
    from interp.sae import Dictionary
    from interp.table import Table

RANDOM_SETS_ORGANISM, RANDOM_SETS = 200, 20
CHOICES = {
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
        str, typer.Option("--model", metavar="TUNED", help="The tuned model (or adapter).")
    ],
    site: Annotated[
        str | None,
        typer.Option(
            metavar="SITE", help="blocks.3.hook_resid_post.  [default: what the dictionary says]"
        ),
    ] = None,
    of: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="What it reads: tuned, both (a crosscoder), difference, auto."
        ),
    ] = "auto",
    at: Annotated[
        str, typer.Option(metavar="NAME", help="A prompt's code: of its last token, or max, mean.")
    ] = "last",
    k: Annotated[
        str, typer.Option("-k", "--k", metavar="N,...", help="Latents in a probe.")
    ] = "1,2,4",
    latents: Annotated[
        str | None,
        typer.Option(metavar="N,...", help="Confirm these too, whatever the probe chooses."),
    ] = None,
    diff: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Confirm latents of this run of interp sae diff too."),
    ] = None,
    which: Annotated[
        str,
        typer.Option("--class", metavar="NAME", help="Of --diff: tuned-only, base-only, changed."),
    ] = "tuned-only",
    revert: Annotated[
        bool,
        typer.Option(
            "--revert",
            help="Of a crosscoder: the base's part of a latent in its place, not nothing.",
        ),
    ] = False,
    permutations: Annotated[
        int, typer.Option(metavar="N", min=1, help="Of labels, for the probes' null.")
    ] = 199,
    random_sets: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Matched random sets.  [default: 200 for organisms, else 20]"
        ),
    ] = None,
    control_prompts: Annotated[
        int, typer.Option(metavar="N", min=1, help="Prompts of each class for random sets.")
    ] = 96,
    steer: Annotated[
        float, typer.Option(metavar="X", help="Steer by X mean codes of the set.")
    ] = 1.0,
    common: BehaviourOptions,
) -> str:
    """Find latents that predict a behaviour, then ablate and steer them on prompts that the probe
    did not see.

    Half of the clusters choose and half judge, unless --verify-positive and --verify-negative name
    files that do. Ablation keeps what the dictionary does not explain, and is compared with
    ablating random latents that fire as often. A crosscoder, and a dictionary of differences, read
    the base too: it runs beside the tuned model.

    Example: interp sae probe ./sae --model ./tuned --base ./base --positive harmful.txt --negative
    harmless.txt
    """
    if common.remote:
        raise OptionError("--remote cannot put a dictionary into the pass; probe on this machine")
    common.check()
    counts = numbers(k, "-k")
    given = numbers(latents, "--latents") if latents is not None else ()
    if latents is not None and diff is not None:
        raise OptionError(
            "give either --latents or --diff: one set is confirmed beside the probe's own"
        )
    if which not in CHOICES:
        raise OptionError(f"unknown --class {which!r}; use {', '.join(CHOICES)}")
    named = {**locals()}
    for name in ("counts", "given"):
        named.pop(name)
    digest = directory_digest(dictionary) if dictionary.is_dir() else file_digest(dictionary)
    request = Request.of("sae-probe", named | {"dictionary": digest, "tuned": named.pop("model")})
    title = f"What predicts it, and does it cause it? {dictionary} in {model}"
    if (kept := request.recall()) is not None:
        for note in kept.notes:
            common.remark(note)
        return tell(common, kept.runs, page_again(common.store, kept, title))
    from interp.analyzers.dictionary_probe import DictionaryProbe
    from interp.models.pair import Pair
    from interp.models.sources import find
    from interp.sae.formats import read
    from interp.store import Store

    common.batches()
    if random_sets is None:
        random_sets = RANDOM_SETS_ORGANISM if model.startswith("organism:") else RANDOM_SETS
    common.warn_of_few(random_sets)
    sought = common.sought()
    if common.task is None:
        sought.require_number("what a latent causes")
    choosing, held = common.contrasts(verify=True)
    loaded, about = read(dictionary)
    where = site_of(common, dictionary, about, site, (model, common.base))
    called, store = "given", Store(common.store)
    if diff is not None:
        given, called = claimed(store.get(diff), loaded.digest, loaded, diff, which), which
    analyzer = DictionaryProbe(
        loaded,
        where,
        _of(of, loaded, about),
        at,
        counts,
        given,
        called,
        held.limit(common.max_prompts),
        permutations,
        random_sets,
        control_prompts,
        steer,
        revert,
    )
    analyzer.require(common.base is not None or find(model).base_name is not None)
    described = request.describe()
    common.status(f"loading {model}")
    pair = common.templated(Pair.load(model, common.base, **common.loading))
    metric = common.measured(pair.tokenizer, sought, choosing, held)
    study = common.study(pair, choosing, metric)
    judging = study.with_prompts(held.limit(common.max_prompts))
    notes = remarked(
        common,
        f"chosen on {study.counts}",
        *study.notes,
        f"judged on {judging.counts}",
        *judging.notes,
    )
    return write(common, request, described, [store.run(analyzer, study)], notes, title)


def numbers(text: str, flag: str) -> tuple[int, ...]:
    """Whole numbers apart by commas; OptionError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise OptionError(f"{flag} {text} is no list of whole numbers; write 3 or 3,17")
    return tuple(map(int, parts))


def claimed(
    table: "Table", digest: str, dictionary: "Dictionary", run: str, which: str
) -> tuple[int, ...]:
    """The latents that a run of ``interp sae diff`` claims to be of a class; OptionError for other
    runs.
    """
    if table.kind != "dictionary-diff":
        raise OptionError(f"run {run} is of kind {table.kind}; --diff takes one of interp sae diff")
    said = table.provenance.options.get("dictionary") if table.provenance else None
    if said != digest or len(table) != dictionary.config.width:
        raise OptionError(
            f"run {run} compared another dictionary; compare this one first: interp sae diff"
        )
    import numpy as np

    chosen = table["latent"][np.isin(table["class"], CHOICES[which]) & table["claimed"]]
    if not len(chosen):
        raise OptionError(
            f"run {run} claims no {which} latent; name some with --latents, or leave --diff out"
        )
    return tuple(int(latent) for latent in chosen)


def _of(asked: str, dictionary: "Dictionary", about: dict[str, Any]) -> str:
    """What the dictionary reads: as asked, else by its number of models and what its file says of
    it.
    """
    if asked != "auto":
        return asked
    if dictionary.config.models == 2:
        return "both"
    return "difference" if about.get("of") == "difference" else "tuned"
