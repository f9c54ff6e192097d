"""Speed and memory of training a TopK dictionary. ``python -m benchmarks.dictionaries_speed
[--write]``.

d 768, 12,288 latents, k 32, batches of 4,096 cached random rows in float32 on a CPU. A step of ours
is a step of training: loss, gradients by active rows, parallel part removed, clipping, Adam, unit
norm, firing counts, AuxK on (also with 500 latents dead). Beside it a plain dense TopK with the
same work, and other libraries in environments of their own, whose python is named by
INTERP_SPARSIFY_PYTHON, INTERP_SAELENS_PYTHON, INTERP_DICTIONARY_LEARNING_PYTHON. Each in a process
of its own that waits while the others work; rounds are interleaved. CPU seconds are those of the
process, which other work on the machine moves less than the clock.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from benchmarks.dictionaries_steps import PEERS, D, F, K, N, data, serve
from benchmarks.page import machine, markdown, write_section
from interp.errors import required
from interp.sae import Dictionary, DictionaryConfig, Training
from interp.sae.training.learner import Learner

DEAD = 500


def ours(dead: int):
    """A learner's step, with so many latents that count as dead."""
    dictionary = Dictionary(DictionaryConfig("topk", D, F, k=K))
    learner = Learner(
        "ours", dictionary, Training(10**6, N, dead_after=10**7).with_defaults(dictionary.config)
    )
    x, number = data(), [0]

    def step():
        learner.since_active[:dead] = 10**8
        learner.step(number[0], x, None)
        number[0] += 1

    return step


OURS = {"interp": lambda: ours(0), f"interp, {DEAD} dead": lambda: ours(DEAD)}


def started(threads: int, only: list[str] | None) -> dict[str, subprocess.Popen]:
    """A process for each that can run here, plain always."""
    setting = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    found = {}
    for name in (*OURS, *PEERS):
        if only and name not in ("plain", "interp", *only):
            continue
        python = os.environ.get(f"INTERP_{name.upper()}_PYTHON")
        if name in OURS:
            words = [sys.executable, "-m", "benchmarks.dictionaries_speed", "--serve", name]
        elif name == "plain" or python:
            words = [
                python or sys.executable,
                str(Path(__file__).with_name("dictionaries_steps.py")),
                name,
            ]
        else:
            continue
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=setting,
            stderr=subprocess.DEVNULL,
        )
        said = _answer(process)
        if "ready" in said:
            found[name] = process
        else:
            print(f"{name} does not run: {said.get('error', 'it ended')}", file=sys.stderr)
    return found


def _answer(process: subprocess.Popen) -> dict:
    for line in required(process.stdout, "a pipe"):
        if line.startswith("{"):  # other libraries print too
            return json.loads(line)
    return {}


def measure(threads: int, rounds: int, only: list[str] | None = None) -> str:
    """Medians of interleaved steps."""
    processes = started(threads, only)
    taken = {name: [] for name in processes}
    for number in range(rounds):
        for name, process in processes.items():
            pipe = required(process.stdin, "a pipe")
            pipe.write("\n")
            pipe.flush()
            taken[name].append(_answer(process))
            print(
                f"round {number + 1}, {threads} threads, {name}: {taken[name][-1]}",
                file=sys.stderr,
                flush=True,
            )
    for process in processes.values():
        required(process.stdin, "a pipe").close()
        process.wait()
    middle = {
        n: {k: float(np.median([one[k] for one in t])) for k in ("seconds", "cpu", "peak")}
        for n, t in taken.items()
    }
    rows = []
    for name, found in middle.items():
        # rounds are compared within themselves: the machine may be slower in one than in another
        ratios = [a["cpu"] / b["cpu"] for a, b in zip(taken["plain"], taken[name], strict=True)]
        rows.append(
            {
                "step of": name,
                "s/step": f"{found['seconds']:.2f}",
                "CPU s/step": f"{found['cpu']:.2f}",
                "tokens/s": f"{N / found['seconds']:,.0f}",
                "times as fast as plain dense (CPU, range)": (
                    f"{np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
                ),
                "peak memory, MB": f"{found['peak'] / 1e6:,.0f}",
            }
        )
    return (
        markdown(rows, list(rows[0])) + f"\n\n{threads} threads, {rounds} interleaved rounds.\n\n"
    )


def share() -> str:
    """Share of a step of ours that is the encoder's product, by the profiler's self times."""
    step = ours(0)
    step()
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True
    ) as found:
        step()
    events = found.key_averages(group_by_input_shape=True)
    product = max(
        (e for e in events if e.key == "aten::addmm"), key=lambda e: e.self_cpu_time_total
    )
    total = sum(event.self_cpu_time_total for event in events)
    rest = sorted((e for e in events if e is not product), key=lambda e: -e.self_cpu_time_total)[:6]
    names = ", ".join(
        f"{e.key.removeprefix('aten::')} {e.self_cpu_time_total / total:.0%}" for e in rest
    )
    return (
        f"The encoder's product is {product.self_cpu_time_total / total:.0%} of a step of ours;"
        f" then {names}.\n"
    )


def main() -> None:
    """Measure; with ``--write`` into docs/benchmarks.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--write", action="store_true", help="write the tables into docs/benchmarks.md"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--only", nargs="+", choices=[*OURS, *PEERS], help="beside plain and interp"
    )
    parser.add_argument("--serve", choices=list(OURS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(OURS[options.serve])
        return
    said = share()
    print(said, file=sys.stderr, flush=True)
    text = (
        said
        + "\n"
        + "".join(measure(threads, options.rounds, options.only) for threads in options.threads)
    )
    print(text)
    if options.write:
        asked = f"`python -m benchmarks.dictionaries_speed --rounds {options.rounds} --write`"
        write_section("dictionaries-speed", f"{asked}. {machine()}\n\n{text}")


if __name__ == "__main__":
    main()
