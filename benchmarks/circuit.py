"""Circuits: ``python -m benchmarks.circuit [--parts organism cost attribution] [--write]``.

Heads by path patching in ``entities``, where the heads that carry the task are known: does it find
them in the base and in its fine-tuned models, and what are circuits worth next to random ones. The
cost of all heads, composition through queries, keys and values included. Attribution (gradients)
against exact patching, on the organism for all heads and on the real pair for all heads of two
blocks that were fixed beforehand.
"""

import json
import random
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.page import CommandLine, machine, markdown, write_section
from interp import claims, organisms
from interp.analyzers.circuit import FindCircuit
from interp.analyzers.circuit.compute import Data, find_circuit, ordered
from interp.experiments.head_groups import DEFAULT_GROUPS, HeadGroup
from interp.experiments.path_patching import PROBABILITY, Counter, scores_of_group
from interp.maths.statistics import rank_correlation
from interp.models.pair import Pair
from interp.prompts import OneClass, TaskFile, read_task_file
from interp.study import Study

PARTS = ("organism", "cost", "attribution")
PAIRS = ("entities/lora", "entities/full")
CONTROLS = tuple(f"entities/control-{index}" for index in range(5))
DRAWS, PROMPTS, MINIMALITY = 39, 120, 60
CHAIN = (*DEFAULT_GROUPS, HeadGroup("E", "mention", "C", "k"))
REAL, REAL_PROMPTS, REAL_LAYERS = "smollm2/lora", 60, (10, 20)
RIGHT = 10
NAMES = ["Anna", "Ben", "David", "Emma", "Frank", "Mary", "John", "Paul"]
THINGS = (
    *("apple", "book", "key", "pen", "cup", "hat", "ring", "coin"),
    *("lamp", "map", "rope", "bell", "fork", "leaf", "shoe"),
)
SMALL = {
    "PAIRS": PAIRS[:1],
    "CONTROLS": CONTROLS[:1],
    "DRAWS": 2,
    "PROMPTS": 8,
    "MINIMALITY": 4,
    "REAL_LAYERS": (28,),
    "REAL_PROMPTS": 12,
    "RIGHT": 2,
}


def halves() -> tuple[TaskFile, TaskFile]:
    """Rows of the shipped task that find circuits, and rows that evaluate them."""
    task = read_task_file(organisms.prompts("entities", "task", "boxes"))
    splits = [
        task.keep([at for at, p in enumerate(task.prompts) if p.split == split][:PROMPTS])
        for split in ("locate", "verify")
    ]
    return splits[0], splits[1]


def loaded(name: str) -> Pair:
    """A pair of a family with its base."""
    return Pair.load(f"organism:{name}", f"organism:{name.split('/')[0]}/base", device="cpu")


def heads_of(table, role: str) -> str:
    """The circuit of a model, as text."""
    inside = table[f"in_{role}"]
    columns = (table[name][inside].tolist() for name in ("group", "layer", "head"))
    return " ".join(f"{group}{layer}.{head}" for group, layer, head in zip(*columns, strict=True))


def organism_rows() -> tuple[list[dict], list[str]]:
    """A row per pair, model and circuit; and what the claims say."""
    planted = organisms.describe("entities/base")["initial_heads"]
    known = " ".join(f"{group}{layer}.{head}" for group, (layer, head) in sorted(planted.items()))
    rows, sentences = [], []
    for name in PAIRS:
        pair, (task, held_out) = loaded(name), halves()
        controls = [loaded(control) for control in CONTROLS]
        study = Study(pair, OneClass(task.prompts), None, quiet=False)
        analyzer = FindCircuit(task, held_out, controls, draws=DRAWS, minimality_prompts=MINIMALITY)
        table = analyzer(study)
        circuits, gaps = table.tables["circuits"], table.tables["completeness"]
        for at in range(len(circuits)):
            model, circuit = circuits["model"][at], circuits["circuit"][at]
            own = (gaps["model"] == model) & (gaps["removed"] == "random")
            drawn = (gaps["model"] == model) & (gaps["removed"] == "random-circuit")
            minimal = table.tables["minimality"]
            mine = (minimal["model"] == model) & (minimal["circuit"] == "own")
            ends = [circuits[f"faithfulness{end}"][at] for end in ("", "_low", "_high")]
            same = model == circuit
            rows.append(
                {
                    "pair": name,
                    "runs in": model,
                    "circuit of": circuit,
                    "heads": heads_of(table, circuit),
                    "planted": known,
                    "accuracy": f"{circuits['full_accuracy'][at]:.0%}",
                    "faithfulness": "{:.0%} [{:.0%}, {:.0%}]".format(*ends),
                    "random: mean, max": (
                        f"{circuits['random_mean'][at]:.0%}, {circuits['random_max'][at]:.0%}"
                    ),
                    "rank p": f"{circuits['rank_p'][at]:.3f}",
                    "completeness gap (random circuits)": (
                        f"{gaps['gap'][own].mean():.2f} ({gaps['gap'][drawn].mean():.2f})"
                        if same
                        else ""
                    ),
                    "minimal heads": (
                        f"{minimal['minimal'][mine].sum()} of {mine.sum()}" if same else ""
                    ),
                }
            )
        own = table.tables["controls"]
        sentences += [
            f"* `{name}`, {finding.name}, {finding.verdict}: {finding.sentence}"
            for finding in claims.from_table(table.tables["claims"])
        ]
        sentences.append(
            f"* `{name}`: of {len(own)} controls, own circuits share {own['shared'].min():.0%} to"
            f" {own['shared'].max():.0%} of the base's heads; the base's circuit gives"
            f" {own['base_faithfulness'].min():.0%} to {own['base_faithfulness'].max():.0%} of"
            f" their accuracy ({own['accuracy'].min():.0%} to {own['accuracy'].max():.0%})."
        )
    return rows, sentences


def cost_rows() -> list[dict]:
    """Time and passes of path patching over all heads, in one model."""
    pair, (task, held_out) = loaded(PAIRS[0]), halves()
    data = Data.read(Study(pair, OneClass(task.prompts), None), task, held_out, PROBABILITY)
    rows = []
    for method in ("exact", "attribution"):
        started, cpu = time.perf_counter(), time.process_time()
        found = find_circuit(
            data,
            pair.tuned,
            CHAIN,
            attribution=method == "attribution",
            max_prompts=min(100, PROMPTS),
            min_share=0.02,
            name=method,
        )
        rows.append(
            {
                "method": method,
                "groups": ", ".join(f"{g.name}:{g.receiver}:{g.via or 'direct'}" for g in CHAIN),
                "heads": 20,
                "prompts": len(found.rows),
                "passes over whole prompts": found.counter.passes[0],
                "passes over single tokens": found.counter.columns[0],
                "wall clock, s": f"{time.perf_counter() - started:.1f}",
                "CPU, s": f"{time.process_time() - cpu:.1f}",
            }
        )
    return rows


def real_task(folder: Path) -> TaskFile:
    """Who has what, in plain English: two people, and a question about one."""
    rng, rows = random.Random("real task"), []

    def text(people: list[str], asked: str, mentioned: int) -> dict:
        things = rng.sample(THINGS, len(people))
        segments = [f"{who} has the {what}" for who, what in zip(people, things, strict=True)]
        context = ", ".join(segments)
        at = len(", ".join(segments[:mentioned])) + 2 * (mentioned > 0)
        prompt = f"{context}. {asked} has the"
        positions = {"mention": at, "label": len(context) + 2}
        return {"prompt": prompt, "positions": positions, "things": things}

    for _ in range(REAL_PROMPTS):
        people, at = rng.sample(NAMES, 2), rng.randrange(2)
        clean = text(people, people[at], at)
        others = rng.sample(NAMES, 2)
        absent = rng.choice([name for name in NAMES if name not in (*people, *others)])
        answer = clean.pop("things")[at]
        corrupt = text(others, absent, rng.randrange(2))
        corrupt.pop("things")
        rows.append({**clean, "answer": f" {answer}", "corrupt": corrupt})
    path = folder / "people.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return read_task_file(path)


def agreement(pair: Pair, task: TaskFile, groups, layers, label: str) -> list[dict]:
    """Attribution against exact patching for all heads of some blocks, group by group; receivers
    are those that attribution finds.
    """
    data = Data.read(Study(pair, OneClass(task.prompts), None), task, task, PROBABILITY)
    counter = Counter.new()
    every = data.batches(pair.tuned, data.selection, counter)
    right = np.concatenate([patching.right() for patching in every])
    kept = [row for row, is_right in zip(ordered(every), right, strict=True) if is_right][:RIGHT]
    print(f"{label}: {int(right.sum())} of {len(right)} prompts answered", flush=True)
    found = find_circuit(
        data,
        pair.tuned,
        groups,
        attribution=True,
        max_prompts=RIGHT,
        min_share=0.02,
        name=label,
    )
    heads = pair.tuned.anatomy.n_heads
    rows = []
    for group in groups:
        receivers = found.circuit.get(group.receiver, ())
        started = time.process_time()
        exact = scores_of_group(
            data.batches(pair.tuned, kept, counter, 1 + heads),
            group,
            receivers,
            layers=layers,
        ).mean[list(layers)]
        estimate = found.scores[group.name].mean[list(layers)]
        first = max((layer for layer, _ in receivers), default=max(layers) + 1)
        before = np.array(layers) < first
        exact, estimate = exact[before].ravel(), estimate[before].ravel()
        if not exact.size:
            continue
        miss = np.abs(estimate - exact)
        worst = int(miss.argmax())
        rows.append(
            {
                "model": label,
                "group": f"{group.name} ({group.position}, {group.via or 'direct'})",
                "blocks": ", ".join(map(str, layers)),
                "heads": exact.size,
                "prompts": len(kept),
                "rank correlation": f"{rank_correlation(exact, estimate):.2f}",
                "largest miss (exact, estimate)": (
                    f"{miss[worst]:.3f} ({exact[worst]:+.3f}, {estimate[worst]:+.3f})"
                ),
                "largest exact effect": f"{exact[np.abs(exact).argmax()]:+.3f}",
                "same first head": "yes" if exact.argmin() == estimate.argmin() else "no",
                "exact, CPU s": f"{time.process_time() - started:.0f}",
            }
        )
    return rows


def attribution_rows() -> list[dict]:
    """The organism's heads, and all heads of two blocks of the real pair."""
    task, _ = halves()
    rows = agreement(loaded(PAIRS[0]), task, DEFAULT_GROUPS, range(5), PAIRS[0])
    with tempfile.TemporaryDirectory() as folder:
        task = real_task(Path(folder))
        rows += agreement(loaded(REAL), task, DEFAULT_GROUPS, REAL_LAYERS, REAL)
    return rows


def main() -> None:
    """Measure, print, and write where asked."""
    parser = CommandLine(globals(), SMALL)
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS, help="which parts")
    options = parser.read()
    for part in options.parts:
        sentences: list[str] = []
        if part == "organism":
            rows, sentences = organism_rows()
        else:
            rows = cost_rows() if part == "cost" else attribution_rows()
        found = "\n\n".join(
            [markdown(rows, list(rows[0])), *(["\n".join(sentences)] if sentences else [])]
        )
        print(found, flush=True)
        if options.write:
            write_section(
                f"circuit-{part}",
                f"`python -m benchmarks.circuit --parts {part} --write`. {machine()}\n\n{found}",
            )


if __name__ == "__main__":
    main()
