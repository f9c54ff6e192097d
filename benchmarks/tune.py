"""Training what was located: ``python -m benchmarks.tune [--grid] [--write]``.

The base of the organisms ``refusal`` learns to refuse: harmful requests with a refusal and harmless
ones with the base's answer, on rows that did not locate. Neurons are located in a child that
refuses (``refusal/planted``, whose thirty neurons are known, and ``refusal/lora``); of the former
three alone are trained too. Every arm has equal steps, and its learning rate is chosen on a
selection split; what is reported is of other requests. ``--grid``: three seeds, five random draws,
five rates by arm, all arms and both children, about 250 trainings; without it one seed, fewer arms
and thirty neurons.
"""

import json
import time
from dataclasses import replace

import numpy as np

from benchmarks.page import CommandLine, machine, markdown, write_section
from interp import claims, organisms
from interp.analyzers.locate_neurons import LocateNeurons
from interp.analyzers.tune import Tune
from interp.metrics import Refusal
from interp.models.pair import Pair
from interp.prompts import Contrast, OneClass, Prompt, PromptSet, read_prompts
from interp.study import Study
from interp.table import Table
from interp.training.arms import ARMS, OTHER

BASE, SORRY = "refusal/base", "Sorry, I cannot help with that."
TEMPLATE = "refusal/planted"
"""A model with the chat template that the base was trained with, and does not ship."""
MAIN = tuple(arm for arm in ARMS if arm != OTHER)
FEWER = ("located", "random", "lora")
RUNS = (("refusal/planted", "30", 20, MAIN), ("refusal/lora", "30", 20, FEWER))
"""Child that locates, number of neurons, steps, arms."""
LOCATING, ROWS, HARMFUL, ORDINARY = 48, 180, 96, 48
BATCH, TOKENS = 8, 6
SEEDS, DRAWS, RATES = 1, 5, ()
GRID = {
    "SEEDS": 3,
    "RUNS": (
        ("refusal/planted", "30", 20, MAIN),
        ("refusal/lora", "30", 20, MAIN),
        ("refusal/planted", "3", 40, MAIN),
    ),
}
SMALL = {
    "RUNS": (("refusal/planted", "30", 2, ("located", "located-clusters", "random", "per-row")),),
    "ROWS": 20,
    "LOCATING": 8,
    "HARMFUL": 8,
    "ORDINARY": 4,
    "DRAWS": 1,
    "TOKENS": 2,
    "RATES": (3e-3, 1e-2, 3e-2),
}


def lines(split: str, kind: str) -> list[dict]:
    """Requests of the organism."""
    file = organisms.prompts(BASE, split, kind)
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def answered(found: list[dict], source: str) -> PromptSet:
    """Requests with the answers to learn, or the base's own."""
    return PromptSet(
        tuple(
            Prompt(at, one["prompt"], one["cluster"], answer=one["answer"])
            for at, one in enumerate(found)
        ),
        source,
    )


def requests() -> tuple[Contrast, OneClass, Contrast]:
    """Prompts that locate, rows that train, prompts that measure: none is in two of them."""
    kinds = ("harmful", "harmless")
    whole = {kind: lines("locate", kind) for kind in kinds}
    locating = Contrast(
        *(
            read_prompts(organisms.prompts(BASE, "locate", kind), name=kind).keep(range(LOCATING))
            for kind in kinds
        )
    )
    rows = [
        {**one, "answer": SORRY if kind == "harmful" else one["base_answer"]}
        for kind in kinds
        for one in whole[kind][LOCATING : LOCATING + ROWS]
    ]
    ordinary = [{**one, "answer": one["base_answer"]} for one in lines("verify", "harmless")]
    harmful = read_prompts(organisms.prompts(BASE, "verify", "harmful")).spread(HARMFUL)
    measured = Contrast(harmful, answered(ordinary, "harmless").spread(ORDINARY))
    return locating, OneClass(answered(rows, "rows")), measured


def located_in(child: str, top: str, locating: Contrast) -> Table:
    """The neurons that a child refuses with."""
    pair = Pair.load(f"organism:{child}", f"organism:{BASE}", device="cpu")
    return LocateNeurons(top=top)(Study(pair, locating, Refusal.from_tokenizer(pair.tokenizer)))


def shown(values: np.ndarray, form: str) -> str:
    """A mean, with the range where there are several."""
    if len(values) == 1:
        return format(values[0], form)
    return f"{values.mean():{form}} ({values.min():{form}} to {values.max():{form}})"


def rows_of(child: str, steps: int, table: Table) -> list[dict[str, str]]:
    """One row per arm: of its trainings at the chosen rate."""
    found = []
    for arm in table.summary["arms"]:
        own = (table["arm"] == arm) & table["chosen"]
        found.append(
            {
                "located in": child,
                "steps": str(steps),
                "arm": arm,
                "parameters": f"{table['parameters'][own][0]:,}",
                "rate": f"{table['rate'][own][0]:g}",
                "gain": shown(table["target_gain"][own], ".3f"),
                "refused": shown(100 * table["refused"][own], ".0f"),
                "over-refused": shown(100 * table["over_refused"][own], ".0f"),
                "ordinary": shown(table["ordinary_change"][own], "+.3f"),
                "forgetting": shown(table["forgetting"][own], "+.2f"),
                "norm": shown(table["norm"][own], ".1f"),
                "s": f"{table['seconds'][own].mean():.1f}",
                "MB": f"{table['memory'][own].mean() / 1e6:.0f}",
            }
        )
    return found


def main() -> None:
    """Measure, print, and write where asked."""
    parser = CommandLine(globals(), SMALL)
    parser.add_argument("--grid", action="store_true", help="three seeds and all arms of both")
    options = parser.read()
    if options.grid:
        globals().update(GRID)
    locating, rows, measured = requests()
    base = Pair.load(f"organism:{BASE}", device="cpu").with_tokenizer_of(f"organism:{TEMPLATE}")
    metric = Refusal.from_tokenizer(base.tokenizer)
    study = Study(base, measured, metric, max_new_tokens=TOKENS, quiet=False)
    made, sentences, trainings, started = [], [], 0, time.process_time()
    for child, top, steps, arms in RUNS:
        located = located_in(child, top, locating)
        analyzer = Tune(
            located=located, rows=rows, arms=arms, steps=steps, batch=BATCH, draws=DRAWS,
            seeds=SEEDS, rates=RATES,
        )  # fmt: skip
        table = analyzer(replace(study, _cache={}))
        trainings += len(table)
        made += rows_of(child, steps, table)
        sentences += [
            f"* {top} neurons located in `{child}`, {one.name}, {one.verdict}: {one.sentence}"
            for one in claims.from_table(table.tables["claims"])
        ]
        before = table.summary
    said = (
        f"Before training the loss is {before['target_loss_before']:.3f},"
        f" {before['refused_before']:.0%} of harmful and {before['over_refused_before']:.0%} of"
        f" ordinary requests are refused. {BATCH} rows a step, {SEEDS} seed(s), {DRAWS} random draws;"
        f" {trainings} trainings, {time.process_time() - started:.0f} s of CPU in all."
    )
    found = "\n\n".join([said, markdown(made, list(made[0])), "\n".join(sentences)])
    print(found)
    if options.write:
        flag = " --grid" if options.grid else ""
        write_section("tune", f"`python -m benchmarks.tune{flag} --write`. {machine()}\n\n{found}")


if __name__ == "__main__":
    main()
