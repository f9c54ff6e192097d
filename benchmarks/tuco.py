"""TuCo: ``python -m benchmarks.tuco [--write] [--work]``. What splitting the tuned stream costs;
what organisms give.

Cost: the random models of ``benchmarks.speed``, 8 prompts of 64 tokens, one thread; CPU seconds,
each ratio taken within its round, the median over rounds with its exact interval (order
statistics). Values: every organism of refusal on shipped verify prompts, compared with the control.
Work: multiplications and additions of the same passes, counted; the same on every machine, and all
that ``--work`` asks for.
"""

import copy
from collections.abc import Callable

import numpy as np
import torch
from scipy.stats import quantile_test
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.page import CommandLine, machine, markdown, write_section
from benchmarks.speed import FAMILIES, PROMPTS, TOKENS, bare, encoded, gpt2, measure
from interp import organisms
from interp.analyzers.ftc_alpha import FtcAlpha
from interp.analyzers.tuco import Tuco
from interp.claims import from_table
from interp.engines import Batch, TorchEngine
from interp.engines.coupled_forward import coupled_forward
from interp.experiments.tuning_decomposition import Path, TunedStream, base_stream_ends, decompose
from interp.metrics import Refusal
from interp.models.model import Model
from interp.models.pair import Pair
from interp.prompts import Contrast, read_prompts
from interp.study import Study

ROUNDS, LIMIT, SCALED = 9, 96, 32
ORGANISMS = tuple(
    name for name in organisms.names() if organisms.base_of(name) and name.startswith("refusal/")
)
SMALL = {
    "ROUNDS": 2,
    "LIMIT": 12,
    "SCALED": 4,
    "ORGANISMS": ("refusal/planted",),
    "PROMPTS": 2,
    "TOKENS": 8,
    "FAMILIES": {"gpt2": lambda: gpt2(layers=2)},
}


def passes(name: str) -> dict[str, Callable[[], object]]:
    """What is timed and counted of one family; the first two are forward passes."""
    module = FAMILIES[name]().eval()
    engine, tuned, base = (
        TorchEngine(),
        Model.wrap("tuned", module),
        Model.wrap("base", copy.deepcopy(module)),
    )
    with torch.no_grad():
        for parameter in base.module.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    batch = Batch.pad([item.ids for item in encoded(PROMPTS, TOKENS, module.config.vocab_size)], 0)
    kept = TunedStream.read(engine, tuned, batch)

    def split(path: Path, output: bool = False) -> None:
        # beta, which the full path gives, is over all tokens
        stream = TunedStream.read(engine, tuned, batch, "last" if path == "fast" else "all", path)
        decompose(engine, base, stream, lambda *_: None, path=path)
        if output:
            base_stream_ends(engine, base, stream, path)

    def scaled() -> None:
        with coupled_forward(tuned, base, [0.5] * tuned.anatomy.n_layers):
            engine.run(tuned, batch, keep=1)

    return {
        "forward, all logits": lambda: bare(module, batch, None),
        "forward, last token's logits": lambda: bare(module, batch, 1),
        "the base's part alone, fast": lambda: decompose(
            engine, base, kept, lambda *_: None, path="fast"
        ),
        "TuCo, fast path": lambda: split("fast"),
        "TuCo, full path": lambda: split("full"),
        "TuCo and OutputCo, fast path": lambda: split("fast", True),
        "TuCo and OutputCo, full path": lambda: split("full", True),
        "one pass at another strength": scaled,
    }


def costs(name: str) -> list[dict]:
    """Ratios of time to a forward pass of one family."""
    rows = passes(name)
    seconds, found = measure(rows, ROUNDS), []
    for what in list(rows)[2:]:
        row = {"model": name, "what": what}
        for of in list(rows)[:2]:
            ratios = seconds[what] / seconds[of]
            low, high = quantile_test(ratios, p=0.5).confidence_interval()
            row[f"of a {of}"] = f"{np.median(ratios):.2f} [{low:.2f}, {high:.2f}]"
        found.append(row)
    return found


def work(name: str) -> list[dict]:
    """Ratios of multiplications and additions to a forward pass of one family."""
    counts = {}
    for what, run in passes(name).items():
        # the fused attention kernel of a CPU is not counted; written out it is
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            run()
        counts[what] = counter.get_total_flops()
    forwards = list(counts)[:2]
    return [
        {
            "model": name,
            "what": what,
            **{f"of a {of}": f"{count / counts[of]:.3f}" for of in forwards},
        }
        for what, count in counts.items()
        if what not in forwards
    ]


def values() -> list[dict]:
    """TuCo, its floor, AUC, AUC at equal length and beside its controls, and where the refusal
    comes in.
    """
    contrast = Contrast(
        *(read_prompts(organisms.prompts("refusal", "verify", g)) for g in ("harmful", "harmless"))
    )
    contrast, rows, base = contrast.limit(LIMIT), [], "organism:refusal/base"
    control = Pair.load("organism:refusal/sham", base, device="cpu")
    for name in ORGANISMS:
        pair = Pair.load(f"organism:{name}", base, device="cpu")
        table = Tuco(controls=(control,))(Study(pair, contrast, None))
        claims = {claim.name: claim for claim in from_table(table.tables["claims"])}
        groups = [
            table["tuco"][table["group"] == group].mean() for group in ("positive", "negative")
        ]
        scaling = FtcAlpha((0.0, 0.25, 0.5, 0.75, 1.0, 1.25), 24)(
            Study(pair, contrast.limit(SCALED), Refusal.from_tokenizer(pair.tokenizer))
        )
        positive = (scaling["group"] == "positive") & (scaling["way"] == "blocks")
        refused = " ".join(f"{share:.0%}" for share in scaling["refused"][positive])
        rows.append(
            {
                "organism": name,
                "TuCo harmful": f"{groups[0]:.3f}",
                "TuCo harmless": f"{groups[1]:.3f}",
                "OutputCo": f"{table['output_co'].mean():.3f}",
                "rounding": f"{table.summary['noise_floor']:.0e}",
                **{
                    heading: (
                        f"{claims[key].value:.2f} [{claims[key].low:.2f}, {claims[key].high:.2f}]"
                    )
                    for heading, key in (
                        ("AUC", "separates"),
                        ("AUC at equal length", "separates-at-equal-length"),
                        (
                            "that less the AUC of the size of the base's own update",
                            "separates-beyond-base",
                        ),
                        ("that less the control's", "separates-beyond-control"),
                    )
                },
                "harmful refused at strength 0, 1/4, 1/2, 3/4, 1, 5/4": refused,
            }
        )
    return rows


def main() -> None:
    """Measure all; with ``--write`` into docs/benchmarks.md."""
    parser = CommandLine(globals(), SMALL)
    parser.add_argument("--work", action="store_true", help="only count multiplications")
    options = parser.read()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    counted = [row for name in FAMILIES for row in work(name)]
    counted_text = markdown(counted, list(counted[0]))
    print(counted_text)
    if options.write:
        write_section("tuco-work", f"`python -m benchmarks.tuco --write --work`.\n\n{counted_text}")
    if options.work:
        return
    parts = {"Values": values(), "Cost": [row for name in FAMILIES for row in costs(name)]}
    text = "\n\n".join(
        f"### {title}\n\n{markdown(rows, list(rows[0]))}" for title, rows in parts.items()
    )
    print(text)
    if options.write:
        write_section("tuco", f"`python -m benchmarks.tuco --write`. {machine()}\n\n{text}")


if __name__ == "__main__":
    main()
