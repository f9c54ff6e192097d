"""Do methods agree on where a skill is? ``python -m benchmarks.agreement [--heads] [--write]``.

Every number comes from the commands that a user would type: five runs per organism, ``interp
agree`` over them, and one ``interp sql`` over blocks and parts. With ``--store`` runs that are kept
there are not made again. ``--heads``: over single heads of the entity-tracking organism instead, of
which four are known to carry the task.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.page import CommandLine, machine, markdown, write_section
from interp import organisms

TASK = str(organisms.prompts("skill", "task", "first"))
TEXT = str(organisms.prompts("skill", "text", "text"))
SMALL_GRAFT = (
    "--density",
    "10%",
    "--sweep",
    "10%",
    "--draws",
    "1",
    "--relaxed-steps",
    "0",
    "--shuffles",
    "0",
)
COMMANDS = (
    ["locate-neurons", "--task", TASK, "--negative", TEXT, "--top", "60", "--no-verify"],
    ["intruders"],
    ["graft", "--task", TASK, *SMALL_GRAFT],
    ["tuco", "--prompts", TASK],
    ["compare", "--prompts", TASK],
)
HEADS = ("entities/full", "organism:entities/base")
BOXES = str(organisms.prompts("entities", "task", "boxes"))
PROMPTS = ("--max-prompts", "60")
OF_HEADS = (
    ["circuit", "--task", BOXES, "--completeness-draws", "0", "--minimality-prompts", "0"],
    ["patch-heads", "--task", BOXES],
    ["component-masking", "--task", BOXES, "--source", "object", "--position", "last"],
    ["locate-neurons", "--unit", "head", "--task", BOXES, "--no-verify"],
    ["lofit", "--prompts", BOXES, "--answer-tokens", "1"],
    ["sae-circuit", "--prompts", BOXES, "--scale", "rms", "--trials", "3", *PROMPTS],
    ["graft", "--task", BOXES, *SMALL_GRAFT, *PROMPTS],
    ["intruders"],
    ["compare", "--prompts", BOXES, *PROMPTS],
)
LIMITS: dict[str, tuple[str, ...]] = {}
"""More options, by command."""
METHODS = ("neurons", "intruders", "graft", "tuco", "movement")
OF = (
    "sum(amount) filter (where method = '{name}') / sum(size) filter (where method = '{name}') as"
    " {name}"
)
WIDE = (
    "select layer as block, replace(split_part(part, '.', 1), 'attn', 'attention') as place, "
    + ", ".join(OF.format(name=name) for name in METHODS)
    + " from places where run = '{run}' group by all order by place, block"
)
SMALL = {
    "organisms": ["masked"],
    "LIMITS": {
        name: ("--max-prompts", "8") for name in ("locate-neurons", "graft", "tuco", "compare")
    },
}


def asked(*words: str) -> dict:
    """What a command prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "interp", *words, "--json"], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"interp {' '.join(words)}: {done.stderr}")
    return json.loads(done.stdout)


def measured(name: str, store: str) -> tuple[list[dict], list[dict], str]:
    """Places and pairs of one organism, and the sentence over both."""
    pair = [
        f"organism:skill/{name}",
        "--base",
        "organism:refusal/base",
        "--store",
        store,
        "--quiet",
    ]
    runs = [
        asked(command, *pair, *words, *LIMITS.get(command, ()))["run"]
        for command, *words in COMMANDS
    ]
    agreed = asked("agree", *runs, "--store", store)
    where = asked("sql", WIDE.format(run=agreed["run"]), "--store", store)
    pairs = asked(
        "sql", f"select * from places_agreement where run = '{agreed['run']}'", "--store", store
    )
    return where["data"], pairs["data"], agreed["summary"]["sentence"]


def of_heads(store: str) -> tuple[list[dict], str]:
    """Pairs of methods over heads, matrices and blocks, and the sentence over all."""
    name, base = HEADS
    pair = [f"organism:{name}", "--base", base, "--store", store, "--quiet"]
    rows = [json.loads(line) for line in Path(BOXES).read_text(encoding="utf-8").splitlines()]
    corrupt = Path(store) / "corrupt.txt"
    corrupt.write_text("\n".join(row["corrupt"]["prompt"] for row in rows), encoding="utf-8")
    runs = []
    for command, *words in OF_HEADS:
        more = ["--negative", str(corrupt)] if command == "locate-neurons" else []
        runs.append(asked(command, *pair, *words, *more, *LIMITS.get(command, ()))["run"])
        print(command, runs[-1], flush=True)
    agreed = asked("agree", *runs, "--store", store)
    pairs = asked(
        "sql", f"select * from places_agreement where run = '{agreed['run']}'", "--store", store
    )
    return pairs["data"], agreed["summary"]["sentence"]


def as_row(row: dict) -> dict:
    """A pair of methods for the page."""
    return {
        "methods": f"{row['first']}, {row['second']}",
        "over": f"{row['places']} ({row['level']})",
        "correlation": number(row["correlation"]),
        "permuted": number(row["chance"]),
        "p, corrected": number(row["adjusted_p"], ".2g"),
        "movement taken out": number(row["beyond_movement"]),
    }


def number(value: float | None, form: str = ".2f") -> str:
    """A number for the page, nothing where there is none."""
    return "" if value is None or value != value else format(value, form)


def main() -> None:
    """Measure, print, and write where asked."""
    parser = CommandLine(globals(), SMALL)
    parser.add_argument("--store", help="keep runs there")
    parser.add_argument("--organisms", nargs="+", default=["full", "masked", "lora-8-fast"])
    parser.add_argument("--heads", action="store_true", help="over heads, of entities/full")
    options = parser.read()
    if options.heads:
        with tempfile.TemporaryDirectory() as scratch:
            pairs, said = of_heads(options.store or scratch)
        table = [as_row(row) for row in pairs]
        text = f"{said}\n\n{markdown(table, list(table[0]))}"
        print(text)
        if options.write:
            command = "`python -m benchmarks.agreement --heads --write`"
            write_section("agreement-heads", f"{command}. {machine()}\n\n{text}")
        return
    parts = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.organisms:
            where, pairs, said = measured(name, options.store or scratch)
            maps = [
                {**row, **{name: number(row[name], ".3g") for name in METHODS}} for row in where
            ]
            table = [as_row(row) for row in pairs]
            parts.append(
                f"### `skill/{name}`\n\n{said}\n\n{markdown(table, list(table[0]))}\n\n{markdown(maps, list(maps[0]))}"
            )
    text = "\n\n".join(parts)
    print(text)
    if options.write:
        write_section(
            "agreement", f"`python -m benchmarks.agreement --write`. {machine()}\n\n{text}"
        )


if __name__ == "__main__":
    main()
