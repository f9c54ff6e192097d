"""Run every benchmark and write docs/benchmarks.md: ``make bench``, about an hour and a half on two cores."""

import subprocess
import sys

NAMES = (
    *("methods", "variants", "checks", "tuco", "failing_style", "intruders", "graft"),
    *("stitch", "continual", "agreement"),
    *("silence", "speed", "startup", "cached", "dictionaries_organism", "dictionaries_diff"),
    *("dictionaries_fast", "dictionaries_behaviour", "dictionaries_cause", "dictionaries_pairs"),
)

if __name__ == "__main__":
    for name in NAMES:
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", "--write"], check=True)
