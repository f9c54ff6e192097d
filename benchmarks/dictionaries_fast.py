"""Conversations alone (FAST) or packed: ``python -m benchmarks.dictionaries_fast [--write] [--seeds
3]``.

Dictionaries of ``refusal/full`` by ``interp sae train``, with the same conversations, tokens, steps
and seeds, read each alone or end to end in blocks; judged by ``interp sae eval`` on other
conversations, whole and alone.
"""

import contextlib
import io
import json
import random
import tempfile
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np

from benchmarks.dictionaries_organism import MODEL
from benchmarks.page import CommandLine, machine, markdown, write_section
from interp import organisms
from interp.cli import main as interp
from interp.models.pair import Pair
from interp.prompts import OneClass, Prompt, PromptSet, read_prompts
from interp.store import Store
from interp.study import Study
from interp.table import Table

SITE, WIDTH, K, BATCH = "blocks.2.hook_resid_post", "512", "8", "1024"
ARCHITECTURES = ("topk", "batchtopk")
FAST = "FAST"
ARMS = {FAST: (), "blocks of 256": ("--pack",), "blocks of 64": ("--pack", "--context", "64")}
DATA = {"multi": tuple(ARMS), "single": (FAST, "blocks of 256")}
PARTS = ("all", "special", "content", "user", "assistant")
TURNS, PASSES, JUDGED, DRAWS = 8, 8, 120, 2000
PROMPTS: int | None = None
"""Questions of each split; None takes all."""
SMALL = {
    "PROMPTS": 24,
    "WIDTH": "64",
    "JUDGED": 8,
    "DRAWS": 50,
    "seeds": 2,
    "tokens": "10k",
    "data": "single",
}


def asked(*words: str) -> dict:
    """What a command prints as JSON, run in this process: starting anew costs as much as judging."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = interp([*words, "--json", "--quiet"])
    if code:
        raise SystemExit(f"interp {' '.join(words)} ended with {code}")
    return json.loads(said.getvalue())


def answered(study: Study, split: str) -> list[tuple[str, str]]:
    """Every prompt of a split, harmful and harmless, with the model's own greedy answer to it
    alone.
    """
    files = [organisms.prompts("refusal", split, kind) for kind in ("harmful", "harmless")]
    texts = [prompt.text for file in files for prompt in read_prompts(file)]
    texts = texts[:: max(1, len(texts) // PROMPTS)] if PROMPTS else texts
    prompts = OneClass(
        PromptSet(tuple(Prompt(i, text, str(i)) for i, text in enumerate(texts)), split)
    )
    own = study.with_prompts(prompts)
    return [
        (text, own.decode(answer))
        for text, answer in zip(texts, own.answers("tuned", "positive"), strict=True)
    ]


def conversations(
    pairs: list[tuple[str, str]], turns: int, passes: int, study: Study
) -> Iterator[list[dict]]:
    """Questions and answers in conversations of 1 to ``turns`` turns that fit into the context,
    each once a pass.
    """
    draw, longest = random.Random(f"{turns} {passes}"), study.pair.tuned.context_length

    def rendered(chosen: list[tuple[str, str]]) -> list[dict]:
        roles = ("user", "assistant")
        return [
            {"role": role, "content": said}
            for pair in chosen
            for role, said in zip(roles, pair, strict=True)
        ]

    def fits(chosen: list[tuple[str, str]]) -> bool:
        text = str(study.pair.tokenizer.apply_chat_template(rendered(chosen), tokenize=False))
        return len(study.pair.tokenizer(text, add_special_tokens=False)["input_ids"]) <= longest

    for _ in range(passes):
        left = draw.sample(pairs, len(pairs))
        while left:
            count = draw.randint(1, turns)
            while not fits(left[:count]):
                count -= 1
            yield rendered(left[:count])
            left = left[count:]


def write(path: Path, found: Iterator[list[dict]]) -> str:
    """A file of conversations."""
    path.write_text(
        "".join(json.dumps({"messages": messages}) + "\n" for messages in found), "utf-8"
    )
    return str(path)


def squared(told: Table, part: str) -> np.ndarray:
    """Tokens and squared error of every conversation [2, N], of the dictionary itself."""
    rows = told.tables["conversations"]
    mine = (rows["dictionary"] == "dictionary") & (rows["part"] == part)
    return np.stack([rows["tokens"][mine], rows["squared"][mine]]).astype(np.float64)


def errors(found: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean squared error by token and by conversation [..., 2], of conversations drawn ``weights``
    [..., N] times.
    """
    count, sums = found
    there = count > 0
    each = np.divide(sums, count, out=np.zeros_like(sums), where=there)
    return np.stack([weights @ sums / (weights @ count), weights @ each / (weights @ there)], -1)


def compared(one: list[np.ndarray], other: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """log2 of the ratio of errors [2], mean over seeds; 95 % interval [2, 2], conversations and
    seeds drawn anew.
    """
    draw, count = np.random.default_rng(0), one[0].shape[1]
    weights = draw.multinomial(count, np.full(count, 1 / count), size=DRAWS).astype(np.float64)
    ratios = [
        np.log2(errors(a, weights) / errors(b, weights)) for a, b in zip(one, other, strict=True)
    ]
    seeds = draw.integers(0, len(one), size=(DRAWS, len(one)))
    drawn = np.stack(ratios, 1)[np.arange(DRAWS)[:, None], seeds].mean(1)
    flat = np.ones(count)
    whole = [np.log2(errors(a, flat) / errors(b, flat)) for a, b in zip(one, other, strict=True)]
    return np.mean(whole, 0), np.quantile(drawn, (0.025, 0.975), axis=0)


def noise(runs: list[np.ndarray]) -> np.ndarray:
    """Largest absolute log2 ratio of errors [2] between two runs that differ in their seed only."""
    flat = np.ones(runs[0].shape[1])
    gaps = [np.abs(np.log2(errors(a, flat) / errors(b, flat))) for a, b in combinations(runs, 2)]
    return np.max(gaps, 0) if gaps else np.full(2, np.nan)


def lower(value: float, interval: np.ndarray, spread: float, arm: str) -> str:
    """Whose error is lower: nobody's, unless the interval leaves out 0 and two seeds of FAST differ
    by less.
    """
    if not (interval[0] > 0 or interval[1] < 0) or not abs(value) > spread:
        return "not shown"
    return FAST if value < 0 else arm


def measured(
    folder: Path, study: Study, tokens: str, seeds: int, asked_for: list[str]
) -> dict[tuple, Table]:
    """Scores by (data, arm, architecture, seed)."""
    pairs = {split: answered(study, split) for split in ("locate", "verify")}
    found, store = {}, folder / "runs"
    for data in asked_for:
        turns = 1 if data == "single" else TURNS
        files = [
            write(
                folder / f"{data}-{split}.jsonl", conversations(pairs[split], turns, passes, study)
            )
            for split, passes in (("locate", PASSES), ("verify", 1))
        ]
        for seed in range(seeds):
            for arm in DATA[data]:
                out = folder / f"{data}-{arm.replace(' ', '-')}-{seed}"
                if not out.exists():
                    asked(
                        "sae",
                        "train",
                        *MODEL,
                        "--site",
                        SITE,
                        "--data",
                        files[0],
                        "--column",
                        "messages",
                        "--width",
                        WIDTH,
                        "-k",
                        K,
                        "--batch",
                        BATCH,
                        "--tokens",
                        tokens,
                        "--architecture",
                        ",".join(ARCHITECTURES),
                        "--seed",
                        str(seed),
                        "--out",
                        str(out),
                        *ARMS[arm],
                    )
                for name in ARCHITECTURES:
                    run = asked(
                        "sae",
                        "eval",
                        str(out / name),
                        "--model",
                        *MODEL,
                        "--data",
                        files[1],
                        "--column",
                        "messages",
                        "--max-prompts",
                        str(JUDGED),
                        "--store",
                        str(store),
                    )
                    found[data, arm, name, seed] = Store(store).get(run["run"])
    return found


def levels(found: dict[tuple, Table], data: str, seeds: int) -> str:
    """Every arm's figures, mean over seeds."""
    rows = []
    for name in ARCHITECTURES:
        for arm in DATA[data]:
            tables = [found[data, arm, name, seed] for seed in range(seeds)]
            row = {"architecture": name, "read": arm}
            for part in PARTS[:3]:
                values = [
                    errors(each := squared(table, part), np.ones(each.shape[1])) for table in tables
                ]
                by = np.mean(np.log2(values), 0)
                row |= {
                    f"log2 MSE {part}": f"{by[0]:.3f}",
                    f"by conversation, {part}": f"{by[1]:.3f}",
                }
            told = [table.summary for table in tables]
            row["L0"] = f"{np.mean([one['l0'] for one in told]):.2f}"
            row["EV"] = f"{np.mean([one['explained_variance'] for one in told]):.4f}"
            for what, said in (("ce", "loss"), ("kl", "divergence")):
                values = [one[f"{what}_recovered_mean"] for one in told]
                row[f"{said} recovered"] = (
                    f"{np.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})"
                )
            rows.append(row)
    return markdown(rows, list(rows[0]))


def differences(found: dict[tuple, Table], data: str, seeds: int) -> str:
    """FAST less every other arm, part by part."""
    rows = []
    for name in ARCHITECTURES:
        for arm in DATA[data][1:]:
            for part in PARTS:
                one, other = (
                    [squared(found[data, which, name, seed], part) for seed in range(seeds)]
                    for which in (FAST, arm)
                )
                value, interval = compared(one, other)
                spread = noise(one)
                row = {"architecture": name, "FAST less": arm, "tokens": part}
                for i, said in enumerate(("by token", "by conversation")):
                    row |= {
                        said: f"{value[i]:+.3f} [{interval[0, i]:+.3f}, {interval[1, i]:+.3f}]",
                        f"two seeds, {said}": f"{spread[i]:.3f}",
                        f"lower {said}": lower(value[i], interval[:, i], spread[i], arm),
                    }
                rows.append(row)
    return markdown(rows, list(rows[0]))


def main() -> None:
    """Measure, print, and write where asked."""
    parser = CommandLine(globals(), SMALL)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tokens", default="500k")
    parser.add_argument("--data", default=",".join(DATA), choices=[*DATA, ",".join(DATA)])
    parser.add_argument(
        "--work", type=Path, help="folder in which what was trained is kept, and gone on from"
    )
    options = parser.read()
    pair = Pair.load(MODEL[0], MODEL[2], device="cpu")
    study = Study(pair, OneClass(PromptSet((Prompt(0, "a", "a"),), "")), None)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.work or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        found = measured(folder, study, options.tokens, options.seeds, options.data.split(","))
    parts = [
        f"Site {SITE}, {WIDTH} latents, k {K}, {options.tokens} tokens, {options.seeds} seeds."
    ]
    for data in options.data.split(","):
        one = found[data, FAST, ARCHITECTURES[0], 0].summary
        count = one["conversations"]
        parts += [
            (
                f"**{data}-turn**, judged on {count} conversations of {one['tokens'] / count:.0f}"
                " tokens on average"
            ),
            levels(found, data, options.seeds),
            differences(found, data, options.seeds),
        ]
    text = "\n\n".join(parts)
    print(text)
    if options.write:
        called = (
            f"python -m benchmarks.dictionaries_fast --data {options.data} --seeds {options.seeds} "
        )
        called += f"--tokens {options.tokens} --write"
        write_section("dictionaries-fast", f"`{called}`. {machine()}\n\n{text}")


if __name__ == "__main__":
    main()
