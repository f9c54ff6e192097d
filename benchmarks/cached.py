"""A command asked again: ``python -m benchmarks.cached [--write]``: its first run, its repeat, and
``import torch``.
"""

import resource
import subprocess
import sys
import tempfile
import time

from benchmarks.page import CommandLine, machine, markdown, write_section
from interp import organisms

PYTHON, PROMPTS = sys.executable, 8
COLUMNS = ["command", "minimum s", "median s", "median CPU s", "runs"]
SMALL = {"repeats": 1}


def command(store: str) -> list[str]:
    """A small run: what it computes does not matter to its repeat."""
    files = {
        group: str(organisms.prompts("refusal", "locate", group))
        for group in ("harmful", "harmless")
    }
    return [
        PYTHON,
        "-m",
        "interp",
        "locate-neurons",
        "organism:refusal/planted",
        "--base",
        "organism:refusal/base",
        "--positive",
        files["harmful"],
        "--negative",
        files["harmless"],
        "--max-prompts",
        str(PROMPTS),
        "--method",
        "change",
        "--random-sets",
        "2",
        "--control-prompts",
        "4",
        "--store",
        store,
        "--quiet",
    ]


def seconds(*words: str) -> tuple[float, float]:
    """Wall-clock and CPU seconds of a whole process."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(words, check=True, capture_output=True)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def row(name: str, times: list[tuple[float, float]]) -> dict:
    """One row of the page."""
    wall, used = (sorted(column) for column in zip(*times, strict=True))
    middle = len(times) // 2
    return {
        "command": name,
        "minimum s": f"{wall[0]:.2f}",
        "median s": f"{wall[middle]:.2f}",
        "median CPU s": f"{used[middle]:.2f}",
        "runs": len(times),
    }


def main() -> None:
    """Measure, print, and write where asked."""
    parser = CommandLine(globals(), SMALL, "the table")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.read()
    with tempfile.TemporaryDirectory() as store:
        first, again, torch = [seconds(*command(store))], [], []
        for _ in range(options.repeats):
            again.append(seconds(*command(store)))
            torch.append(seconds(PYTHON, "-c", "import torch"))
    names = (
        f"interp locate-neurons, {PROMPTS} prompts, first run",
        "the same again",
        "import torch",
    )
    text = markdown(
        [row(name, times) for name, times in zip(names, (first, again, torch), strict=True)],
        COLUMNS,
    )
    print(text)
    if options.write:
        write_section(
            "cached", f"`python -m benchmarks.cached --write`, interleaved. {machine()}\n\n{text}"
        )


if __name__ == "__main__":
    main()
