"""Heads patched between models: ``python -m benchmarks.patch_heads [--pairs NAME ...] [--real]
[--write]``.

Outputs of heads of a fine-tuned model put into its base and the other way, on organisms and on the
real pair: shares of the metric's change by all heads, with the receiver's and with the donor's
output projection, and by the heads that rank first on other prompts, next to random groups of other
heads and to controls.
"""

import time

import numpy as np

from benchmarks.page import CommandLine, machine, markdown, write_section
from interp import claims, organisms
from interp.analyzers.patch_heads import PatchHeads
from interp.cli.task_options import split_task_file
from interp.metrics import read_behaviour
from interp.models.pair import Pair
from interp.prompts import OneClass, TaskFile, read_prompts, read_task_file
from interp.study import Study
from interp.table import Table

CONTROLS = {
    "refusal": ("refusal/sham",),
    "entities": tuple(f"entities/control-{seed}" for seed in range(5)),
    "smollm2": tuple(f"smollm2/control-{seed}" for seed in range(5)),
}
PAIRS = (
    *("refusal/attention", "refusal/full", "refusal/lora", "refusal/planted", "refusal/sham"),
    *("entities/full", "entities/lora"),
)
REAL = ("smollm2/lora",)
PROMPTS = {"refusal": 40, "entities": 60, "smollm2": 6}
EXACT, DRAWS, TOKENS = (
    {"smollm2": 4},
    {"refusal": 39, "entities": 39, "smollm2": 19},
    {"smollm2": 12},
)
SMALL = {"PAIRS": ("refusal/attention",), "PROMPTS": {"refusal": 8}, "DRAWS": {"refusal": 2}}
SIDES = {"inserted": "R", "removed": "N"}


def study_of(name: str) -> tuple[Study, TaskFile | OneClass, TaskFile | None]:
    """The study of a pair, the prompts that rank, and the measured task file, where it is one."""
    family = name.split("/")[0]
    pair = Pair.load(f"organism:{name}", f"organism:{family}/base", device="cpu")
    count = PROMPTS[family]
    if family == "entities":
        whole = read_task_file(organisms.data_root() / "prompts" / "entities" / "boxes.jsonl")
        first, second = (
            part.keep(part.prompts.spread_rows(count)) for part in split_task_file(whole, 0)
        )
        return Study(pair, OneClass(second.prompts), None, quiet=False), first, second
    ranked, measured = (
        OneClass(read_prompts(organisms.prompts(name, split, "harmful")).spread(count))
        for split in ("locate", "verify")
    )
    metric = read_behaviour("refusal").metric(pair.tokenizer)
    tokens = TOKENS.get(family, 48)
    return Study(pair, measured, metric, max_new_tokens=tokens, quiet=False), ranked, None


def row(name: str) -> tuple[dict, Table]:
    """One row of the page, and the run."""
    family, started = name.split("/")[0], time.process_time()
    study, ranked, task = study_of(name)
    controls = [
        Pair.load(f"organism:{control}", f"organism:{family}/base", device="cpu")
        for control in CONTROLS[family]
        if control != name and control in organisms.names()
    ]
    analyzer = PatchHeads(controls, ranked, task, exact=EXACT.get(family), draws=DRAWS[family])
    table = analyzer(study)
    effects = table.tables["effects"]
    (group,) = (one for one in table.rows() if one["kind"] == "group")
    outputs, written = (
        next(one for one in table.rows() if one["kind"] == "all" and one["what"] == what)
        for what in ("z", "z+o")
    )
    whole = effects["patch"] == "all heads"
    return {
        "pair": name,
        "change": f"{(effects['tuned'] - effects['base'])[whole].mean():+.3g}",
        "right or refused, base / tuned": " / ".join(
            f"{effects[f'{role}_right'][whole].mean():.1%}" for role in ("base", "tuned")
        ),
        "with all z / z+o in the base": " / ".join(
            f"{one['inserted_right']:.1%}" for one in (outputs, written)
        ),
        **{
            f"{letter}, all z / z+o": f"{outputs[side]:.1%} / {written[side]:.1%}"
            for side, letter in SIDES.items()
        },
        "first heads": ", ".join(table.summary["first"][: group["heads"]][:4]),
        **{
            f"their {letter}": f"{group[side]:.1%} [{group[f'{side}_low']:.1%},"
            f" {group[f'{side}_high']:.1%}]"
            for side, letter in SIDES.items()
        },
        **{
            f"{letter}, random / control": f"{largest(table, side, 'random')} /"
            f" {largest(table, side, 'controls')}"
            for side, letter in SIDES.items()
        },
        "s": f"{time.process_time() - started:.0f}",
    }, table


def largest(table: Table, side: str, part: str) -> str:
    """The largest share of random groups of other heads, or of controls."""
    if part not in table.tables:
        return "-"
    rows = table.tables[part]
    values = rows[side] if part == "controls" else rows[side][rows["kind"] == "heads"]
    known = values[~np.isnan(values)]
    return f"{known.max():.1%}" if len(known) else "-"


def main() -> None:
    """Measure, print, and write where asked."""
    parser = CommandLine(globals(), SMALL)
    parser.add_argument("--pairs", nargs="*", default=None, help="which pairs")
    parser.add_argument("--real", action="store_true", help="the real pair, in its own section")
    options = parser.read()
    rows, sentences = [], []
    for name in options.pairs or (REAL if options.real else PAIRS):
        made, table = row(name)
        rows.append(made)
        sentences += [
            f"* `{name}`, {finding.name}, {finding.verdict}: {finding.sentence}"
            for finding in claims.from_table(table.tables["claims"])
            if finding.verdict != "not tested" and finding.name != "changes"
        ]
    found = markdown(rows, list(rows[0])) + "\n\n" + "\n".join(sentences)
    print(found)
    if options.write:
        section, flag = ("patch-heads-real", "--real ") if options.real else ("patch-heads", "")
        write_section(
            section, f"`python -m benchmarks.patch_heads {flag}--write`. {machine()}\n\n{found}"
        )


if __name__ == "__main__":
    main()
