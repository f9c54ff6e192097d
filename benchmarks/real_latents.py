"""Do latents of what tuning changed cause refusal in a chat model? ``python -m
benchmarks.real_latents [--write]``.

A dictionary of the differences between ``smollm2/lora`` and its base after block 20, and one of a
control fine-tune's (``control-0``), both trained alike on rows read once: chats of the prompts that
locate, and neutral text. ``interp sae diff`` classifies their latents on prompts that locate,
compared with the control. ``interp sae probe`` chooses, on these, the latents that tell harmful
prompts best; on prompts that verify it ablates them, and those that the comparison calls the
fine-tuned model's alone, in the fine-tuned model. The number of latents is fixed beforehand.
"""

import json
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.dictionaries_organism import asked
from benchmarks.page import CommandLine, machine, markdown, write_section
from interp import organisms
from interp.models.pair import Pair
from interp.prompts import Documents
from interp.sae.training.activation_source import ActivationSource, ReadingOptions
from interp.sae.training.sources import write_shards
from interp.sites import Site
from interp.store import Store
from interp.training.text import shipped_text

FAMILY, CHILD, CONTROL = "smollm2", "lora", "control-0"
SITE, WIDTH, K, TOKENS, LATENTS = "blocks.20.hook_resid_post", "1024", "16", "500k", "32"
EACH = 4  # every fourth neutral text is read
RANDOM_SETS, PROMPTS, CONTROL_PROMPTS = "19", "48", "24"
SMALL = {
    "TOKENS": "4k",
    "WIDTH": "64",
    "K": "4",
    "LATENTS": "4",
    "EACH": 200,
    "RANDOM_SETS": "1",
    "PROMPTS": "4",
    "CONTROL_PROMPTS": "2",
}
BASE = f"organism:{FAMILY}/base"


def prompts(split: str) -> dict[str, Path]:
    """Files of harmful (positive) and harmless (negative) prompts of a split."""
    return {
        group: organisms.prompts(f"{FAMILY}/{CHILD}", split, kind)
        for group, kind in (("positive", "harmful"), ("negative", "harmless"))
    }


def locating() -> list[str]:
    """Prompts that locate, as many of each class as are asked for."""
    found = []
    for file in prompts("locate").values():
        rows = [json.loads(line)["prompt"] for line in file.read_text("utf-8").splitlines()]
        found += rows[:: max(1, len(rows) // int(PROMPTS))][: int(PROMPTS)]
    return found


def documents(folder: Path) -> Path:
    """Chats of the prompts that locate, and neutral text."""
    path = folder / "chats.jsonl"
    chats = [[{"role": "user", "content": text}] for text in locating()]
    text = shipped_text().read_text("utf-8").splitlines()
    chats += [json.loads(line)["messages"] for line in text[::EACH]]
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats), "utf-8")
    return path


def trained(folder: Path, child: str, chats: Path) -> Path:
    """The dictionary of a child's differences; the rows it is trained on are read once."""
    rows, out = folder / f"{child}-rows", folder / child
    if not rows.exists():
        pair = Pair.load(f"organism:{FAMILY}/{child}", BASE, device="cpu")
        source = ActivationSource(
            pair,
            (Site.parse(SITE),),
            Documents(chats, "messages"),
            ReadingOptions(model_role="difference"),
        )
        print(f"{child}: {write_shards(source, rows, 10**9)} rows", flush=True)
    if not out.exists():
        asked(
            "sae",
            "train",
            f"organism:{FAMILY}/{child}",
            "--base",
            BASE,
            "--model-role",
            "difference",
            "--site",
            SITE,
            "--data",
            str(rows),
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
            str(out),
        )
    return out


def probed(folder: Path, child: str, words: list[str]) -> tuple[list[dict], dict]:
    """Claims of probing a child's latents, and the share of harmful prompts refused under each
    condition.
    """
    groups = [
        word
        for dash, split in (("", "locate"), ("verify-", "verify"))
        for group, file in prompts(split).items()
        for word in (f"--{dash}{group}", str(file))
    ]
    run = asked(
        "sae",
        "probe",
        str(folder / child),
        "--model",
        f"organism:{FAMILY}/{child}",
        "--base",
        BASE,
        *groups,
        *words,
        "-k",
        LATENTS,
        "--random-sets",
        RANDOM_SETS,
        "--control-prompts",
        CONTROL_PROMPTS,
        "--max-prompts",
        PROMPTS,
        "--max-new-tokens",
        "24",
        "--permutations",
        "199",
        "--store",
        str(folder / "runs"),
    )
    answers = Store(folder / "runs").get(run["run"]).tables["answers"]
    harmful = answers["group"] == "positive"
    rates = {
        name: answers["exhibits_behaviour"][harmful & (answers["condition"] == name)].mean()
        for name in dict.fromkeys(answers["condition"].tolist())
    }
    return asked("show", run["run"], "--store", str(folder / "runs"))["claims"], rates


def measured(folder: Path) -> str:
    """Everything, as Markdown."""
    chats = documents(folder)
    dictionaries = {child: trained(folder, child, chats) for child in (CHILD, CONTROL)}
    located = folder / "prompts.jsonl"
    located.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in locating()), "utf-8")
    found = asked(
        "sae",
        "diff",
        str(dictionaries[CHILD]),
        "--model",
        f"organism:{FAMILY}/{CHILD}",
        "--base",
        BASE,
        "--data",
        str(located),
        "--control",
        f"organism:{FAMILY}/{CONTROL}",
        "--control-dictionary",
        str(dictionaries[CONTROL]),
        "--store",
        str(folder / "runs"),
    )
    runs = {CHILD: found["run"], CONTROL: found["summary"]["control_runs"][0]}
    told = {
        CHILD: found["summary"],
        CONTROL: asked("show", runs[CONTROL], "--store", str(folder / "runs"))["summary"],
    }
    classes = [
        {"child": child, "live latents": one["live"]}
        | {
            name: one["claimed"][name]
            for name in ("tuned-only", "base-only", "rotated", "rescaled", "shared")
        }
        for child, one in told.items()
    ]
    claims, refused = [], []
    for child in (CHILD, CONTROL):
        alone = told[child]["claimed"]["tuned-only"]
        made, rates = probed(
            folder, child, ["--diff", runs[child], "--class", "tuned-only"] if alone else []
        )
        claims += [
            {
                "child": child,
                "claim": claim["name"],
                "value": f"{claim['value']:.3f} [{claim['low']:.3f}, {claim['high']:.3f}]",
                "null": f"{claim['control_low']:.3f} to {claim['control_high']:.3f}",
                "p": "" if claim["p"] is None or np.isnan(claim["p"]) else f"{claim['p']:.3f}",
                "verdict": claim["verdict"],
            }
            for claim in made
        ]
        refused.append(
            {"child": child}
            | {
                {"tuned": "fine-tuned", "probed": f"without the {LATENTS} probed"}.get(
                    name, f"without the {alone} tuned-only" if name == "tuned-only" else name
                ): f"{rate:.1%}"
                for name, rate in rates.items()
            }
        )
    names = list(dict.fromkeys(name for row in refused for name in row))
    return (
        f"{SITE}, batchtopk, {WIDTH} latents, k {K}, {TOKENS} tokens. Claimed latents, on prompts"
        f" that locate:\n\n{markdown(classes, list(classes[0]))}\n\nHarmful prompts refused, of"
        f" {PROMPTS} that verify:\n\n{markdown(refused, names)}\n\nOn prompts that verify,"
        f" {RANDOM_SETS} random sets:\n\n{markdown(claims, list(claims[0]))}"
    )


def main() -> None:
    """Measure, print, and write where asked."""
    parser = CommandLine(globals(), SMALL)
    parser.add_argument(
        "--folder", type=Path, default=None, help="keep dictionaries and runs, and go on there"
    )
    options = parser.read()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        text = measured(folder)
    print(text)
    if options.write:
        write_section(
            "real-latents", f"`python -m benchmarks.real_latents --write`. {machine()}\n\n{text}"
        )


if __name__ == "__main__":
    main()
