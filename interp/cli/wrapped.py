"""``interp wrapped``: is the base's way of answering gone, or only hidden?"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli.common import takes
from interp.cli.prompt_options import CONTROL_HELP, PromptOptions, controls_on_demand, parse_numbers
from interp.cli.request_cache import Request
from interp.cli.runner import Session, answer
from interp.errors import OptionError, PromptError

VIEWS = ("pruning", "probes", "reversal", "conjugate")
ORGANISM = "organism:"


@takes(PromptOptions)
def command(
    tuned: Annotated[
        str, typer.Argument(metavar="TUNED", help="Directory, Hub id, adapter, or organism:NAME.")
    ],
    *,
    views: Annotated[
        str | None,
        typer.Option(
            metavar="VIEW,...",
            help="pruning, probes, reversal, conjugate; conjugate needs --styles, without it the"
            " others are made.",
        ),
    ] = None,
    control: Annotated[list[str] | None, typer.Option(metavar="MODEL", help=CONTROL_HELP)] = None,
    answer_tokens: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="Tokens of the base's greedy answers that have to return."
        ),
    ] = 24,
    score: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Order of pruning: signed (the published score) or absolute (Taylor pruning).",
        ),
    ] = "signed",
    weights: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Weights of a neuron in its score: output (its output column) or all (input rows"
            " too).",
        ),
    ] = "output",
    sizes: Annotated[
        str, typer.Option(metavar="N,N,...", help="Numbers of neurons to prune.")
    ] = "1,2,5,10,15,20,30,50,100",
    max_share: Annotated[
        float,
        typer.Option(
            metavar="X", min=0, max=1, help="Largest share of all neurons that counts as few."
        ),
    ] = 0.1,
    random_sets: Annotated[
        int, typer.Option(metavar="N", min=1, help="Random sets of the chosen size.")
    ] = 39,
    probed: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Prompts that are probed: changed (whose answer fine-tuning changed) or all.",
        ),
    ] = "changed",
    read_at: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Where the stream is read: prompt (its last token), or answer (after the base's"
            " answer up to the label).",
        ),
    ] = "prompt",
    label_token: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="Token of the base's answer that is the label; 0: the first that differs.",
        ),
    ] = 0,
    permutations: Annotated[
        int, typer.Option(metavar="N", min=19, help="Shuffles of the labels.")
    ] = 39,
    train: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="What is trained back: full (all weights) or adapter (a new LoRA).",
        ),
    ] = "full",
    learning_rate: Annotated[
        float | None,
        typer.Option(
            metavar="RATE",
            help="Learning rate; assumed where none is given: 0.0001 for full, 0.001 for adapter.",
        ),
    ] = None,
    steps: Annotated[
        str, typer.Option(metavar="N,N,...", help="Steps after which answers are read.")
    ] = "1,2,5,10,20,50,100",
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Prompts per step.")] = 8,
    level: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            min=0.01,
            max=1,
            help="Share of the changed answers that counts as their return.",
        ),
    ] = 0.9,
    styles: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Changes of register for conjugate prompting; shipped organisms bring theirs.",
        ),
    ] = None,
    exchanges: Annotated[
        int, typer.Option(metavar="N", min=19, help="Random exchanges of answers among prompts.")
    ] = 39,
    common: PromptOptions,
) -> str:
    """Ask whether fine-tuning removed the base's way of answering, or left it in place and hid it.

    Do the base's own greedy answers return when a few neurons are set to zero, can they still be
    read from the residual stream, do a few steps of training bring them back, and are they given in
    another register? Things are located, trained and chosen on half of the clusters of prompts and
    tested on the others. Models are trained in memory and never written.

    Example: interp wrapped organism:refusal/planted --base organism:refusal/base --prompts
    requests.jsonl --views pruning
    """
    shipped = None if styles else _shipped_styles(tuned)
    styles = styles or shipped
    arguments = {name: value for name, value in locals().items() if name != "shipped"}
    request = Request.of("wrapped", arguments)
    common.check()
    chosen = _views(views, styles)
    if common.remote and chosen != ["conjugate"]:
        raise OptionError("--remote cannot prune or train a model; run on this machine")

    def compute(session: Session) -> list:
        from interp.analyzers.framework import Known
        from interp.analyzers.wrapped_conjugate import WrappedConjugate
        from interp.analyzers.wrapped_probes import WrappedProbes
        from interp.analyzers.wrapped_pruning import WrappedPruning
        from interp.analyzers.wrapped_reversal import WrappedReversal
        from interp.prompts.registers import read_registers

        registers = read_registers(styles) if styles and "conjugate" in chosen else ()
        all_analyzers = {
            "pruning": WrappedPruning(
                score=score,
                weights=weights,
                sizes=parse_numbers(sizes, int, "--sizes"),
                max_share=max_share,
                random_sets=random_sets,
            ),
            "probes": WrappedProbes(
                probed=probed,
                read_at=read_at,
                label_token=label_token,
                permutations=permutations,
            ),
            "reversal": WrappedReversal(
                train=train,
                learning_rate=learning_rate,
                steps=parse_numbers(steps, int, "--steps"),
                batch=batch,
                level=level,
            ),
            "conjugate": WrappedConjugate(registers=registers, exchanges=exchanges),
        }
        analyzers = [all_analyzers[name] for name in chosen]
        for analyzer in analyzers:
            analyzer.check(Known())
        prompts = common.read()
        if shipped and views is None and not _any_fits(registers, prompts):
            session.note("no change of register that ships with this organism fits a prompt")
            analyzers.pop()
        pair = session.load(tuned, common.base, "the base's way of answering")
        controls = controls_on_demand(common, control, pair)
        analyzers = [replace(analyzer, controls=controls) for analyzer in analyzers]
        study = replace(session.study(pair, prompts), max_new_tokens=answer_tokens)
        for analyzer in analyzers:
            analyzer.require(study)
        runs = [session.store.run(analyzer, study) for analyzer in analyzers]
        limits = (line for run in runs for line in run.summary["limits"])
        session.note(study.counts, *study.notes, *limits)
        return runs

    return answer(request, f"Gone, or wrapped? {tuned}", compute)


def _shipped_styles(tuned: str) -> Path | None:
    """The changes of register that ship with an organism's family; None where there are none."""
    if not tuned.startswith(ORGANISM):
        return None
    from interp import organisms

    try:
        return organisms.prompts(tuned.removeprefix(ORGANISM), "text", "styles")
    except PromptError:
        return None


def _any_fits(registers: Sequence[Any], prompts: Any) -> bool:
    """Whether a rule of one of the registers fits a prompt."""
    texts = [text for group in prompts.classes for text in getattr(prompts, group).texts]
    return any(register.change(text) is not None for register in registers for text in texts)


def _views(text: str | None, styles: Path | None) -> list[str]:
    """The views that were asked for, by default all that can be made; OptionError for another."""
    if text is None:
        return [name for name in VIEWS if name != VIEWS[-1] or styles]
    names = [part.strip() for part in text.split(",")]
    if unknown := [name for name in names if name not in VIEWS]:
        raise OptionError(f"--views has {unknown[0]!r}; use {', '.join(VIEWS)}")
    if "conjugate" in names and styles is None:
        raise OptionError("the view conjugate needs changes of register; give --styles FILE")
    return [name for name in VIEWS if name in names]
