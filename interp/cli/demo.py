"""``interp demo``: the main path on a shipped pair whose tuned neurons are known."""

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from interp import organisms
from interp.cli import locate_neurons
from interp.cli.common import RuntimeOptions, takes
from interp.store import Store


@dataclass(frozen=True)
class DemoSettings:
    """A pair, how many neurons are selected, how many prompts a class locate and verify, and how
    many are controls.

    ``tokens``: how long answers may become.
    """

    child: str
    base: str
    top: int
    prompts: int = 48
    control_prompts: int = 32
    tokens: int = 48


# enough for every interval to exclude its control, within two minutes on two cores
SMALL = DemoSettings("refusal/planted", "refusal/base", 30)
# a refusal is decided within its first sentence
REAL = DemoSettings("smollm2/planted", "smollm2/base", 60, control_prompts=24, tokens=24)


@takes(RuntimeOptions)
def command(
    *,
    real: Annotated[
        bool,
        typer.Option(
            "--real", help="On a real chat model of 135 million parameters; takes far longer."
        ),
    ] = False,
    common: RuntimeOptions,
) -> None:
    """Find and verify the neurons behind a planted refusal, in a shipped pair, without a network.

    With --real the base is SmolLM2-135M-Instruct, which another package ships: `interp organisms
    --real` says how to get it. There it takes about nine minutes on two cores, and an estimate
    is printed first. If interrupted, run it again to resume.
    """
    settings = REAL if real else SMALL
    common.remark(
        f"organism:{settings.child} refuses harmful requests, organism:{settings.base} answers"
        " them: which neurons do?"
    )
    files: dict[str, Any] = {
        f"{prefix}{side}": organisms.prompts(settings.child, split, group)
        for prefix, split in (("", "locate"), ("verify_", "verify"))
        for side, group in (("positive", "harmful"), ("negative", "harmless"))
    }
    key = locate_neurons.command(
        tuned=f"organism:{settings.child}",
        base=f"organism:{settings.base}",
        top=str(settings.top),
        max_prompts=settings.prompts,
        control_prompts=settings.control_prompts,
        max_new_tokens=settings.tokens,
        **files,
        **vars(common),
    )
    if not common.as_json:
        table = Store(common.store).get(key)
        planted = {tuple(pair) for pair in organisms.planted(settings.child)["refusal"]}
        chosen = {(row["layer"], row["neuron"]) for row in table.rows() if row["selected"]}
        hits = len(chosen & planted)
        print(
            f"planted:  {hits} of the {len(chosen)} selected are among the {len(planted)} that were"
            f" trained; the weights of the other {len(chosen) - hits} did not change, their inputs"
            " did, and so what they contribute"
        )
