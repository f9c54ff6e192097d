"""Comparing models by dictionaries, on planted fine-tunes. ``python -m benchmarks.dictionaries_diff
[--write]``.

A pair of activations with 24 planted features of the tuned model alone (12 in 8 % of rows, 12 in
0.5 %), 4 of the base alone, and distractors that are rotated by 30 degrees or twice as large; for
every seed a crosscoder, a dictionary of differences and a base dictionary are trained and compared
on held-out documents, beside the decoder's norms alone. The control pair has the same features in
both models, with noise of their own; the identical pair is the base twice; the exchanged pair is
the planted one with both models exchanged in half of the documents. ``--setting crowded``: 40
shared features and 8 of each distractor, whose 96 directions are not at right angles in 64
dimensions.
"""

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.page import CommandLine, machine, markdown, write_section
from benchmarks.worlds.planted_pair import NONE, PlantedPair, planted_pair
from interp.maths.intervals import cluster_interval
from interp.maths.statistics import clopper_pearson
from interp.sae.analysis.diff import ONE_SIDED_CLASSES, compare_models
from interp.sae.core.config import BATCHTOPK_ARCHITECTURES, DictionaryConfig
from interp.sae.core.dictionary import Dictionary
from interp.sae.training.losses import smallest_selected, training_loss
from interp.table import Table

SIZE = {
    "width": 64,
    "shared": 16,
    "easy": 12,
    "narrow": 12,
    "base_only": 4,
    "rotated": 4,
    "rescaled": 4,
}
LATENTS, K, POOL, BATCH, LEARNING_RATE = 96, 4, 2**18, 512, 3e-3
STEPS = {"crosscoder": 2500, "difference": 1500, "base": 1000, "tuned": 1000}
SETTINGS: dict[str, tuple[dict[str, Any], int, int]] = {
    "roomy": (SIZE, LATENTS, K),
    "crowded": (SIZE | {"shared": 40, "base_only": 8, "rotated": 8, "rescaled": 8}, 128, 8),
}
"""What is planted, latents, and codes a row."""
HELD_OUT, DOCUMENTS = 40, 128
WAYS = ("crosscoder", "difference", "base", "tuned")
JUDGES = (
    ("crosscoder", "claimed", "crosscoder, latent scaling"),
    ("crosscoder", "norms", "crosscoder, norm bins"),
    ("difference", "claimed", "dictionary of differences"),
    ("base", "claimed", "base dictionary on tuned"),
    ("tuned", "claimed", "tuned dictionary on base"),
)
SMALL = {
    "seeds": 2,
    "steps": 20,
    "ways": ["difference", "base"],
    "variants": ["planted", "identical"],
    "POOL": 2**12,
}


def fit(
    config, rows, steps: int, seed: int = 0, rate: float = LEARNING_RATE, dead_after: int = 200
) -> Dictionary:
    """A dictionary by Adam on ``rows(step)``: warm-up, decay, AuxK, decoder rows of norm 1 per
    model.
    """
    dictionary, norm = Dictionary(config, seed=seed), math.sqrt(config.models)
    with torch.no_grad():
        dictionary.b_dec.copy_(rows(0).mean(0))
    optimiser = torch.optim.Adam(dictionary.parameters(), rate)
    silent = torch.zeros(config.width, dtype=torch.int64)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / 100, 5 * (1 - step / steps))
        loss = training_loss(dictionary, rows(step), dead=silent >= dead_after)
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
        with torch.no_grad():
            dictionary.W_dec.mul_(norm / dictionary.W_dec.norm(dim=1, keepdim=True))
            silent = torch.where(loss.forward.codes.counts() > 0, 0, silent + 1)
            least = smallest_selected(dictionary, loss.forward.codes)
            if config.architecture in BATCHTOPK_ARCHITECTURES and least is not None:
                old = dictionary.threshold
                old.copy_(
                    torch.full_like(old, least) if bool(old.isnan()) else 0.99 * old + 0.01 * least
                )
    return dictionary


def trained(
    pair: PlantedPair,
    way: str,
    steps: int,
    seed: int,
    latents: int = LATENTS,
    k: int = K,
    pool_of: int = POOL,
) -> Dictionary:
    """The dictionary that a way of comparing needs, of a pool of rows."""
    drawn = [pair.draw(512, batch) for batch in range(pool_of // (512 * pair.per_document))]
    if way == "crosscoder":
        pool = torch.cat([rows.both for rows in drawn])
    elif way == "difference":
        pool = torch.cat([rows.tuned - rows.base for rows in drawn])
    else:
        pool = torch.cat([rows.tuned if way == "tuned" else rows.base for rows in drawn])
    generator = torch.Generator().manual_seed(seed)
    config = DictionaryConfig(
        "batchtopk", pair.base.shape[1], latents, models=1 + (way == "crosscoder"), k=k
    )
    return fit(
        config, lambda _: pool[torch.randint(len(pool), (BATCH,), generator=generator)], steps, seed
    )


def held_out(pair: PlantedPair, batches: int = HELD_OUT):
    """Batches of documents that training never saw."""
    for batch in range(batches):
        rows = pair.draw(DOCUMENTS, 10**6 + batch)
        yield rows.base, rows.tuned, rows.documents


def judged(pair: PlantedPair, dictionary: Dictionary, way: str, found: Table) -> dict:
    """What was called the tuned model's or the base's own, beside the truth of every latent by its
    closest feature.
    """
    near = pair.closest(dictionary.W_dec, way)
    truth = np.array([pair.classes[index] if index >= 0 else NONE for index in near], dtype=object)
    judge = ("claimed", "norms") if way == "crosscoder" else ("claimed",)
    told = {"live": found.summary["live"], "features": len(pair.kinds)}
    for name in judge:
        called = found["class"] if name == "claimed" else found["by_norms"]
        sure = found["claimed"] if name == "claimed" else np.ones(len(called), bool)
        for kind in ("tuned-only", "base-only"):
            right = (called == kind) & sure & (truth == kind)
            hit = {int(index) for index in near[right]}
            told[f"{name} {kind}"] = {
                "called": int(((called == kind) & sure).sum()),
                "right": int(right.sum()),
                "planted": sum(one == kind for one in pair.classes),
                "found": len(hit),
                "missed": [
                    pair.kinds[i]
                    for i, one in enumerate(pair.classes)
                    if one == kind and i not in hit
                ],
                "of": sorted(truth[(called == kind) & sure & (truth != kind)]),
            }
    told["changed"] = {
        kind: [
            int(((found["class"] == kind) & found["claimed"] & (truth == kind)).sum()),
            int(((found["class"] == kind) & found["claimed"]).sum()),
            sum(one == kind for one in pair.classes),
        ]
        for kind in ("shared", "rotated", "rescaled")
    }
    return told | {
        key: found.summary[key] for key in found.summary if key.startswith(("unexplained", "fires"))
    }


def measure(variant: str, way: str, seed: int, steps: int, setting: str = "roomy") -> dict:
    """Train, compare and judge one dictionary."""
    size, latents, k = SETTINGS[setting]
    pair, start = planted_pair(**size, variant=variant, seed=seed), time.perf_counter()
    # no dictionary can be made of differences that are all 0: the planted pair's reads them
    source = (
        planted_pair(**size, seed=seed) if (variant, way) == ("identical", "difference") else pair
    )
    dictionary = trained(source, way, steps, seed, latents, k)
    found = compare_models(dictionary, way, held_out(pair), seed=seed)
    what = {"setting": setting, "variant": variant, "way": way, "seed": seed}
    return (
        what
        | {"seconds": round(time.perf_counter() - start)}
        | judged(pair, dictionary, way, found)
    )


def _bounded(rows: list[dict], name: str, kind: str, top: str, bottom: str) -> str:
    """A share over all seeds: counts, exact lower bound over features, lower bound over seeds, and
    the worst seed.
    """
    tops, bottoms = ([row[f"{name} {kind}"][part] for row in rows] for part in (top, bottom))
    if not sum(bottoms):
        return "0 of 0"
    each = np.repeat([t / max(b, 1) for t, b in zip(tops, bottoms, strict=True)], bottoms)
    over = cluster_interval(each, np.repeat(np.arange(len(bottoms)), bottoms))[1]
    exact = clopper_pearson(sum(tops), sum(bottoms))[0]
    worst = min(t / b for t, b in zip(tops, bottoms, strict=True) if b)
    return (
        f"{sum(tops)} of {sum(bottoms)} (exact ≥ {exact:.2f}, over seeds ≥ {over:.2f}, worst seed"
        f" {worst:.2f})"
    )


def tables(rows: list[dict]) -> str:
    """Precision and recall by way, then what a pair without differences gives."""
    planted, null = [], []
    for way, name, said in JUDGES:
        of = [row for row in rows if row["way"] == way]
        for kind in ("tuned-only", "base-only"):
            if kind not in ONE_SIDED_CLASSES[way]:
                continue
            there = [row for row in of if row["variant"] == "planted"]
            if there:
                planted.append(
                    {
                        "way": said,
                        "class": kind,
                        "seeds": len(there),
                        "precision": _bounded(there, name, kind, "right", "called"),
                        "recall": _bounded(there, name, kind, "found", "planted"),
                    }
                )
            for variant in ("control", "identical", "exchanged"):
                if there := [row for row in of if row["variant"] == variant]:
                    called = sum(row[f"{name} {kind}"]["called"] for row in there)
                    live = sum(row["live"] for row in there)
                    low, high = clopper_pearson(called, live)
                    null.append(
                        {
                            "pair": variant,
                            "way": said,
                            "class": kind,
                            "seeds": len(there),
                            "claimed": f"{called} of {live} live latents ({low:.3f} to {high:.3f})",
                        }
                    )
    changed = []
    for way in WAYS:
        there = [
            row["changed"] for row in rows if row["way"] == way and row["variant"] == "planted"
        ]
        for kind in ("shared", "rotated", "rescaled") if there else ():
            right, called, features = (
                sum(part) for part in zip(*(one[kind] for one in there), strict=True)
            )
            changed.append(
                {
                    "way": way,
                    "class": kind,
                    "claimed latents": called,
                    "of that truth": right,
                    "features planted": features,
                }
            )
    return "\n\n".join(markdown(part, list(part[0])) for part in (planted, null, changed) if part)


def main() -> None:
    """Measure all; with ``--write`` into docs/benchmarks.md."""
    parser = CommandLine(globals(), SMALL)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, help=f"of training, instead of {STEPS}")
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument(
        "--variants", nargs="+", default=("planted", "control", "identical", "exchanged")
    )
    parser.add_argument("--setting", default="roomy", choices=SETTINGS)
    parser.add_argument(
        "--kept",
        type=Path,
        help="file of measurements, one JSON a line: what is there is not redone",
    )
    options = parser.read()
    rows = []
    if options.kept and options.kept.exists():
        rows = [json.loads(line) for line in options.kept.read_text().splitlines()]
    rows = [row for row in rows if row.get("setting", "roomy") == options.setting]
    done = {(row["variant"], row["way"], row["seed"]) for row in rows}
    for way in options.ways:
        for variant in options.variants:
            for seed in range(1 if variant == "identical" else options.seeds):
                if (variant, way, seed) in done:
                    continue
                rows.append(
                    measure(variant, way, seed, options.steps or STEPS[way], options.setting)
                )
                print(json.dumps(rows[-1]), flush=True)
                if options.kept:
                    with options.kept.open("a") as stream:
                        stream.write(json.dumps(rows[-1]) + "\n")
    text = tables(rows)
    print(text, flush=True)
    if options.write:
        given = (
            f"--setting {options.setting} --seeds {options.seeds} --ways {' '.join(options.ways)}"
        )
        command = (
            f"`python -m benchmarks.dictionaries_diff {given} --variants"
            f" {' '.join(options.variants)} --write`"
        )
        section = "dictionaries-diff" + (
            "" if options.setting == "roomy" else f"-{options.setting}"
        )
        write_section(section, f"{command}. {machine()}\n\n{text}")


if __name__ == "__main__":
    main()
