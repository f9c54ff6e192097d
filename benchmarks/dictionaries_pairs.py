"""Shipped pairs compared by dictionaries, by the commands: ``python -m
benchmarks.dictionaries_pairs [--write]``.

For ``refusal/full`` and its control ``refusal/sham``: ``interp sae train`` on the chats that
locate, of both models, their difference, the tuned model and the base; ``interp sae diff`` on the
prompts that verify, in their clusters. The identical pair is ``refusal/full`` beside itself: by a
crosscoder of its own, otherwise by the full pair's dictionaries (its own differences are all 0).
"""

import tempfile
from pathlib import Path

from benchmarks.dictionaries_organism import asked, chats
from benchmarks.page import CommandLine, machine, markdown, write_section
from interp import organisms
from interp.sae.analysis.classes import CLASSES

FAMILY = "organism:refusal"
TRAINED = {"full": ("full", "base"), "sham": ("sham", "base"), "identical": ("full", "full")}
"""Tuned model and base of every pair."""
SITE, WIDTH, K, TOKENS = "blocks.2.hook_resid_post", "512", "8", "500k"
LIMIT: tuple[str, ...] = ()
"""More options of ``sae diff``."""
WAYS = {"crosscoder": "both", "difference": "difference", "tuned": "tuned", "base": "base"}
COUNTED = [kind for kind in CLASSES if kind not in ("silent", "opposed", "unclear")]
SMALL = {
    "WIDTH": "64",
    "TOKENS": "20k",
    "LIMIT": ("--max-prompts", "16"),
    "ways": ["difference", "base"],
}


def prompts(path: Path) -> str:
    """Harmful and harmless prompts that verify, rows as they are shipped: with their clusters."""
    files = [organisms.prompts("refusal", "verify", kind) for kind in ("harmful", "harmless")]
    path.write_text("".join(file.read_text("utf-8") for file in files), "utf-8")
    return str(path)


def models(pair: str) -> list[str]:
    """The words that name a pair's models."""
    tuned, base = (f"{FAMILY}/{name}" for name in TRAINED[pair])
    return ["--model", tuned, "--base", base]


def train(folder: Path, pair: str, of: str, site: str, seed: int, data: str) -> str:
    """A dictionary by the command; what lies there already is not trained again."""
    out = folder / f"{pair}-{of}-{site}-{seed}"
    if not out.is_dir():
        asked(
            "sae",
            "train",
            *models(pair)[1:],
            "--model-role",
            of,
            "--site",
            site,
            "--data",
            data,
            "--column",
            "messages",
            "--width",
            WIDTH,
            "-k",
            K,
            "--batch",
            "1024",
            "--tokens",
            TOKENS,
            "--architecture",
            "batchtopk",
            "--seed",
            str(seed),
            "--out",
            str(out),
        )
    return str(out)


def measure(folder: Path, way: str, site: str, seed: int) -> tuple[list[dict], list[dict]]:
    """Claimed counts of the full tune, the sham and the identical pair, and the full tune's claims."""
    data, asks = chats("locate", folder / "locate.jsonl"), prompts(folder / "verify.jsonl")
    of, store = WAYS[way], ["--data", asks, *LIMIT, "--store", str(folder / "runs")]
    names = ("full", "sham") if way != "base" else ("full",)
    made = {tune: train(folder, tune, of, site, seed, data) for tune in names}
    # the base's own dictionary is the same beside every tune
    made.setdefault("sham", made["full"])
    made["identical"] = (
        train(folder, "identical", of, site, seed, data) if way == "crosscoder" else made["full"]
    )
    counts, claims = [], []
    for pair in ("identical", "sham", "full"):
        control = (
            ["--control", f"{FAMILY}/sham", "--control-dictionary", made["sham"]]
            if pair == "full"
            else []
        )
        found = asked("sae", "diff", made[pair], *models(pair), *control, *store)
        told = found["summary"]
        counts.append(
            {
                "site": site,
                "seed": seed,
                "way": way,
                "pair": pair,
                "live": told["live"],
                **{kind: told["claimed"][kind] for kind in COUNTED},
            }
        )
    shown = asked("show", found["run"], *store[-2:])
    claims += [
        {
            "site": site,
            "seed": seed,
            "way": way,
            "claim": claim["name"],
            "share of live latents": (
                f"{claim['value']:.1%} [{claim['low']:.1%}, {claim['high']:.1%}]"
            ),
            "control's": (
                f"{claim['control_value']:.1%} [{claim['control_low']:.1%},"
                f" {claim['control_high']:.1%}]"
            ),
            "verdict": claim["verdict"],
        }
        for claim in shown["claims"]
    ]
    return counts, claims


def main() -> None:
    """Measure, print, and write where asked."""
    parser = CommandLine(globals(), SMALL)
    parser.add_argument("--sites", nargs="+", default=[SITE], metavar="SITE")
    parser.add_argument("--seeds", type=int, default=1, help="how many times all is trained")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument(
        "--work",
        type=Path,
        help="folder for dictionaries and runs; what lies there is not made again",
    )
    options = parser.read()
    counts, claims = [], []
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.work or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for seed in range(options.seeds):
            for way in options.ways:
                for site in options.sites:
                    one, other = measure(folder, way, site, seed)
                    print(markdown(one, list(one[0])), flush=True)
                    counts, claims = counts + one, claims + other
    asked_for = (
        f"--sites {' '.join(options.sites)} --seeds {options.seeds} --ways {' '.join(options.ways)}"
    )
    text = (
        f"{WIDTH} latents, k {K}, {TOKENS} tokens; latents of each class that are claimed.\n\n"
        f"{markdown(counts, list(counts[0]))}\n\n{markdown(claims, list(claims[0]))}"
    )
    print(text)
    if options.write:
        write_section(
            "dictionaries-pairs",
            f"`python -m benchmarks.dictionaries_pairs {asked_for} --write`. {machine()}\n\n{text}",
        )


if __name__ == "__main__":
    main()
