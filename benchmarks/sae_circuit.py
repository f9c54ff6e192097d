"""Codes of heads: ``python -m benchmarks.sae_circuit [--parts pairs planted] [--write]``.

Three parts. Ten planted heads of 144 in a random GPT-2 (``benchmarks.worlds.planted_heads``), two
classes of prompts: AUC of the published scores (codes, codes normalised, pairs of heads) and of the
moderated score, as published and with head outputs divided by their root mean square, by the number
of training examples; the same with labels permuted, and in the model without the planted heads.
Then organisms and the real pair: the fine-tuned model's runs against the base's on the same
prompts, next to control fine-tunes, and harmful against harmless prompts in one model.
"""

import time
from typing import Any

import numpy as np

from benchmarks.page import CommandLine, machine, markdown, write_section
from benchmarks.worlds.planted_heads import PlantedHeads, planted_heads
from interp import claims, organisms
from interp.analyzers.sae_circuit import SaeCircuit
from interp.maths.statistics import roc_auc
from interp.models.pair import Pair
from interp.prompts import Contrast, OneClass, read_prompts
from interp.study import Study
from interp.table import Table

EXAMPLES = {5: (2, 2), 10: (2, 2), 50: (1, 1), 250: (1, 1)}
"""Training examples, and how many planted models and trials of each: 250 take minutes a trial."""
PAIRS = 125
"""Twins of the planted model: 250 runs, of which at most all are examples of training."""
DRAWS, EPOCHS, SCALES = 99, 500, ("none", "rms")
ROWS = (
    ("refusal/planted", "models", 48, 6),
    ("refusal/sham", "models", 48, 6),
    ("refusal/attention", "models", 48, 6),
    ("refusal/attention", "prompts", 48, 6),
    ("refusal/sham", "prompts", 48, 6),
    ("smollm2/lora", "models", 24, 2),
)
"""Pair, what is compared, prompts of a class, trials."""
CONTROLS = {"refusal": ("refusal/sham",), "smollm2": ("smollm2/control-0", "smollm2/control-1")}
SMALL = {
    "EXAMPLES": {5: (1, 1)},
    "PAIRS": 12,
    "DRAWS": 19,
    "EPOCHS": 20,
    "ROWS": (("refusal/planted", "models", 6, 2),),
}


def planted_row(worlds: list[PlantedHeads], scale: str, examples: int, planted: bool) -> dict:
    """Means over models and trials of every AUC, on the model with or without the heads."""
    started = time.process_time()
    n_worlds, n_trials = EXAMPLES[examples]
    tables = []
    for seed, world in enumerate(worlds[:n_worlds]):
        model = world.tuned if planted else world.base
        study = Study(Pair.from_modules(model, None, world.tokenizer), world.contrast, None, seed)
        analyzer = SaeCircuit(
            heads=world.heads,
            training_examples=examples,
            trials=n_trials,
            draws=DRAWS,
            scale=scale,
            epochs=EPOCHS,
        )
        tables.append(analyzer(study))
    trials = [table.tables["trials"] for table in tables]
    permuted = [table.tables["permuted"] for table in tables]
    known = np.concatenate([table["known"] for table in tables])
    beyond = np.concatenate([table["p"] for table in tables]) <= 0.05

    def auc(name: str) -> str:
        values = np.concatenate([each[f"auc_{name}"] for each in trials])
        return f"{values.mean():.3f} ± {values.std():.3f}"

    edges = [roc_auc(table["known"], table["edges"]) for table in tables]
    return {
        "model": "planted" if planted else "without them",
        "scale": scale,
        "examples": examples,
        "models x trials": f"{n_worlds} x {n_trials}",
        "nodes": auc("nodes"),
        "normalised": auc("shares"),
        "in layers": auc("layers"),
        "moderated": f"{np.mean([table.summary['auc_moderated'] for table in tables]):.3f}",
        "edges": auc("edges"),
        "edges, normalised": auc("edge_shares"),
        "edges, mean of trials": f"{np.mean(edges):.3f}",
        "permuted: nodes": f"{np.mean([each['auc_nodes'].mean() for each in permuted]):.3f}",
        "permuted: edges": f"{np.mean([each['auc_edges'].mean() for each in permuted]):.3f}",
        "F1, published": " / ".join(
            f"{np.mean([each[name].mean() for each in trials]):.2f}"
            for name in ("f1", "f1_published")
        ),
        "found, others": f"{(beyond & known).sum()} of {known.sum()}, {(beyond & ~known).sum()}",
        "silent": f"{np.mean([each['silent'].mean() for each in trials]):.0%}",
        "s": f"{time.process_time() - started:.0f}",
    }


def study_of(name: str, comparison: str, prompts: int) -> Study:
    """A pair on held-out prompts: harmful ones, or harmful against harmless."""
    family = name.split("/")[0]
    pair = Pair.load(f"organism:{name}", f"organism:{family}/base", device="cpu")
    harmful, harmless = (
        read_prompts(organisms.prompts(name, "verify", group)).spread(prompts)
        for group in ("harmful", "harmless")
    )
    chosen: Any = OneClass(harmful) if comparison == "models" else Contrast(harmful, harmless)
    return Study(pair, chosen, None, quiet=False)


def pair_row(name: str, comparison: str, prompts: int, trials: int) -> tuple[dict, Table]:
    """One row of the page, and the run."""
    started, study = time.process_time(), study_of(name, comparison, prompts)
    controls: list[Pair] = []
    if comparison == "models":
        base = study.pair.require_base("a control").name
        controls = [
            Pair.load(f"organism:{control}", base, device="cpu")
            for control in CONTROLS[name.split("/")[0]]
            if control != name
        ]
    analyzer = SaeCircuit(
        controls,
        comparison=comparison,
        trials=trials,
        draws=DRAWS,
        scale="rms",
        epochs=EPOCHS,
        edges=False,
    )
    table = analyzer(study)
    findings = {one.name: one for one in claims.from_table(table.tables["claims"])}
    codes = findings["codes-beyond-permuted"]
    of_controls = table.tables["controls"] if controls else None
    return {
        "pair": name,
        "comparison": comparison,
        "runs": " + ".join(map(str, table.summary["runs"])),
        "heads": table.summary["heads"],
        "codes per head": f"{codes.value:.2f} [{codes.low:.2f}, {codes.high:.2f}]",
        "permuted": f"{codes.control_value:.2f}, p = {codes.p:.2g}",
        "heads beyond": table.summary["beyond"],
        "excess": f"{table.tables['trials']['excess'].mean():.2f}",
        "controls: codes (excess)": "none"
        if of_controls is None
        else ", ".join(
            f"{score:.2f} ({excess:.2f})"
            for score, excess in zip(of_controls["score"], of_controls["excess"], strict=True)
        ),
        "controls: heads beyond": "none"
        if of_controls is None
        else ", ".join(str(value) for value in of_controls["beyond"]),
        "explained, silent": f"{table.summary['explained']:.2f}, {table.summary['silent']:.0%}",
        "AUC of length": f"{table.summary['length_auc']:.2f}",
        "s": f"{time.process_time() - started:.0f}",
    }, table


def pairs_part() -> str:
    """Organisms and the real pair."""
    rows, sentences = [], []
    for name, comparison, prompts, trials in ROWS:
        row, table = pair_row(name, comparison, prompts, trials)
        rows.append(row)
        print(row, flush=True)
        sentences += [
            f"* `{name}`, {comparison}, {one.name}, {one.verdict}: {one.sentence}"
            for one in claims.from_table(table.tables["claims"])
            if one.name.startswith("codes")
        ]
    return markdown(rows, list(rows[0])) + "\n\n" + "\n".join(sentences)


def planted_part() -> str:
    """The planted model, and the same without the heads."""
    n_worlds = max(count for count, _ in EXAMPLES.values())
    worlds = [planted_heads(PAIRS, seed=seed) for seed in range(n_worlds)]
    settings = [(scale, count, True) for count in EXAMPLES for scale in SCALES]
    settings += [(scale, min(EXAMPLES), False) for scale in SCALES]
    rows = []
    for scale, count, planted in settings:
        rows.append(planted_row(worlds, scale, count, planted))
        print(rows[-1], flush=True)
    return markdown(rows, list(rows[0]))


PARTS = {"pairs": pairs_part, "planted": planted_part}


def main() -> None:
    """Measure, print, and write where asked."""
    parser = CommandLine(globals(), SMALL)
    parser.add_argument("--parts", nargs="*", choices=[*PARTS], default=[*PARTS])
    options = parser.read()
    for part in options.parts:
        found = PARTS[part]()
        print(found, flush=True)
        if options.write:
            how = f"`python -m benchmarks.sae_circuit --parts {part} --write`. {machine()}"
            write_section(f"sae-circuit-{part}", f"{how}\n\n{found}")


if __name__ == "__main__":
    main()
