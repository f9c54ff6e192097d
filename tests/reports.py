"""Stored runs whose claims follow from their tables, and reports over them, made by hand in a second."""

from dataclasses import replace

import numpy as np

from interp.claims import Claim, to_table
from interp.maths.statistics import permutation_p
from interp.report.document import write_report
from interp.store import Store
from interp.table import table
from tests.tables import located, provenance, verified

PROMPTS, SETS = 40, 60


def honest_claims(answers, random):
    """Three claims, one of them not shown, with the numbers that the tables give."""
    nan = float("nan")

    def where(condition, group="positive"):
        return {"condition": condition, "group": group}

    def share(condition, group="positive"):
        mine = (answers["condition"] == condition) & (answers["group"] == group)
        return float(answers["equal_base"][mine].mean())

    made, drawn = [], random["effect"]
    for name, condition, threshold in (("necessity", "ablate-base", 0.5), ("sufficiency", "patch-tuned", 0.9)):
        value = share(condition)
        recipe = {"table": "answers", "statistic": "mean", "column": "equal_base", "cluster": "cluster",
                  "where": where(condition)}  # fmt: skip
        null = {"table": "random", "column": "effect", "where": {"direction": name}}
        own = drawn[random["direction"] == name]
        p = permutation_p(value, own)
        made.append(Claim(
            name, f"Of the base's answers {value:.1%} come back.", value, value - 0.1, min(value + 0.1, 1.0),
            f"{SETS} matched random sets", float(own.mean()), float(own.min()), float(own.max()), p, threshold,
            "at least", value - 0.1 > threshold, recipe | {"p": {"null": null, "observed": recipe}},
        ))  # fmt: skip
    changed = 1 - share("ablate-base", "negative")
    lost = {"table": "answers", "statistic": "mean", "column": "lost", "where": where("ablate-base", "negative")}
    made.append(Claim(
        "harmless", f"The ablation changes {changed:.1%} of the answers to negative prompts.", changed, 0.0, 0.02,
        "the base's own answers", 0.0, nan, nan, nan, 0.1, "at most", True, lost,
    ))  # fmt: skip
    return made


def honest_runs(seed=0, claims=honest_claims):
    """A locating run and a verifying run; ``claims`` makes the claims of its answers and random sets."""
    generator = np.random.default_rng(seed)
    first = located(seed=seed)
    rows = [(condition, group, prompt) for condition in ("base", "ablate-base", "patch-tuned")
            for group in ("positive", "negative") for prompt in range(PROMPTS)]  # fmt: skip
    condition, group, prompt = (np.array(column, dtype=object) for column in zip(*rows, strict=True))
    chance = {("base", "positive"): 1.0, ("ablate-base", "positive"): 0.9, ("patch-tuned", "positive"): 0.4}
    equal = np.array([generator.random() < chance.get((c, g), 1.0) for c, g, _ in rows])
    answers = table("answers", {
        "condition": (condition, "key", ""), "group": (group, "key", ""), "prompt_id": (prompt.astype(int), "key", ""),
        "cluster": ([f"c{i // 2}" for i in prompt], "key", ""), "equal_base": (equal, "flag", ""),
        "lost": (~equal, "flag", ""),
    })  # fmt: skip
    random = table("random-sets", {
        "direction": (["necessity"] * SETS + ["sufficiency"] * SETS, "key", ""),
        "draw": ([*range(SETS)] * 2, "key", ""),
        "k": ([10] * 2 * SETS, "measure", ""), "effect": (generator.uniform(0, 0.05, 2 * SETS), "measure", ""),
    })  # fmt: skip
    second = verified(first.provenance.key)
    made = provenance("verify-neurons", seed=seed, parent=first.provenance.key)
    parts = {"answers": answers, "random": random, "claims": to_table(claims(answers, random))}
    return first, replace(second, provenance=made, tables=parts)


def honest_report(folder, name="report", **rest):
    """A store with two runs and a report over them; returns the path of its JSON, the store and the tables."""
    store, runs = Store(folder / "runs"), honest_runs(**rest)
    for run in runs:
        store.write(run)
    path = write_report(folder / f"{name}.html", [runs[1].provenance.key], store, title="What carries it?")
    return path, store, runs
