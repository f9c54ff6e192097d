"""Locating methods on a real chat model: ``python -m benchmarks.real_methods [method ...] [--child
NAME] [--write]``.

Every method ranks the 46,080 neurons of ``organism:smollm2/planted`` on 48 + 48 locating prompts.
On 48 + 48 others the first 60 are given the base's contributions in the fine-tuned model, and the
fine-tuned model's in the base: how many requests are refused, and how much of the log-odds of
refusal where the answer begins is recovered. 60 are as many as were trained. Scores are kept in
``--store``.
"""

import time
from pathlib import Path

import numpy as np

from benchmarks.page import CommandLine, machine, markdown, write_section
from benchmarks.real import FAMILY, study_of
from interp import organisms
from interp.analyzers.locate_neurons import METHODS
from interp.analyzers.locate_neurons.methods import resolve
from interp.analyzers.locate_neurons.scores import MethodOptions
from interp.analyzers.locate_neurons.selection import rank
from interp.experiments.conditions import PatchSource
from interp.experiments.outcomes import Outcomes
from interp.maths.statistics import roc_auc
from interp.models.pair import Pair
from interp.study import Study

SIZE, PROMPTS, TOKENS = 60, 48, 48
SMALL = {"SIZE": 2, "PROMPTS": 2, "TOKENS": 4, "methods": ["change"]}
DIRECTIONS = {"necessity": "given back", "sufficiency": "patched in"}


def scores_of(name: str, study: Study, file: Path) -> tuple[np.ndarray, float]:
    """Scores ``[L, N]`` of a method, and the seconds that it took when they were made."""
    if file.is_file():
        kept = np.load(file)
        return kept["score"], float(kept["seconds"])
    started = time.process_time()
    _, method, positions = resolve(name, "auto", True)
    score = method.score(study, MethodOptions(positions)).score
    seconds = time.process_time() - started
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, score=score, seconds=seconds)
    return score, seconds


def rows_of(child: str, methods: list[str], store: Path) -> list[dict]:
    """A row for each method, one for as many neurons at random, and one for those that were
    trained.
    """
    pair = Pair.load(f"organism:{FAMILY}/{child}", f"organism:{FAMILY}/base", device="cpu")
    locate, verify = (
        study_of(child, split, pair, PROMPTS, TOKENS) for split in ("locate", "verify")
    )
    planted = [tuple(one) for one in organisms.planted(f"{FAMILY}/{child}").get("refusal", [])]
    shape = (pair.tuned.anatomy.n_layers, pair.tuned.anatomy.n_neurons)
    donors, rows = PatchSource.from_study(verify), list(range(len(verify.prompts("positive"))))
    trials = {direction: Outcomes(verify, donors, direction, rows) for direction in DIRECTIONS}
    found = []
    for name in [*methods, "random", *(["the trained ones"] if planted else [])]:
        row: dict = {"method": name}
        if name == "random":
            score, seconds = np.random.default_rng(0).random(shape), None
        elif name == "the trained ones":
            score, seconds = np.zeros(shape), None
            score[tuple(np.array(planted).T)] = 1.0
        else:
            score, seconds = scores_of(
                name, locate, store / "scores" / f"{child}-{name}-{len(rows)}.npz"
            )
        order = np.argsort(rank(score).ravel(), kind="stable")[:SIZE]
        blocks, units = np.unravel_index(order, shape)
        chosen = [(int(block), int(unit)) for block, unit in zip(blocks, units, strict=True)]
        if planted:
            labels = np.zeros(shape, dtype=bool)
            labels[tuple(np.array(planted).T)] = True
            row["trained ones"] = f"{len({*chosen} & {*planted})} of {len(chosen)}"
            row["AUC"] = "" if seconds is None else f"{roc_auc(labels.ravel(), score.ravel()):.2f}"
        for direction, words in DIRECTIONS.items():
            effects = trials[direction].effects(trials[direction].of(chosen))
            row[f"{words}: refused"] = f"{effects['rate']:.0%}"
            row[f"{words}: recovery"] = f"{effects['recovery']:.2f}"
        row["CPU seconds to locate"] = "" if seconds is None else f"{seconds:.0f}"
        print(markdown([row], list(row)).splitlines()[-1], flush=True)
        found.append(row)
    return found


def main() -> None:
    """Measure, print, and with ``--write`` put the table into docs/benchmarks.md."""
    options = CommandLine(globals(), SMALL)
    options.add_argument("methods", nargs="*", default=None, help="which methods")
    options.add_argument("--child", default="planted", help="which fine-tuned model")
    options.add_argument(
        "--store", type=Path, default=Path("runs-real"), help="where scores are kept"
    )
    given = options.read()
    rows = rows_of(given.child, given.methods or list(METHODS), given.store)
    table = markdown(rows, list(rows[0]))
    print(f"\n{table}")
    if given.write:
        write_section(
            "real-methods", f"`python -m benchmarks.real_methods --write`. {machine()}\n\n{table}"
        )


if __name__ == "__main__":
    main()
