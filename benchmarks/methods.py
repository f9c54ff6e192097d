"""Methods by organism: ``python -m benchmarks.methods [--write] [organism ...]``.

Each method ranks all neurons on the locate prompts. The ranking is graded on the verify prompts:
neurons, in rank order, get their base contributions back inside the tuned model, and the answers
that become the base's, word for word, are counted (necessity); the other way round, tuned
contributions are put into the base (sufficiency). Where neurons were planted, the ranking is also
held against their list. A random ranking is graded the same way.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.page import CommandLine, machine, markdown, write_section
from interp import organisms
from interp.analyzers.locate_neurons import METHODS
from interp.analyzers.locate_neurons.methods import resolve
from interp.analyzers.locate_neurons.scores import MethodOptions
from interp.analyzers.locate_neurons.selection import rank
from interp.experiments.conditions import PatchSource, evaluate_condition
from interp.experiments.dose import bisect_dose, dose_grid
from interp.experiments.outcomes import Outcomes
from interp.maths.statistics import area_under_dose, recall_at, roc_auc, smallest_dose
from interp.metrics import Refusal
from interp.models.pair import Pair
from interp.prompts import Contrast, read_prompts
from interp.study import Study

RESULTS = Path(__file__).resolve().parent / "methods.json"
LOCATE: int | None = None
"""Prompts per class to locate on; None takes all."""
ORGANISMS = ("planted", "full", "lora", "attention", "distracted")
COLUMNS = [
    "organism",
    "method",
    "AUC",
    "AUC of size",
    "recall",
    "area",
    "k95",
    "k",
    "effect at k",
    "refused at k",
    "harmless changed at k",
    "sufficiency area",
    "sufficiency k95",
    "seconds",
]
SMALL = {"LOCATE": 48, "organisms": ["planted"], "prompts": 6}


def study_of(name: str, split: str, limit: int | None = None, pair: Pair | None = None) -> Study:
    """A study of a shipped organism on one of its prompt splits."""
    pair = pair or Pair.load(f"organism:refusal/{name}", "organism:refusal/base")
    groups = (
        read_prompts(organisms.prompts("refusal", split, group))
        for group in ("harmful", "harmless")
    )
    return Study(pair, Contrast(*groups).limit(limit), Refusal.from_tokenizer(pair.tokenizer))


def rankings(study: Study, seed: int = 0) -> dict[str, tuple[np.ndarray, float]]:
    """Scores of every method, and of a random ranking, with the seconds each took."""
    found = {}
    for name in METHODS:
        start = time.perf_counter()
        _, method, positions = resolve(name, "auto", True)
        found[name] = (
            method.score(study, MethodOptions(positions)).score,
            time.perf_counter() - start,
        )
    shape = found["weight"][0].shape
    found["random"] = (np.random.default_rng(seed).random(shape), 0.0)
    return found


def grade(
    study: Study, donors: PatchSource, trials: dict[str, Outcomes], score: np.ndarray, size: int
) -> dict:
    """Dose-response in both directions, and what happens to refusals and harmless answers at
    ``size`` neurons.
    """
    order = np.argsort(rank(score).ravel())
    blocks, units = np.unravel_index(order, score.shape)
    ranking = [(int(block), int(unit)) for block, unit in zip(blocks, units, strict=True)]
    row: dict = {"k": size}
    for direction, outcomes in trials.items():

        def measure(
            chosen: Sequence[tuple[int, int]], outcomes: Outcomes = outcomes
        ) -> dict[str, float]:
            return outcomes.effects(outcomes.of(chosen))

        doses = {k: measure(ranking[:k]) for k in sorted({*dose_grid(len(ranking)), size})}
        coarse = {k: doses[k]["exact"] for k in dose_grid(len(ranking))}
        effects = {
            k: one["exact"]
            for k, one in bisect_dose(measure, ranking, doses, 0.95, "exact").items()
        }
        prefix = "" if direction == "necessity" else "sufficiency "
        row[f"{prefix}area"] = f"{area_under_dose(list(coarse), list(coarse.values())):.2f}"
        row[f"{prefix}k95"] = smallest_dose(list(effects), list(effects.values()), 0.95) or "none"
        if direction == "necessity":
            row["effect at k"] = f"{effects[size]:.0%}"
    chosen = donors.condition("ablate-base", ranking[:size])
    refused, harmless = (
        evaluate_condition(study, "ablate-base", "positive", chosen),
        evaluate_condition(study, "ablate-base", "negative", chosen),
    )
    row["refused at k"] = f"{refused.exhibits.mean():.0%}"
    row["harmless changed at k"] = f"{1 - harmless.matches_tuned.mean():.1%}"
    return row


def measure(name: str, prompts: int, size: int = 150) -> list[dict]:
    """All methods on one organism; ``size`` is the k of the columns "at k" where no list says how
    many.
    """
    locate = study_of(name, "locate", LOCATE)
    verify = study_of(name, "verify", prompts, locate.pair)
    donors = PatchSource.from_study(verify)
    base, tuned = verify.answers("base", "positive"), verify.answers("tuned", "positive")
    changed = [row for row, (a, b) in enumerate(zip(base, tuned, strict=True)) if a != b]
    trials = {
        direction: Outcomes(verify, donors, direction, changed, exact=True)
        for direction in ("necessity", "sufficiency")
    }
    planted = set(organisms.planted(f"refusal/{name}").get("refusal", []))
    rows = []
    for method, (score, seconds) in rankings(locate).items():
        row = {"organism": name, "method": method, "seconds": f"{seconds:.0f}"}
        if planted:
            labels = np.zeros(score.shape, dtype=bool)
            labels[tuple(np.array(sorted(planted)).T)] = True
            row["AUC"] = f"{roc_auc(labels.ravel(), score.ravel()):.2f}"
            row["AUC of size"] = f"{roc_auc(labels.ravel(), np.abs(score).ravel()):.2f}"
            row["recall"] = f"{recall_at(labels.ravel(), score.ravel(), len(planted)):.2f}"
        row |= grade(verify, donors, trials, score, len(planted) or size)
        rows.append(row)
        print(markdown([row], COLUMNS).splitlines()[-1], flush=True)
    return rows


def main() -> None:
    """Measure organism by organism; with ``--write`` each one's rows replace those of its last
    measurement.
    """
    parser = CommandLine(globals(), SMALL, "the table")
    parser.add_argument("organisms", nargs="*", default=ORGANISMS)
    parser.add_argument("--prompts", type=int, default=64, help="verify prompts per class")
    options = parser.read()
    for name in options.organisms:
        rows = measure(name, options.prompts)
        print(markdown(rows, COLUMNS), flush=True)
        if options.write:
            kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
            kept[name] = {"prompts": options.prompts, "machine": machine(), "rows": rows}
            RESULTS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
            write_section("methods", render(kept))


def render(kept: dict) -> str:
    """The table of all organisms measured so far, with how they were measured."""
    known = [name for name in ORGANISMS if name in kept]
    text = markdown([row for name in known for row in kept[name]["rows"]], COLUMNS)
    counts = sorted({kept[name]["prompts"] for name in known})
    machines = " ".join(sorted({kept[name]["machine"] for name in known}))
    command = f"`python -m benchmarks.methods --write --prompts {counts[0]}`"
    return f"{command}. {machines}\n\n{text}"


if __name__ == "__main__":
    main()
