"""Which half decides: ``python -m benchmarks.cross_patch [--pairs NAME ...] [--write]``.

Cross-patching at first divergences on organisms and on the real pair, harmful prompts that were not
used for training: each term at 60 % depth as a share of the native shift, next to the change
rotated and to control fine-tunes, each where its own answers diverge. Then the exact cells: children
of ``refusal/base`` with the blocks of ``refusal/full`` only below a depth, or only from there on.
"""

import copy
import time
from collections.abc import Collection

import numpy as np
import torch

from benchmarks.page import CommandLine, machine, markdown, write_section
from interp import claims, organisms
from interp.analyzers.cross_patch import CrossPatch
from interp.analyzers.cross_patch.compute import cross_patch
from interp.models.pair import Pair
from interp.prompts import OneClass, read_prompts
from interp.study import Study
from interp.table import Table

CONTROLS = {
    "refusal": ("refusal/sham", *(f"discover/control-0{at}" for at in range(5))),
    "smollm2": tuple(f"smollm2/control-{seed}" for seed in range(5)),
}
PAIRS = ("refusal/full", "refusal/lora", "refusal/planted", "refusal/partial", "smollm2/lora")
PROMPTS, TOKENS = {"refusal": 48, "smollm2": 12}, 48
ROTATIONS = {"refusal": 39, "smollm2": 19}
CHILDREN = (("refusal/full", "below", (2, 4)), ("refusal/planted", "from there on", (1, 3)))
SMALL = {
    "CONTROLS": {"refusal": ("refusal/sham",)},
    "PAIRS": ("refusal/partial",),
    "PROMPTS": {"refusal": 6},
    "ROTATIONS": {"refusal": 1},
    "TOKENS": 8,
    "CHILDREN": (("refusal/full", "below", (2,)),),
}


def study_of(name: str) -> Study:
    """A pair on held-out harmful prompts."""
    family = name.split("/")[0]
    pair = Pair.load(f"organism:{name}", f"organism:{family}/base", device="cpu")
    prompts = read_prompts(organisms.prompts(name, "verify", "harmful")).spread(PROMPTS[family])
    return Study(pair, OneClass(prompts), None, quiet=False)


def row(name: str) -> tuple[dict, Table]:
    """One row of the page, and the run."""
    started, study = time.process_time(), study_of(name)
    base = study.pair.require_base("a control").name
    controls = [
        Pair.load(f"organism:{control}", base, device="cpu")
        for control in CONTROLS[name.split("/")[0]]
    ]
    rotations = ROTATIONS[name.split("/")[0]]
    table = CrossPatch(controls, max_new_tokens=TOKENS, rotations=rotations)(study)
    findings = {finding.name: finding for finding in claims.from_table(table.tables["claims"])}
    summary = table.summary
    said = {
        name.removesuffix("-beyond-rotations").replace("-", "_"): (
            f"{finding.value:.1%} [{finding.low:.1%}, {finding.high:.1%}]"
        )
        for name, finding in findings.items()
        if name.endswith("-beyond-rotations")
    }
    rotated, of_controls = table.tables["rotations"], table.tables["controls"]
    return {
        "pair": name,
        "divergences": f"{summary['kept']} of {summary['prompts']}",
        "at first token": summary["first_token"],
        "depth": f"{summary['boundary']} of {summary['blocks']}",
        "shift, logits": f"{table['shift'][table['kept']].mean():.2f}",
        "late, base": said["late_on_base"],
        "late, tuned": said["late_on_tuned"],
        "interaction": said["interaction"],
        "rotations: diverged, interaction": ranges(rotated),
        "controls: diverged, interaction": ranges(of_controls),
        "s": f"{time.process_time() - started:.0f}",
    }, table


def ranges(table: Table) -> str:
    """How many of them have a divergence, and the range of their interactions."""
    diverged = table["divergences"] > 0
    if not diverged.any():
        return f"0 of {len(table)}"
    values = table["interaction"][diverged]
    return f"{diverged.sum()} of {len(table)}, {values.min():.1%} to {values.max():.1%}"


def child(base: torch.nn.Module, tuned: torch.nn.Module, blocks: Collection[int]):
    """A copy of the base with these blocks of the fine-tuned model."""
    copied = copy.deepcopy(base)
    values = dict(tuned.named_parameters())
    with torch.no_grad():
        for name, parameter in copied.named_parameters():
            if any(name.startswith(f"model.layers.{block}.") for block in blocks):
                parameter.copy_(values[name])
    return copied


def exact_rows() -> list[dict]:
    """Children tuned in one half alone: the largest size of the terms that have to be 0."""
    rows = []
    for name, half, splits in CHILDREN:
        study = study_of(name)
        base, tuned = study.pair.require_base("a child"), study.pair.tuned
        n_layers = base.anatomy.n_layers
        for split in splits:
            is_below = half == "below"
            blocks = range(split) if is_below else range(split, n_layers)
            module = child(base.module, tuned.module, blocks)
            pair = Pair.from_modules(module, base.module, study.pair.tokenizer)
            measured = cross_patch(study, pair, range(n_layers), TOKENS, "child")
            zero = slice(split, None) if is_below else slice(0, split + 1)
            names = (
                ("late_on_base", "late_on_tuned")
                if is_below
                else ("upstream_in_base", "upstream_in_tuned")
            )
            terms = measured.terms("tuned")
            values = np.stack([terms[term][:, zero] for term in (*names, "interaction")])
            others = terms[names[0]][:, range(split) if is_below else range(split + 1, n_layers)]
            rows.append(
                {
                    "blocks of": name,
                    "from the child": f"{half}, {split}",
                    "divergences": len(measured.divergences),
                    "terms that have to be 0": values.size,
                    "not 0": int((values != 0).sum()),
                    "largest elsewhere, logits": f"{abs(others).max(initial=0.0):.2f}",
                }
            )
    return rows


def main() -> None:
    """Measure, print, and write where asked."""
    parser = CommandLine(globals(), SMALL)
    parser.add_argument("--pairs", nargs="*", default=None, help="which pairs")
    options = parser.read()
    rows, sentences = [], []
    for name in options.pairs or PAIRS:
        made, table = row(name)
        rows.append(made)
        sentences += [
            f"* `{name}`, {finding.name}, {finding.verdict}: {finding.sentence}"
            for finding in claims.from_table(table.tables["claims"])
            if finding.name.startswith("interaction")
        ]
    exact = exact_rows()
    parts = (markdown(rows, list(rows[0])), "\n".join(sentences), markdown(exact, list(exact[0])))
    found = "\n\n".join(parts)
    print(found)
    if options.write:
        write_section(
            "cross-patch", f"`python -m benchmarks.cross_patch --write`. {machine()}\n\n{found}"
        )


if __name__ == "__main__":
    main()
