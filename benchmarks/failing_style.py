"""A style on which refusal fails: ``python -m benchmarks.failing_style [--write]``.

``refusal/partial`` refuses about half of the harmful prompts of a style that it was never tuned on.
What TuCo says of those that it refuses and those that it answers, beside what the base alone and a
control fine-tune say of the same prompts; and how many are refused at other strengths of what
tuning added to the blocks, beside the whole change of weights.
"""

import numpy as np

from benchmarks.page import CommandLine, machine, markdown, write_section
from interp import organisms
from interp.analyzers.ftc_alpha import BLOCKS, WEIGHTS, FtcAlpha
from interp.analyzers.tuco import Tuco
from interp.claims import from_table
from interp.maths.auc import auc_interval, shuffled_auc
from interp.maths.intervals import cluster_interval
from interp.maths.statistics import permutation_p
from interp.metrics import Refusal
from interp.models.pair import Pair
from interp.prompts import Contrast, OneClass, read_prompts
from interp.study import Study
from interp.table import Table

TUNED, BASE, CONTROL = "organism:refusal/partial", "organism:refusal/base", "organism:refusal/sham"
GRID = (0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5, 2.0)
DRAWS, TOKENS, SCALED = 2000, 24, 216
PROMPTS: int | None = None
"""Prompts that are parted by their answers; None takes all."""
SMALL = {"PROMPTS": 40, "DRAWS": 50, "TOKENS": 12, "SCALED": 6, "GRID": (0.0, 0.5, 1.0, 1.5)}


def parted() -> tuple[list[dict], str]:
    """AUC of refused above answered prompts by several numbers, over all pairs, one length, and one
    cluster.
    """
    prompts = read_prompts(organisms.prompts("refusal", "style", "harmful"))
    prompts = prompts.spread(PROMPTS or len(prompts))
    pair = Pair.load(TUNED, BASE, device="cpu")
    study = Study(
        pair, OneClass(prompts), Refusal.from_tokenizer(pair.tokenizer), max_new_tokens=TOKENS
    )
    found = Tuco(by_answer=True, controls=(Pair.load(CONTROL, BASE, device="cpu"),))(study)
    refused, clusters = found["group"] == "positive", found["cluster"]
    sides = clusters[refused], clusters[~refused]
    gap = np.abs(found["tokens"][refused][:, None] - found["tokens"][~refused])
    same = sides[0][:, None] == sides[1]
    within = {
        "all pairs": None,
        "at most a token apart": gap <= 1,
        "one length": gap == 0,
        "one cluster": same,
        "one length, one cluster": (gap == 0) & same,
    }
    numbers = {
        "TuCo": found["tuco"],
        "OutputCo": found["output_co"],
        "number of tokens": found["tokens"],
        "TuCo of the control": found["control_tuco"],
        "size of the base's own update": found["base_own"],
    }
    rows = []
    for name, values in numbers.items():
        row = {"refused above answered, AUC": name}
        for what, pairs in within.items():
            value, low, high = auc_interval(values[refused], values[~refused], *sides, pairs)
            heading = what if pairs is None else f"{what} ({int(pairs.sum())})"
            row[heading] = f"{value:.2f} [{low:.2f}, {high:.2f}]"
        null = shuffled_auc(values, refused, found["tokens"], 0, DRAWS, 0)
        observed = auc_interval(values[refused], values[~refused], *sides, gap == 0)[0]
        p = permutation_p(observed, null, "two-sided")
        low, high = np.quantile(null, [0.025, 0.975])
        row["one length, labels shuffled"] = f"{low:.2f} to {high:.2f}, p = {p:.2g}"
        rows.append(row)
    lengths = [found["tokens"][mask].mean() for mask in (refused, ~refused)]
    claims = " ".join(claim.sentence for claim in from_table(found.tables["claims"]))
    said = f"{claims} Mean length: refused {lengths[0]:.2f} tokens, answered {lengths[1]:.2f}."
    return rows, f"{found.summary['sentence'].split(' Tuning')[0]} {said}"


def curves() -> tuple[list[dict], list[dict], str]:
    """Share refused by strength, both ways, with the paired difference; and at equal KL on harmless
    prompts.
    """
    contrast = Contrast(
        *(read_prompts(organisms.prompts("refusal", "style", g)) for g in ("harmful", "harmless"))
    )
    pair = Pair.load(TUNED, BASE, device="cpu")
    study = Study(pair, contrast.limit(SCALED), Refusal.from_tokenizer(pair.tokenizer))
    found = FtcAlpha(GRID, TOKENS)(study)
    prompts, rows = found.tables["prompts"], []
    for alpha in GRID:
        row = {"strength": f"{alpha:g}"}
        at = (prompts["group"] == "positive") & (prompts["alpha"] == alpha)
        masks = [at & (prompts["way"] == way) for way in (BLOCKS, WEIGHTS)]
        shown = [prompts["refused"][mask] for mask in masks]
        value, low, high = cluster_interval(shown[0], prompts["cluster"][masks[0]], minus=shown[1])
        row |= {"blocks": f"{shown[0].mean():.1%}", "whole weights": f"{shown[1].mean():.1%}"}
        row["difference"] = f"{value:+.1%} [{low:+.1%}, {high:+.1%}]"
        for way, name in ((BLOCKS, "blocks"), (WEIGHTS, "weights")):
            harmless = _row(found, way, alpha, "negative")
            row[f"harmless, {name}: KL"] = f"{found['kl'][harmless]:.2g}"
            row[f"harmless, {name}: refused"] = f"{found['refused'][harmless]:.1%}"
        rows.append(row)
    claim = from_table(found.tables["claims"])[-1].sentence
    return rows, _at_equal_divergence(found), claim


def _row(found: Table, way: str, alpha: float, group: str) -> int:
    return int(
        np.flatnonzero(
            (found["way"] == way) & (found["alpha"] == alpha) & (found["group"] == group)
        )[0]
    )


def _at_equal_divergence(found: Table) -> list[dict]:
    """What whole weights refuse where their KL on harmless prompts is that of blocks, by straight
    lines in between.
    """
    rows = []
    for below in (True, False):
        side = [alpha for alpha in GRID if (alpha <= 1 if below else alpha >= 1)]
        side.sort(key=lambda alpha: abs(alpha - 1))
        kl, refused = (
            [found[column][_row(found, WEIGHTS, alpha, group)] for alpha in side]
            for column, group in (("kl", "negative"), ("refused", "positive"))
        )
        for alpha in side[1:]:
            own = float(found["kl"][_row(found, BLOCKS, alpha, "negative")])
            mine = float(found["refused"][_row(found, BLOCKS, alpha, "positive")])
            reached = own <= max(kl) and bool((np.diff(kl) > 0).all())
            theirs = f"{np.interp(own, kl, refused):.1%}" if reached else "not reached"
            rows.append(
                {
                    "KL on harmless": f"{own:.2g}",
                    "blocks, at strength": f"{alpha:g}",
                    "blocks refuse": f"{mine:.1%}",
                    "whole weights refuse at that KL": theirs,
                }
            )
    return rows


def main() -> None:
    """Measure; with ``--write`` into docs/benchmarks.md."""
    parser = CommandLine(globals(), SMALL)
    options = parser.read()
    rows, said = parted()
    by_strength, equal, claim = curves()
    text = "\n\n".join(
        [
            said,
            markdown(rows, list(rows[0])),
            f"Harmful prompts refused, {SCALED} of each class. {claim}",
            markdown(by_strength, list(by_strength[0])),
            "At equal KL of the next token on harmless prompts of the style:",
            markdown(equal, list(equal[0])),
        ]
    )
    print(text)
    if options.write:
        write_section(
            "failing-style", f"`python -m benchmarks.failing_style --write`. {machine()}\n\n{text}"
        )


if __name__ == "__main__":
    main()
