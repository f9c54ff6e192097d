"""Dictionaries of a shipped model, by the commands: ``python -m benchmarks.dictionaries_organism
[--write]``.

``interp sae train`` on the chats of ``refusal/full`` that locate, ``interp sae eval`` on those that
verify.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.page import CommandLine, machine, markdown, write_section
from interp import organisms

SITE, WIDTH, K, TOKENS = "blocks.2.hook_resid_post", "512", "8", "1M"
ARCHITECTURES = ("topk", "batchtopk", "matryoshka")
LIMIT: tuple[str, ...] = ()
"""More options of ``sae eval``."""
MODEL = ["organism:refusal/full", "--base", "organism:refusal/base"]
SMALL = {
    "TOKENS": "20k",
    "WIDTH": "64",
    "ARCHITECTURES": ("topk", "batchtopk"),
    "LIMIT": ("--max-prompts", "16"),
}


def asked(*words: str) -> dict:
    """What a command prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "interp", *words, "--json", "--quiet"],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"interp {' '.join(words)}: {done.stderr}")
    return json.loads(done.stdout)


def chats(split: str, path: Path) -> str:
    """Harmful and harmless prompts of a split as chat messages."""
    rows = [
        json.loads(line)["prompt"]
        for kind in ("harmful", "harmless")
        for line in organisms.prompts("refusal", split, kind).read_text("utf-8").splitlines()
    ]
    turns = [{"prompt": text, "messages": [{"role": "user", "content": text}]} for text in rows]
    path.write_text("".join(json.dumps(turn) + "\n" for turn in turns), "utf-8")
    return str(path)


def main() -> None:
    """Measure, print, and write where asked."""
    parser = CommandLine(globals(), SMALL, "the table")
    options = parser.read()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        located, verified = (
            chats("locate", folder / "locate.jsonl"),
            chats("verify", folder / "verify.jsonl"),
        )
        asked(
            "sae",
            "train",
            *MODEL,
            "--site",
            SITE,
            "--data",
            located,
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
            ",".join(ARCHITECTURES),
            "--out",
            str(folder / "sae"),
        )
        for name in ARCHITECTURES:
            found = asked(
                "sae",
                "eval",
                str(folder / "sae" / name),
                "--model",
                *MODEL,
                "--data",
                verified,
                *LIMIT,
                "--store",
                str(folder / "runs"),
            )
            shown = asked("show", found["run"], "--store", str(folder / "runs"))
            rows += [
                {
                    "architecture": name,
                    "claim": claim["name"],
                    "gap": f"{claim['value']:+.3f} [{claim['low']:+.3f}, {claim['high']:+.3f}]",
                    "baseline": f"{claim['control_value']:.3f}",
                    "verdict": claim["verdict"],
                }
                for claim in shown["claims"]
            ]
    text = (
        f"Site {SITE}, {WIDTH} latents, k {K}, {TOKENS} tokens.\n\n{markdown(rows, list(rows[0]))}"
    )
    print(text)
    if options.write:
        write_section(
            "dictionaries-organism",
            f"`python -m benchmarks.dictionaries_organism --write`. {machine()}\n\n{text}",
        )


if __name__ == "__main__":
    main()
