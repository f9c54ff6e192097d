"""Data selection: ``python -m benchmarks.data_selection [--parts NAME ...] [--write]``.

``recall``: mixtures in which a tenth of the rows is marked, and targets of as many rows like those,
of other clusters; how many of the marked rows come first, next to random rows, to the length of a
row, and to targets drawn from ordinary rows. In one mixture marked rows are in another style than
the others; in the others harmful requests are among harmless ones of the same forms. A target of
which half is ordinary asks for what the pool has too little of. ``marks``: how often marks that were
drawn at random are called found. Nothing is trained on the rows that were selected.
"""

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks.page import CommandLine, machine, markdown, write_section
from interp import organisms
from interp.analyzers.data_selection import METHODS, DataSelection
from interp.analyzers.data_selection.findings import (
    Settings,
    claims_of,
    recall_tables,
    score_rows,
    selection_table,
)
from interp.analyzers.data_selection.rows import ReadRows, read_rows
from interp.claims import evaluate
from interp.maths.data_selection import random_recall, recall, stacked
from interp.maths.statistics import roc_auc
from interp.models.pair import Pair
from interp.prompts import Contrast, PromptSet, read_prompts
from interp.study import Study
from interp.table import Table

PARTS = ("recall", "marks")
ROWS, SHARE, DRAWS, MARKINGS, PERMUTATIONS = 600, 0.1, 20, 200, 99
MIXTURES = ("requests among news", "harmful among harmless", "the same, real base")
SMALL = {
    "ROWS": 40,
    "SHARE": 0.2,
    "DRAWS": 2,
    "MARKINGS": 2,
    "PERMUTATIONS": 39,
    "MIXTURES": MIXTURES[:1],
}
SETTINGS = Settings(0.05, "none", 1.5, 0.75)
NAMES = {"got-d": "GOT-D", "mona": "Jaccard of neurons", "bm25": "BM25"}


def sources(mixture: str) -> tuple[str, PromptSet, PromptSet]:
    """The model, rows like those to be marked, and ordinary rows, of a mixture."""
    family = "smollm2" if "real" in mixture else "refusal"
    folder = organisms.prompts(f"{family}/base", "verify", "harmful").parent
    splits = ("locate", "verify", *(("train",) if family == "smollm2" else ("style",)))
    harmful, harmless = (
        PromptSet.joined(
            *(read_prompts(folder / f"{split}-{kind}.jsonl", name=split) for split in splits)
        )
        for kind in ("harmful", "harmless")
    )
    return f"organism:{family}/base", harmful, sentences() if "news" in mixture else harmless


def sentences() -> PromptSet:
    """The sentences of the ordinary texts, those of one text in one cluster."""
    texts = read_prompts(organisms.prompts("discover", "text", "text"), name="text")
    parts = [
        replace(text, text=sentence)
        for text in texts
        for sentence in text.text.replace("? ", "?|").replace(". ", ".|").split("|")
    ]
    return PromptSet(tuple(replace(one, id=at) for at, one in enumerate(parts)), "sentences")


def read(mixture: str) -> tuple[ReadRows, ReadRows, PromptSet, PromptSet]:
    """All rows of a mixture, read once."""
    model, marked, ordinary = sources(mixture)
    study = Study(Pair.load(model, None), Contrast(marked, ordinary), None, quiet=True)
    where = DataSelection().places(study)
    of_marked, of_others = (read_rows(study, group, *where, "answers") for group in study.classes)
    return of_marked, of_others, study.prompts("positive"), study.prompts("negative")


def drawn(prompts: PromptSet, count: int, generator: Any) -> tuple[np.ndarray, np.ndarray]:
    """``count`` rows for the pool, and as many for a target; they share no cluster or text."""
    clusters = np.array(prompts.clusters)
    texts = np.unique(prompts.texts, return_index=True)[1]
    names = generator.permutation(np.unique(clusters))
    half = set(names[: len(names) // 2].tolist())
    inside = np.array([one in half for one in clusters[texts]])
    parts = [generator.permutation(texts[side]) for side in (inside, ~inside)]
    return parts[0][:count], parts[1][:count]


def joined(first: ReadRows, second: ReadRows) -> ReadRows:
    """The rows of two classes."""
    return ReadRows(
        np.concatenate([first.streams, second.streams]),
        stacked(first.codes, second.codes),
        np.concatenate([first.lengths, second.lengths]),
        (*first.texts, *second.texts),
    )


def mixed(rows: tuple, generator: Any) -> tuple[ReadRows, np.ndarray, dict[str, ReadRows]]:
    """A pool, which of its rows are marked, and targets: like the marked, half like them and half
    ordinary, and ordinary.
    """
    marked, ordinary, marked_prompts, ordinary_prompts = rows
    available = len({*ordinary_prompts.texts})
    n_marked = round(SHARE * ROWS)
    in_pool, in_target = drawn(marked_prompts, n_marked, generator)
    size = min(n_marked, available // 10)
    unique = generator.permutation(np.unique(ordinary_prompts.texts, return_index=True)[1])
    others = unique[size : size + ROWS - n_marked]
    spare = ordinary.keep(unique[:size])
    pool = joined(marked.keep(in_pool), ordinary.keep(others))
    flags = np.arange(len(pool.texts)) < len(in_pool)
    half = size // 2
    targets = {
        "marked": marked.keep(in_target),
        "half ordinary": joined(marked.keep(in_target[:half]), spare.keep(np.arange(half))),
        "ordinary": spare,
    }
    return pool, flags, targets


def recall_rows() -> list[dict]:
    """A row per mixture, target and method: means over draws of the mixture, with their range."""
    made = []
    for mixture in MIXTURES:
        started = time.process_time()
        rows, generator = read(mixture), np.random.default_rng(0)
        found: dict[tuple, list] = {}
        lengths, sizes = [], (0, 0)
        for _ in range(DRAWS):
            pool, flags, targets = mixed(rows, generator)
            sizes = len(flags), int(flags.sum())
            lengths.append(roc_auc(flags, pool.lengths))
            for target, part in targets.items():
                scores = score_rows(METHODS, pool, part, SETTINGS)
                for method, values in scores.values.items():
                    ranks = scores.ranks(method)
                    auc = roc_auc(flags, -values if method == "got-d" else values)
                    found.setdefault((target, method), []).append((recall(ranks, flags), auc))
        chance = random_recall(*sizes)
        longest = np.mean(lengths)
        print(mixture, f"{time.process_time() - started:.0f} CPU s", flush=True)
        made += [
            {
                "mixture": mixture,
                "marked": f"{sizes[1]} of {sizes[0]}",
                "target": target,
                "method": NAMES[method],
                "recall": ranged([each for each, _ in values]),
                "AUC": f"{np.mean([each for _, each in values]):.2f}",
                "random rows": f"{chance[0]:.0%} ({chance[1]:.0%} to {chance[2]:.0%})",
                "AUC of length": f"{longest:.2f}",
            }
            for (target, method), values in found.items()
        ]
    return made


def ranged(values: list[float]) -> str:
    """Mean and range of recalls."""
    return f"{np.mean(values):.0%} ({min(values):.0%} to {max(values):.0%})"


def mark_rows() -> list[dict]:
    """How often marks at random are called found, by mixture and method."""
    made = []
    for mixture in MIXTURES:
        rows, generator = read(mixture), np.random.default_rng(1)
        pool, flags, targets = mixed(rows, generator)
        scores = score_rows(METHODS, pool, targets["marked"], SETTINGS)
        prompts = PromptSet(
            tuple(
                replace(rows[3].prompts[0], id=at, text=text, cluster=f"row:{at}")
                for at, text in enumerate(pool.texts)
            ),
            "pool",
        )
        called = dict.fromkeys(METHODS, 0)
        for at in range(MARKINGS):
            marks = generator.permutation(flags)
            tables, arrangements = recall_tables(
                scores, prompts, pool.lengths, marks, (PERMUTATIONS, 2), at
            )
            main = selection_table(scores, prompts, pool, 1, marks.tolist())
            run = Table("data-selection", main.columns, main.data, tables=tables)
            claims = [
                one
                for one in claims_of(METHODS, len(marks), int(marks.sum()), arrangements)
                if one.name.endswith("finds-marked")
            ]
            for finding, method in zip(evaluate(claims, run), METHODS, strict=True):
                called[method] += finding.supported
        made += [
            {
                "mixture": mixture,
                "method": NAMES[method],
                "called found": f"{count} of {MARKINGS}",
            }
            for method, count in called.items()
        ]
    return made


MAKERS = {"recall": recall_rows, "marks": mark_rows}


def main() -> None:
    """Measure, print, and with ``--write`` put the tables into docs/benchmarks.md."""
    parser = CommandLine(globals(), SMALL)
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=PARTS)
    given = parser.read()
    torch.set_num_threads(1)
    for part in given.parts:
        found = MAKERS[part]()
        text = markdown(found, list(found[0]))
        print(text, flush=True)
        if given.write:
            what = f"`python -m benchmarks.data_selection --parts {part} --write`. {machine()}"
            write_section(f"data-selection-{part}", f"{what}\n\n{text}")


if __name__ == "__main__":
    main()
