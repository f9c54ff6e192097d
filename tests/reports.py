"""Stored runs whose claims follow from their tables, and reports over them, constructed within a
second.
"""

from dataclasses import replace

import numpy as np

from interp.claims import Claim, Draws, conclude, from_table, mean, summary_of, to_table
from interp.report.document import write_report
from interp.store import Store
from interp.table import table
from tests.tables import located, provenance, verified

PROMPTS, SETS = 40, 60


def honest_claims():
    """Three claims, one of them not supported by the tables below."""

    def where(condition, group="positive"):
        return {"table": "answers", "where": {"condition": condition, "group": group}}

    made = [
        Claim(
            name=name,
            estimate=mean("matches_base", **where(condition)),
            at_least=threshold,
            null=Draws("random", "effect", {"direction": name}),
            control=f"{SETS} matched random sets",
            text="Of the base's answers {value:.1%} come back.",
        )
        for name, condition, threshold in (
            ("necessity", "ablate-base", 0.5),
            ("sufficiency", "patch-tuned", 0.9),
        )
    ]
    harmless = Claim(
        name="harmless",
        estimate=mean("lost", **where("ablate-base", "negative")),
        at_most=0.1,
        beyond=[0.2],
        reference=0.0,
        control="the base's own answers",
        text="The ablation changes {value:.1%} of the answers to negative prompts.",
    )
    return [*made, harmless]


def honest_runs(seed=0, forged=None):
    """A locating run and a verifying run; ``forged`` changes the first of its findings."""
    generator = np.random.default_rng(seed)
    first = located(seed=seed)
    rows = [
        (condition, group, prompt)
        for condition in ("base", "ablate-base", "patch-tuned")
        for group in ("positive", "negative")
        for prompt in range(PROMPTS)
    ]
    condition, group, prompt = (
        np.array(column, dtype=object) for column in zip(*rows, strict=True)
    )
    chance = {
        ("base", "positive"): 1.0,
        ("ablate-base", "positive"): 0.9,
        ("patch-tuned", "positive"): 0.4,
    }
    equal = np.array([generator.random() < chance.get((c, g), 1.0) for c, g, _ in rows])
    answers = table(
        "answers",
        {
            "condition": (condition, "key", ""),
            "group": (group, "key", ""),
            "prompt_id": (prompt.astype(int), "key", ""),
            "cluster": ([f"c{i // 2}" for i in prompt], "key", ""),
            "matches_base": (equal, "flag", ""),
            "lost": (~equal, "flag", ""),
        },
    )
    effect = generator.uniform(0, 0.05, 2 * SETS)
    random = table(
        "random-sets",
        {
            "direction": (["necessity"] * SETS + ["sufficiency"] * SETS, "key", ""),
            "draw": ([*range(SETS)] * 2, "key", ""),
            "k": ([10] * 2 * SETS, "measure", ""),
            "effect": (effect, "measure", ""),
            "recovery": (effect, "measure", ""),
            "behaviour": (effect, "measure", ""),
        },
    )
    second = verified(first.provenance.key)
    made = provenance("verify-neurons", seed=seed, parent=first.provenance.key)
    second = replace(second, provenance=made, tables={"answers": answers, "random": random})
    second = conclude(second, honest_claims())
    if forged is not None:
        lead, *rest = from_table(second.tables["claims"])
        findings = [forged(lead), *rest]
        summary = {**second.summary, **summary_of(findings)}
        second = replace(
            second, summary=summary, tables={**second.tables, "claims": to_table(findings)}
        )
    return first, second


def honest_report(folder, name="report", **rest):
    """A store with two runs and a report over them; returns the path of its JSON, the store and the
    tables.
    """
    store, runs = Store(folder / "runs"), honest_runs(**rest)
    for run in runs:
        store.write(run)
    path = write_report(
        folder / f"{name}.html", [runs[1].provenance.key], store, title="What carries it?"
    )
    return path, store, runs
