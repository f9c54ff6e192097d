"""``interp tune``: train only what was located, and write the change if refusals are kept."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.behaviour_options import BEHAVIOUR_HELP, require_one_source, specification_of
from interp.cli.common import takes
from interp.cli.request_cache import Request
from interp.cli.runner import Session, answer
from interp.cli.template_options import TemplateFlags
from interp.errors import OptionError, RefusalsLost, reporting_os_errors

if TYPE_CHECKING:
    from interp.table import Table

_FILE: dict[str, Any] = {"metavar": "FILE"}
ALL = "all"


@dataclass(frozen=True, kw_only=True)
class TuneOptions(TemplateFlags):
    """The options of ``interp tune``; the fields are the flags."""

    located: Annotated[
        str, typer.Option("--located", metavar="RUN", help="A locate-neurons run, by key.")
    ]
    data: Annotated[
        Path, typer.Option("--data", **_FILE, help="Rows to learn: prompts with answers.")
    ]
    harmful: Annotated[
        Path, typer.Option("--harmful", **_FILE, help="Prompts of which refusals are counted.")
    ]
    ordinary: Annotated[
        Path, typer.Option("--ordinary", **_FILE, help="Ordinary prompts with their answers.")
    ]
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder to write delta.safetensors in.")
    ]
    other: Annotated[
        str | None,
        typer.Option("--other", metavar="RUN", help="Another run, for the arm other-run."),
    ] = None
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "--tokenizer",
            metavar="MODEL",
            help="Another model, whose tokenizer and chat template are used.",
        ),
    ] = None
    behaviour: Annotated[
        str | None, typer.Option("--behaviour", metavar="NAME|FILE.yaml", help=BEHAVIOUR_HELP)
    ] = None
    markers: Annotated[
        Path | None, typer.Option("--markers", **_FILE, help="Refusal markers, one a line.")
    ] = None
    column: Annotated[
        str, typer.Option("--column", metavar="NAME", help="Column of the prompt files.")
    ] = "prompt"
    max_new_tokens: Annotated[
        int,
        typer.Option(
            "--max-new-tokens", metavar="N", min=1, help="Maximum length of an answer, in tokens."
        ),
    ] = 48
    answer_after: Annotated[
        str,
        typer.Option(
            "--answer-after",
            metavar="TEXT",
            help="The answer follows TEXT; auto: a thinking block, where there is one; none.",
        ),
    ] = "auto"

    @property
    def loading(self) -> dict[str, Any]:
        """As of other commands, but in float32: small steps would be lost in half precision."""
        return super().loading | {"dtype": "float32" if self.dtype == "auto" else self.dtype}

    def check(self) -> None:
        """Raise OptionError for options that cannot be; nothing is read but names."""
        require_one_source(self.behaviour, self.markers)
        if self.remote:
            raise OptionError("--remote cannot train weights; run on this machine")
        _require_empty(self.out)
        self.batches()
        self.template_arguments()


@takes(TuneOptions)
def command(
    tuned: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="The model to train: a directory, Hub id, or organism:NAME."
        ),
    ],
    *,
    arms: Annotated[
        str,
        typer.Option(metavar="LIST", help="What is trained, joined by commas; all; see the docs."),
    ] = "located,random,lora,full",
    rates: Annotated[
        str | None,
        typer.Option(
            metavar="LIST", help="Three or more learning rates to try.  [default: by arm]"
        ),
    ] = None,
    steps: Annotated[int, typer.Option(metavar="N", min=1, help="Steps of every training.")] = 200,
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Rows per step.")] = 8,
    schedule: Annotated[
        str, typer.Option(metavar="NAME", help="Of the learning rate: cosine, linear or constant.")
    ] = "cosine",
    weight_decay: Annotated[
        float, typer.Option(metavar="X", min=0, help="Of the optimiser, on trained values.")
    ] = 0.0,
    seeds: Annotated[
        int, typer.Option(metavar="N", min=1, help="Trainings at the chosen rate, by seed.")
    ] = 1,
    draws: Annotated[int, typer.Option(metavar="N", min=1, help="Random sets.")] = 5,
    filter_rank: Annotated[
        int, typer.Option(metavar="N", min=1, help="Rank of the approximation of principal.")
    ] = 32,
    margin: Annotated[
        float,
        typer.Option(
            metavar="X", min=0, max=1, help="Decrease of the share refused that has to be excluded."
        ),
    ] = 0.05,
    write: Annotated[
        str | None,
        typer.Option(
            metavar="ARM", help="The arm whose change is written.  [default: the first sparse]"
        ),
    ] = None,
    common: TuneOptions,
) -> str:
    """Train located neurons of a model on answers such as refusals, next to random neurons, other
    weights, LoRA and all weights, and write the change as a sparse delta.

    All arms have equal steps; learning rates are chosen by arm on a selection split. The change is
    written only if refusals of harmful prompts are not fewer than before: the lower 95 % end of the
    difference lies above -margin. Otherwise nothing is written, and the exit code is 1.

    Example: interp tune ./model --located 1facf37b --data rows.jsonl --harmful harmful.txt
    --ordinary answers.jsonl --out ./delta
    """
    arguments = {**locals()}
    common.check()
    from interp.models.sources import find
    from interp.store import Store

    if find(tuned).changes_base:
        raise OptionError(
            f"{tuned} is a change of its base; merge it, save the merged model, and give that"
        )
    store = Store(common.store)
    runs = {name: _run(store, getattr(common, name)) for name in ("located", "other")}
    keys = {name: run.require_provenance().key for name, run in runs.items() if run is not None}
    request = _request(arguments | {"base": None}, keys)

    def compute(session: Session) -> list:
        from interp.analyzers.framework import Known
        from interp.analyzers.tune import Tune
        from interp.prompts import Contrast, OneClass, prompt_notes, read_prompts, read_task

        rows = OneClass(read_task(common.data, common.column, "data"))
        analyzer = Tune(
            located=runs["located"],
            rows=rows,
            other=runs["other"],
            arms=_arms(arms, common.other is not None),
            rates=_rates(rates),
            steps=steps,
            batch=batch,
            schedule=schedule,
            weight_decay=weight_decay,
            seeds=seeds,
            draws=draws,
            filter_rank=filter_rank,
            margin=margin,
            write=write or "",
        )
        analyzer.check(Known())
        prompts = Contrast(
            read_prompts(common.harmful, common.column, "harmful"),
            read_task(common.ordinary, common.column, "ordinary"),
        )
        specification = specification_of(common.behaviour, common.markers, common.store)
        pair = session.load(tuned, None)
        if common.tokenizer is not None:
            pair = common.templated(pair.with_tokenizer_of(common.tokenizer))
        study = replace(
            session.study(pair, prompts, specification.metric(pair.tokenizer)),
            max_new_tokens=common.max_new_tokens,
            answer_after=common.answer_after,
        )
        analyzer.require(study)
        session.note(
            study.counts,
            *study.notes,
            *prompt_notes([rows.positive]),
            *_run_notes(runs["located"], pair.digests["tuned"]),
        )
        run = session.store.run(analyzer, study)
        session.note(*run.summary["limits"])
        return [run]

    key = answer(request, f"Training what was located: {tuned}", compute)
    _write(store.get(key), tuned, common)
    return key


def _request(arguments: dict[str, Any], keys: dict[str, str]) -> Request:
    """The request; the folder to write is no input of it, runs are named by their whole keys, and
    the tokenizer is of a model.
    """
    request = Request.of("tune", arguments)
    files = {name: path for name, path in request.files.items() if name != "out"}
    options = {**request.options, **keys}
    models = {**request.models, "tokenizer": options.pop("tokenizer")}
    return replace(request, models=models, files=files, options=options)


def _run(store: Any, key: str | None) -> "Table | None":
    if key is None:
        return None
    run = store.get(key)
    if run.kind != "locate-neurons":
        raise OptionError(
            f"run {key} is of kind {run.kind}; give the key of a locate-neurons run (interp ls)"
        )
    return run


def _run_notes(located: "Table | None", digest: str) -> list[str]:
    """A note where the run was of other models: neurons of equal number need not correspond."""
    if located is None:
        return []
    provenance = located.require_provenance()
    if digest in (provenance.inputs.get("tuned"), provenance.inputs.get("base")):
        return []
    return [
        f"run {provenance.key} was located in {provenance.context['tuned']}, and neither that nor"
        " its base is the model to train: see that their neurons correspond (interp transfer)"
    ]


def _arms(text: str, with_other: bool) -> tuple[str, ...]:
    from interp.training.arms import ARMS, FULL, LORA, OTHER, SPARSE

    if text == ALL:
        return tuple(arm for arm in ARMS if with_other or arm != OTHER)
    arms = tuple(part.strip() for part in text.split(","))
    if set(arms) <= {LORA, FULL}:
        raise OptionError(
            f"--arms {text} has no arm with few weights, so nothing could be written; add one of"
            f" {', '.join(SPARSE)}"
        )
    return arms


def _rates(text: str | None) -> tuple[float, ...]:
    if text is None:
        return ()
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise OptionError(
            f"--rates {text!r} is not a list of numbers; write 1e-3,3e-3,1e-2"
        ) from error


def _require_empty(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OptionError(
            f"--out {out} exists already and is not an empty folder; give another, or remove it"
        )


def _write(run: "Table", name: str, common: TuneOptions) -> None:
    """Write the change that a run kept; raises RefusalsLost where it kept none."""
    from interp.analyzers.tune import entries_of
    from interp.atomic import complete_folder
    from interp.models.load import save_tokenizer
    from interp.models.sparse_delta import SparseDelta

    facts = run.summary["delta"]
    if not facts["kept"]:
        raise RefusalsLost(f"nothing was written to {common.out}: {facts['reason']}")
    base = str(Path(name).resolve()) if Path(name).is_dir() else name
    digest = run.require_provenance().inputs["tuned"]
    delta = SparseDelta(base, digest, facts["arm"], entries_of(run))
    with (
        reporting_os_errors("write", common.out, OptionError),
        complete_folder(common.out) as draft,
    ):
        delta.save(draft)
        if common.tokenizer is not None:
            save_tokenizer(common.tokenizer, draft)
    common.remark(
        f"wrote {common.out / 'delta.safetensors'}: {delta.size:,} weights of {facts['arm']}; give"
        f" {common.out} as TUNED to other commands"
    )
