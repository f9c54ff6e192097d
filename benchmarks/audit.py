"""Audits: ``python -m benchmarks.audit [--parts NAME ...] [--write]``.

``self``: models audited as their own fine-tune, on 58 and 59 clusters. ``null``: 200 audits in
which both models' answers and losses are exchanged at random, cluster by cluster; at least 92 %
have to find nothing changed. ``controls``: every control fine-tune audited against four others and
a fifth, so that nothing should be beyond them. ``drift``: organisms in which refusals eroded, or
did not, with the exit code. ``real``: the real pair, which refuses what its base answers, against its
controls. ``cost``: the audit of the real pair without discovery in CPU seconds
of one thread, as a multiple of a plain forward pass over its prompts; the target is 150.
"""

import contextlib
import io
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.estimates import plain
from benchmarks.page import CommandLine, machine, markdown, write_section
from interp import organisms
from interp.analyzers.audit import Audit
from interp.analyzers.behaviour_change import BehaviourChange
from interp.analyzers.text_loss import TextLoss
from interp.cli import main as command
from interp.metrics import Task
from interp.models.pair import Pair
from interp.prompts import OneClass, read_prompts, read_task
from interp.studies import load_study
from interp.study import Study
from interp.table import Table

PARTS = ("self", "null", "controls", "drift", "real", "cost")
PAIRS = ("refusal/lora", "refusal/partial", "refusal/sham")
SELVES = ("refusal/base", "refusal/full")
DRIFT = ("drift/eroded", "drift/kept", *(f"drift/control-{at}" for at in range(6)))
REAL, REAL_CONTROLS = "smollm2/lora", tuple(f"smollm2/control-{at}" for at in range(5))
CONTROLS = tuple(f"discover/control-{at:02d}" for at in range(6))
AUDITS, CLUSTERS, PROMPTS, REAL_PROMPTS, TOKENS, TARGET = 200, 59, 200, 60, 48, 150
SMALL = {
    "SELVES": ("refusal/full",),
    "PAIRS": ("refusal/lora",),
    "DRIFT": (),
    "CONTROLS": tuple(f"discover/control-{at:02d}" for at in range(3)),
    "REAL": "refusal/lora",
    "REAL_CONTROLS": (),
    "AUDITS": 3,
    "PROMPTS": 8,
    "REAL_PROMPTS": 4,
    "TOKENS": 6,
}


BASES = {"discover": "refusal/base", "drift": "refusal/full"}
"""Bases of families that have none of their own."""


def base_of(name: str) -> str:
    """The base of an organism."""
    family = name.split("/")[0]
    return f"organism:{BASES.get(family, f'{family}/base')}"


def prompt_files(name: str) -> dict[str, Path]:
    """Held-out harmful and harmless prompts of an organism's family, and its utility prompts: those
    of ``drift`` for all small models, one of every cluster.
    """
    if not name.startswith("smollm2"):
        kinds = ("harmful", "harmless", "utility")
        return {kind: organisms.prompts("drift", "task", kind) for kind in kinds}
    files = {kind: organisms.prompts("smollm2", "verify", kind) for kind in ("harmful", "harmless")}
    return files | {"utility": organisms.prompts("smollm2", "task", "utility")}


def studies_of(tuned: str, base: str, prompts: int) -> list[Study]:
    """The study of both classes, and that of the utility prompts."""
    files, pair = prompt_files(tuned.removeprefix("organism:")), None
    pair = Pair.load(tuned, base, device="cpu")
    options: dict[str, Any] = {"max_new_tokens": TOKENS, "quiet": True}
    of_classes = load_study(
        pair, files["harmful"], files["harmless"], "refusal", max_prompts=prompts, **options
    )
    if "utility" not in files:
        return [of_classes]
    has_answers = '"answer"' in files["utility"].read_text(encoding="utf-8").split("\n", 1)[0]
    read = (read_task if has_answers else read_prompts)(files["utility"], "prompt", "utility")
    utility = OneClass(read).limit(prompts)
    metric = Task.from_prompts(pair.tokenizer, list(utility.positive)) if has_answers else None
    return [of_classes, replace(of_classes.with_prompts(utility), metric=metric)]


def behaviour_runs(studies: Sequence[Study]) -> list[Table]:
    """Refusals and utility of both models."""
    runs = [BehaviourChange(label="refusal")(studies[0])]
    for study in studies[1:]:
        analyzer = TextLoss() if study.metric is None else BehaviourChange(label="utility")
        runs.append(analyzer(study))
    return runs


def self_rows() -> list[dict]:
    """Verdicts of models as their own fine-tune."""
    rows = []
    for name in SELVES:
        model = f"organism:{name}"
        for clusters in (CLUSTERS - 1, CLUSTERS):
            studies = studies_of(model, model, clusters)
            made = Audit(behaviour_runs(studies))(studies[0])
            said = dict(zip(made["row"].tolist(), made["verdict"].tolist(), strict=True))
            rows.append({"model": name, "prompts of each file": clusters, **said})
    return rows


def exchanged(run: Table, generator: np.random.Generator) -> Table:
    """The run with both models exchanged at random, all rows of a cluster together."""
    _, code = np.unique(run["cluster"].astype(str), return_inverse=True)
    swap = (generator.random(code.max() + 1) < 0.5)[code]
    base, tuned = run["base"], run["tuned"]
    data = {
        **run.data,
        "base": np.where(swap, tuned, base),
        "tuned": np.where(swap, base, tuned),
    }
    return Table(run.kind, run.columns, data, None, run.summary)


def null_rows() -> list[dict]:
    """How often audits of exchanged models say that something changed."""
    rows = []
    for name in PAIRS:
        studies = studies_of(f"organism:{name}", base_of(name), PROMPTS)
        runs, generator = behaviour_runs(studies), np.random.default_rng(0)
        alarms = []
        for _ in range(AUDITS):
            made = Audit([exchanged(run, generator) for run in runs])(studies[0])
            alarms.append(any(said.startswith("changed") for said in made["verdict"].tolist()))
        truth = Audit(runs)(studies[0])["verdict"].tolist()
        rows.append(
            {
                "pair": name,
                "rows": len(truth),
                "as they are": ", ".join(truth),
                "audits with the models exchanged": AUDITS,
                "nothing changed": f"{1 - np.mean(alarms):.1%}",
            }
        )
    return rows


def audited(tuned: str, controls: Sequence[str], prompts: int) -> tuple[int, dict[str, Any]]:
    """Exit code and summary of the command, in a store of its own."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "prompts"
        folder.mkdir()
        for kind, path in prompt_files(tuned).items():
            shutil.copy(path, folder / f"{kind}.jsonl")
        words = ["audit", f"organism:{tuned}", "--base", base_of(tuned), "--prompts", str(folder)]
        words += [word for one in controls for word in ("--control", f"organism:{one}")]
        words += ["--max-prompts", str(prompts), "--max-new-tokens", str(TOKENS)]
        words += ["--no-discovery", "--store", f"{place}/runs", "--json", "--quiet"]
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            code = command(words)
        if code not in (0, 1):
            raise SystemExit(f"interp {' '.join(words)} ended with code {code}")
        return code, json.loads(printed.getvalue())["summary"]


def command_row(tuned: str, controls: Sequence[str], prompts: int) -> dict:
    """A row of the page: the exit code, and the verdict of every row."""
    code, summary = audited(tuned, controls, prompts)
    found = {"model": tuned, "controls": len(controls), "exit code": code, **summary["rows"]}
    print(found, flush=True)
    return found


def control_rows() -> list[dict]:
    """Every control, audited with the others as its controls."""
    return [
        command_row(name, [other for other in CONTROLS if other != name], PROMPTS)
        for name in CONTROLS
    ]


def drift_rows() -> list[dict]:
    """Organisms in which refusals eroded, or did not, against the family's controls."""
    names = [name for name in DRIFT if "control" in name]
    return [
        command_row(name, [other for other in names if other != name], PROMPTS) for name in DRIFT
    ]


def real_rows() -> list[dict]:
    """The real pair against its controls."""
    return [command_row(REAL, REAL_CONTROLS, REAL_PROMPTS)]


def cost_rows() -> list[dict]:
    """CPU seconds of the command and of a plain pass over its prompts, before and after."""
    studies = studies_of(f"organism:{REAL}", base_of(REAL), REAL_PROMPTS)
    rows = []
    for controls in ((), REAL_CONTROLS):
        before = sum(map(plain_seconds, studies))
        started = time.process_time()
        audited(REAL, controls, REAL_PROMPTS)
        used = time.process_time() - started
        one = (before + sum(map(plain_seconds, studies))) / 2
        rows.append(
            {
                "pair": REAL,
                "controls": len(controls),
                "prompts": sum(len(s.prompts(group)) for s in studies for group in s.classes),
                "CPU seconds": f"{used:.0f}",
                "plain passes": f"{used / one:.0f}",
                "target": TARGET,
            }
        )
        print(rows[-1], flush=True)
    return rows


def plain_seconds(study: Study) -> float:
    """CPU seconds of a plain forward pass over the prompts of a study."""
    started = time.process_time()
    plain(study)
    # plain() warms up with as many passes as it times
    return (time.process_time() - started) / 2


MAKERS = {
    "self": self_rows,
    "null": null_rows,
    "controls": control_rows,
    "drift": drift_rows,
    "real": real_rows,
    "cost": cost_rows,
}


def main() -> None:
    """Measure, print, and with ``--write`` put the tables into docs/benchmarks.md."""
    parser = CommandLine(globals(), SMALL)
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=PARTS)
    given = parser.read()
    torch.set_num_threads(1)
    for part in given.parts:
        found = MAKERS[part]()
        columns = list(dict.fromkeys(name for row in found for name in row))
        text = markdown(found, columns) if found else ""
        print(text, flush=True)
        if given.write:
            what = f"`python -m benchmarks.audit --parts {part} --write`. {machine()}"
            write_section(f"audit-{part}", f"{what}\n\n{text}")


if __name__ == "__main__":
    main()
