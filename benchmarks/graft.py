"""Grafts: ``python -m benchmarks.graft [--write] [--store DIR]``. How few of a tune's weights do
what it learned.

On ``skill/masked`` the skill was trained into a known 1 % of the weights and all others moved as
far without it; on ``skill/full`` every weight was trained. Every mask at one place is of equal
size; answers are of held-out questions. With ``--store`` runs that are kept there are not made
again.
"""

import tempfile
from typing import Any

import numpy as np

from benchmarks.page import CommandLine, machine, markdown, write_section
from interp import claims, organisms
from interp.analyzers.graft import Graft
from interp.maths.overlap import overlap
from interp.metrics import Task
from interp.models.pair import Pair
from interp.prompts import Contrast, read_prompts, read_task
from interp.store import Store
from interp.study import Study
from interp.table import Table

KINDS = (
    "learned",
    "relaxed",
    "movement",
    "first-order",
    "random",
    "matched",
    "shuffled",
    "removed",
    "scope",
    "base",
    "tuned",
)
OPTIONS: dict[str, dict[str, Any]] = {
    "full at 10 %": {"density": 0.1, "sweep": (), "relaxed_steps": 0}
}
PROMPTS: int | None = None
"""Questions and texts of each part; None takes all."""
COLUMNS = [
    "organism",
    "mask",
    "weights",
    "share",
    "right",
    "exact",
    "gain kept",
    "agreement",
    "calibration 15 / 10",
    "other task",
    "perplexity",
]
SMALL = {
    "PROMPTS": 12,
    "organisms": ["masked"],
    "OPTIONS": {"masked": {"sweep": (0.01,), "steps": 2, "relaxed_steps": 1, "draws": 1}},
}


def grafted(name: str, store: Store, **options) -> Table:
    """The run that ``interp graft`` makes by default, with another task and text."""
    pair = Pair.load(f"organism:skill/{name}", "organism:refusal/base")
    first = read_task(organisms.prompts("skill", "task", "first"), name="locate").given_splits()
    second = read_task(organisms.prompts("skill", "task", "second"), name="other").given_splits()
    assert first is not None
    assert second is not None
    (located, held_out), (_, other) = first, second
    text = read_prompts(organisms.prompts("skill", "text", "text"), name="text")
    located, held_out, other, text = (
        part.spread(PROMPTS or len(part)) for part in (located, held_out, other, text)
    )
    metric = Task.from_prompts(pair.tokenizer, located.prompts, "answer-loss")
    return store.run(
        Graft(held_out=held_out, other=other, **options),
        Study(pair, Contrast(located, text), metric, quiet=False),
    )


def lines(name: str, table: Table) -> list[dict]:
    """One row of the page per graft."""
    found: dict[tuple[str, int], dict[str, float]] = {}
    for row in table.rows():
        found.setdefault((row["kind"], row["kept"]), {})[row["metric"]] = row["value"]
    rows = []
    for (kind, kept), values in sorted(
        found.items(), key=lambda item: (KINDS.index(item[0][0]), item[0][1])
    ):
        whole = kind in ("base", "tuned", "scope")
        rows.append(
            {
                "organism": name,
                "mask": kind,
                "weights": f"{kept:,}",
                "share": "" if whole else f"{kept / table.summary['weights']:.2%}",
                "right": f"{values['accuracy']:.1%}",
                "exact": f"{values['exact']:.1%}",
                "gain kept": f"{values['kept-gain']:.1%}",
                "agreement": f"{values['agreement']:.1%}",
                "calibration 15 / 10": (
                    f"{values['calibration-error-15']:.3f} / {values['calibration-error-10']:.3f}"
                ),
                "other task": (
                    f"{values['other-accuracy']:.1%}" if "other-accuracy" in values else ""
                ),
                "perplexity": f"{values['perplexity']:.2f}",
            }
        )
    return rows


def found_again(table: Table) -> list[str]:
    """How much of the shipped mask each mask holds, beside chance."""
    true, said = organisms.mask("skill/masked"), []
    size, members = table.summary["weights"], sum(map(len, true.values()))
    for kind in ("learned", "relaxed", "movement", "first-order", "random"):
        own = {
            name.split("/", 1)[1]: where
            for name, where in table.arrays.items()
            if name.startswith(f"{kind}/")
        }
        shared = sum(len(np.intersect1d(where, true.get(name, []))) for name, where in own.items())
        of = overlap(shared, members, sum(map(len, own.values())), size)
        said.append(
            f"* `{kind}` holds {shared:,} of the {members:,} weights that the skill was trained"
            f" into ({of.of_first:.1%}; by chance {of.expected:.0f}, as many or more with p ="
            f" {of.p_at_least:.1g}; Jaccard {of.jaccard:.4f})."
        )
    return said


def main() -> None:
    """Measure, print, and write where asked."""
    parser = CommandLine(globals(), SMALL, "the table")
    parser.add_argument("--store", help="keep runs there")
    parser.add_argument("--organisms", nargs="+", default=["masked", "full", "full at 10 %"])
    options = parser.read()
    rows, said = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.organisms:
            table = grafted(
                name.split()[0], Store(options.store or scratch), **OPTIONS.get(name, {})
            )
            rows += lines(name, table)
            for claim in claims.from_table(table.tables["claims"]):
                interval = f"{claim.value:.3f}, {claim.low:.3f} to {claim.high:.3f}"
                said.append(
                    f"* `{name}`, {claim.name} ({interval}), {claim.verdict}: {claim.sentence}"
                )
            if name == "masked":
                said += found_again(table)
    text = markdown(rows, COLUMNS) + "\n\n" + "\n".join(said)
    print(text)
    if options.write:
        write_section("graft", f"`python -m benchmarks.graft --write`. {machine()}\n\n{text}")


if __name__ == "__main__":
    main()
