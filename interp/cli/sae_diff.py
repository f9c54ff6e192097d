"""``interp sae diff``: what changed in each latent of a dictionary between a base and its tuned
model.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.common import RuntimeOptions, takes
from interp.cli.prompt_options import CONTROL_HELP, each_control, require_controls, site_of
from interp.cli.request_cache import Request
from interp.cli.runner import Session, answer
from interp.cli.template_options import TemplateFlags
from interp.errors import OptionError
from interp.provenance import directory_digest, file_digest

if TYPE_CHECKING:
    from interp.analyzers.sae_diff import SaeDiff

_COMPARISONS = {"both": "crosscoder", "difference": "difference", "base": "base", "tuned": "tuned"}
"""The comparison for each value of ``interp sae train --model-role``."""


@takes(TemplateFlags)
def command(
    dictionary: Annotated[
        Path, typer.Argument(metavar="DICTIONARY", help="Folder (or weight file) of a dictionary.")
    ],
    *,
    model: Annotated[
        str, typer.Option("--model", metavar="TUNED", help="The fine-tuned model, or an adapter.")
    ],
    base: Annotated[
        str | None, typer.Option(metavar="BASE", help="The base model it was fine-tuned from.")
    ] = None,
    data: Annotated[
        Path, typer.Option("--data", metavar="FILE", help="Text or prompts, one a row.")
    ],
    site: Annotated[
        str | None,
        typer.Option(
            metavar="SITE", help="blocks.3.hook_resid_post.  [default: from the dictionary's files]"
        ),
    ] = None,
    comparison: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Model that the dictionary reads: crosscoder, difference, base, tuned.",
        ),
    ] = "auto",
    control: Annotated[list[str] | None, typer.Option(metavar="MODEL", help=CONTROL_HELP)] = None,
    control_dictionary: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="For each --control, in order: the dictionary of its pair, trained alike.",
        ),
    ] = None,
    content_only: Annotated[
        bool,
        typer.Option("--content-only", help="Ignore special tokens and those of the template."),
    ] = False,
    column: Annotated[str, typer.Option(metavar="NAME", help="Column of the file.")] = "prompt",
    max_prompts: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="At most N of the file's rows.")
    ] = None,
    nu_error: Annotated[
        float, typer.Option(metavar="X", help="Specific to a model: |nu| of the error below X.")
    ] = 0.2,
    nu_reconstruction: Annotated[
        float, typer.Option(metavar="X", help="Specific: also |nu| of the reconstruction below X.")
    ] = 0.5,
    cosine: Annotated[
        float, typer.Option(metavar="X", help="Rotated: both measured cosines below X.")
    ] = 0.95,
    factor: Annotated[
        float, typer.Option(metavar="X", help="Rescaled: X times as strong in one model.")
    ] = 1.5,
    folds: Annotated[
        int,
        typer.Option(metavar="N", help="Silent: active in fewer than N of 20 folds of prompts."),
    ] = 8,
    max_norm_ratio: Annotated[
        float, typer.Option(metavar="X", help="Leave out norms above X medians; 0: keep all.")
    ] = 10.0,
    draws: Annotated[
        int, typer.Option(metavar="N", help="Random exchanges of the models, for p.")
    ] = 999,
    common: TemplateFlags,
) -> str:
    """Classify each latent: only in the tuned model, only in the base, or in both (shared, rescaled
    or rotated).

    Crosscoders by latent scaling (arXiv 2504.02922), dictionaries of differences by slopes, a
    dictionary of one model by how much of each latent the other model has. How many latents are
    specific to one model is tested only against control pairs, each with its own dictionary.

    Example: interp sae diff ./both --model ./tuned --base ./base --data a.txt --control ./control
    --control-dictionary ./other
    """
    if common.remote:
        raise OptionError("--remote does not support reading both models; run without it")
    if comparison not in ("auto", *_COMPARISONS.values()):
        raise OptionError(
            f"unknown --comparison {comparison!r}; use auto, {', '.join(_COMPARISONS.values())}"
        )
    named, folders = control or [], control_dictionary or []
    if len(named) != len(folders):
        raise OptionError(
            f"each --control needs its own --control-dictionary; {len(named)} and {len(folders)}"
            " were given"
        )
    require_controls(named)
    arguments = {**locals()}
    arguments |= {
        "dictionary": _digest(dictionary),
        "tuned": arguments.pop("model"),
        "control_dictionary": [_digest(folder) for folder in folders],
    }

    def compute(session: Session) -> list:
        from dataclasses import replace

        from interp.models.sources import find
        from interp.prompts import OneClass, read_prompts
        from interp.sae.analysis.classes import Thresholds

        common.batches()
        options = {
            "thresholds": Thresholds(nu_error, nu_reconstruction, cosine, factor, folds),
            "content_only": content_only,
            "max_norm_ratio": max_norm_ratio,
            "draws": draws,
        }
        analyzer = _analyzer(common, dictionary, (model, base), comparison, site, options)
        control_analyzers = [
            _analyzer(common, folder, (name, base), comparison, site, options)
            for name, folder in zip(named, folders, strict=True)
        ]
        for control_analyzer in control_analyzers:
            _require_comparable(analyzer, control_analyzer)
        prompts = OneClass(read_prompts(data, column, "data")).limit(max_prompts)
        if base is None and find(model).base_name is None:
            raise OptionError("comparing models needs a base; add --base MODEL")
        pair = session.load(model, base)
        study = session.study(pair, prompts, None)
        analyzer.require(study)
        store, lines = session.store, [study.counts, *study.notes]
        if control_analyzers:
            kept = [
                store.run(other, replace(study, pair=one, _cache={}))
                for other, one in zip(
                    control_analyzers, each_control(common, named, pair), strict=True
                )
            ]
            analyzer = replace(analyzer, controls=tuple(run.table for run in kept))
            lines += [
                f"control {name} is run {run.key}" for name, run in zip(named, kept, strict=True)
            ]
        else:
            lines.append(
                "without a control no claim is tested; train a dictionary in the same way on a"
                " control fine-tune (neutral data), and add --control TUNED --control-dictionary"
                " DIR"
            )
        run = store.run(analyzer, study)
        session.note(*lines)
        return [run]

    title = f"{dictionary}: {model} compared with its base"
    return answer(Request.of("sae-diff", arguments), title, compute)


def _analyzer(
    common: RuntimeOptions,
    path: Path,
    models: Sequence[str | None],
    comparison: str,
    site: str | None,
    options: Mapping[str, Any],
) -> "SaeDiff":
    """The analyzer for a dictionary on disk; raises OptionError if it does not fit the
    comparison.
    """
    from interp.analyzers.framework import Known
    from interp.analyzers.sae_diff import SaeDiff
    from interp.sae.formats import read

    loaded, about = read(path)
    where = site_of(common, path, about, site, models)
    stated = "crosscoder" if loaded.config.models == 2 else _COMPARISONS.get(str(about.get("of")))
    if comparison == "auto" and stated is None:
        raise OptionError(
            f"the files of {path} do not state which model it reads; add --comparison base, tuned or"
            " difference"
        )
    if comparison != "auto" and stated is not None and stated != comparison:
        raise OptionError(
            f"--comparison {comparison} does not fit: {path} is a dictionary for --comparison"
            f" {stated}"
        )
    analyzer = SaeDiff(
        loaded, str(stated if comparison == "auto" else comparison), where, **options
    )
    analyzer.check(Known())
    return analyzer


def _require_comparable(analyzer: "SaeDiff", control: "SaeDiff") -> None:
    """Raise OptionError for a control's dictionary whose counts are not comparable."""
    # a dictionary of the base is the same for the fine-tuned model and for the control
    if analyzer.dictionary.digest == control.dictionary.digest and analyzer.comparison != "base":
        raise OptionError(
            "the control's dictionary is the same as the dictionary under test; train another"
            " one on the control pair"
        )
    for name, ours, theirs in (
        ("comparison", analyzer.comparison, control.comparison),
        ("site", analyzer.site, control.site),
        (
            "architecture",
            analyzer.dictionary.config.architecture,
            control.dictionary.config.architecture,
        ),
        ("number of latents", analyzer.dictionary.config.width, control.dictionary.config.width),
        ("number of codes", analyzer.dictionary.config.k, control.dictionary.config.k),
    ):
        if ours != theirs:
            raise OptionError(
                f"the control's dictionary has another {name} ({theirs}, not {ours}); train both"
                " with the same options"
            )


def _digest(path: Path) -> str:
    """Digest of the dictionary's files, independent of their location; raises OptionError if there
    are none.
    """
    return directory_digest(path) if path.is_dir() else file_digest(path)
