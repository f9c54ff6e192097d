"""``interp sae features``: what single latents of a dictionary fire on, and their logit effects, as
a page to browse.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli.common import takes
from interp.cli.prompt_options import controls_on_demand, parse_numbers, site_of
from interp.cli.request_cache import Request
from interp.cli.runner import Session, answer
from interp.cli.template_options import TemplateFlags
from interp.errors import OptionError, required
from interp.provenance import directory_digest, file_digest
from interp.table import Table


@dataclass(frozen=True, kw_only=True)
class FeatureOptions(TemplateFlags):
    """Which latents are described, on which text, and how; the fields are flags."""

    model: Annotated[
        str, typer.Option("--model", metavar="MODEL", help="The model (or adapter) to read.")
    ]
    data: Annotated[
        Path, typer.Option("--data", metavar="FILE", help="Text or prompts, one a row.")
    ]
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="BASE", help="The base model it was fine-tuned from."),
    ] = None
    site: Annotated[
        str | None, typer.Option(metavar="SITE", help="[default: from the dictionary's files]")
    ] = None
    target: Annotated[
        str | None, typer.Option(metavar="SITE", help="Target site of a transcoder.")
    ] = None
    latents: Annotated[
        str | None, typer.Option(metavar="N,N,...", help="Describe these latents.")
    ] = None
    diff: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Latents claimed tuned-only by this sae diff run."),
    ] = None
    top: Annotated[int, typer.Option(metavar="N", min=1, help="Otherwise the first N ...")] = 50
    by: Annotated[
        str, typer.Option(metavar="NAME", help="... by density, max, or gain over the base.")
    ] = "density"
    shift: Annotated[
        int | None,
        typer.Option(metavar="K", min=1, help="Also shift vectors of K concepts (needs a base)."),
    ] = None
    control: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL", help="Control fine-tune for --shift; repeatable."),
    ] = None
    no_logits: Annotated[bool, typer.Option("--no-logits", help="Leave logit effects out.")] = False
    contexts: Annotated[
        int, typer.Option(metavar="N", min=1, help="Contexts per level: top, middle, low.")
    ] = 5
    window: Annotated[int, typer.Option(metavar="N", min=1, help="Tokens shown on each side.")] = 10
    draws: Annotated[int, typer.Option(metavar="N", min=1, help="Of each null.")] = 199
    column: Annotated[str, typer.Option(metavar="NAME", help="Column of the file.")] = "prompt"
    max_prompts: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="At most N of the file's rows.")
    ] = None

    def check(self) -> None:
        """Raise OptionError for options that contradict each other, before any file is read."""
        if self.latents is not None and self.diff is not None:
            raise OptionError("--latents and --diff both select latents; give only one of them")
        if self.latents is not None and not self.named_latents():
            raise OptionError("--latents is empty; write numbers separated by commas")
        if self.control and self.shift is None:
            raise OptionError(
                "--control is used by --shift only; add --shift K, or leave --control out"
            )
        if self.remote:
            raise OptionError("--remote does not support reading activations; run without it")
        self.batches()
        self.template_arguments()

    def named_latents(self) -> tuple[int, ...]:
        """The latents of ``--latents``."""
        return () if self.latents is None else parse_numbers(self.latents, int, "--latents")


@takes(FeatureOptions)
def command(
    dictionary: Annotated[
        Path, typer.Argument(metavar="DICTIONARY", help="Folder (or weight file) of a dictionary.")
    ],
    *,
    common: FeatureOptions,
) -> str:
    """Describe latents of a sparse dictionary: labels with scores on held-out documents, logit
    effects, contexts.

    Each score is compared with other latents' labels and with shuffled firing, each logit effect
    with random rows. With a base, densities in its activations are reported too; a crosscoder needs
    one. --shift is compared with a control fine-tune of the same base (--control), and without one
    is not tested.

    Example: interp sae features ./sae --model ./tuned --base ./base --data text.txt --top 50 --by
    gain
    """
    common.check()
    run = None if common.diff is None else _diff_run(common)
    files = directory_digest(dictionary) if dictionary.is_dir() else file_digest(dictionary)
    arguments = {"dictionary": files, "tuned": common.model, "base": common.base, "common": common}
    request = Request.of(
        "sae-features", arguments | {"run": None if run is None else run.require_provenance().key}
    )
    title = f"{dictionary} in {common.model}"

    def compute(session: Session) -> list:
        from interp.analyzers.concept_shift import ConceptShift
        from interp.analyzers.framework import Known
        from interp.models.sources import find
        from interp.prompts import OneClass, read_prompts

        prompts = OneClass(read_prompts(common.data, common.column, "data")).limit(
            common.max_prompts
        )
        has_base = common.base is not None or find(common.model).base_name is not None
        analyzers = [_analyzer(dictionary, common, run)]
        known = Known(has_base=has_base)
        analyzers[0].check(known)
        if common.shift is not None:
            if not has_base:
                raise OptionError(
                    "--shift compares a base with its fine-tuned model; add --base BASE"
                )
            analyzers.append(ConceptShift(analyzers[0].site, common.shift, draws=common.draws))
            analyzers[1].check(known)
        pair = session.load(common.model, common.base)
        study = session.study(pair, prompts)
        session.note(study.counts, *study.notes)
        if common.control:
            analyzers[1] = replace(
                analyzers[1], controls=controls_on_demand(common, common.control, pair)
            )
            analyzers[1].require(study)
        # concepts first: only now it is known whether there is enough text, and an error must come
        # before any run is stored
        return [session.store.run(one, study) for one in reversed(analyzers)][::-1]

    return answer(request, title, compute)


def _diff_run(common: FeatureOptions) -> Table:
    """The run of ``--diff``; raises OptionError for a run of another kind, or without claimed
    latents.
    """
    from interp.store import Store

    run = Store(common.store).get(required(common.diff, "--diff RUN"))
    if run.kind != "sae-diff":
        raise OptionError(
            f"run {common.diff} has kind {run.kind}; give the key of a sae diff run (interp ls)"
        )
    if not _claimed_latents(run):
        raise OptionError(
            f"run {common.diff} claims no tuned-only latent; give latents with --latents"
        )
    return run


def _claimed_latents(run: Table) -> tuple[int, ...]:
    """Latents that a comparison claims to be tuned-only, densest first."""
    rows = [row for row in run.rows() if row["class"] == "tuned-only" and row["claimed"]]
    return tuple(
        row["latent"] for row in sorted(rows, key=lambda row: (-row["rate"], row["latent"]))
    )


def _analyzer(path: Path, common: FeatureOptions, run: Table | None) -> Any:
    """The analyzer; raises OptionError if the dictionary's site is unknown, or the run used another
    dictionary.
    """
    from interp.analyzers.sae_features import SaeFeatures
    from interp.sae.formats import read

    dictionary, about = read(path)
    where = site_of(common, path, about, common.site, (common.model, common.base))
    digest, latents = dictionary.digest, common.named_latents()
    if run is not None:
        run_digest = run.provenance.options.get("dictionary", digest) if run.provenance else digest
        if run_digest != digest:
            raise OptionError(
                f"run {common.diff} used another dictionary than {path}; give the dictionary of"
                " that run"
            )
        latents = _claimed_latents(run)[: common.top]
    model_role = (
        "both"
        if dictionary.config.models > 1
        else "difference"
        if about.get("of") == "difference"
        else "tuned"
    )
    return SaeFeatures(
        dictionary,
        where,
        str(common.target or about.get("target") or ""),
        model_role,
        latents,
        common.top,
        common.by,
        not common.no_logits,
        common.contexts,
        common.window,
        draws=common.draws,
        parent=None if run is None else run.require_provenance().key,
    )
