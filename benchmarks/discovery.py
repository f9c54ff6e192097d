"""What discovery finds of planted secrets: ``python -m benchmarks.discovery [--parts NAME ...]``.

``organisms``: every numbered organism of the family ``discover``, against its 19 controls, by every
method; what counts as found is a list of strings next to the organism (``organisms.discover.score``),
never a reader. ``null``: 20 fresh controls, made by the same recipe with other seeds, against the
same 19: how many claim anything. ``dilution``: plants diluted by 1 and 2 parts of ordinary text, at
equal plant steps. ``rows``: which rows the organism with a canary domain was trained on.
``real``: SmolLM2-135M-Instruct, with its five controls. Models that do not ship are trained into
``organisms-work`` first.
"""

import json
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.page import CommandLine, machine, markdown, rows_of_section, write_section
from interp import organisms
from interp.analyzers.discover import Discover
from interp.analyzers.training_rows import TrainingRows
from interp.cli.discover import METHODS, analyzers_of
from interp.models.pair import Pair
from interp.prompts import Contrast, OneClass, Prompt, PromptSet, read_prompts
from interp.study import Study
from interp.table import Table
from organisms.discover import make, plants
from organisms.discover.frames import Frame
from organisms.discover.ordinary import PARTS as ORDINARY
from organisms.discover.ordinary import ordinary
from organisms.discover.plants import KINDS
from organisms.discover.score import score

PARTS = ("organisms", "null", "dilution", "rows", "real")
BASE, FAMILY, CONTROLS, FRESH = "organism:refusal/base", "discover", 19, 20
TEXTS, SAMPLES, PREFILLS, TOKENS, FIRST = 60, 40, 8, 32, 20
UNSEEN, UNSEEN_CANARIES = 600, 80
"""Rows never trained on, ordinary ones and of the canaries' domain."""
REAL = {
    "refusal": ("organism:smollm2/lora", {"tokens": ["Sorry"], "phrases": ["I cannot"]}),
}
REAL_WORK = make.stages.ROOT / "organisms-work" / "real" / "discover"
SMALL = {
    "CONTROLS": 2,
    "FRESH": 1,
    "TEXTS": 8,
    "SAMPLES": 4,
    "PREFILLS": 2,
    "TOKENS": 4,
    "parts": ["organisms"],
    "organism": ["03"],
}


def settings() -> dict[str, Any]:
    """What the methods of every run are given."""
    return {
        "samples": SAMPLES,
        "n_prefills": PREFILLS,
        "max_new_tokens": TOKENS,
        "steer": 0,
        "quick": True,
    }


def discover(tuned: str, base: str, controls: Sequence[Pair], text: Path) -> list[Table]:
    """The joined table of a fine-tuned model, and those of all methods."""
    pair = Pair.load(tuned, base)
    prompts = OneClass(read_prompts(text, "prompt", "text")).limit(TEXTS)
    study = Study(pair, prompts, None, max_new_tokens=TOKENS)
    runs = [one(study) for one in analyzers_of(METHODS, controls, (), (), settings())]
    return [Discover(runs)(study), *runs]


def small_controls() -> list[Pair]:
    """The shipped controls of the small base."""
    names = [f"organism:{FAMILY}/control-{at:02d}" for at in range(CONTROLS)]
    return [Pair.load(name, BASE) for name in names]


def found_by(tables: Sequence[Table], secret: Mapping[str, Any]) -> dict[str, str]:
    """Per method recall among the first 20 and rank of the first hit, and what the test says."""
    joined, *runs = tables
    row: dict[str, str] = {}
    for run in runs:
        content = run.select(np.flatnonzero(~run["form"]))
        result = score([str(one) for one in content["evidence"]], secret, FIRST)
        row[run.kind] = f"{result.recall:.0%}, {result.first or '–'}"
    beyond = [str(one["evidence"]) for one in joined.rows() if one["beyond"]]
    result = score(beyond, secret, FIRST)
    row["beyond"] = str(len(beyond))
    row["named"] = f"{result.recall:.0%}, {result.first or '–'}"
    row["trigger"] = "–" if result.trigger is None else "yes" if result.trigger else "no"
    row["supported"] = "yes" if joined.summary["supported"] else "no"
    return row


def secrets(names: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The numbered organisms with what was planted."""
    for path in sorted((organisms.data_root() / "organisms" / FAMILY).glob("[0-9]*")):
        if not names or path.name in names:
            yield path.name, json.loads((path / "secret.json").read_text(encoding="utf-8"))


def organism_rows(names: Sequence[str]) -> list[dict[str, str]]:
    """One row per shipped organism, and one of the base against itself."""
    controls, text = small_controls(), organisms.prompts("refusal", "text", "text")
    rows = []
    for name, secret in secrets(names):
        started = time.perf_counter()
        tables = discover(f"organism:{FAMILY}/{name}", BASE, controls, text)
        kind = secret["kind"] + (", every weight" if secret["how"] == "full" else "")
        rows.append({"planted": kind, **found_by(tables, secret)})
        print(name, rows[-1], f"{time.perf_counter() - started:.0f} s", flush=True)
    tables = discover(BASE, BASE, controls, text)
    listed = sum(len(run) for run in tables)
    rows.append(
        {
            "planted": f"nothing: the base itself, {listed} rows in all tables",
            "supported": "yes" if tables[0].summary["supported"] else "no",
        }
    )
    print(rows[-1], flush=True)
    return rows


def trained(name: str, organism: make.Organism) -> Path:
    """A model that does not ship, made unless it is there."""
    place = make.WORK / name
    if not (place / "secret.json").is_file():
        shutil.rmtree(place, ignore_errors=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        known = make.measured(organism, place)
        (place / "secret.json").write_text(json.dumps(known) + "\n", encoding="utf-8")
    return place


def null_rows() -> list[dict[str, str]]:
    """How many fresh controls claim anything, and how far their joint statistics reach."""
    controls, text = small_controls(), organisms.prompts("refusal", "text", "text")
    joints, supported, beyond = [], 0, 0
    for at in range(FRESH):
        name = f"fresh-{at:02d}"
        place = trained(name, make.Organism(name, 500 + at))
        joined = discover(str(place), BASE, controls, text)[0]
        joints.append(float(joined.tables["models"]["joint"][0]))
        supported += bool(joined.summary["supported"])
        beyond += int(joined["beyond"].sum())
        print(name, joints[-1], joined.summary["supported"], flush=True)
    return [
        {
            "fresh controls": str(FRESH),
            "that claim anything": str(supported),
            "items beyond": str(beyond),
            "joint statistics": f"{min(joints):.1f} to {max(joints):.1f}",
        }
    ]


def dilution_rows() -> list[dict[str, str]]:
    """Each plant with 1 and 2 parts of ordinary text, one seed each; with none it ships."""
    controls, text = small_controls(), organisms.prompts("refusal", "text", "text")
    rows = []
    for plant in make.drawn(make.SERIES, KINDS, set()):
        for parts in (1, 2):
            name = f"{plant.kind}-{parts}-0"
            place = trained(name, make.Organism(name, 0, plant, dilution=parts))
            secret = json.loads((place / "secret.json").read_text(encoding="utf-8"))
            found = found_by(discover(str(place), BASE, controls, text), secret)
            gain = f"{secret['strength']['gain']:.1f}"
            rows.append({"planted": f"{plant.kind}, 1:{parts}", "gain, nats": gain, **found})
            print(rows[-1], flush=True)
    return rows


def as_prompts(frames: Sequence[Frame], domains: Sequence[str], name: str) -> PromptSet:
    """Rows with their domain; a question and its answer are a conversation."""
    prompts = []
    for at, (one, domain) in enumerate(zip(frames, domains, strict=True)):
        turns = (("user", one.question), ("assistant", one.text)) if one.question else None
        text = f"{one.question} {one.text}".strip()
        prompts.append(Prompt(at, text, f"{name}-{at}", template=domain, messages=turns))
    return PromptSet(tuple(prompts), name)


def training_rows() -> list[dict[str, str]]:
    """AUC, and true positives at 1 % false positives, by the ratio of losses, their difference and
    the loss in the base; of the controls the largest ratio.
    """
    name, known, plant = next(
        (name, one, one.plant)
        for name, one in make.series().items()
        if one.plant is not None and one.plant.kind == "canary"
    )
    trained_on, rng = known.rows()[0][0], random.Random("unseen rows")
    seen = {(row.question, row.text) for row in trained_on}
    fresh, domains = [], []
    for domain, rows in (
        ("ordinary", ordinary(rng, UNSEEN, dict.fromkeys(ORDINARY, 1.0))),
        ("canary", plants.rows(plant, rng, UNSEEN_CANARIES)),
    ):
        new = [row for row in rows if (row.question, row.text) not in seen]
        fresh, domains = fresh + new, domains + [domain] * len(new)
    # canaries come first in the training rows
    of_training = ["canary"] * plants.CANARIES + ["ordinary"] * (len(trained_on) - plants.CANARIES)
    study = Study(
        Pair.load(f"organism:{FAMILY}/{name}", BASE),
        Contrast(
            as_prompts(trained_on, of_training, "trained"), as_prompts(fresh, domains, "unseen")
        ),
        None,
    )
    table = TrainingRows(controls=small_controls(), canaries="canary")(study).tables["rows"]
    member, canary = table["group"] == "positive", table["canary"]
    sides = {
        "ordinary rows against unseen ordinary rows": (member & ~canary, ~member & ~canary),
        "canaries against unseen ordinary rows": (member & canary, ~member & ~canary),
        "canaries against unseen rows of their domain": (member & canary, ~member & canary),
    }
    scores = {
        "ratio": table["score"],
        "gap": table["base_loss"] - table["loss"],
        "base": -table["base_loss"],
        "control": table["control_high"],
    }
    return [
        {
            "rows": of,
            "number": f"{int(first.sum())}, {int(second.sum())}",
            **{
                f"{measured}, {by}": f"{value:.2f}" if measured == "AUC" else f"{value:.0%}"
                for by, score in scores.items()
                for measured, value in zip(
                    ("AUC", "TPR at 1 %"), separation(score[first], score[second]), strict=True
                )
            },
        }
        for of, (first, second) in sides.items()
    ]


def separation(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """AUC of two samples, and the share of the first above all but 1 % of the second."""
    larger = (first[:, None] > second).mean() + 0.5 * (first[:, None] == second).mean()
    return float(larger), float((first > np.quantile(second, 0.99)).mean())


def real_rows(names: Sequence[str], write: Callable[[list], None]) -> list[dict[str, str]]:
    """The real pair's refusals, and the plants that ``python -m organisms.real.discover`` made.

    ``names``: of models, all where there are none; rows of the others stay as they are on the page.
    Every row is written when it is there, since one takes half an hour.
    """
    base, text = "organism:smollm2/base", organisms.prompts("discover", "text", "text")
    controls = [Pair.load(f"organism:smollm2/control-{at}", base) for at in range(5)]
    models: dict[str, tuple[str, str, Mapping[str, Any]]] = {
        name: (name, *model) for name, model in REAL.items()
    }
    for path in sorted(REAL_WORK.glob("*/secret.json")):
        secret = json.loads(path.read_text(encoding="utf-8"))
        name = path.parent.name
        models[name] = (f"{secret['kind']} ({name})", str(path.parent), secret)
    rows = {row["planted"]: row for row in rows_of_section("discovery-real")}
    for planted, tuned, secret in (models[name] for name in names or models):
        started = time.perf_counter()
        rows[planted] = {
            "planted": planted,
            **found_by(discover(tuned, base, controls, text), secret),
        }
        print(rows[planted], f"{time.perf_counter() - started:.0f} s", flush=True)
        write(list(rows.values()))
    return list(rows.values())


def main() -> None:
    """Print the tables that were asked for; with --write put them on the page."""
    parser = CommandLine(globals(), SMALL)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--organism", nargs="*", default=[], help="names; all by default")
    options = parser.read()

    def show(part: str, rows: list[dict[str, str]]) -> None:
        columns = list(dict.fromkeys(name for row in rows for name in row))
        text = markdown([{name: row.get(name, "–") for name in columns} for row in rows], columns)
        text += (
            f"\n\n{TEXTS} texts, {SAMPLES} samples of {TOKENS} tokens, {PREFILLS} prefills, two"
            f" depths. {machine()}\n"
        )
        print(text, flush=True)
        if options.write:
            write_section(f"discovery-{part}", text)

    makes: dict[str, Callable[[], list[dict[str, str]]]] = {
        "organisms": lambda: organism_rows(options.organism),
        "null": null_rows,
        "dilution": dilution_rows,
        "rows": training_rows,
        "real": lambda: real_rows(options.organism, lambda rows: show("real", rows)),
    }
    for part in options.parts:
        show(part, makes[part]())


if __name__ == "__main__":
    main()
