"""Further checks of located sets: ``python -m benchmarks.checks [--write]``.

Stability over halves and templates, redundancy and the refusal direction, by organism; the
agreement of each method's scores with exact patching of random halves of all neurons; transfer of a
set located in ``full`` to other fine-tuned models; double dissociation of two skills in ``distracted``.
"""

import math

from benchmarks.methods import study_of
from benchmarks.page import CommandLine, machine, markdown, write_section
from interp import organisms
from interp.analyzers.coalitions import Coalitions
from interp.analyzers.dissociation import Dissociation
from interp.analyzers.locate_neurons import METHODS, LocateNeurons
from interp.analyzers.redundancy import Redundancy
from interp.analyzers.refusal_direction import RefusalDirection
from interp.analyzers.stability import Stability
from interp.analyzers.transfer import Transfer
from interp.claims import from_table
from interp.metrics import Task
from interp.prompts import Contrast, read_prompts, read_task
from interp.study import Study
from interp.table import Table

TOPS = {"planted": "30", "full": "150", "lora": "150", "distracted": "30"}
COALITIONS = ("planted", "full", "lora")
PROMPTS, COALITION_PROMPTS, MEASURED, RANDOM_SETS = 120, 48, 96, 40
TARGETS = ("relearned", "planted", "lora", "sham")
SIZES = ("smallest", "12", "30")
SMALL = {
    "TOPS": {"planted": "30"},
    "COALITIONS": ("planted",),
    "PROMPTS": 24,
    "COALITION_PROMPTS": 8,
    "MEASURED": 16,
    "RANDOM_SETS": 19,
    "TARGETS": ("sham",),
    "SIZES": ("12",),
    "METHODS": {"change": METHODS["change"]},
}


def prompts_of(split: str, limit: int) -> Contrast:
    """Shipped prompts with their styles as templates."""
    files = (organisms.prompts("refusal", split, group) for group in ("harmful", "harmless"))
    return Contrast(*(read_prompts(file, template="style") for file in files)).limit(limit)


def rows_of(about: dict, table: Table) -> list[dict]:
    """One row per claim."""
    found = []
    for claim in from_table(table.tables["claims"]):
        null = f"{claim.control_value:.2f}"
        if not math.isnan(claim.control_low):
            null += f" [{claim.control_low:.2f}, {claim.control_high:.2f}]"
        interval = "" if math.isnan(claim.low) else f" [{claim.low:.2f}, {claim.high:.2f}]"
        found.append(
            about
            | {
                "claim": claim.name,
                "value": f"{claim.value:.2f}{interval}",
                "null": null,
                "p": "" if math.isnan(claim.p) else f"{claim.p:.3f}",
                "supported": "yes" if claim.supported else "no",
            }
        )
    return found


def checked(name: str, top: str) -> list[dict]:
    """Stability, redundancy and direction of one organism."""
    study = study_of(name, "locate").with_prompts(prompts_of("locate", PROMPTS))
    locate = LocateNeurons(top=top)
    located = locate(study)
    rows = []
    for analyzer in (Stability(locate), Redundancy(locate), RefusalDirection(located)):
        rows += rows_of({"organism": name, "top": top, "check": analyzer.name}, analyzer(study))
        print(markdown(rows[-1:], list(rows[-1])).splitlines()[-1], flush=True)
    return rows


def coalitions(name: str) -> list[dict]:
    """How well each method's scores foretell random halves."""
    study, rows = study_of(name, "locate", COALITION_PROMPTS), []
    measured = study_of(name, "verify", COALITION_PROMPTS, study.pair)
    for method in METHODS:
        table = Coalitions(LocateNeurons(method=method)(study))(measured)
        claim = from_table(table.tables["claims"])[0]
        rows.append(
            {
                "organism": name,
                "method": method,
                "correlation": f"{claim.value:.2f} [{claim.low:.2f}, {claim.high:.2f}]",
                "rank correlation": f"{table.summary['spearman']:.2f}",
                "reordered scores": f"at most {claim.control_high:.2f}",
                "p": f"{claim.p:.3f}",
            }
        )
        print(markdown(rows[-1:], list(rows[-1])).splitlines()[-1], flush=True)
    return rows


def transfers() -> list[dict]:
    """A set located in ``full``, in its further tune, in a control and in others."""
    source, rows = study_of("full", "locate", PROMPTS), []
    locate = LocateNeurons(top="150")
    located = locate(source)
    for target in TARGETS:
        study = study_of(target, "locate", PROMPTS)
        measured = study_of(target, "verify", MEASURED, study.pair)
        transfer = Transfer(located, source.pair, recomputed=locate(study), random_sets=RANDOM_SETS)
        rows += rows_of({"from": "full", "to": target}, transfer(measured))
        print(markdown(rows[-1:], list(rows[-1])).splitlines()[-1], flush=True)
    return rows


def dissociations() -> list[dict]:
    """Refusal and colours in ``distracted``, by sets of several sizes."""
    study, rows = study_of("distracted", "locate", PROMPTS), []
    task = read_task(organisms.prompts("refusal", "task", "colours"))
    halves = Contrast(task, study.contrast.negative).split(0)
    metric = Task.from_prompts(study.pair.tokenizer, task.prompts)
    locating, measuring = (Study(study.pair, half, metric) for half in halves)
    verify = study_of("distracted", "verify", MEASURED, study.pair)
    for top in SIZES:
        locate = LocateNeurons(top=top)
        sets = locate(study), locate(locating)
        table = Dissociation(*sets, measuring, random_sets=RANDOM_SETS)(verify)
        sizes = " and ".join(str(int(located["selected"].sum())) for located in sets)
        rows += rows_of({"top": top, "neurons": sizes}, table)
        print(markdown(rows[-1:], list(rows[-1])).splitlines()[-1], flush=True)
    return rows


def main() -> None:
    """Measure all; with ``--write`` into docs/benchmarks.md."""
    parser = CommandLine(globals(), SMALL)
    options = parser.read()
    parts = {
        "Stability, redundancy, direction": [
            row for name, top in TOPS.items() for row in checked(name, top)
        ],
        "Random halves": [row for name in COALITIONS for row in coalitions(name)],
        "Transfer": transfers(),
        "Double dissociation": dissociations(),
    }
    text = "\n\n".join(
        f"### {title}\n\n{markdown(rows, list(rows[0]))}" for title, rows in parts.items()
    )
    print(text)
    if options.write:
        write_section("checks", f"`python -m benchmarks.checks --write`. {machine()}\n\n{text}")


if __name__ == "__main__":
    main()
