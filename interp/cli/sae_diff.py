"""``interp sae diff``: what became of each latent of a dictionary between a base and its tuned
model.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.common import RuntimeOptions, takes
from interp.cli.prompt_options import CONTROL_HELP, each_control, require_controls, site_of
from interp.cli.request_cache import Request
from interp.cli.results import page_again, remarked, tell, write
from interp.cli.template_options import Templated
from interp.errors import OptionError
from interp.provenance import directory_digest, file_digest

if TYPE_CHECKING:
    from interp.analyzers.dictionary_diff import DictionaryDiff

_WAYS = {"both": "crosscoder", "difference": "difference", "base": "base", "tuned": "tuned"}
"""By what ``interp sae train --of`` made the dictionary of."""


@takes(Templated)
def command(
    dictionary: Annotated[
        Path, typer.Argument(metavar="DICTIONARY", help="Folder (or weight file) of a dictionary.")
    ],
    *,
    model: Annotated[
        str, typer.Option("--model", metavar="TUNED", help="The tuned model, or an adapter.")
    ],
    base: Annotated[
        str | None, typer.Option(metavar="BASE", help="What it was tuned from.")
    ] = None,
    data: Annotated[
        Path, typer.Option("--data", metavar="FILE", help="Text or prompts, one a row.")
    ],
    site: Annotated[
        str | None,
        typer.Option(
            metavar="SITE", help="blocks.3.hook_resid_post.  [default: what the dictionary says]"
        ),
    ] = None,
    way: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="crosscoder, difference, base or tuned: what the dictionary is of."
        ),
    ] = "auto",
    control: Annotated[list[str] | None, typer.Option(metavar="MODEL", help=CONTROL_HELP)] = None,
    control_dictionary: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="One for each --control, in the same order: its pair's dictionary, trained alike.",
        ),
    ] = None,
    content_only: Annotated[
        bool,
        typer.Option("--content-only", help="Special tokens and the template's count nowhere."),
    ] = False,
    column: Annotated[str, typer.Option(metavar="NAME", help="Column of the file.")] = "prompt",
    max_prompts: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="At most N of the file's rows.")
    ] = None,
    nu_error: Annotated[
        float, typer.Option(metavar="X", help="One model's own: |nu| of the error below.")
    ] = 0.2,
    nu_reconstruction: Annotated[
        float, typer.Option(metavar="X", help="And |nu| of the whole reconstruction.")
    ] = 0.5,
    cosine: Annotated[
        float, typer.Option(metavar="X", help="Rotated: a measured cosine below.")
    ] = 0.95,
    factor: Annotated[
        float, typer.Option(metavar="X", help="Rescaled: so many times as much in one model.")
    ] = 1.5,
    folds: Annotated[
        int, typer.Option(metavar="N", help="Silent: active in fewer of 20 folds of prompts.")
    ] = 8,
    sinks: Annotated[
        float, typer.Option(metavar="X", help="Leave out norms above X medians; 0: keep all.")
    ] = 10.0,
    draws: Annotated[int, typer.Option(metavar="N", help="Exchanges of the models, for p.")] = 999,
    common: Templated,
) -> str:
    """Say of every latent whether only the tuned model has it, only the base, or both: alike,
    rescaled or rotated.

    Crosscoders by latent scaling (arXiv 2504.02922), dictionaries of differences by slopes, one
    model's own by what the other has of it. How many are one model's alone is claimed only beside
    control pairs, each with its own dictionary.

    Example: interp sae diff ./both --model ./tuned --base ./base --data a.txt --control ./control
    --control-dictionary ./other
    """
    if common.remote:
        raise OptionError(
            "--remote cannot take activations of both models; compare on this machine"
        )
    if way not in ("auto", *_WAYS.values()):
        raise OptionError(f"unknown --way {way!r}; use auto, {', '.join(_WAYS.values())}")
    named, folders = control or [], control_dictionary or []
    if len(named) != len(folders):
        raise OptionError(
            "a control is a model with its own dictionary: give as many --control as"
            f" --control-dictionary ({len(named)} and {len(folders)} were given)"
        )
    require_controls(named)
    given = {**locals(), "dictionary": _digest(dictionary)}
    given |= {
        "tuned": given.pop("model"),
        "control_dictionary": [_digest(folder) for folder in folders],
    }
    request, title = (
        Request.of("sae-diff", given),
        f"{dictionary}: what {model} has and its base has not",
    )
    if (kept := request.recall()) is not None:
        for note in kept.notes:
            common.remark(note)
        return tell(common, kept.runs, page_again(common.store, kept, title))
    from dataclasses import replace

    from interp.engines import engine_named
    from interp.models.pair import Pair
    from interp.models.sources import find
    from interp.prompts import OneClass, read_prompts
    from interp.sae.analysis.classes import Thresholds
    from interp.store import Store
    from interp.study import Study

    common.batches()
    limits = Thresholds(nu_error, nu_reconstruction, cosine, factor, folds)
    options = {"thresholds": limits, "content_only": content_only, "sinks": sinks, "draws": draws}
    analyzer = _analyzer(common, dictionary, (model, base), way, site, options)
    others = [
        _analyzer(common, folder, (name, base), way, site, options)
        for name, folder in zip(named, folders, strict=True)
    ]
    for other in others:
        _require_alike(analyzer, other)
    prompts = OneClass(read_prompts(data, column, "data")).limit(max_prompts)
    if base is None and find(model).base_name is None:
        raise OptionError(
            "comparing models by a dictionary needs a base and none was given; add --base MODEL"
        )
    described = request.describe()
    common.status(f"loading {model}")
    pair = common.templated(Pair.load(model, base, **common.loading))
    study = Study(
        pair,
        prompts,
        None,
        common.seed,
        common.batches(),
        engine=engine_named(common.engine, False),
        quiet=common.quiet,
    )
    analyzer.require_study(study)
    store, lines = Store(common.store), [study.counts, *study.notes]
    if others:
        beside = zip(others, each_control(common, named, pair), strict=True)
        kept = [store.run(other, replace(study, pair=one, _kept={})) for other, one in beside]
        analyzer = replace(analyzer, controls=tuple(run.table for run in kept))
        lines += [f"control {name} is run {run.key}" for name, run in zip(named, kept, strict=True)]
    else:
        lines.append(
            "without a control nothing is tested; train a dictionary alike on a control fine-tune "
            "(harmless data), and add --control TUNED --control-dictionary DIR"
        )
    run = store.run(analyzer, study)
    notes = remarked(common, *lines)
    return write(common, request, described, [run], notes, title)


def _analyzer(
    common: RuntimeOptions,
    path: Path,
    models: Sequence[str | None],
    way: str,
    site: str | None,
    options: Mapping[str, Any],
) -> "DictionaryDiff":
    """The analyzer of a dictionary as it lies there, refused where it cannot be compared so."""
    from interp.analyzers.dictionary_diff import DictionaryDiff
    from interp.sae.formats import read

    loaded, about = read(path)
    where = site_of(common, path, about, site, models)
    said = "crosscoder" if loaded.config.models == 2 else _WAYS.get(str(about.get("of")))
    if way == "auto" and said is None:
        raise OptionError(
            f"{path} does not say which model it is of; add --way base, tuned or difference"
        )
    if way != "auto" and said is not None and said != way:
        raise OptionError(f"--way {way} is of another dictionary: {path} is one for --way {said}")
    made = DictionaryDiff(loaded, str(said if way == "auto" else way), where, **options)
    made.require()
    return made


def _require_alike(one: "DictionaryDiff", other: "DictionaryDiff") -> None:
    """Raise OptionError for a control's dictionary whose counts would be of something else."""
    # a base is the same beside its fine-tune and beside the control, and so is its dictionary
    if one.dictionary.digest == other.dictionary.digest and one.way != "base":
        raise OptionError(
            "the control's dictionary is the one that is compared: what the tuned model alone has"
            " would be sought in the control by latents not made of it; train one of its pair"
        )
    for name, ours, theirs in (
        ("way", one.way, other.way),
        ("site", one.site, other.site),
        ("architecture", one.dictionary.config.architecture, other.dictionary.config.architecture),
        ("number of latents", one.dictionary.config.width, other.dictionary.config.width),
        ("number of codes", one.dictionary.config.k, other.dictionary.config.k),
    ):
        if ours != theirs:
            raise OptionError(
                f"the control's dictionary has another {name} ({theirs}, not {ours}); train both"
                " alike"
            )


def _digest(path: Path) -> str:
    """Of what the dictionary's files hold, wherever they lie; OptionError where there are none."""
    return directory_digest(path) if path.is_dir() else file_digest(path)
