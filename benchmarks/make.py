"""Run every benchmark and write docs/benchmarks.md: ``make bench``, about an hour and a half on two
cores.

``python -m benchmarks.make --small`` runs every line of every benchmark in minutes and writes
nothing.
"""

import subprocess
import sys

NAMES = (
    *("methods", "variants", "checks", "tuco", "failing_style", "intruders", "graft"),
    *("stitch", "continual", "agreement", "patch_weights", "cross_patch", "wrapped"),
    *("circuit", "patch_heads", "component_masking", "audit"),
    *("sae_circuit", "lofit", "tune", "data_selection"),
    *("silence", "speed", "startup", "cached", "dictionaries_organism", "dictionaries_diff"),
    *(
        "dictionaries_fast",
        "dictionaries_behaviour",
        "dictionaries_cause",
        "dictionaries_pairs",
        "real",
    ),
    *("real_methods", "real_figures", "real_baselines", "real_graft", "real_latents"),
    *("false_support", "cost", "memory", "cost_peers", "estimates"),
    *("discovery_cost", "discovery", "discovery_trigger"),
)

if __name__ == "__main__":
    how = "--small" if "--small" in sys.argv[1:] else "--write"
    for name in NAMES:
        print(f"benchmarks.{name} {how}", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", how], check=True)
