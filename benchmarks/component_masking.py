"""Component masking: ``python -m benchmarks.component_masking [--pairs NAME ...] [--write]``.

Masks over heads by the target of each source of the entity-tracking organisms, learned in the base
and in the fine-tuned model: share of held-out rows that give the target unpatched, with the selected
heads, and with all heads, and of the base's heads in the fine-tuned model, next to random heads of
the same number and to sources exchanged between rows.
"""

import time

from benchmarks.page import CommandLine, machine, markdown, write_section
from interp import claims, organisms
from interp.analyzers.component_masking import ComponentMasking
from interp.models.pair import Pair
from interp.prompts import OneClass, read_task_file
from interp.study import Study
from interp.table import Table

PAIRS = ("entities/full", "entities/lora")
CASES = (
    *(("object", "last"), ("position", "last"), ("position", "label"), ("position", "mention")),
    ("label", "label"),
)
CONTROLS = tuple(f"entities/control-{seed}" for seed in range(5))
ROWS, DRAWS = 240, 19
SMALL = {"PAIRS": ("entities/lora",), "CASES": (("object", "last"),), "ROWS": 40, "DRAWS": 2}


def row(name: str, source: str, position: str) -> tuple[dict, Table]:
    """One row of the page, and the run."""
    started = time.process_time()
    task = read_task_file(organisms.data_root() / "prompts" / "entities" / "boxes.jsonl")
    task = task.keep(task.prompts.spread_rows(ROWS))
    pair, *controls = (
        Pair.load(f"organism:{one}", "organism:entities/base", device="cpu")
        for one in (name, *CONTROLS)
        if one in organisms.names()
    )
    study = Study(pair, OneClass(task.prompts), None, quiet=False)
    table = ComponentMasking(controls, task, source, position, draws=DRAWS)(study)
    scores = {
        (one["found"], one["model"], one["heads"]): one for one in table.tables["scores"].rows()
    }
    made = {"pair": name, "source at word": f"{source} at {position}"}
    for role in ("base", "tuned"):
        own = scores[role, role, "selected"]
        made |= {
            f"{role}: heads": f"{own['count']:.0f}",
            f"{role}: none / selected / all": " / ".join(
                f"{one['score']:.3f}"
                for one in (
                    scores["base", role, "none"],
                    own,
                    scores["base", role, "all"],
                )
            ),
            f"{role}: random, largest": largest(table, "random", role),
            f"{role}: other sources, largest": largest(table, "permuted", role),
        }
    made["base's heads in tuned"] = f"{scores['base', 'tuned', 'selected']['score']:.3f}"
    if "controls" in table.tables:
        found = table.tables["controls"]["score"]
        made["in controls"] = f"{found.min():.3f} to {found.max():.3f}"
    return made | {"s": f"{time.process_time() - started:.0f}"}, table


def largest(table: Table, part: str, role: str) -> str:
    """The largest score of random heads, or from exchanged sources, in one model's own mask."""
    rows = table.tables[part]
    own = (rows["found"] == role) & (rows["model"] == role)
    return f"{rows['score'][own].max():.3f}" if own.any() else "-"


def main() -> None:
    """Measure, print, and write where asked."""
    parser = CommandLine(globals(), SMALL)
    parser.add_argument("--pairs", nargs="*", default=None, help="which pairs")
    options = parser.read()
    rows, sentences = [], []
    for name in options.pairs or PAIRS:
        for source, position in CASES:
            made, table = row(name, source, position)
            rows.append(made)
            sentences += [
                f"* `{name}`, {source} at {position}, {finding.name}, {finding.verdict}:"
                f" {finding.sentence}"
                for finding in claims.from_table(table.tables["claims"])
                if finding.verdict != "not tested" and not finding.name.endswith("permuted")
            ]
    found = markdown(rows, list(rows[0])) + "\n\n" + "\n".join(sentences)
    print(found)
    if options.write:
        write_section(
            "component-masking",
            f"`python -m benchmarks.component_masking --write`. {machine()}\n\n{found}",
        )


if __name__ == "__main__":
    main()
