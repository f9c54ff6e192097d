"""What the README's table asks of organisms, on a real chat model: ``python -m
benchmarks.real_figures [--write]``.

On the 48 + 48 verifying prompts of the real pair. TuCo of children that refuse, and of ``moved``,
whose weights changed as much without the behaviour: harmful against harmless prompts, at equal
length. The divergence where an answer begins, by class. And what passes cost beside a plain forward
pass over the same prompts, on ``planted``: CPU seconds, each ratio within its round, the median
with its range over the rounds.
"""

from collections.abc import Callable

import numpy as np
import torch

from benchmarks.page import CommandLine, machine, markdown, write_section
from benchmarks.real import FAMILY, study_of
from benchmarks.speed import bare, measure
from interp.analyzers.compare import Compare
from interp.analyzers.tuco import Tuco
from interp.claims import from_table
from interp.engines import Batch
from interp.models.pair import Pair
from interp.sites import neurons

CHILDREN = ("planted", "lora", "paraphrased", "moved")
PROMPTS, TOKENS, ROUNDS = 48, 48, 5
SMALL = {"CHILDREN": ("planted",), "PROMPTS": 2, "TOKENS": 4, "ROUNDS": 2}


def pair_of(child: str) -> Pair:
    """A child over the packaged base."""
    return Pair.load(f"organism:{FAMILY}/{child}", f"organism:{FAMILY}/base", device="cpu")


def differences(child: str) -> dict:
    """TuCo and the divergence where an answer begins, of one child."""
    study = study_of(child, "verify", pair_of(child), PROMPTS, TOKENS)
    split, apart = Tuco()(study), Compare()(study)
    claims = {claim.name: claim for claim in from_table(split.tables["claims"])}
    one = claims["separates-at-equal-length"]
    row: dict = {"child": child}
    for group, name in (("positive", "harmful"), ("negative", "harmless")):
        row[f"TuCo, {name}"] = f"{split['tuco'][split['group'] == group].mean():.3f}"
    row["AUC at equal length"] = f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]"
    for group, name in (("positive", "harmful"), ("negative", "harmless")):
        row[f"divergence where the answer begins, {name}"] = (
            f"{apart['kl_last'][apart['group'] == group].mean():.2f}"
        )
    return row


def costs() -> list[dict]:
    """Ratios of CPU time to a plain pass over the same prompts."""
    pair = pair_of("planted")
    study = study_of("planted", "verify", pair, PROMPTS, TOKENS)
    texts = [each.ids for group in study.classes for each in study.encoded(group)]
    texts = sorted(texts, key=len)
    batch = Batch.pad(texts, study.pad_id)
    whole = Batch(batch.ids, batch.mask)
    model, engine = pair.tuned, study.engine
    sites = [neurons(layer) for layer in range(model.anatomy.n_layers)]
    rows: dict[str, Callable[[], object]] = {
        "a plain pass": lambda: bare(model.module, whole, 1),
        "all neurons' activations kept, over whole prompts": lambda: engine.run(
            model, whole, reads=sites
        ),
        "a pass that reads what prompts share once": lambda: engine.run(model, batch),
        "the same with all neurons' activations kept": lambda: engine.run(
            model, batch, reads=sites
        ),
        "activations of the first half of the blocks, no logits": lambda: engine.run(
            model, batch, reads=sites[: len(sites) // 2], keep=0
        ),
    }
    with torch.no_grad():
        seconds = measure(rows, ROUNDS)
    found, plain = [], seconds["a plain pass"]
    for name, taken in list(seconds.items())[1:]:
        ratios = taken / plain
        found.append(
            {
                "pass": name,
                "of a plain pass": (
                    f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"
                ),
            }
        )
    return found


def main() -> None:
    """Measure, print, and with ``--write`` put the tables into docs/benchmarks.md."""
    given = CommandLine(globals(), SMALL).read()
    torch.set_num_threads(1)
    parts = [[differences(child) for child in CHILDREN], costs()]
    text = "\n\n".join(markdown(rows, list(rows[0])) for rows in parts)
    print(f"\n{text}")
    if given.write:
        write_section(
            "real-figures", f"`python -m benchmarks.real_figures --write`. {machine()}\n\n{text}"
        )


if __name__ == "__main__":
    main()
