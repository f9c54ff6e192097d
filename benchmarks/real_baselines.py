"""Other methods of the field on a real chat model: ``python -m benchmarks.real_baselines [--child
NAME] [--write]``.

The set that ``benchmarks.real`` located and verified, next to the same set set to zero, to as many
neurons by the contrast of the classes in the fine-tuned model alone, to the refusal direction at
equal divergence on harmless answers, and to the random sets: what ``interp locate-neurons
--baselines all`` tells. Locating and verifying runs that are in ``--store`` are taken from there.
"""

import time
from pathlib import Path
from typing import Any

from benchmarks import real
from benchmarks.page import CommandLine, machine, markdown, write_section
from interp.analyzers.baselines import Baselines
from interp.analyzers.locate_neurons import LocateNeurons
from interp.analyzers.verify_neurons import VerifyNeurons
from interp.cli.baselines import HEADER, baseline_cells
from interp.cli.locate_neurons import JUDGED_SETS
from interp.models.pair import Pair
from interp.store import Store

SMALL = {"child": "planted", "PROMPTS": 2, "SETS": 1, "TOP": "2", "TOKENS": 4}
PROMPTS, SETS, TOKENS, TOP = real.PROMPTS, real.SETS, real.TOKENS, ""


def main() -> None:
    """Measure, print, and write where asked."""
    parser = CommandLine(globals(), SMALL, "the table")
    parser.add_argument("--store", type=Path, default=Path("runs-real"), help="where runs are kept")
    parser.add_argument("--child", default="planted", help="which fine-tuned model")
    given = parser.read()
    store, name = Store(given.store), f"organism:{real.FAMILY}/{given.child}"
    pair = Pair.load(name, f"organism:{real.FAMILY}/base", device="cpu")
    locate, verify = (
        real.study_of(given.child, split, pair, PROMPTS, TOKENS) for split in ("locate", "verify")
    )
    top = TOP or real.KNOWN.get(given.child, real.TOP["neuron"])
    located = store.run(LocateNeurons(top=top), locate).table
    count = int(located["selected"].sum())
    options: dict[str, Any] = {
        "random_sets": SETS,
        "control_prompts": real.CONTROL_PROMPTS,
        "dose_draws": 1,
        "judged_sets": JUDGED_SETS,
        "depth": count,
    }
    verified = store.run(VerifyNeurons(located, **options), verify).table
    started = time.perf_counter()
    contrast = store.run(LocateNeurons(method="contrast", top=str(count)), locate).table
    table = store.run(
        Baselines(verified, located, contrast=contrast, choosing=locate), verify
    ).table
    rows = [dict(zip(HEADER, baseline_cells(row), strict=True)) for row in table.rows()]
    text = f"{table.summary['sentence']}\n\n{markdown(rows, list(HEADER))}"
    print(text, f"\n{time.perf_counter() - started:.0f} s", flush=True)
    if given.write:
        command = (
            f"`python -m benchmarks.real_baselines --child {given.child} --write`. {machine()}"
        )
        write_section(f"real-baselines-{given.child}", f"{command}\n\n{text}")


if __name__ == "__main__":
    main()
