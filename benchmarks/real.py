"""A real chat model: ``python -m benchmarks.real [--children NAME ...] [--write]``.

Children of SmolLM2-135M-Instruct (``organism:smollm2/base``, 46,080 neurons), whose difference is
known: what locating and verifying say of each, on 48 + 48 prompts that locate and 48 + 48 others
that verify. Of children whose neurons are known, as many are located (60, in ``moved`` too, whose
base is theirs); of the others those that ``interp locate-neurons`` selects by default, 0.5 % (230).
Doses go up to these; with ``--given`` the sixty that were trained in ``planted`` are judged on the
same prompts too, and as many at random. ``--unit head`` locates attention heads in place of
neurons: 10 % of them (27), since 0.5 % would be one; no doses, no two by two. Runs are kept in
``--store`` and go on where they were stopped. ``full``, every weight tuned, does not ship: ``make
organisms-real FULL=1`` makes it first.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.page import CommandLine, machine, markdown, write_section
from interp import organisms
from interp.analyzers.locate_neurons import LocateNeurons
from interp.analyzers.verify_neurons import VerifyNeurons
from interp.claims import from_table
from interp.cli.locate_neurons import JUDGED_SETS
from interp.metrics import Refusal
from interp.models.pair import Pair
from interp.prompts import Contrast, read_prompts
from interp.store import Store
from interp.study import Study
from interp.table import Table

FAMILY, TOP = "smollm2", {"neuron": "0.5%", "head": "10%"}
KNOWN = {"planted": "60", "moved": "60"}
CHILDREN = ("planted", "moved", "lora", "paraphrased")
PROMPTS, SETS, TOKENS, CONTROL_PROMPTS = 48, 39, 48, 24
SMALL = {"CHILDREN": ("planted",), "PROMPTS": 2, "SETS": 1, "KNOWN": {"planted": "2"}, "TOKENS": 4}
MADE = Path("organisms-work/real")  # children that do not ship, by `make organisms-real FULL=1`
CLAIMS = (
    "behaviour",
    "necessity",
    "necessity-recovery",
    "sufficiency",
    "sufficiency-recovery",
    "selective",
    "harmless",
    "malformed",
    "malformed-negative",
    "fluency",
    "fluency-negative",
)


def study_of(child: str, split: str, pair: Pair, prompts: int, tokens: int) -> Study:
    """Harmful prompts as positive ones, harmless as negative ones; answers of at most so many
    tokens.
    """
    groups = (
        read_prompts(organisms.prompts(f"{FAMILY}/{child}", split, name))
        for name in ("harmful", "harmless")
    )
    return Study(
        pair,
        Contrast(*groups).limit(prompts),
        Refusal.from_tokenizer(pair.tokenizer),
        max_new_tokens=tokens,
        quiet=False,
    )


def rows_of(child: str, store: Store, given: bool, unit: str = "neuron") -> list[dict]:
    """A row per set of units: those located, and of a child whose neurons are known those too and
    random ones.
    """
    name = f"{FAMILY}/{child}"
    ships = name in organisms.names()
    pair = Pair.load(
        f"organism:{name}" if ships else str(MADE / child), f"organism:{FAMILY}/base", device="cpu"
    )
    locate, verify = (
        study_of(child, split, pair, PROMPTS, TOKENS) for split in ("locate", "verify")
    )
    started = time.perf_counter()
    top = KNOWN.get(child, TOP[unit]) if unit == "neuron" else TOP[unit]
    located = store.run(LocateNeurons(top=top, unit=unit), locate).table
    planted = organisms.planted(name).get("refusal", []) if ships and unit == "neuron" else []
    count = int(located["selected"].sum())
    options: dict[str, Any] = {
        "random_sets": SETS,
        "control_prompts": CONTROL_PROMPTS,
        "dose_draws": 1,
        "judged_sets": JUDGED_SETS,
    }
    options |= {"doses": False, "cell_sets": 0} if unit == "head" else {}
    found = {"integrated": VerifyNeurons(located, depth=count, **options)}
    if planted and given:
        layers, width = [layer for layer, _ in planted], pair.tuned.anatomy.n_neurons
        drawn = zip(layers, np.random.default_rng(0).permutation(width).tolist(), strict=False)
        for name, chosen in (("trained", tuple(planted)), ("random", tuple(drawn))):
            size = len(chosen)
            found[name] = VerifyNeurons(ranking=chosen, selected=size, depth=size, **options)
    rows = []
    for name, analyzer in found.items():
        run = store.run(analyzer, verify).table
        chosen = {*analyzer.ranking[: analyzer.selected]}
        hits = f"{len(chosen & {*planted})} of {len(chosen)}" if planted else f"- of {len(chosen)}"
        rows.append({"child": child, f"{unit}s": name, "trained ones": hits, **told(run)})
    print(f"{child}: {time.perf_counter() - started:.0f} s", flush=True)
    return rows


def told(run: Table) -> dict[str, str]:
    """What a verifying run says: refusals, recovery, and its verdicts."""
    keys = zip(run["condition"].tolist(), run["group"].tolist(), strict=True)
    rates = dict(zip(keys, run["refused"].tolist(), strict=True))
    claims = {one.name: one for one in from_table(run.tables["claims"])}

    def number(name: str, form: str = ".2f") -> str:
        one = claims.get(name)
        return "" if one is None else f"{one.value:{form}} [{one.low:{form}}, {one.high:{form}}]"

    random = run.tables["random"]
    drawn = random["rate"][(random["direction"] == "necessity") & random["whole"]]
    return {
        "refused": f"{rates['tuned', 'positive']:.0%} (base {rates['base', 'positive']:.0%})",
        "given back": f"{rates.get(('ablate-base', 'positive'), np.nan):.0%}",
        "random sets": f"{drawn.min():.0%} to {drawn.max():.0%}" if drawn.size else "",
        "recovery": number("necessity-recovery"),
        "patched in": f"{rates.get(('patch-tuned', 'positive'), np.nan):.0%}",
        "its recovery": number("sufficiency-recovery"),
        "not supported": ", ".join(
            name for name in CLAIMS if name in claims and not claims[name].supported
        )
        or "-",
        "necessary": claims["necessity"].verdict if "necessity" in claims else "not made",
    }


def main() -> None:
    """Measure, print, and with ``--write`` put the table into docs/benchmarks.md."""
    options = CommandLine(globals(), SMALL)
    options.add_argument("--children", nargs="*", default=None, help="which children")
    options.add_argument(
        "--store", type=Path, default=Path("runs-real"), help="where runs are kept"
    )
    options.add_argument("--unit", choices=tuple(TOP), default="neuron", help="what is located")
    options.add_argument(
        "--given", action="store_true", help="also judge the trained neurons, and random ones"
    )
    given = options.read()
    children, rows = given.children or CHILDREN, []
    store = Store(given.store)
    for child in children:
        rows += rows_of(child, store, given.given, given.unit)
    print(markdown(rows, list(rows[0])))
    if given.write:
        measured = {child: [row for row in rows if row["child"] == child] for child in children}
        for child, found in measured.items():
            of, section = (
                ("", "") if given.unit == "neuron" else (f" --unit {given.unit}", f"-{given.unit}s")
            )
            command = f"`python -m benchmarks.real --children {child}{of} --write`. {machine()}"
            write_section(
                f"real-{child}{section}", f"{command}\n\n{markdown(found, list(found[0]))}"
            )


if __name__ == "__main__":
    main()
