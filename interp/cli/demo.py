"""``interp demo``: the main path on a shipped pair whose tuned neurons are known."""

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from interp import organisms
from interp.cli import locate_neurons
from interp.cli.common import RuntimeOptions, takes
from interp.store import Store


@dataclass(frozen=True)
class Shown:
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
SMALL = Shown("refusal/planted", "refusal/base", 30)
# a refusal is decided within its first sentence
REAL = Shown("smollm2/planted", "smollm2/base", 60, control_prompts=24, tokens=24)


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
    --real` says how to get it. There it takes ten to twelve minutes on two cores, and says how many
    before it begins; stopped, it goes on.
    """
    shown = REAL if real else SMALL
    common.remark(
        f"organism:{shown.child} refuses harmful requests, organism:{shown.base} answers them:"
        " which neurons do?"
    )
    files: dict[str, Any] = {
        f"{prefix}{side}": organisms.prompts(shown.child, split, group)
        for prefix, split in (("", "locate"), ("verify_", "verify"))
        for side, group in (("positive", "harmful"), ("negative", "harmless"))
    }
    key = locate_neurons.command(
        tuned=f"organism:{shown.child}",
        base=f"organism:{shown.base}",
        top=str(shown.top),
        max_prompts=shown.prompts,
        control_prompts=shown.control_prompts,
        max_new_tokens=shown.tokens,
        **files,
        **vars(common),
    )
    if not common.as_json:
        table = Store(common.store).get(key)
        planted = {tuple(pair) for pair in organisms.planted(shown.child)["refusal"]}
        chosen = {(row["layer"], row["neuron"]) for row in table.rows() if row["selected"]}
        hits = len(chosen & planted)
        print(
            f"planted:  {hits} of the {len(chosen)} selected are among the {len(planted)} that were"
            f" trained; the weights of the other {len(chosen) - hits} did not change, their inputs"
            " did, and so what they contribute"
        )
