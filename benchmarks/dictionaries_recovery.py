"""Recovery of planted truth by every architecture. ``python -m benchmarks.dictionaries_recovery
[--write]``.

Three recipes of 512 features in width 64 (or 128 in 32); dictionaries of as many latents trained on
the same draws in the same order, judged on draws that nobody trained on, beside principal
components and random rows at the same L0, and beside the same architecture trained by other
libraries where a variable names the Python they are installed in (INTERP_SAELENS_PYTHON,
INTERP_SPARSIFY_PYTHON, INTERP_DICTIONARY_LEARNING_PYTHON, INTERP_OVERCOMPLETE_PYTHON).

Every architecture of every library trains at the learning rate at which it recovered most (MCC) in
a world of another seed, of a quarter of the samples (``--tuning-part``), among ``RATES``; with
``--seeds 0`` only rates are tried. The whole comparison is what runs when no option is given (2M
samples, five seeds): many hours on two cores. Results are added to ``--results`` one by one, and
what stands there is not computed again, so that it can be stopped and goes on; the table says how
many seeds there are.
"""

import argparse
import json
import math
import os
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from benchmarks.dictionaries_training import Settings, config_of, fit
from benchmarks.page import machine, markdown, write_section
from benchmarks.worlds.synthetic import RECIPES, World, benchmark_world, rates
from interp.sae import ARCHITECTURES, Codes
from interp.sae.analysis.baselines import (
    Covariance,
    permuted_decoder,
    principal_components,
    random_directions,
)
from interp.sae.analysis.recovery import Recovery
from interp.sae.analysis.scores import Scores

HELD_OUT, HELD_OUT_BATCH = 20, 1024
RATES, TUNING_SEED, TUNING_RECIPE, TUNING_PART = (5e-3, 1e-2, 2e-2), 100, "flat", 4
RESULTS = Path(__file__).with_suffix(".jsonl")
PEERS = {
    "SAELens": (
        "INTERP_SAELENS_PYTHON",
        ("standard", "jumprelu", "gated", "topk", "batchtopk", "matryoshka", "matching_pursuit"),
    ),
    "sparsify": ("INTERP_SPARSIFY_PYTHON", ("topk",)),
    "dictionary_learning": (
        "INTERP_DICTIONARY_LEARNING_PYTHON",
        ("topk", "batchtopk", "matryoshka"),
    ),
    "overcomplete": ("INTERP_OVERCOMPLETE_PYTHON", ("topk", "batchtopk", "matching_pursuit")),
}
SHOWN = {
    "L0": "l0",
    "EV": "ev",
    "MCC": "mcc",
    "F1": "f1",
    "precision": "precision",
    "recall": "recall",
    "found": "found",
    "absorbed": "absorbed",
    "missed alone": "missed_alone",
    "dead": "dead",
}


def judged(rows: torch.Tensor, world: World, made) -> dict[str, float]:
    """What one dictionary scores on held-out draws; ``made(x)`` gives output and codes."""
    width = len(rows)
    recovery = Recovery(rows, world.directions, world.parents)
    scores = Scores(world.directions.shape[1], width)
    for batch in range(HELD_OUT):
        drawn = world.draw(HELD_OUT_BATCH, batch, held_out=True)
        output, codes = made(batch, drawn.x)
        scores.update(drawn.x, output, codes)
        recovery.update(codes, drawn.codes)
    found, said = scores.summary(), recovery.summary()
    return {"l0": found["l0"], "ev": found["explained_variance"], "dead": found["dead"]} | said


def own(dictionary):
    """Outputs and codes of a dictionary of ours."""

    def made(_, x):
        found = dictionary.reconstruct(x)
        return found.output, found.codes

    return made


def ours(
    world: World, data: np.ndarray, architecture: str, l0: float, settings: Settings, seed: int
) -> list[dict]:
    """One architecture, with its latents dealt out anew, and both baselines at its L0."""
    latents, width = world.directions.shape
    start = time.process_time()
    dictionary = fit(
        config_of(architecture, width, latents, l0),
        lambda step: torch.from_numpy(data[step]),
        l0,
        settings,
        seed,
    )
    took = time.process_time() - start
    found = [
        {"source": "interp", "seconds": took} | judged(dictionary.W_dec, world, own(dictionary))
    ]
    if architecture != "matching_pursuit":
        other = permuted_decoder(dictionary, seed)
        found.append({"source": "interp, rows permuted"} | judged(other.W_dec, world, own(other)))
    seen = Covariance.empty(width)
    for part in data[:: max(1, len(data) // 50)]:
        seen.update(torch.from_numpy(part))
    k = max(1, math.ceil(found[0]["l0"] - 0.01))
    for name, made in (
        ("PCA", principal_components(seen, k)),
        ("random", random_directions(seen, k, latents, seed)),
    ):
        found.append({"source": name} | judged(made.W_dec, world, own(made)))
    return found


def peer(
    library: str,
    python: str,
    world: World,
    data: np.ndarray,
    architecture: str,
    l0: float,
    settings: Settings,
    seed: int,
) -> dict:
    """The same architecture trained by another library on the same draws."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        np.save(root / "data.npy", data)
        np.save(
            root / "held.npy",
            np.stack(
                [world.draw(HELD_OUT_BATCH, i, held_out=True).x.numpy() for i in range(HELD_OUT)]
            ),
        )
        asked = {
            "library": library,
            "architecture": architecture,
            "latents": len(world.directions),
            "l0": l0,
            "seed": seed,
            "lr": settings.lr,
            "warm": settings.warm,
            "decay": settings.decay,
        }
        (root / "asked.json").write_text(json.dumps(asked))
        program = Path(__file__).with_name("dictionaries_peers.py")
        clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        done = subprocess.run(
            [python, program, root], capture_output=True, text=True, check=False, env=clean
        )
        if done.returncode:
            return {
                "source": library,
                "failed": (done.stderr.strip().splitlines() or ["no word"])[-1][:200],
            }
        got = np.load(root / "found.npz")

        def made(batch, _):
            codes = torch.from_numpy(got["codes"][batch])
            return torch.from_numpy(got["output"][batch]), Codes.from_dense(codes)

        took = {"seconds": float(got["seconds"])}
        return {"source": library} | took | judged(torch.from_numpy(got["rows"]), world, made)


def run(options: argparse.Namespace) -> None:
    """All that is not in the results yet: first learning rates, then what is measured."""
    path = options.results
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    pythons = {name: os.environ.get(variable) for name, (variable, _) in PEERS.items()}
    wanted = [
        (architecture, source)
        for architecture in options.architectures
        for source in (
            "interp",
            *(name for name in options.peers if pythons[name] and architecture in PEERS[name][1]),
        )
    ]
    stages = [("tuning", TUNING_RECIPE, TUNING_SEED, options.samples // options.tuning_part)]
    stages += [
        ("measured", r, seed, options.samples)
        for seed in range(options.seeds)
        for r in options.recipes
    ]
    for stage, recipe, seed, samples in stages:
        mark = {
            "features": options.features,
            "recipe": recipe,
            "seed": seed,
            "samples": samples,
            "stage": stage,
        }
        told = {
            (r["architecture"], r["source"], r["lr"]) for r in rows if mark.items() <= r.items()
        }
        length = options.samples // options.tuning_part
        chosen = {one: (best_rate(rows, options.features, length, *one),) for one in wanted}
        rates_of = dict.fromkeys(wanted, RATES) if stage == "tuning" else chosen
        todo = [(one, lr) for one in wanted for lr in rates_of[one] if (*one, lr) not in told]
        if not todo:
            continue
        world = benchmark_world(recipe, seed, options.features)
        l0, steps = float(rates(world).sum()), samples // options.batch
        data = np.stack([world.draw(options.batch, step).x.numpy() for step in range(steps)])
        for (architecture, source), lr in todo:
            settings = Settings(steps=steps, lr=lr)
            made = (
                ours(world, data, architecture, l0, settings, seed)
                if source == "interp"
                else [
                    peer(
                        source, pythons[source] or "", world, data, architecture, l0, settings, seed
                    )
                ]
            )
            with path.open("a") as file:
                for one in made:
                    rows.append(
                        {**mark, "architecture": architecture, "lr": lr, "true_l0": l0, **one}
                    )
                    file.write(json.dumps(_plain(rows[-1])) + "\n")
                    said = {key: round(v, 3) for key, v in one.items() if isinstance(v, float)}
                    print(
                        stage,
                        recipe,
                        seed,
                        lr,
                        architecture,
                        one["source"],
                        one.get("failed", said),
                        flush=True,
                    )


def best_rate(
    rows: list[dict], features: int, samples: int, architecture: str, source: str
) -> float:
    """The learning rate that recovered most in the world that is for nothing else; the middle one
    where none ran.
    """
    mark = {
        "stage": "tuning",
        "architecture": architecture,
        "source": source,
        "features": features,
        "samples": samples,
    }
    found = {
        row["lr"]: row["mcc"] for row in rows if "failed" not in row and mark.items() <= row.items()
    }
    return max(found, key=found.__getitem__) if found else RATES[1]


def _plain(row: dict) -> dict:
    return {
        k: (None if math.isnan(v) else round(v, 4)) if isinstance(v, float) else v
        for k, v in row.items()
    }


def tables(
    path: Path, features: int, samples: int, part: int, architectures: Iterable[str] = ARCHITECTURES
) -> str:
    """A table for every recipe: means over seeds, with standard deviations where there are several.

    Of every architecture and library at the rate that was chosen on so many times fewer samples as
    ``part`` says.
    """
    grouped, order = defaultdict(list), list(ARCHITECTURES)
    everything = [json.loads(line) for line in path.read_text().splitlines()]
    for row in everything:
        asked = (row["features"], row["samples"], row["stage"]) == (features, samples, "measured")
        by = row["source"] if row["source"] in PEERS else "interp"
        if asked and "failed" not in row and row["architecture"] in architectures:
            rate = best_rate(everything, features, samples // part, row["architecture"], by)
            if row["lr"] == rate:
                grouped[row["recipe"], row["architecture"], row["source"]].append(row)
    said = []
    for recipe in RECIPES:
        keys = sorted(
            (key for key in grouped if key[0] == recipe), key=lambda key: order.index(key[1])
        )
        if not keys:
            continue
        shown = [
            {
                "architecture": key[1],
                "by": key[2],
                "lr": f"{grouped[key][0]['lr']:g}",
                "seeds": len(grouped[key]),
            }
            | {name: _told([r.get(column) for r in grouped[key]]) for name, column in SHOWN.items()}
            for key in keys
        ]
        first = [r for key in keys for r in grouped[key] if r["source"] == "interp"]
        seeds, true = {r["seed"] for r in first}, np.mean([r["true_l0"] for r in first])
        said += [
            (
                f"**{recipe}**: {features} features, {samples} samples, seeds {len(seeds)}, true L0"
                f" {true:.2f}."
            ),
            "",
            markdown(shown, ["architecture", "by", "lr", "seeds", *SHOWN]),
            "",
        ]
    return "\n".join(said)


def tried(path: Path, features: int) -> str:
    """MCC by learning rate in the world that rates are chosen in, of as many samples as were tried."""
    grouped = defaultdict(dict)
    for row in map(json.loads, path.read_text().splitlines()):
        wanted = (
            row["features"] == features
            and row["stage"] == "tuning"
            and row["source"] in ("interp", *PEERS)
        )
        if wanted and "failed" not in row:
            grouped[row["samples"], row["architecture"], row["source"]][row["lr"]] = row["mcc"]
    rows = [
        {"samples": key[0], "architecture": key[1], "by": key[2]}
        | {
            f"{rate:g}": f"{grouped[key][rate]:.3f}" if rate in grouped[key] else ""
            for rate in RATES
        }
        for key in sorted(grouped, key=lambda key: (key[0], list(ARCHITECTURES).index(key[1])))
    ]
    return (
        f"MCC by learning rate on {TUNING_RECIPE}, seed"
        f" {TUNING_SEED}.\n\n{markdown(rows, list(rows[0]))}\n"
    )


def _told(values: list) -> str:
    known = [value for value in values if value is not None and not math.isnan(value)]
    if not known:
        return ""
    spread = f" ± {np.std(known, ddof=1):.3f}" if len(known) > 1 else ""
    return f"{np.mean(known):.3f}{spread}"


def main() -> None:
    """Measure what is missing and print tables; with ``--write`` into docs/benchmarks.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--write", action="store_true", help="write the tables into docs/benchmarks.md"
    )
    parser.add_argument("--features", type=int, choices=(128, 512), default=512)
    parser.add_argument("--samples", type=int, default=2_000_000)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument(
        "--architectures", nargs="+", choices=list(ARCHITECTURES), default=list(ARCHITECTURES)
    )
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument(
        "--tuning-part",
        type=int,
        default=TUNING_PART,
        help="rates are chosen on so many times fewer samples",
    )
    options = parser.parse_args()
    run(options)
    part, name = options.tuning_part, "dictionaries-recovery"
    text = tables(options.results, options.features, options.samples, part, options.architectures)
    if part != TUNING_PART:
        text, name = f"{text}\n{tried(options.results, options.features)}", f"{name}-rates"
    print(text)
    if options.write:
        asked = f"--features {options.features} --samples {options.samples} --batch {options.batch}"
        asked += (
            f" --architectures {' '.join(options.architectures)}" if part != TUNING_PART else ""
        )
        command = (
            f"`python -m benchmarks.dictionaries_recovery {asked} --seeds {options.seeds}"
            f" --tuning-part {part} --write`"
        )
        write_section(name, f"{command}. {machine()}\n\n{text}")


if __name__ == "__main__":
    main()
