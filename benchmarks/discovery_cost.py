"""What diff mining costs: ``python -m benchmarks.discovery_cost [--long] [--write]``.

Time: ``interp.DiffMining`` without controls on a real pair (``organism:smollm2/lora``), as a
multiple of the plain forward passes of base and fine-tuned model over the same texts with the
logits of all positions, in the same batches and the same process, before and after. CPU seconds of
one thread. The texts are those that ``interp discover`` reads by default, read again until there
are enough tokens. The target is 1.3.

Memory: largest resident memory of a process that does the same, loading included, over few
texts and over ten times as many. The longer of these takes a child of the small model, whose logits
are small too, so that what is kept of every position would show; ``--long`` takes the real pair.

``--whole quick defaults`` measures ``interp discover`` of the real pair with its five controls
instead. Targets on two idle cores: 20 minutes, and 60.
"""

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.page import CommandLine, machine, markdown, write_section
from benchmarks.resources import resources
from interp.analyzers.diff_mining import BYTES, DiffMining
from interp.engines import Batch
from interp.experiments.plain_text import coded_texts
from interp.models.pair import Pair
from interp.prompts import OneClass, Prompt, PromptSet
from interp.study import Study

ROOT = Path(__file__).resolve().parent.parent
REAL, SMALL_PAIR = "smollm2/lora", "refusal/lora"
TEXTS = ROOT / "data" / "prompts" / "discover" / "text.txt"
TOKENS, TIMES, TARGET = 20_000, 10, 1.3
WHOLE = {"quick": ("--quick", 20), "defaults": ("", 60)}
"""Flag and target in minutes."""
CONTROLS = 5
SMALL = {"REAL": "refusal/lora", "TOKENS": 300, "TIMES": 3}


def study_of(name: str, tokens: int) -> Study:
    """A study of an organism and its base on at least so many tokens of plain text."""
    pair = Pair.load(f"organism:{name}", f"organism:{name.split('/')[0]}/base", device="cpu")
    lines = [line for line in TEXTS.read_text(encoding="utf-8").splitlines() if line.strip()]
    lengths = [len(pair.tokenizer(line)["input_ids"]) for line in lines]
    rows, read = [], 0
    while read < tokens:
        line = len(rows) % len(lines)
        rows.append(Prompt(len(rows), lines[line], str(line)))
        read += lengths[line]
    return Study(pair, OneClass(PromptSet(tuple(rows), TEXTS.name)), None)


def plain(study: Study) -> float:
    """Seconds of the pair's forward passes with the logits of all positions."""
    texts, pair = coded_texts(study, "positive"), study.pair
    vocabulary, total = pair.tuned.anatomy.vocabulary, 0.0
    for rows in study.batches(texts, pair.tuned, BYTES * vocabulary):
        batch = Batch.pad([texts[row].ids for row in rows], study.pad_id, "right")
        started = time.process_time()
        for model in (pair.require_base("this benchmark"), pair.tuned):
            study.engine.run(model, batch, keep=None).require_logits()
        total += time.process_time() - started
    return total


def mine(name: str, tokens: int) -> None:
    """Diff mining, for a process whose memory is measured."""
    torch.set_num_threads(1)
    DiffMining()(study_of(name, tokens))


def time_rows() -> Iterator[dict]:
    """Time of diff mining as a multiple of the plain passes, with topics and without."""
    study = study_of(REAL, TOKENS)
    read = sum(len(text.ids) for text in coded_texts(study, "positive"))
    plain(study.with_prompts(study.contrast.limit(2)))  # the first use of a model is slower
    before = plain(study)
    taken = {}
    for topics in (0, DiffMining().topics):
        started = time.process_time()
        DiffMining(topics=topics)(study)
        taken[topics] = time.process_time() - started
    passes = (before + plain(study)) / 2
    for topics, seconds in taken.items():
        yield {
            "pair": REAL,
            "tokens": f"{read:,}",
            "topics": topics,
            "plain passes, CPU seconds": f"{passes:.1f}",
            "diff mining, CPU seconds": f"{seconds:.1f}",
            "of the plain passes": f"{seconds / passes:.2f}",
            "target": TARGET,
        }


def memory_rows(long: bool = False) -> Iterator[dict]:
    """Peak memory over few texts and over more; ``long``: of the real pair as well."""
    runs = [(REAL, 1), (SMALL_PAIR, 1), (SMALL_PAIR, TIMES), *([(REAL, TIMES)] if long else [])]
    for name, times in runs:
        gigabytes, seconds = peak(name, times * TOKENS)
        yield {
            "pair": name,
            "tokens": f"{times * TOKENS:,}",
            "peak GB": f"{gigabytes:.2f}",
            "CPU seconds": f"{seconds:.0f}",
        }


def peak(name: str, tokens: int) -> tuple[float, float]:
    """Largest resident memory, GB, and CPU seconds of ``mine`` in a process of its own."""
    code = f"from benchmarks.discovery_cost import mine; mine({name!r}, {tokens})"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return resources([sys.executable, "-c", code], ROOT, environment)


def whole_rows(names: list[str]) -> Iterator[dict]:
    """Time and memory of a whole discovery, in a process of its own."""
    family = REAL.split("/")[0]
    controls = [
        word for at in range(CONTROLS) for word in ("--control", f"organism:{family}/control-{at}")
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for name in names:
        flag, target = WHOLE[name]
        with tempfile.TemporaryDirectory() as store:
            command = [sys.executable, "-m", "interp", "discover", f"organism:{REAL}"]
            command += ["--base", f"organism:{family}/base", *controls, "--store", store]
            started = time.time()
            gigabytes, seconds = resources([*command, *filter(None, [flag])], ROOT, environment)
            minutes = (time.time() - started) / 60
        yield {
            "pair": REAL,
            "settings": name,
            "minutes": f"{minutes:.1f}",
            "target": target,
            "CPU minutes": f"{seconds / 60:.1f}",
            "peak GB": f"{gigabytes:.2f}",
        }


def main() -> None:
    """Measure, print, and with ``--write`` put the tables into docs/benchmarks.md."""
    parser = CommandLine(globals(), SMALL)
    parser.add_argument("--long", action="store_true", help="also ten times as much, real pair")
    parser.add_argument("--whole", nargs="*", choices=WHOLE, help="whole discoveries instead")
    given = parser.read()
    if not given.whole:
        torch.set_num_threads(1)
    tables = []
    parts = (time_rows(), memory_rows(given.long))
    for found in (whole_rows(given.whole),) if given.whole else parts:
        rows = []
        for row in found:
            rows.append(row)
            print(markdown([row], list(row)).splitlines()[-1], flush=True)
        tables.append(markdown(rows, list(rows[0])))
        print(f"\n{tables[-1]}\n", flush=True)
    if given.write:
        whole = f"--whole {' '.join(given.whole)} " if given.whole else ""
        flags = f"{'--long ' * given.long}{whole}--write"
        command = f"`python -m benchmarks.discovery_cost {flags}`"
        section = "discovery-time" if given.whole else "discovery-cost"
        write_section(section, "\n\n".join([f"{command}. {machine()}", *tables]))


if __name__ == "__main__":
    main()
