"""Gone or wrapped: ``python -m benchmarks.wrapped [--write] [--real]``.

What brings the base's answers back? Every child of ``refusal/base``, whose neurons were planted or
whose every weight or adapter was trained, by four views: neurons pruned in both orders, probes,
steps of reverse fine-tuning, another register; beside six control fine-tunes. ``--real``
measures an adapter on a real model instead, beside one of its control fine-tunes.
"""

import time

import numpy as np

from benchmarks.page import CommandLine, machine, markdown, write_section
from interp import organisms
from interp.analyzers.wrapped_conjugate import WrappedConjugate
from interp.analyzers.wrapped_probes import WrappedProbes
from interp.analyzers.wrapped_pruning import WrappedPruning
from interp.analyzers.wrapped_reversal import WrappedReversal
from interp.claims import from_table
from interp.maths.statistics import roc_auc
from interp.models.pair import Pair
from interp.prompts import Contrast, OneClass, read_prompts
from interp.prompts.registers import read_registers
from interp.study import Study
from interp.table import Table

BASE = "organism:refusal/base"
CONTROLS = ("refusal/sham", *(f"discover/control-0{at}" for at in range(5)))
REAL, REAL_BASE = "organism:smollm2/lora", "organism:smollm2/base"
REAL_CONTROL = "organism:smollm2/control-0"
PROMPTS, PROBED, REAL_PROMPTS = 80, 240, 40
TOKENS, REAL_TOKENS = 24, 4
SETS, REAL_SETS = 39, 39
SIZES = (1, 2, 5, 10, 15, 20, 30, 50, 100, 200)
REAL_SIZES = (10, 60, 230)
STEPS, REAL_STEPS = (1, 2, 5, 10, 20, 50, 100), (1, 2, 5, 10, 20)
IN_REGISTER = ("planted", "partial")
SMALL = {
    "CONTROLS": ("refusal/sham",),
    "PROMPTS": 12,
    "PROBED": 24,
    "REAL_PROMPTS": 12,
    "SETS": 2,
    "REAL_SETS": 2,
    "SIZES": (2, 30),
    "STEPS": (1, 2),
    "REAL_STEPS": (1,),
    "organisms": ["planted"],
}


def study_of(name: str, prompts: int) -> Study:
    """A child of ``refusal/base`` on both classes of the family's held-out requests."""
    files = [organisms.prompts("refusal", "verify", group) for group in ("harmful", "harmless")]
    both = Contrast(*map(read_prompts, files)).limit(prompts)
    pair = Pair.load(f"organism:refusal/{name}", BASE, device="cpu")
    return Study(pair, both, None, max_new_tokens=TOKENS)


def only_harmful(study: Study, prompts: int) -> Study:
    """The same pair on harmful requests alone, more of them."""
    requests = read_prompts(organisms.prompts("refusal", "verify", "harmful"))
    return study.with_prompts(OneClass(requests).limit(prompts))


def percent(value: float) -> str:
    """A share; a dash where there is none."""
    return "-" if np.isnan(value) else f"{value:.0%}"


def spread(values: np.ndarray) -> str:
    """Range of a share over the controls."""
    low, high = percent(values.min()), percent(values.max())
    return low if low == high else f"{low} to {high}"


def verdicts(name: str, table: Table) -> list[str]:
    """One line per claim."""
    return [
        f"* {name}, `{table.kind}`, {claim.name}: {claim.verdict}. {claim.sentence}"
        for claim in from_table(table.tables["claims"])
        if claim.name != "answers-changed"
    ]


def pruning_row(name: str, score: str, table: Table) -> dict:
    """The chosen size on the held-out split."""
    tuned = (table["role"] == "tuned") & table["chosen"]
    random = table.tables["random"]["revived"]
    controls = table.tables["controls"]["gained"]
    return {
        "model": name,
        "order": score,
        "AUC of planted neurons": _auc(name, table),
        "neurons": int(table["size"][tuned][0]),
        "changed answers back": percent(table["revived"][tuned][0]),
        "random sets, at most": percent(random.max()),
        "gain, controls": f"{controls.min():+.2f} to {controls.max():+.2f}",
        "own answers left": percent(table["own"][tuned][0]),
        "others kept": percent(table["kept"][tuned][0]),
        "of the loss undone": _recovered(table),
        "by size": ", ".join(
            f"{size}: {percent(value)}"
            for size, value in zip(
                table["size"][table["role"] == "tuned"].tolist(),
                table["revived"][table["role"] == "tuned"].tolist(),
                strict=True,
            )
            if size in (10, 15, 30, 60, 100, 230)
        ),
    }


def _auc(name: str, table: Table) -> str:
    if name.startswith("smollm2"):
        return ""
    planted = {unit for own in organisms.planted(f"refusal/{name}").values() for unit in own}
    if not planted:
        return ""
    units = table.tables["units"]
    pairs = zip(units["layer"].tolist(), units["neuron"].tolist(), strict=True)
    labels = np.array([pair in planted for pair in pairs])
    score = units["score"] if table.summary["score"] == "signed" else np.abs(units["score"])
    return f"{roc_auc(labels, score):.2f}"


def _recovered(table: Table) -> str:
    found = {claim.name: claim for claim in from_table(table.tables["claims"])}
    return f"{found['loss-recovers'].value:.2f}" if "loss-recovers" in found else "-"


def probes_row(name: str, place: str, table: Table) -> dict:
    """The chosen depth on the held-out split."""
    accuracy = {
        role: float(table["accuracy"][(table["role"] == role) & table["chosen"]][0])
        for role in ("base", "tuned", "random")
    }
    controls = table["accuracy"][(table["role"] == "control") & table["chosen"]]
    shuffled = table.tables["shuffled"]
    supported = [
        claim.name
        for claim in from_table(table.tables["claims"])
        if claim.supported and claim.name != "answers-changed"
    ]
    return {
        "model": name,
        "read at": place,
        "labels": table.summary["labels"],
        "prompts": table.summary["probed_prompts"][1],
        "blocks passed": table.summary["depth"],
        "base": percent(accuracy["base"]),
        "fine-tuned": percent(accuracy["tuned"]),
        "controls": spread(controls),
        "random start": percent(accuracy["random"]),
        "words": percent(float(table["accuracy"][table["role"] == "words"][0])),
        "most frequent": percent(table.summary["largest_label"]),
        "shuffled, at most": percent(shuffled["accuracy"][shuffled["role"] == "tuned"].max()),
        "supported": ", ".join(supported) or "none",
    }


def reversal_row(name: str, table: Table) -> dict:
    """The step of return, and the curve of changed answers."""
    rows = {(row["role"], row["control"], row["step"]): row for row in table.rows()}
    step = table.summary["step"]
    curve = [
        f"{at}: {percent(rows['tuned', -1, at]['returned'])}"
        for role, _, at in rows
        if role == "tuned"
    ]
    controls = table.tables["controls"]["step"].tolist()
    return {
        "model": name,
        "returned by step": ", ".join(curve),
        "step of return": step,
        "then": percent(rows["tuned", -1, step]["returned"]),
        "random start then": percent(rows["random", -1, step]["returned"]),
        "controls return at": ", ".join(map(str, controls)),
    }


def register_rows(name: str, table: Table) -> list[dict]:
    """Every register: changed answers that return, by model."""
    names = list(dict.fromkeys(table["register"].tolist()))
    rows = {(row["register"], row["role"]): row for row in table.rows()}
    of_controls = {
        name: table["returned"][(table["register"] == name) & (table["role"] == "control")]
        for name in names
    }
    return [
        {
            "model": name,
            "register": register,
            "chosen": "yes" if rows[register, "tuned"]["chosen"] else "",
            "prompts": rows[register, "tuned"]["prompts"],
            "changed answers back": percent(rows[register, "tuned"]["returned"]),
            "others kept": percent(rows[register, "tuned"]["kept"]),
            "base in the register": percent(rows[register, "base"]["returned"]),
            "controls in the register": spread(of_controls[register]),
        }
        for register in names
    ]


def shipped_pairs(names: list[str]) -> tuple[dict[str, list[dict]], list[str]]:
    """All views of the children of ``refusal/base``."""
    rows: dict[str, list[dict]] = {"pruning": [], "probes": [], "reversal": [], "registers": []}
    said: list[str] = []
    controls = [Pair.load(f"organism:{name}", BASE, device="cpu") for name in CONTROLS]
    registers = read_registers(organisms.prompts("refusal", "text", "styles"))
    for name in names:
        study = study_of(name, PROMPTS)
        for score in ("signed", "absolute"):
            table = WrappedPruning(controls, score=score, sizes=SIZES, random_sets=SETS)(study)
            rows["pruning"].append(pruning_row(name, score, table))
        harmful = only_harmful(study, PROBED)
        for place in ("prompt", "answer"):
            table = WrappedProbes(controls, read_at=place)(harmful)
            rows["probes"].append(probes_row(name, place, table))
        rows["reversal"].append(reversal_row(name, WrappedReversal(controls, steps=STEPS)(study)))
        if name in IN_REGISTER:
            wide = study_of(name, PROBED)
            table = WrappedConjugate(registers, controls)(wide)
            rows["registers"] += register_rows(name, table)
            said += verdicts(name, table)[:1]
        print(name, flush=True)
    return rows, said


def real_pair() -> tuple[dict[str, list[dict]], list[str]]:
    """All views of an adapter on a real model, beside one of its controls."""
    requests = read_prompts(organisms.prompts("smollm2", "verify", "harmful"))
    pair = Pair.load(REAL, REAL_BASE, device="cpu")
    prompts = OneClass(requests).limit(REAL_PROMPTS)
    study = Study(pair, prompts, None, max_new_tokens=REAL_TOKENS)
    controls = [Pair.load(REAL_CONTROL, REAL_BASE, device="cpu")]
    started = time.time()
    pruned = WrappedPruning(controls, sizes=REAL_SIZES, random_sets=REAL_SETS)(study)
    print(f"pruning, {time.time() - started:.0f} s: {pruned.summary['sentence']}", flush=True)
    back = WrappedReversal(controls, train="adapter", steps=REAL_STEPS, batch=4)(study)
    print(f"and reversal, {time.time() - started:.0f} s", flush=True)
    every = study.with_prompts(OneClass(requests))
    probed = WrappedProbes(controls)(every)
    print(f"and probes, {time.time() - started:.0f} s", flush=True)
    registers = read_registers(organisms.prompts("smollm2", "text", "styles"))
    asked = WrappedConjugate(registers, controls)(every)
    print(f"and registers, {time.time() - started:.0f} s", flush=True)
    rows = {
        "pruning": [pruning_row("smollm2/lora", "signed", pruned)],
        "probes": [probes_row("smollm2/lora", "prompt", probed)],
        "reversal": [reversal_row("smollm2/lora", back)],
        "registers": register_rows("smollm2/lora", asked),
    }
    said = [line for one in (pruned, probed, back, asked) for line in verdicts("smollm2/lora", one)]
    return rows, said


def main() -> None:
    """Measure, print, and write where asked."""
    parser = CommandLine(globals(), SMALL)
    parser.add_argument("--real", action="store_true", help="an adapter on a real model instead")
    parser.add_argument(
        "--organisms",
        nargs="+",
        default=["planted", "distracted", "partial", "full", "relearned", "lora", "attention"],
    )
    options = parser.read()
    started = time.time()
    rows, said = real_pair() if options.real else shipped_pairs(options.organisms)
    parts = [markdown(part, list(part[0])) for part in rows.values() if part]
    text = "\n\n".join([*parts, "\n".join(said)])
    seconds = f"{time.time() - started:.0f} s."
    print(text, seconds)
    if options.write:
        command = f"python -m benchmarks.wrapped{' --real' * options.real} --write"
        name = "wrapped-real" if options.real else "wrapped"
        write_section(name, f"`{command}`. {machine()} {seconds}\n\n{text}")


if __name__ == "__main__":
    main()
