"""Stitches: ``python -m benchmarks.stitch [--write] [--store DIR]``. Two skills tuned apart, put
into one base.

``skill/full`` learned the first, ``skill/second`` the second; ``skill/both`` was tuned on both at
once. Masks by movement, learned as Localize-and-Stitch does, and learned as ``interp graft`` does.
With ``--store`` runs that are kept there are not made again.
"""

import tempfile

from benchmarks.page import CommandLine, machine, markdown, write_section
from interp import claims, organisms
from interp.analyzers.graft import Graft
from interp.analyzers.stitch import Stitch, StitchInput
from interp.experiments.questions import Questions, engine_logits
from interp.metrics import Task
from interp.models.pair import Pair
from interp.prompts import NO_PROMPTS, Contrast, PromptSet, read_prompts, read_task
from interp.store import Store
from interp.study import Study
from interp.table import Table

BASE = "organism:refusal/base"
PROMPTS: int | None = None
"""Questions of each part; None takes all."""
WAYS = {
    "movement 5 %": {"density": 0.05},
    "movement 30 %": {"density": 0.3},
    "descent, l1": {"localise": "learned"},
    "descent, l1, from 5 %": {"localise": "learned", "start": 0.05},
    "descent, binarise, from 5 %": {"localise": "learned", "start": 0.05, "reg": "binarise"},
}
LEARNED = {"density": 0.1, "sweep": (), "relaxed_steps": 0, "draws": 1, "shuffles": 0}
COLUMNS = [
    "masks",
    "model",
    "weights",
    "first, right",
    "first, exact",
    "second, right",
    "second, exact",
    "perplexity",
]
SMALL = {
    "PROMPTS": 12,
    "WAYS": {
        "movement 5 %": {"density": 0.05, "draws": 1},
        "descent": {"localise": "learned", "draws": 1},
    },
    "LEARNED": {
        "density": 0.1,
        "sweep": (),
        "steps": 2,
        "relaxed_steps": 0,
        "draws": 1,
        "shuffles": 0,
    },
}


def halves(name: str) -> tuple[PromptSet, PromptSet]:
    """What of a skill's questions locates and what measures."""
    parts = read_task(organisms.prompts("skill", "task", name), name="locate").given_splits()
    assert parts is not None
    located, held_out = (part.spread(PROMPTS or len(part)) for part in parts)
    return located, held_out


def lines(way: str, table: Table, alone: bool) -> list[dict[str, str]]:
    """Rows of the page; what does not depend on masks (the base, fine-tuned models, their average) only where
    ``alone``.
    """
    found: dict[str, dict[tuple[int, str], float]] = {}
    for row in table.rows():
        found.setdefault(row["kind"], {})[row["task"], row["metric"]] = row["value"]
    kept, rows = table.summary["kept"], []
    weights = {"stitched": " + ".join(f"{count:,}" for count in kept)}
    weights |= {f"graft {at}": f"{count:,}" for at, count in enumerate(kept, 1)}
    for kind, values in found.items():
        fixed = kind in ("base", "average") or kind.startswith("model")
        if fixed == alone:
            said = {"masks": "" if fixed else way, "model": kind, "weights": weights.get(kind, "")}
            for task, name in enumerate(("first", "second"), 1):
                said[f"{name}, right"] = f"{values[task, 'accuracy']:.1%}"
                said[f"{name}, exact"] = f"{values[task, 'exact']:.1%}"
            rows.append(said | {"perplexity": f"{values[0, 'perplexity']:.2f}"})
    return rows


def together(parts: list[tuple[PromptSet, PromptSet]]) -> dict[str, str]:
    """The tune of both skills at once, as a row."""
    pair = Pair.load("organism:skill/both", BASE)
    study = Study(pair, Contrast(parts[0][0], NO_PROMPTS), None)
    said = {"model": "skill/both"}
    for name, (_, held_out) in zip(("first", "second"), parts, strict=True):
        asked = Questions.from_prompts(pair.tokenizer, held_out.prompts, pair.tuned.context_length)
        logits = engine_logits(study.engine, pair.tuned)
        seen = asked.grade(study.batches(asked.read, pair.tuned), logits, pair.tuned.device)
        said |= {
            f"{name}, right": f"{seen.correct.mean():.1%}",
            f"{name}, exact": f"{seen.exact.mean():.1%}",
        }
    return said


def main() -> None:
    """Stitch, print, and write where asked."""
    parser = CommandLine(globals(), SMALL, "the table")
    parser.add_argument("--store", help="keep runs there")
    options = parser.read()
    parts = [halves(name) for name in ("first", "second")]
    text = read_prompts(organisms.prompts("skill", "text", "text"), name="text")
    text = text.spread(PROMPTS or len(text))
    pairs = [Pair.load(f"organism:skill/{name}", BASE) for name in ("full", "second")]
    metric = Task.from_prompts(pairs[0].tokenizer, parts[0][0].prompts, "answer-loss")
    study = Study(pairs[0], Contrast(parts[0][0], text), metric, quiet=False)
    partner, rows, said = StitchInput(pairs[1], *parts[1]), [together(parts)], []
    with tempfile.TemporaryDirectory() as scratch:
        store = Store(options.store or scratch)
        runs = tuple(
            store.run(
                Graft(held_out=held_out, **LEARNED),
                Study(pair, Contrast(located, NO_PROMPTS), metric, quiet=False),
            )
            for pair, (located, held_out) in zip(pairs, parts, strict=True)
        )
        for way, given in {**WAYS, "learned as grafts are, 10 %": {"runs": runs}}.items():
            table = store.run(Stitch(held_out=parts[0][1], others=(partner,), **given), study)
            if len(rows) == 1:
                rows += lines(way, table, alone=True)
            rows += lines(way, table, alone=False)
            for claim in claims.from_table(table.tables["claims"]):
                interval = f"{claim.value:.3f}, {claim.low:.3f} to {claim.high:.3f}"
                said.append(
                    f"* {way}, {claim.name} ({interval}), {claim.verdict}: {claim.sentence}"
                )
            of = next(row for row in table.tables["overlaps"].rows() if row["mask"] == "model 1")
            p = "below 1e-300" if of["p"] == 0 else f"= {of['p']:.1g}"
            said.append(
                f"* {way}: {of['shared']:,} weights are in both masks ({of['share']:.1%} of the"
                f" first; by chance {of['chance']:.1%}, as many or more with p {p})."
            )
            print(rows[-2], flush=True)
    page = markdown(rows, COLUMNS) + "\n\n" + "\n".join(said)
    print(page)
    if options.write:
        write_section("stitch", f"`python -m benchmarks.stitch --write`. {machine()}\n\n{page}")


if __name__ == "__main__":
    main()
