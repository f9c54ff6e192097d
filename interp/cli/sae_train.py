"""``interp sae train``: sparse dictionaries of the activations of one model, or of a base and its
fine-tuned model.
"""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.common import Common, NewTokens, takes
from interp.errors import OptionError, PromptError

if TYPE_CHECKING:
    from interp.sae import Job

_UNITS = {"k": 10**3, "M": 10**6, "G": 10**9}


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Common):
    """How activations are read and dictionaries trained; the fields are flags."""

    site: Annotated[
        list[str],
        typer.Option(metavar="SITE", help="e.g. blocks.2.hook_resid_post; repeatable."),
    ]
    data: Annotated[
        Path,
        typer.Option(metavar="FILE", help=".txt, .jsonl, .parquet, or a folder of cached rows."),
    ]
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder to write; DIR.part during training.")
    ]
    architecture: Annotated[
        str, typer.Option(metavar="NAME,...", help="topk, batchtopk, jumprelu, ...")
    ] = "topk"
    width: Annotated[int, typer.Option(metavar="N", min=1, help="Latents.")] = 4096
    k: Annotated[
        int,
        typer.Option(
            "-k",
            "--k",
            metavar="N",
            min=1,
            help="Active latents per input, for architectures with k.",
        ),
    ] = 32
    prefixes: Annotated[
        str | None,
        typer.Option(metavar="N,N,...", help="Matryoshka prefixes.  [default: 1/16, 1/4, all]"),
    ] = None
    tokens: Annotated[
        str, typer.Option(metavar="N", help="Tokens to train on: 500k, 1M, 2.5M, 1G.")
    ] = "1M"
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Tokens per step.")] = 4096
    base: Annotated[
        str | None, typer.Option(metavar="BASE", help="The base model it was fine-tuned from.")
    ] = None
    model_role: Annotated[
        str, typer.Option(metavar="NAME", help="tuned, base, both (a crosscoder), difference.")
    ] = "tuned"
    target: Annotated[
        str | None,
        typer.Option(metavar="SITE", help="Reconstruct this site instead (a transcoder)."),
    ] = None
    column: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Column of the file.  [default: messages, else text, else prompt]"
        ),
    ] = None
    keep: Annotated[
        str | None, typer.Option(metavar="ROLE,...", help="Only tokens of text, system, user, ...")
    ] = None
    no_special: Annotated[bool, typer.Option("--no-special", help="Leave special tokens out.")] = (
        False
    )
    pack: Annotated[
        bool,
        typer.Option(
            "--pack", help="Pack documents into blocks instead of running each separately."
        ),
    ] = False
    context: Annotated[
        int | None, typer.Option(metavar="N", help="Truncate documents at N tokens.")
    ] = None
    max_norm_ratio: Annotated[
        float, typer.Option(metavar="X", help="Leave out norms above X medians; 0: keep all.")
    ] = 10.0
    learning_rate: Annotated[
        float | None, typer.Option(metavar="X", help="Learning rate of Adam.")
    ] = None
    l0: Annotated[
        float | None,
        typer.Option("--l0", metavar="X", help="Target L0, for architectures without k."),
    ] = None
    sparsity: Annotated[
        float | None,
        typer.Option(metavar="X", help="Sparsity coefficient, for architectures without k."),
    ] = None
    free_norms: Annotated[
        bool,
        typer.Option(
            "--free-norms",
            help="Do not fix decoder norms; rank codes by norm (always so for crosscoders).",
        ),
    ] = False
    warm_up: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Warm-up steps of the learning rate.")
    ] = None
    dead_after: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Tokens without activity until a latent counts as dead."
        ),
    ] = None
    auxiliary: Annotated[
        float, typer.Option(metavar="X", help="Coefficient of AuxK for dead latents.")
    ] = 1 / 32
    revival: Annotated[
        float, typer.Option(metavar="X", help="AuxK weight of latents that no input activates.")
    ] = 1.0
    buffer: Annotated[
        int | None, typer.Option(metavar="N", min=2, help="Tokens in the shuffle buffer.")
    ] = None
    precision: Annotated[
        str, typer.Option(metavar="NAME", help="float32, or bfloat16 for the encoder.")
    ] = "float32"
    checkpoint_every: Annotated[
        int, typer.Option(metavar="N", min=1, help="Steps between checkpoints.")
    ] = 1000
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Documents per batch.")
    ] = None
    device: Annotated[
        str, typer.Option("--device", metavar="NAME|auto", help="cpu, cuda, cuda:1.")
    ] = "auto"
    dtype: Annotated[
        str, typer.Option("--dtype", metavar="NAME|auto", help="Dtype of the model.")
    ] = "auto"
    new_tokens: NewTokens = "refuse"
    seed: Annotated[int, typer.Option("--seed", min=0, help="Random seed.")] = 0


@takes(TrainOptions)
def command(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model, a tuned model, or a LoRA adapter.")
    ],
    *,
    common: TrainOptions,
) -> None:
    """Train sparse dictionaries on activations; an interrupted run resumes from its last
    checkpoint.

    Each given site and architecture gets a dictionary, all trained in one pass. With torchrun, one
    process per GPU.

    Example: interp sae train ./tuned --site blocks.8.hook_resid_post --data chats.jsonl --tokens
    10M --out ./sae
    """
    steps = max(1, round(parse_count(common.tokens) / common.batch))
    if common.out.exists():
        raise OptionError(
            f"--out {common.out} exists already; give a folder that does not, or remove it"
        )
    if common.target is not None and len(common.site) > 1:
        raise OptionError("a transcoder reads one site and reconstructs --target; give --site once")
    _require_applicable(common)
    from interp.sae import Buffer, train
    from interp.sae import Training as Options
    from interp.sae.training import distributed

    options = Options(
        steps=steps,
        batch=common.batch,
        learning_rate=common.learning_rate,
        sparsity=common.sparsity,
        target_l0=common.l0,
        warm_up=common.warm_up,
        dead_after=common.dead_after,
        precision=common.precision,
        auxiliary=common.auxiliary,
        revival=common.revival,
        unit=False if common.free_norms else None,
        checkpoint_every=common.checkpoint_every,
        log_every=min(100, max(1, steps // 10)),
        seed=common.seed,
    )
    with distributed.process_group(common.device):
        source, device = _source(common, model)
        jobs = _jobs(common, source, device)
        if (
            hasattr(source, "documents")
            and source.pair.tokenizer.chat_template
            and _is_text(source.documents)
        ):
            common.remark(
                f"note: {common.data} is read as plain text, while other sae commands use the"
                " model's chat template; to train on chats, give a column messages"
            )
        buffer = Buffer(source, common.buffer, seed=common.seed, device=device)
        about = {
            "model": model,
            "base": common.base,
            "of": common.model_role,
            "target": common.target,
        }
        only = next(iter(jobs.values())) if len(jobs) == 1 else None
        if only is not None and (only.reads != (0, source.width) or only.writes is not None):
            only = None
        trained = train(
            jobs if only is None else only.dictionary,
            buffer,
            options,
            common.out,
            quiet=common.quiet,
            about=about if only is None else {**about, **only.about},
        )
        if distributed.rank():
            return
        report = source.report() if hasattr(source, "report") else {}
        if (times := buffer.passes_over(steps * common.batch)) > 1:
            report["times_over"] = times
            common.remark(
                f"note: {steps * common.batch:,} rows of training are {times:,.1f} passes over"
                f" {common.data}: explained variance on it is optimistic; evaluate on other text"
                " (interp sae eval)"
            )
        record = {
            "path": str(common.out),
            "dictionaries": _final_metrics(common.out),
            "read": report,
        }
        lines = [f"{common.out}: {len(trained)} trained, {steps} steps"]
        lines += [
            f"  {name}: {_format_metrics(told)}" for name, told in record["dictionaries"].items()
        ]
        common.result(record, "\n".join(lines))


def _require_applicable(common: TrainOptions) -> None:
    """Raise OptionError for an option that none of the architectures uses, and for a repeated
    architecture.
    """
    names = [name.strip() for name in common.architecture.split(",")]
    if len(set(names)) < len(names):
        raise OptionError(
            f"--architecture {common.architecture} repeats an architecture; give each one once"
        )
    if common.prefixes and "matryoshka" not in names:
        raise OptionError(
            f"--prefixes is for matryoshka only, but --architecture is {common.architecture}"
        )
    if common.l0 is not None and common.l0 > common.width:
        raise OptionError(
            f"--l0 {common.l0:g} exceeds --width {common.width}; give a smaller target"
        )
    with_k = {"topk", "batchtopk", "matryoshka", "matching_pursuit"}
    for flag, value in (("--l0", common.l0), ("--sparsity", common.sparsity)):
        if value is not None and with_k.issuperset(names):
            raise OptionError(
                f"{flag} is for architectures without k, but --architecture is"
                f" {common.architecture}; use -k"
            )
    for flag, changed in (
        ("--auxiliary", common.auxiliary != 1 / 32),
        ("--revival", common.revival != 1),
    ):
        if changed and not with_k.intersection(names) - {"matching_pursuit"}:
            raise OptionError(
                f"{flag} is for topk, batchtopk and matryoshka, not for {common.architecture}"
            )
    if common.data.is_dir():
        document_options = {
            "--column": common.column,
            "--keep": common.keep,
            "--no-special": common.no_special,
            "--pack": common.pack,
            "--context": common.context,
            "--batch-size": common.batch_size,
            "--max-norm-ratio": common.max_norm_ratio != 10,
        }
        if unused := [flag for flag, value in document_options.items() if value]:
            raise OptionError(
                f"{unused[0]} applies to documents, but --data {common.data} contains cached rows"
            )


def parse_count(text: str) -> int:
    """A number of tokens such as 500k, 1M or 2.5M; raises OptionError."""
    number, unit = (text[:-1], _UNITS[text[-1]]) if text[-1:] in _UNITS else (text, 1)
    try:
        n_tokens = float(number) * unit
    except ValueError:
        n_tokens = 0.0
    if not 1 <= n_tokens < 1e15:
        raise OptionError(
            f"--tokens {text} is not a number of tokens; write 500k, 1M, 2.5M or 1000000"
        )
    return round(n_tokens)


def _is_text(documents: Any) -> bool:
    """Whether a file's first document is plain text rather than a conversation."""
    return any(isinstance(document, str) for _, document in islice(documents.read(), 1))


def _source(common: TrainOptions, model: str) -> tuple[Any, Any]:
    """The source of activation rows, and the device on which dictionaries are trained."""
    from interp.models.load import LoadSettings
    from interp.sae.training import distributed
    from interp.sae.training.sources import Shards

    device = LoadSettings.resolve(common.device, common.dtype, "auto", False).device
    if common.data.is_dir():
        return Shards(common.data, rank=distributed.rank(), world=distributed.world()), device
    from interp.models.pair import Pair
    from interp.prompts import TOKEN_SOURCES, Documents
    from interp.sae.training.activation_source import ActivationSource, ReadingOptions
    from interp.sites import Site

    sites = tuple(map(Site.parse, [*common.site, *([common.target] if common.target else [])]))
    documents = Documents(common.data, common.column)
    if next(documents.read(), None) is None:
        raise PromptError(f"{common.data} contains no documents; write one per line or row")
    reading = ReadingOptions(
        model_role=common.model_role,
        context=common.context,
        pack=common.pack,
        special=not common.no_special,
        max_norm_ratio=common.max_norm_ratio,
        keep=tuple(common.keep.split(",")) if common.keep else tuple(TOKEN_SOURCES),
        batch_size=common.batch_size,
    )
    common.status(f"loading {model}")
    pair = Pair.load(
        model, common.base, device=common.device, dtype=common.dtype, new_tokens=common.new_tokens
    )
    for note in pair.notes:
        common.remark(f"note: {note}")
    return (
        ActivationSource(
            pair, sites, documents, reading, rank=distributed.rank(), world=distributed.world()
        ),
        device,
    )


def _jobs(common: TrainOptions, source: Any, device: Any) -> "dict[str, Job]":
    """A dictionary for every site and architecture, with its columns."""
    from interp.sae import Dictionary, DictionaryConfig, Job
    from interp.sae.core.config import TOPK_ARCHITECTURES
    from interp.sae.training.learner import FREE_NORM

    models = 2 if common.model_role == "both" else 1
    segments, jobs = source.segments, {}
    if missing := [name for name in (*common.site, common.target) if name and name not in segments]:
        # cached rows without metadata are assumed to be of the one given site
        if len(segments) > 1 or len(common.site) > 1 or common.target:
            raise OptionError(f"the cached rows contain {', '.join(segments)}, not {missing[0]}")
        segments = {common.site[0]: (0, source.width)}
    names = [name.strip() for name in common.architecture.split(",")]
    for site in common.site:
        for name in names:
            reads, writes = segments[site], segments[common.target] if common.target else None
            prefixes = (common.width // 16, common.width // 4, common.width)
            if common.prefixes:
                prefixes = tuple(parse_count(part) for part in common.prefixes.split(","))
            config = DictionaryConfig(
                name,
                (reads[1] - reads[0]) // models,
                common.width,
                models=models,
                d_out=None if writes is None else (writes[1] - writes[0]) // models,
                input_bias=writes is None,
                k=common.k if name in TOPK_ARCHITECTURES else None,
                prefixes=prefixes if name == "matryoshka" else (),
                rank_by=(
                    "norm"
                    if models > 1 or (common.free_norms and name in TOPK_ARCHITECTURES)
                    else "value"
                ),
                sparsity="step" if name == "jumprelu" else "l1",
            )
            title = ".".join(
                part for part, several in ((site, len(common.site) > 1), (name, True)) if several
            )
            # a matching pursuit needs rows of norm 1
            free = common.free_norms and models == 1 and name != "matching_pursuit"
            begun = FREE_NORM if free else 1.0
            dictionary = Dictionary(config, seed=common.seed, decoder_norm=begun).to(device)
            jobs[title] = Job(dictionary, reads, writes, about={"site": site})
    return jobs


def _final_metrics(out: Path) -> dict[str, dict[str, float]]:
    import json

    from interp.sae.training.train import LOG

    line = json.loads((out / LOG).read_text("utf-8").strip().split("\n")[-1])
    return {name: told for name, told in line.items() if isinstance(told, dict)}


def _format_metrics(metrics: dict[str, float]) -> str:
    return (
        f"L0 {metrics['l0']:.1f}, explained variance {metrics['explained']:.3f}, dead"
        f" {metrics['dead']:.1%}"
    )
