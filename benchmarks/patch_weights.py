"""Weight patching by module: ``python -m benchmarks.patch_weights [--pairs NAME ...] [--write]``.

Every matrix of a fine-tuned model inserted in its base and taken out, on organisms and on the real
pair: the first module by first order on other prompts, its shares of the refusal log-odds next to
its change rotated, permuted, and of controls at equal norm, and the sums over modules.
"""

import time

import numpy as np

from benchmarks.page import CommandLine, machine, markdown, write_section
from interp import claims, organisms
from interp.analyzers.patch_weights import PatchWeights
from interp.metrics import read_behaviour
from interp.models.pair import Pair
from interp.prompts import OneClass, read_prompts
from interp.study import Study
from interp.table import Table

CONTROLS = {
    "refusal": ("refusal/sham", *(f"discover/control-0{at}" for at in range(5))),
    "smollm2": tuple(f"smollm2/control-{seed}" for seed in range(5)),
}
PAIRS = (
    *("refusal/full", "refusal/lora", "refusal/planted", "refusal/attention", "refusal/sham"),
    "smollm2/lora",
)
PROMPTS, MODULES, DRAWS = {"refusal": 48, "smollm2": 12}, {"refusal": 3, "smollm2": 1}, 19
SMALL = {
    "CONTROLS": {"refusal": ("refusal/sham",)},
    "PAIRS": ("refusal/planted",),
    "PROMPTS": {"refusal": 6},
    "MODULES": {"refusal": 1},
    "DRAWS": 2,
}
SIDES = {"inserted": "R", "removed": "N"}


def row(name: str) -> tuple[dict, Table]:
    """One row of the page, and the run."""
    family, started = name.split("/")[0], time.process_time()
    pair = Pair.load(f"organism:{name}", f"organism:{family}/base", device="cpu")
    selection, held_out = (
        OneClass(read_prompts(organisms.prompts(name, split, "harmful")).spread(PROMPTS[family]))
        for split in ("locate", "verify")
    )
    study = Study(pair, held_out, read_behaviour("refusal").metric(pair.tokenizer), quiet=False)
    controls = [
        Pair.load(f"organism:{control}", f"organism:{family}/base", device="cpu")
        for control in CONTROLS[family]
        if control != name
    ]
    analyzer = PatchWeights(controls, selection, null_modules=MODULES[family], draws=DRAWS)
    table = analyzer(study)
    summary, sums = table.summary, table.tables["prompts"]
    shift = (sums["tuned"] - sums["base"]).mean()
    agreement = summary["first_order_agreement"]
    first = table.rows()
    module = next(iter(first))
    return {
        "pair": name,
        "shift, nats": f"{shift:+.2f}",
        "exact": f"{summary['exact']} of {summary['modules']}",
        "first module": f"{module['layer']} {module['part']}",
        **{
            f"its {letter}": f"{module[side]:.1%} [{module[f'{side}_low']:.1%},"
            f" {module[f'{side}_high']:.1%}]"
            for side, letter in SIDES.items()
        },
        **{
            f"{letter}, rotated / permuted / control": " / ".join(
                largest(table.tables["random"], kind, side, module)
                for kind in ("rotated", "permuted", "control")
            )
            for side, letter in SIDES.items()
        },
        "sum of R": f"{sums['inserted_sum'].mean() / shift:.1%}",
        "sum of N": f"{sums['removed_sum'].mean() / shift:.1%}",
        "beyond random (Holm)": f"{len(summary['beyond_random'])} of {len(summary['tested'])}",
        "first order, rank correlation": "-" if agreement is None else f"{agreement:.2f}",
        "s": f"{time.process_time() - started:.0f}",
    }, table


def largest(table: Table, kind: str, side: str, module: dict) -> str:
    """The largest draw of a kind for one module."""
    rows = (table["kind"] == kind) & (table["layer"] == module["layer"])
    rows &= table["part"] == module["part"]
    return f"{np.max(table[side][rows]):.1%}" if rows.any() else "-"


def main() -> None:
    """Measure, print, and write where asked."""
    parser = CommandLine(globals(), SMALL)
    parser.add_argument("--pairs", nargs="*", default=None, help="which pairs")
    options = parser.read()
    rows, sentences = [], []
    for name in options.pairs or PAIRS:
        made, table = row(name)
        rows.append(made)
        sentences += [
            f"* `{name}`, {finding.name}, {finding.verdict}: {finding.sentence}"
            for finding in claims.from_table(table.tables["claims"])
            if finding.verdict != "not tested"
            and not finding.name.endswith(("permuted", "changes"))
        ]
    found = markdown(rows, list(rows[0])) + "\n\n" + "\n".join(sentences)
    print(found)
    if options.write:
        write_section(
            "patch-weights", f"`python -m benchmarks.patch_weights --write`. {machine()}\n\n{found}"
        )


if __name__ == "__main__":
    main()
