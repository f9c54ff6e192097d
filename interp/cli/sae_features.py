"""``interp sae features``: what single latents of a dictionary fire on and write, as a page to
browse.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli.common import takes
from interp.cli.prompt_options import controls_in_turn, numbers, site_of
from interp.cli.request_cache import Request
from interp.cli.results import page_again, remarked, tell, write
from interp.cli.template_options import Templated
from interp.errors import OptionError, required
from interp.provenance import directory_digest, file_digest
from interp.table import Table


@dataclass(frozen=True, kw_only=True)
class Features(Templated):
    """Which latents are read, on what, and how; the fields are flags."""

    model: Annotated[
        str, typer.Option("--model", metavar="MODEL", help="The model (or adapter) it is read in.")
    ]
    data: Annotated[
        Path, typer.Option("--data", metavar="FILE", help="Text or prompts, one a row.")
    ]
    base: Annotated[
        str | None, typer.Option("--base", metavar="BASE", help="What the model was tuned from.")
    ] = None
    site: Annotated[
        str | None, typer.Option(metavar="SITE", help="[default: what the dictionary says]")
    ] = None
    target: Annotated[
        str | None, typer.Option(metavar="SITE", help="What a transcoder writes.")
    ] = None
    latents: Annotated[str | None, typer.Option(metavar="N,N,...", help="These latents.")] = None
    diff: Annotated[
        str | None, typer.Option(metavar="RUN", help="Those a sae diff run claims tuned-only.")
    ] = None
    top: Annotated[int, typer.Option(metavar="N", min=1, help="Else the first N ...")] = 50
    by: Annotated[
        str, typer.Option(metavar="NAME", help="... by density, max, or gain (over the base).")
    ] = "density"
    shift: Annotated[
        int | None,
        typer.Option(metavar="K", min=1, help="Also: shift vectors of K concepts (needs a base)."),
    ] = None
    control: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL", help="With --shift: a control fine-tune; repeatable."),
    ] = None
    no_logits: Annotated[bool, typer.Option("--no-logits", help="Leave logit effects out.")] = False
    contexts: Annotated[
        int, typer.Option(metavar="N", min=1, help="Contexts of each level, top, middle, low.")
    ] = 5
    window: Annotated[int, typer.Option(metavar="N", min=1, help="Tokens shown on each side.")] = 10
    draws: Annotated[int, typer.Option(metavar="N", min=1, help="Of each null.")] = 199
    column: Annotated[str, typer.Option(metavar="NAME", help="Column of the file.")] = "prompt"
    max_prompts: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="At most N of the file's rows.")
    ] = None

    def check(self) -> None:
        """Raise OptionError for options that contradict each other; nothing is read."""
        if self.latents is not None and self.diff is not None:
            raise OptionError("--latents and --diff both name latents; give one of them")
        if self.latents is not None and not self.named():
            raise OptionError("--latents names none; write numbers with commas between")
        if self.control and self.shift is None:
            raise OptionError(
                "--control is a control for shifts of concepts; add --shift K, or leave it out"
            )
        if self.remote:
            raise OptionError(
                "--remote does not give the rows that a dictionary reads; use this machine"
            )
        self.batches()
        self.template_arguments()

    def named(self) -> tuple[int, ...]:
        """The latents of ``--latents``."""
        return () if self.latents is None else numbers(self.latents, int, "--latents")


@takes(Features)
def command(
    dictionary: Annotated[
        Path, typer.Argument(metavar="DICTIONARY", help="Folder (or weight file) of a dictionary.")
    ],
    *,
    common: Features,
) -> str:
    """Read latents of a sparse dictionary: labels with their scores on held-out documents, logit
    effects, contexts.

    Each score is compared with other latents' labels and with shuffled firing, each logit effect
    with random rows. With a base the density in its rows is given too; a crosscoder needs one.
    --shift is compared with a control fine-tune of the same base (--control), and without one is
    not tested.

    Example: interp sae features ./sae --model ./tuned --base ./base --data text.txt --top 50 --by
    gain
    """
    common.check()
    run = None if common.diff is None else _diff(common)
    files = directory_digest(dictionary) if dictionary.is_dir() else file_digest(dictionary)
    given = {"dictionary": files, "tuned": common.model, "base": common.base, "common": common}
    request = Request.of(
        "sae-features", given | {"run": None if run is None else run.require_provenance().key}
    )
    title = f"{dictionary} in {common.model}"
    if (kept := request.recall()) is not None:
        for note in kept.notes:
            common.remark(note)
        return tell(common, kept.runs, page_again(common.store, kept, title))
    from interp.analyzers.concept_shift import ConceptShift
    from interp.engines import engine_named
    from interp.models.pair import Pair
    from interp.models.sources import find
    from interp.prompts import OneClass, read_prompts
    from interp.store import Store
    from interp.study import Study

    prompts = OneClass(read_prompts(common.data, common.column, "data")).limit(common.max_prompts)
    based = common.base is not None or find(common.model).base_name is not None
    made = [_reading(dictionary, common, run)]
    made[0].require(based)
    if common.shift is not None:
        if not based:
            raise OptionError("--shift compares a base with its tuned model; add --base BASE")
        made.append(ConceptShift(made[0].site, common.shift, draws=common.draws))
        made[1].require()
    described = request.describe()
    common.status(f"loading {common.model}")
    pair = common.templated(Pair.load(common.model, common.base, **common.loading))
    engine = engine_named(common.engine, False)
    study = Study(
        pair, prompts, None, common.seed, common.batches(), engine=engine, quiet=common.quiet
    )
    store, notes = Store(common.store), remarked(common, study.counts, *study.notes)
    if common.control:
        made[1] = replace(made[1], controls=controls_in_turn(common, common.control, pair))
        made[1].require_study(study)
    # concepts first: whether the text is enough for them is known only now, and no run should be
    # kept next to an error
    runs = [store.run(one, study) for one in reversed(made)][::-1]
    return write(common, request, described, runs, notes, title)


def _diff(common: Features) -> Table:
    """The run of ``--diff``; OptionError for a run of another kind, or one that claims nothing."""
    from interp.store import Store

    found = Store(common.store).get(required(common.diff, "--diff RUN"))
    if found.kind != "dictionary-diff":
        raise OptionError(
            f"run {common.diff} is of kind {found.kind}; give the key of a sae diff run (interp ls)"
        )
    if not _claimed(found):
        raise OptionError(
            f"run {common.diff} claims no tuned-only latent; name others with --latents"
        )
    return found


def _claimed(run: Table) -> tuple[int, ...]:
    """Latents that a comparison claims to be the tuned model's alone, densest first."""
    rows = [row for row in run.rows() if row["class"] == "tuned-only" and row["claimed"]]
    return tuple(
        row["latent"] for row in sorted(rows, key=lambda row: (-row["rate"], row["latent"]))
    )


def _reading(path: Path, common: Features, run: Table | None) -> Any:
    """The analyzer; OptionError where the dictionary does not say its site, or is not the run's."""
    from interp.analyzers.dictionary_features import DictionaryFeatures
    from interp.sae.formats import read

    dictionary, about = read(path)
    where = site_of(common, path, about, common.site, (common.model, common.base))
    own, latents = dictionary.digest, common.named()
    if run is not None:
        made = run.provenance.options.get("dictionary", own) if run.provenance else own
        if made != own:
            raise OptionError(
                f"run {common.diff} compared another dictionary than {path}; give the one it read"
            )
        latents = _claimed(run)[: common.top]
    of = (
        "both"
        if dictionary.config.models > 1
        else "difference"
        if about.get("of") == "difference"
        else "tuned"
    )
    return DictionaryFeatures(
        dictionary,
        where,
        str(common.target or about.get("target") or ""),
        of,
        latents,
        common.top,
        common.by,
        not common.no_logits,
        common.contexts,
        common.window,
        draws=common.draws,
        parent=None if run is None else run.require_provenance().key,
    )
