"""``interp demo``: the main path on a shipped pair whose tuned neurons are known."""

from typing import Any

from interp import organisms
from interp.cli import locate_neurons
from interp.cli.common import Running, takes
from interp.store import Store

CHILD, BASE = "refusal/planted", "refusal/base"
# enough for every interval to exclude its control, within two minutes on two cores
PROMPTS_PER_CLASS, CONTROL_PROMPTS = 48, 32


@takes(Running)
def command(*, common: Running) -> None:
    """Find and verify the neurons behind a planted refusal, in a shipped pair, without a network."""
    common.remark(f"organism:{CHILD} refuses harmful requests, organism:{BASE} answers them: which neurons do it?")
    files: dict[str, Any] = {
        f"{prefix}{side}": organisms.prompts(CHILD, split, group)
        for prefix, split in (("", "locate"), ("verify_", "verify"))
        for side, group in (("positive", "harmful"), ("negative", "harmless"))
    }
    key = locate_neurons.command(
        tuned=f"organism:{CHILD}",
        base=f"organism:{BASE}",
        top="30",
        max_prompts=PROMPTS_PER_CLASS,
        control_prompts=CONTROL_PROMPTS,
        **files,
        **vars(common),
    )
    if not common.as_json:
        table = Store(common.store).get(key)
        planted = {tuple(pair) for pair in organisms.planted(CHILD)["refusal"]}
        chosen = {(row["layer"], row["neuron"]) for row in table.rows() if row["selected"]}
        hits = len(chosen & planted)
        print(
            f"planted:  {hits} of the {len(chosen)} selected are among the {len(planted)} that were trained; the "
            f"weights of the other {len(chosen) - hits} did not change, their inputs did, and so what they contribute"
        )
