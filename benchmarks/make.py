"""Run every benchmark and write docs/benchmarks.md: ``make bench``, about three quarters of an hour on two cores."""

import subprocess
import sys

if __name__ == "__main__":
    for name in ("methods", "variants", "checks", "graft", "silence", "speed", "startup", "cached"):
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", "--write"], check=True)
