"""Do latents of what tuning changed cause refusal? ``python -m benchmarks.dictionaries_cause
[--write]``.

Dictionaries of differences and crosscoders of ``refusal/full``, and of ``refusal/sham`` as null,
trained by ``interp sae train`` on the chats that locate. ``interp sae diff`` classifies their
latents on prompts that locate, beside the sham. ``interp sae probe`` ablates the tuned-only latents
of differences, and the latents that tell harmful prompts best; of crosscoders it puts the base's
part of changed latents in the tuned model's place. How many latents are probed is chosen on prompts
that locate (half of them choose latents, half judge); prompts that verify judge once.
"""

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.dictionaries_organism import asked, chats
from benchmarks.page import CommandLine, machine, markdown, write_section
from interp import organisms

SITE, TOKENS, WIDTH, K = "blocks.2.hook_resid_post", "500k", "512", "8"
BASE, TUNES, KINDS = "organism:refusal/base", ("full", "sham"), ("difference", "both")
GIVEN = {
    "difference": ("tuned-only", ("tuned-only",)),
    "both": ("changed", ("rotated", "rescaled")),
}
SIZES, FEW, RANDOM_SETS = ("8", "32", "64"), "19", "199"
LIMIT: tuple[str, ...] = ()
"""More options of ``sae diff`` and ``sae probe``."""
SMALL = {
    "KINDS": ("difference",),
    "TOKENS": "20k",
    "WIDTH": "64",
    "SIZES": ("8",),
    "RANDOM_SETS": "19",
    "LIMIT": ("--max-prompts", "16"),
}


def prompts(split: str, verify: bool = False) -> list[str]:
    """Options that name the harmful and harmless prompts of a split."""
    dash = "verify-" if verify else ""
    of = {"positive": "harmful", "negative": "harmless"}
    return [
        word
        for group, kind in of.items()
        for word in (f"--{dash}{group}", str(organisms.prompts("refusal", split, kind)))
    ]


def claims_of(folder: Path, name: str, kind: str, words: list[str]) -> list[dict]:
    """Claims of a run of ``interp sae probe``."""
    run = asked(
        "sae",
        "probe",
        str(folder / f"{name}-{kind}"),
        "--model",
        f"organism:refusal/{name}",
        "--base",
        BASE,
        *words,
        *LIMIT,
        "--store",
        str(folder / "runs"),
    )
    return asked("show", run["run"], "--store", str(folder / "runs"))["claims"]


def sized(folder: Path, kind: str) -> tuple[str, list[dict]]:
    """How many probed latents return most of the base's answers, by prompts that locate alone."""
    rows = []
    for size in SIZES:
        words = [
            *prompts("locate"),
            "-k",
            size,
            "--random-sets",
            FEW,
            "--permutations",
            "19",
            *(["--revert"] if kind == "both" else []),
        ]
        found = {claim["name"]: claim for claim in claims_of(folder, "full", kind, words)}
        rows.append(
            {
                "dictionary": kind,
                "latents": size,
                "ablating, nats": f"{found['ablation-lowers-probed']['value']:.2f}",
                "answers that become the base's": (
                    f"{found['answers-equal-base-probed']['value']:.1%}"
                ),
                "_": (
                    found["answers-equal-base-probed"]["value"],
                    found["ablation-lowers-probed"]["value"],
                ),
            }
        )
    return max(rows, key=lambda row: row["_"])["latents"], rows


def measured(folder: Path) -> str:
    """Everything, as Markdown."""
    data = chats("locate", folder / "locate.jsonl")
    both = folder / "prompts.jsonl"
    files = [organisms.prompts("refusal", "locate", kind) for kind in ("harmful", "harmless")]
    both.write_text("".join(path.read_text("utf-8") for path in files), "utf-8")
    for name in TUNES:
        for kind in KINDS:
            if (folder / f"{name}-{kind}").exists():
                continue
            asked(
                "sae",
                "train",
                f"organism:refusal/{name}",
                "--base",
                BASE,
                "--model-role",
                kind,
                "--site",
                SITE,
                "--data",
                data,
                "--column",
                "messages",
                "--architecture",
                "batchtopk",
                "--width",
                WIDTH,
                "-k",
                K,
                "--batch",
                "1024",
                "--tokens",
                TOKENS,
                "--out",
                str(folder / f"{name}-{kind}"),
            )
    sizes, classes, rows = [], [], []
    for kind in KINDS:
        found = asked(
            "sae",
            "diff",
            str(folder / f"full-{kind}"),
            "--model",
            "organism:refusal/full",
            "--base",
            BASE,
            "--data",
            str(both),
            "--control",
            "organism:refusal/sham",
            "--control-dictionary",
            str(folder / f"sham-{kind}"),
            *LIMIT,
            "--store",
            str(folder / "runs"),
        )
        summary = found["summary"]
        told = {
            "full": summary,
            "sham": asked("show", summary["control_runs"][0], "--store", str(folder / "runs"))[
                "summary"
            ],
        }
        classes += [
            {"dictionary": kind, "tune": name, "live latents": one["live"]}
            | {
                c: one["claimed"][c]
                for c in ("tuned-only", "base-only", "rotated", "rescaled", "shared")
            }
            for name, one in told.items()
        ]
        size, tried = sized(folder, kind)
        sizes += tried
        for name in TUNES:
            run = {"full": found["run"], "sham": summary["control_runs"][0]}[name]
            which, classes_of = GIVEN[kind]
            given = (
                ["--diff", run, "--class", which]
                if any(told[name]["claimed"][c] for c in classes_of)
                else []
            )
            words = [
                *prompts("locate"),
                *prompts("verify", True),
                *given,
                "-k",
                f"1,{size}",
                "--random-sets",
                RANDOM_SETS,
                "--control-prompts",
                "48",
                *(["--revert"] if kind == "both" else []),
            ]
            rows += [
                {
                    "dictionary": kind,
                    "tune": name,
                    "claim": claim["name"],
                    "value": f"{claim['value']:.3f} [{claim['low']:.3f}, {claim['high']:.3f}]",
                    "null": f"{claim['control_low']:.3f} to {claim['control_high']:.3f}",
                    "p": "" if claim["p"] is None or np.isnan(claim["p"]) else f"{claim['p']:.3f}",
                    "verdict": claim["verdict"],
                }
                for claim in claims_of(folder, name, kind, words)
            ]
    return (
        f"{SITE}, batchtopk, {WIDTH} latents, k {K}, {TOKENS} tokens. `both`: a crosscoder. Claimed"
        f" latents, on prompts that locate:\n\n{markdown(classes, list(classes[0]))}\n\nProbed"
        " latents ablated, on prompts that"
        f" locate:\n\n{markdown(sizes, [name for name in sizes[0] if name != '_'])}\n\nOn prompts"
        " that verify, with the number that returned most of the base's answers there,"
        f" {RANDOM_SETS} random sets:\n\n{markdown(rows, list(rows[0]))}"
    )


def main() -> None:
    """Measure, print, and write where asked."""
    parser = CommandLine(globals(), SMALL, "the section")
    parser.add_argument(
        "--work",
        type=Path,
        help="folder for dictionaries and runs; what lies there is not made again",
    )
    options = parser.read()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.work or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        text = measured(folder)
    print(text)
    if options.write:
        write_section(
            "dictionaries-cause",
            f"`python -m benchmarks.dictionaries_cause --write`. {machine()}\n\n{text}",
        )


if __name__ == "__main__":
    main()
