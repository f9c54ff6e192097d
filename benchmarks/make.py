"""Run every benchmark and write docs/benchmarks.md: ``make bench``, about three quarters of an hour on two cores."""

import subprocess
import sys

NAMES = (
    "methods",
    "variants",
    "checks",
    "tuco",
    "intruders",
    "graft",
    "stitch",
    "continual",
    "silence",
    "speed",
    "startup",
    "cached",
)

if __name__ == "__main__":
    for name in NAMES:
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", "--write"], check=True)
