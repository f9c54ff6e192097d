"""``interp demo``: the main path on a shipped pair whose tuned neurons are known."""

from interp import organisms
from interp.cli import locate_neurons
from interp.cli.common import Running, takes

CHILD, BASE = "refusal/planted", "refusal/base"
PROMPTS_PER_CLASS = 64  # enough for every interval to exclude its control, within two minutes on two cores


@takes(Running)
def command(*, common: Running) -> None:
    """Find and verify the neurons behind a planted refusal, in a shipped pair, without a network."""
    common.remark(f"organism:{CHILD} refuses harmful requests, organism:{BASE} answers them: which neurons do it?")
    files = {
        f"{prefix}{side}": organisms.prompts(CHILD, split, group)
        for prefix, split in (("", "locate"), ("verify_", "verify"))
        for side, group in (("positive", "harmful"), ("negative", "harmless"))
    }
    locate_neurons.command(
        tuned=f"organism:{CHILD}", base=f"organism:{BASE}", max_prompts=PROMPTS_PER_CLASS, **files, **vars(common)
    )
