"""Do latents predict and cause refusal? ``python -m benchmarks.dictionaries_behaviour [--write]``.

Dictionaries of ``refusal/full`` and, as null, ``refusal/sham``, trained by ``interp sae train`` on
the chats that locate, at three depths. Tuned-only latents: those of the tuned model's dictionary
whose part the base has not. The depth is chosen on prompts that locate; ``interp sae probe`` judges
there on prompts that verify.
"""

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.dictionaries_organism import asked, chats
from benchmarks.page import CommandLine, machine, markdown, write_section
from interp import organisms
from interp.analyzers.sae_probe import SaeProbe
from interp.capture import capture
from interp.metrics import Refusal
from interp.models.pair import Pair
from interp.prompts import Contrast, read_prompts
from interp.sae.analysis.diff import compare_models
from interp.sae.formats import read
from interp.sites import Site
from interp.study import Study

SITES = tuple(f"blocks.{layer}.hook_resid_post" for layer in (1, 2, 3))
TOKENS, WIDTH, K = "1M", "512", "8"
BASE, TUNES = "organism:refusal/base", ("full", "sham")
PROBES, MOST, RANDOM_SETS = "1,4,32", 32, 200
PROMPTS: int | None = None
"""Prompts per class; None takes all."""
NAMED = "given"
SMALL = {
    "SITES": SITES[:2],
    "TOKENS": "20k",
    "WIDTH": "64",
    "PROBES": "1,4",
    "MOST": 4,
    "RANDOM_SETS": 19,
    "PROMPTS": 16,
}


def tuned_only(study: Study, dictionary, site: str) -> tuple[list[int], dict[str, int]]:
    """Latents of the tuned model's dictionary that the base has not, and how many are of each
    class.

    Prompts are the documents. With the models exchanged such latents are "base-only".
    """
    place, pair = Site.parse(site), study.pair

    def batches():
        for start, group in enumerate(study.classes):
            models = {"base": pair.base, "tuned": pair.tuned}
            groups = study.groups(group, pair.tuned)
            for seen in capture(
                study.engine, models, study.encoded(group), groups, [place], pad_id=study.pad_id
            ):
                real = seen.roles >= 0
                documents = (2 * seen.rows + start)[:, None].expand_as(real)[real]
                yield seen.values["tuned", place][real], seen.values["base", place][real], documents

    found = compare_models(dictionary, "base", batches())
    counts = {
        "tuned-only" if kind == "base-only" else kind: n
        for kind, n in found.summary["classes"].items()
        if n
    }
    return np.flatnonzero((found["class"] == "base-only") & found["claimed"]).tolist(), counts


def tried(name: str, pair: Pair, folder: Path) -> list[dict]:
    """At every depth, on the prompts that locate: tuned-only latents, and what ablating them does."""
    files = [organisms.prompts("refusal", "locate", kind) for kind in ("harmful", "harmless")]
    study = Study(
        pair,
        Contrast(*map(read_prompts, files)).limit(PROMPTS),
        Refusal.from_tokenizer(pair.tokenizer),
    )
    found = []
    for site in SITES:
        dictionary, _ = read(folder / f"{site}.topk")
        given, counts = tuned_only(study, dictionary, site)
        table = SaeProbe(
            dictionary,
            site,
            k=(1, MOST),
            given=tuple(given),
            random_sets=1,
            control_prompts=48,
            permutations=19,
        )(study)
        effects = table.summary["effects"]
        found.append(
            {
                "tune": name,
                "site": site,
                "tuned-only": len(given),
                "classes": ", ".join(f"{kind} {n}" for kind, n in counts.items()),
                "AUC of one": f"{table.summary['auc']['1']:.3f}",
                f"ablating {MOST}, nats": f"{effects.get('probed ablate', np.nan):.2f}",
                "ablating tuned-only, nats": (
                    f"{effects[f'{NAMED} ablate']:.2f}" if f"{NAMED} ablate" in effects else ""
                ),
                "given": given,
                "effect": effects.get("probed ablate", -np.inf),
            }
        )
    return found


def main() -> None:
    """Measure, print, and write where asked."""
    parser = CommandLine(globals(), SMALL, "the section")
    options = parser.read()
    with tempfile.TemporaryDirectory() as scratch:
        text = measured(Path(scratch))
    print(text)
    if options.write:
        write_section(
            "dictionaries-behaviour",
            f"`python -m benchmarks.dictionaries_behaviour --write`. {machine()}\n\n{text}",
        )


def measured(folder: Path) -> str:
    """Everything, as Markdown."""
    data, every = chats("locate", folder / "locate.jsonl"), []
    for name in TUNES:
        trained = folder / name
        sites = [word for site in SITES for word in ("--site", site)]
        asked(
            "sae",
            "train",
            f"organism:refusal/{name}",
            *sites,
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
            "--out",
            str(trained),
        )
        every += tried(name, Pair.load(f"organism:refusal/{name}", BASE), trained)
    best = max((row for row in every if row["tune"] == "full"), key=lambda row: row["effect"])[
        "site"
    ]
    claims = []
    for row in every:
        if row["site"] != best:
            continue
        prompts = {
            f"--{part}{group}": str(organisms.prompts("refusal", split, kind))
            for part, split in (("", "locate"), ("verify-", "verify"))
            for group, kind in (("positive", "harmful"), ("negative", "harmless"))
        }
        given = ["--latents", ",".join(map(str, row["given"]))] if row["given"] else []
        run = asked(
            "sae",
            "probe",
            str(folder / row["tune"] / f"{best}.topk"),
            "--model",
            f"organism:refusal/{row['tune']}",
            "--base",
            BASE,
            *(w for pair in prompts.items() for w in pair),
            *given,
            "-k",
            PROBES,
            "--random-sets",
            str(RANDOM_SETS),
            "--control-prompts",
            "48",
            *(["--max-prompts", str(PROMPTS)] if PROMPTS else []),
            "--store",
            str(folder / "runs"),
        )
        shown = asked("show", run["run"], "--store", str(folder / "runs"))
        claims += [
            {
                "tune": row["tune"],
                "claim": claim["name"],
                "value": f"{claim['value']:.3f} [{claim['low']:.3f}, {claim['high']:.3f}]",
                "null": f"{claim['control_low']:.3f} to {claim['control_high']:.3f}",
                "p": "" if claim["p"] is None or np.isnan(claim["p"]) else f"{claim['p']:.3f}",
                "verdict": claim["verdict"],
            }
            for claim in shown["claims"]
        ]
    columns = [name for name in every[0] if name not in ("given", "effect")]
    return (
        f"On the prompts that locate, {TOKENS} tokens, {WIDTH} latents, k {K},"
        f" topk:\n\n{markdown(every, columns)}\n\nAt {best}, chosen by the largest effect of"
        f" ablating {MOST} latents of `full` there; on the prompts that verify, {RANDOM_SETS}"
        f" random sets, -k {PROBES}:\n\n{markdown(claims, list(claims[0]))}"
    )


if __name__ == "__main__":
    main()
