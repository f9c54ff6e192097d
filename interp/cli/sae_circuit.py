"""``interp sae-circuit``: which heads have codes that only the fine-tuned model's runs show?"""

import json
import re
from pathlib import Path
from typing import Annotated

import typer

from interp.cli.common import takes
from interp.cli.prompt_options import CONTROL_HELP, PromptOptions, controls_on_demand
from interp.cli.request_cache import Request
from interp.cli.runner import Session, answer
from interp.errors import OptionError

HEAD = re.compile(r"(\d+)\.(\d+)")
SHAPE = "heads as LAYER.HEAD, such as 9.6,9.9, or a file of them or of JSON pairs, [[9, 6], ...]"


@takes(PromptOptions)
def command(
    tuned: Annotated[
        str, typer.Argument(metavar="TUNED", help="Directory, Hub id, adapter, or organism:NAME.")
    ],
    *,
    comparison: Annotated[
        str,
        typer.Option(metavar="NAME", help="Positives against negatives: models, prompts or auto."),
    ] = "auto",
    heads: Annotated[
        str | None,
        typer.Option(metavar="LIST|FILE", help="Heads of a known circuit: 9.6,9.9 or a file."),
    ] = None,
    control: Annotated[list[str] | None, typer.Option(metavar="MODEL", help=CONTROL_HELP)] = None,
    reduce: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Head outputs of a prompt: mean over its tokens, or last."
        ),
    ] = "mean",
    width: Annotated[
        int, typer.Option(metavar="N", min=2, help="Latents of the autoencoder.")
    ] = 200,
    sparsity: Annotated[
        float, typer.Option(metavar="X", min=0, help="Coefficient of the L1 of codes.")
    ] = 0.02,
    learning_rate: Annotated[float, typer.Option(metavar="X", min=0, help="Rate of Adam.")] = 1e-3,
    epochs: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Steps of training, each on all training rows."),
    ] = 500,
    training_examples: Annotated[
        int, typer.Option(metavar="N", min=1, help="Runs that an autoencoder is trained on.")
    ] = 10,
    trials: Annotated[
        int, typer.Option(metavar="N", min=1, help="Autoencoders, each with examples of its own.")
    ] = 10,
    scale: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Head outputs: none, or rms, divided by their root mean square.",
        ),
    ] = "none",
    edges: Annotated[bool, typer.Option(help="Score pairs of heads too.")] = True,
    draws: Annotated[
        int, typer.Option(metavar="N", min=1, help="Permutations of the labels.")
    ] = 200,
    common: PromptOptions,
) -> str:
    """Turn every head's output on a prompt into its strongest latent in one small autoencoder, and
    count the codes that positive runs show and negative runs never do.

    Positive runs are the fine-tuned model's and negative ones the base's (--prompts), or both are
    the fine-tuned model's, on two sets of prompts (--positive, --negative). The counts are
    compared with labels permuted among clusters, and with control fine-tunes (--control).

    Example: interp sae-circuit ./tuned --base ./base --prompts prompts.txt --control
    ./controls/seed-0/matched
    """
    circuit = read_heads(heads)
    if heads is not None:
        heads = ",".join(f"{layer}.{head}" for layer, head in circuit)  # a file by its content
    request = Request.of("sae-circuit", _options(locals()))
    common.check()
    if common.remote:
        raise OptionError("--remote cannot read output projections; run sae-circuit here")

    def compute(session: Session) -> list:
        from interp.analyzers.framework import Known
        from interp.analyzers.sae_circuit import SaeCircuit

        options = {
            "comparison": comparison,
            "heads": circuit,
            "reduce": reduce,
            "width": width,
            "sparsity": sparsity,
            "learning_rate": learning_rate,
            "epochs": epochs,
            "training_examples": training_examples,
            "trials": trials,
            "scale": scale,
            "edges": edges,
            "draws": draws,
        }
        analyzer = SaeCircuit((), **options)
        analyzer.check(Known())
        prompts = common.read()
        mode = analyzer.mode(len(prompts.classes))
        if control and mode == "prompts":
            raise OptionError(
                "--control is compared with the base, and two classes of prompts are read by one"
                " model; add --comparison models, or leave --control out"
            )
        needed = "" if mode == "prompts" else "sae-circuit with --prompts"
        pair = session.load(tuned, common.base, needed)
        analyzer = SaeCircuit(controls_on_demand(common, control, pair), **options)
        study = session.study(pair, prompts)
        analyzer.require(study)
        session.note(study.counts, *study.notes)
        run = session.store.run(analyzer, study)
        session.note(*run.summary["limits"])
        return [run]

    return answer(request, f"Codes of heads: {tuned}", compute)


def _options(arguments: dict) -> dict:
    """What was given, without what is derived from it."""
    return {name: value for name, value in arguments.items() if name != "circuit"}


def read_heads(listed: str | None) -> tuple[tuple[int, int], ...]:
    """Heads as (layer, head), each once, from a list or a file; OptionError for anything else."""
    if listed is None:
        return ()
    path = Path(listed).expanduser()
    text, source = listed, f"--heads {listed!r}"
    is_list = all(HEAD.fullmatch(part.strip()) for part in listed.split(","))
    if not is_list:
        try:
            text, source = path.read_text(encoding="utf-8"), f"--heads {listed}"
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise OptionError(f"cannot read {source}: {reason}; give {SHAPE}") from error
    pairs = _json_pairs(text)
    if pairs is None:
        parts = [part for part in re.split(r"[\s,]+", text) if part]
        matches = [HEAD.fullmatch(part) for part in parts]
        wrong = [part for part, match in zip(parts, matches, strict=True) if match is None]
        if wrong:
            raise OptionError(f"{source} has {wrong[0][:40]!r}, which is not a head; give {SHAPE}")
        pairs = [(int(match[1]), int(match[2])) for match in matches if match]
    if not pairs:
        raise OptionError(f"{source} lists no head; give {SHAPE}")
    return tuple(dict.fromkeys(pairs))


def _json_pairs(text: str) -> list[tuple[int, int]] | None:
    """Pairs of a JSON list of lists; None for other text."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    is_list = isinstance(value, list) and all(
        isinstance(pair, list)
        and len(pair) == 2
        and all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in pair)
        for pair in value
    )
    return [(pair[0], pair[1]) for pair in value] if is_list else None
