"""What locating costs on a real chat model: ``python -m benchmarks.cost [--write]``.

``interp locate-neurons`` with its default method on ``organism:smollm2/planted``, 48 + 48 locating
prompts. Beside it, in the same process and round, a plain forward pass over the same prompts: CPU
seconds and their ratio. Peak memory is that of the command in a process of its own, locating alone;
``--before``: another checkout of this repository, whose command is measured too; ``--parts``: one
of both alone. On 12 + 12 of the prompts scores are compared with a reference of 31 steps over whole
prompts, where nothing is shared; it is kept in ``--store``.
"""

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.memory import ROOT, peak, weights
from benchmarks.page import CommandLine, machine, markdown, write_section
from benchmarks.real import FAMILY, study_of
from benchmarks.speed import bare
from interp import organisms
from interp.analyzers.locate_neurons import METHODS, LocateNeurons
from interp.analyzers.locate_neurons.scores import MethodOptions
from interp.analyzers.locate_neurons.selection import rank
from interp.engines import Batch
from interp.engines.shared_prefix import full_passes
from interp.experiments.ranking_sets import spearman
from interp.maths.quadrature import STEPS
from interp.models.pair import Pair
from interp.provenance import digest
from interp.study import Study
from interp.table import Table

CHILD, PROMPTS, TOP, ROUNDS, AT_ONCE = "planted", 48, 60, 2, 96
REFERENCE, FEW = STEPS[-1], 12
PARTS = ("passes", "memory")
SMALL = {"PROMPTS": 2, "TOP": 2, "ROUNDS": 1, "REFERENCE": 3, "FEW": 2}
TARGET = 8.0
"""Plain forward passes that locating may cost."""


def seconds(run: Callable[[], object]) -> float:
    """CPU seconds of this process."""
    start = time.process_time()
    run()
    return time.process_time() - start


@torch.no_grad()
def plain(study: Study) -> None:
    """A forward pass over all prompts of both classes as anyone would write it, with the last
    token's logits.
    """
    texts = sorted((each.ids for group in study.classes for each in study.encoded(group)), key=len)
    for start in range(0, len(texts), AT_ONCE):
        batch = Batch.pad(texts[start : start + AT_ONCE], study.pad_id)
        bare(study.pair.tuned.module, Batch(batch.ids, batch.mask), 1)


def reference(study: Study, store: Path) -> np.ndarray:
    """Scores ``[L, N]`` at so many steps over whole prompts."""
    key = digest({"study": study.inputs, "steps": REFERENCE, "version": LocateNeurons.version})[:32]
    file = store / "scores" / f"reference-{key}.npy"
    if not file.is_file():
        with ExitStack() as stack:
            for model in (study.pair.tuned, study.pair.require_base("this benchmark")):
                stack.enter_context(full_passes(model))
            scores = METHODS["integrated"].score(
                study, MethodOptions(METHODS["integrated"].positions, REFERENCE)
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, scores.score)
    return np.load(file)


def command(root: Path) -> tuple[float, float]:
    """Largest resident memory, GB, and CPU seconds of locating alone, by a checkout's command in
    its own process.
    """
    name = f"{FAMILY}/{CHILD}"
    files = {
        group: str(organisms.prompts(name, "locate", group)) for group in ("harmful", "harmless")
    }
    given = [
        "locate-neurons",
        f"organism:{name}",
        "--base",
        f"organism:{FAMILY}/base",
        "--positive",
        files["harmful"],
        "--negative",
        files["harmless"],
        "--max-prompts",
        str(PROMPTS),
        "--top",
        str(TOP),
        "--no-verify",
    ]
    return peak(given, root)


def first(scores: np.ndarray) -> set[tuple[int, int]]:
    """The units of the highest scores ``[L, N]``."""
    return {(int(layer), int(neuron)) for layer, neuron in np.argwhere(rank(scores) <= TOP)}


def agreement(table: Table, expected: np.ndarray) -> list[dict]:
    """How the scores agree with the reference's."""
    found = table["score"].reshape(expected.shape)
    one, other = first(found), first(expected)
    largest = float(np.abs(found - expected).max() / np.abs(expected).max())
    return [
        {"what": "steps", "value": table.summary["steps"]},
        {
            "what": f"Spearman's correlation of all {found.size:,} scores",
            "value": f"{correlation(found, expected):.5f}",
        },
        {"what": "largest difference of a score, of the largest score", "value": f"{largest:.1e}"},
        {
            "what": f"Jaccard's index of the first {TOP}",
            "value": f"{len(one & other) / len(one | other):.3f}",
        },
    ]


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's, of scores that are not rounding error of either."""
    mine, theirs = (
        np.where(np.abs(each) > 1e-6 * np.abs(each).max(), each, 0.0).ravel()
        for each in (one, other)
    )
    return spearman(mine, theirs)


def memory(before: Path | None) -> str:
    """What the command takes at its peak, and that of another checkout where one is given."""
    pair = load()
    allowed = 2 * weights(pair) + 1
    del pair
    checkouts = {
        "this one": ROOT,
        **({} if before is None else {"the one before": before.absolute()}),
    }
    rows = []
    for name, root in checkouts.items():
        held, used = command(root)
        rows.append(
            {
                "checkout": name,
                "peak GB of the command, loading included": f"{held:.2f}",
                "target": f"{allowed:.2f}",
                "its CPU seconds": f"{used:.0f}",
            }
        )
    return markdown(rows, list(rows[0])) + "\n\nTarget: twice the weights of both models, and 1."


def passes(store: Path | None) -> str:
    """What locating takes, beside a plain pass; and how its scores agree with the reference's, kept
    in ``store``.
    """
    pair = load()
    planted = {
        (int(layer), int(neuron))
        for layer, neuron in organisms.planted(f"{FAMILY}/{CHILD}")["refusal"]
    }
    costs = []
    for number in range(ROUNDS):
        # quiet, so that no estimate is made before, which is timed on passes of its own
        study = replace(study_of(CHILD, "locate", pair, PROMPTS, 1), quiet=True)
        made: list[Table] = []
        before = seconds(lambda study=study: plain(study))
        taken = seconds(
            lambda study=study, made=made: made.append(LocateNeurons(top=str(TOP))(study))
        )
        both = (before + seconds(lambda study=study: plain(study))) / 2
        table = made[0]
        hits = len(planted & first(table["score"].reshape(pair.tuned.anatomy.n_layers, -1)))
        costs.append(
            {
                "run": "first, with what is proven once" if number == 0 else "again",
                "a plain pass, CPU seconds": f"{both:.1f}",
                "locating, plain passes": f"{taken / both:.1f}",
                "target": f"{TARGET:g}",
                "steps": table.summary["steps"],
                "last two rules agree": (
                    f"{table.summary['steps_jaccard']:.3f}, {table.summary['steps_spearman']:.4f}"
                ),
                f"trained ones among the first {TOP}": f"{hits} of {len(planted)}",
            }
        )
        print(markdown(costs[-1:], list(costs[0])).splitlines()[-1], flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        few = study_of(CHILD, "locate", pair, FEW, 1)
        rows = agreement(LocateNeurons(top=str(TOP))(few), reference(few, store or Path(scratch)))
    beside = f"Beside {REFERENCE} steps over whole prompts, on {FEW} + {FEW} of them:"
    return "\n\n".join([markdown(costs, list(costs[0])), beside, markdown(rows, list(rows[0]))])


def load() -> Pair:
    """The child and its base."""
    return Pair.load(f"organism:{FAMILY}/{CHILD}", f"organism:{FAMILY}/base", device="cpu")


def main() -> None:
    """Measure, print, and with ``--write`` put the tables into docs/benchmarks.md."""
    parser = CommandLine(globals(), SMALL)
    parser.add_argument(
        "--store",
        type=Path,
        default=Path("runs-real"),
        help="where the reference's scores are kept",
    )
    parser.add_argument(
        "--before", type=Path, help="another checkout, whose command's memory is measured too"
    )
    parser.add_argument(
        "--parts", nargs="*", default=list(PARTS), choices=PARTS, help="what is measured"
    )
    given = parser.read()
    torch.set_num_threads(1)
    for part in given.parts:
        # in small nothing is kept
        text = (
            memory(given.before)
            if part == "memory"
            else passes(None if given.small else given.store)
        )
        print(f"\n{text}", flush=True)
        if given.write:
            some = (
                " --parts memory --before DIR"
                if part == "memory" and given.before
                else f" --parts {part}"
            )
            said = f"`python -m benchmarks.cost{some} --write`. {machine()}"
            write_section("cost" if part == "passes" else "cost-memory", f"{said}\n\n{text}")


if __name__ == "__main__":
    main()
