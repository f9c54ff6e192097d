"""What commands cost on a real model, and what they say before: ``python -m benchmarks.estimates
[NAME ...]``.

Every analyzer is called as its command calls it, on the 48 + 48 prompts of
``organism:smollm2/planted``. Beside it stands a plain forward pass over the same prompts, each read
whole, timed before and after; and the estimate that the command prints before it begins. All in one
process of one thread, and in its CPU seconds in place of those of the clock on the wall, which
other programs disturb more. ``verify-neurons`` has 39 random sets, of which 5 are judged on all 24
control prompts. ``quick`` has what ``interp locate-neurons --quick`` has: necessity alone on 24 +
24 prompts, 19 random sets on 12 of them, answers of 16 tokens, and integrals of 3 steps.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.page import CommandLine, machine, markdown, write_section
from benchmarks.real import FAMILY, study_of
from benchmarks.speed import bare
from interp.analyzers.coalitions import Coalitions
from interp.analyzers.compare import Compare
from interp.analyzers.framework import Analyzer
from interp.analyzers.ftc_alpha import FtcAlpha
from interp.analyzers.locate_neurons import LocateNeurons
from interp.analyzers.tuco import Tuco
from interp.analyzers.verify_neurons import VerifyNeurons
from interp.cli.locate_neurons import (
    JUDGED_SETS,
    QUICK_CONTROL_PROMPTS,
    QUICK_PROMPTS,
    QUICK_SETS,
    QUICK_STEPS,
    QUICK_TOKENS,
)
from interp.engines import Batch
from interp.experiments.cost import estimate_cost
from interp.models.pair import Pair
from interp.study import Study
from interp.table import Table

CHILD, TOP, PROMPTS, SETS, TOKENS, CONTROL_PROMPTS = "planted", "60", 48, 39, 48, 24
ANALYZERS = (
    "locate-neurons",
    "verify-neurons",
    "compare",
    "tuco",
    "ftc-alpha",
    "coalitions",
    "quick",
)
SMALL = {
    "PROMPTS": 2,
    "SETS": 1,
    "TOKENS": 4,
    "TOP": "2",
    "analyzers": ["verify-neurons", "compare", "tuco"],
}


def seconds(run: Callable[[], object]) -> tuple[float, object]:
    """Seconds of a call, and what it gave."""
    started = time.perf_counter()
    given = run()
    return time.perf_counter() - started, given


def plain(study: Study) -> float:
    """Seconds of one forward pass of the fine-tuned model over all prompts, none of them sharing a
    beginning.
    """
    texts = sorted((each.ids for group in study.classes for each in study.encoded(group)), key=len)
    model, total = study.pair.tuned, 0.0
    for start in range(0, len(texts), 48):
        padded = Batch.pad(texts[start : start + 48], study.pad_id)
        batch = Batch(padded.ids, padded.mask)
        bare(model.module, batch, 1)
        total += seconds(lambda batch=batch: bare(model.module, batch, 1))[0]
    return total


def row(name: str, analyzer: Analyzer, study: Study) -> tuple[dict, Table]:
    """What an analyzer costs, and what is said of it before."""
    work = analyzer.work(study)
    said = None if work is None else estimate_cost(study, work)
    before = plain(study)
    used, table = seconds(lambda: analyzer(study))
    assert isinstance(table, Table)
    pass_ = (before + plain(study)) / 2
    told = "none" if said is None else f"{said.seconds:.0f} s"
    found = {
        "analyzer": name,
        "CPU seconds": f"{used:.0f}",
        "plain passes": f"{used / pass_:.1f}",
        "estimated": told,
        "estimated / used": "" if said is None else f"{said.seconds / used:.2f}",
    }
    print(found, flush=True)
    return found, table


def rows(wanted: Sequence[str]) -> list[dict]:
    """Every command that is wanted, once; what others need of a locating run is made first in any
    case.
    """
    pair = Pair.load(f"organism:{FAMILY}/{CHILD}", f"organism:{FAMILY}/base", device="cpu")
    locating, verifying = (
        study_of(CHILD, split, pair, PROMPTS, TOKENS) for split in ("locate", "verify")
    )
    first, located = row("locate-neurons", LocateNeurons(top=TOP), locating)
    size = int(located["selected"].sum())
    options: dict[str, Any] = {"dose_draws": 1, "judged_sets": JUDGED_SETS}
    checker = VerifyNeurons(
        located, random_sets=SETS, control_prompts=CONTROL_PROMPTS, depth=2 * size, **options
    )
    others: dict[str, tuple[Analyzer, Study]] = {
        "verify-neurons": (checker, verifying),
        "compare": (Compare(), verifying),
        "tuco": (Tuco(), verifying),
        "ftc-alpha": (FtcAlpha(), verifying),
        "coalitions": (Coalitions(located), locating),
    }
    found = [first, *(row(name, *one)[0] for name, one in others.items() if name in wanted)]
    if "quick" in wanted:
        few = min(PROMPTS, QUICK_PROMPTS)
        looked, judged = (
            study_of(CHILD, split, pair, few, QUICK_TOKENS) for split in ("locate", "verify")
        )
        again, table = row(
            "locate-neurons, --quick", LocateNeurons(top=TOP, steps=QUICK_STEPS), looked
        )
        checker = VerifyNeurons(
            table,
            random_sets=min(SETS, QUICK_SETS),
            control_prompts=QUICK_CONTROL_PROMPTS,
            depth=size,
            directions=("necessity",),
            doses=False,
            cell_sets=0,
            **options,
        )
        found += [again, row("verify-neurons, --quick", checker, judged)[0]]
    return found


def main() -> None:
    """Measure, print, and with ``--write`` put the table into docs/benchmarks.md."""
    parser = CommandLine(globals(), SMALL)
    parser.add_argument(
        "analyzers", nargs="*", default=list(ANALYZERS), help=f"of {', '.join(ANALYZERS)}"
    )
    given = parser.read()
    if unknown := {*given.analyzers} - {*ANALYZERS}:
        parser.error(f"unknown {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    with patch.object(time, "perf_counter", time.process_time):
        found = rows(given.analyzers)
    table = markdown(found, list(found[0]))
    print(table)
    if given.write:
        some = "" if {*given.analyzers} == {*ANALYZERS} else " ".join(["", *given.analyzers])
        section = "estimates-quick" if given.analyzers == ["quick"] else "estimates"
        write_section(
            section, f"`python -m benchmarks.estimates{some} --write`. {machine()}\n\n{table}"
        )


if __name__ == "__main__":
    main()
