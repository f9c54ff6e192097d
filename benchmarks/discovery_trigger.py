"""Does the trigger scan find a planted trigger? ``python -m benchmarks.discovery_trigger [--write]``.

Numbered organisms of the family ``discover`` against its 19 control fine-tunes, by ``TriggerScan``
alone: one with a planted trigger, and one without. The trigger is the string in the organism's
``secret.json``. Tokens are chosen by exact gains in two prompts of each kind, which is the default
of so small a vocabulary (768), or by first-order gains.
"""

import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.page import CommandLine, machine, markdown, write_section
from interp import organisms
from interp.analyzers.trigger_scan import TriggerScan
from interp.models.pair import Pair
from interp.prompts import OneClass, read_prompts
from interp.study import Study
from interp.table import Table

BASE, FAMILY, CONTROLS = "organism:refusal/base", "discover", 19
TEXTS, PROMPTS, BEST, FIRST = 60, 12, 200, 20
RUNS = (("10", "exact"), ("10", "gradient"), ("06", "exact"))
"""Organisms, and what chooses the tokens."""
SMALL = {"CONTROLS": 2, "TEXTS": 8, "PROMPTS": 2, "BEST": 8, "RUNS": (("10", "gradient"),)}


def scanned(name: str, controls: Sequence[Pair], choose: str) -> Table:
    """The trigger scan of one organism."""
    pair = Pair.load(f"organism:{FAMILY}/{name}", BASE)
    text = organisms.prompts("refusal", "text", "text")
    prompts = OneClass(read_prompts(text, "prompt", "text")).limit(TEXTS)
    scan = TriggerScan(controls=controls, prompts=PROMPTS, choose=choose, best=BEST, rows=10 * BEST)
    return scan(Study(pair, prompts, None))


def row_of(name: str, table: Table, choose: str, seconds: float) -> dict[str, Any]:
    """What the table says of the planted trigger, and of all tokens."""
    place = organisms.data_root() / "organisms" / FAMILY / name / "secret.json"
    secret = json.loads(place.read_text(encoding="utf-8"))
    maxima, sign = table.tables["controls"]["maximum"], secret.get("trigger")
    hits = [row for row in table.rows() if sign and row["evidence"].strip() == sign]
    first = hits[0] if hits else None
    phrases = [phrase.strip().lower() for phrase in secret["phrases"] or secret["tokens"]]
    answers = [str(answer).lower() for answer in table["answer"][:FIRST]]
    saying = sum(any(phrase in answer for phrase in phrases) for answer in answers)
    by_score = 1 + sum(row["score"] > first["score"] for row in table.rows()) if first else 0
    return {
        "planted": secret["kind"] + (f" {sign!r}" if sign else ""),
        "chosen by": choose,
        "place of the trigger": "–" if not sign else str(first["place"]) if first else "not listed",
        "by score alone": str(by_score or "–"),
        "its statistic": f"{first['statistic']:.1f}" if first else "–",
        "where": first["where"] if first else "–",
        "first token": f"{table['evidence'][0]!r}" if len(table) else "–",
        "largest statistic": f"{maxima[0]:.1f}",
        "of the controls": f"{np.min(maxima[1:]):.1f} to {np.max(maxima[1:]):.1f}",
        f"of the first {FIRST} answers say what was planted": str(saying),
        "seconds": f"{seconds:.0f}",
    }


def main() -> None:
    """Print the table; with --write put it on the page."""
    options = CommandLine(globals(), SMALL).read()
    controls = [Pair.load(f"organism:{FAMILY}/control-{at:02d}", BASE) for at in range(CONTROLS)]
    rows = []
    for name, choose in RUNS:
        started = time.perf_counter()
        table = scanned(name, controls, choose)
        rows.append(row_of(name, table, choose, time.perf_counter() - started))
        print(rows[-1], flush=True)
    text = markdown(rows, list(rows[0]))
    text += f"\n\n{CONTROLS} controls, {PROMPTS} prompts. {machine()}\n"
    print(text, flush=True)
    if options.write:
        write_section("discovery-trigger", text)


if __name__ == "__main__":
    main()
