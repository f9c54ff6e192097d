"""Time of `interp --help`, `import torch` and `interp demo`: ``python -m benchmarks.startup
[--write]``.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.page import CommandLine, machine, markdown, write_section

ROUNDS, LARGE = 9, "demo"
INTERP = str(Path(sys.executable).with_name("interp"))
SMALL = {"ROUNDS": 1, "LARGE": "organisms"}


def seconds(*command: str, repeats: int = 1, cwd: str | None = None) -> list[float]:
    """Wall-clock seconds of whole processes."""
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, cwd=cwd)
        found.append(time.perf_counter() - start)
    return found


def main() -> None:
    """Measure, print, and write where asked."""
    parser = CommandLine(globals(), SMALL, "the table")
    options = parser.read()
    commands = {
        "interp --help": (INTERP, "--help"),
        "import torch": (sys.executable, "-c", "import torch"),
    }
    found: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, command in commands.items():
            found[name] += seconds(*command)
    with tempfile.TemporaryDirectory() as directory:
        found[f"interp {LARGE}, first run"] = seconds(INTERP, LARGE, cwd=directory)
        found[f"interp {LARGE}, again"] = seconds(INTERP, LARGE, cwd=directory)
    rows = [
        {
            "command": name,
            "minimum s": f"{min(times):.2f}",
            "median s": f"{sorted(times)[len(times) // 2]:.2f}",
            "runs": len(times),
        }
        for name, times in found.items()
    ]
    text = markdown(rows, ["command", "minimum s", "median s", "runs"])
    print(text)
    if options.write:
        write_section(
            "time", f"`python -m benchmarks.startup --write`, interleaved. {machine()}\n\n{text}"
        )


if __name__ == "__main__":
    main()
