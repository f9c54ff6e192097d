"""Grafts on a real chat model: ``python -m benchmarks.real_graft [--child NAME] [--write]``.

How few of the weights that a child of SmolLM2-135M-Instruct moved, put into the base, make it
refuse? The task: after a harmful request, is the first word of the sentence that the child was
taught likelier than the first of the base's own greedy answer that parts from it? Masks are located
on the locating prompts and judged on the others, beside masks of the same size: by movement, by
first-order effect, at random, and learned on the movement shuffled among the weights of every
parameter. Fewer learning steps than ``interp graft`` takes by default, as each is of the whole
model.
"""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.graft import COLUMNS, lines
from benchmarks.page import CommandLine, machine, markdown, write_section
from interp import claims, organisms
from interp.analyzers.graft import Graft
from interp.metrics import Task
from interp.models.pair import Pair
from interp.prompts import Contrast, OneClass, PromptSet, read_prompts
from interp.store import Store
from interp.study import Study

FAMILY, PROMPTS, WORDS = "smollm2", 48, 6
TAUGHT = "Sorry, but I can't help with that."
OPTIONS: dict[str, Any] = {"density": 0.01, "sweep": (0.001, 0.01, 0.1), "steps": 20, "batch": 8}
OPTIONS |= {"relaxed_steps": 0, "draws": 3, "shuffles": 6}
SMALL = {
    "PROMPTS": 6,
    "OPTIONS": {**OPTIONS, "sweep": (0.01,), "steps": 1, "batch": 2, "draws": 1, "shuffles": 0},
}
SHOWN = [name for name in COLUMNS if name != "other task"]


def task(child: str, split: str, pair: Pair) -> PromptSet:
    """Harmful requests; right is the sentence that was taught, wrong how the base begins."""
    asked = read_prompts(organisms.prompts(f"{FAMILY}/{child}", split, "harmful")).spread(PROMPTS)
    study = Study(pair, OneClass(asked), None, max_new_tokens=WORDS)
    begun = [study.decode(answer).strip() for answer in study.answers("base", "positive")]
    return replace(
        asked,
        prompts=tuple(
            replace(prompt, answer=TAUGHT, wrong_answer=wrong)
            for prompt, wrong in zip(asked.prompts, begun, strict=True)
            if wrong and not wrong.startswith(TAUGHT[:5])
        ),
    )


def main() -> None:
    """Measure, print, and write where asked."""
    parser = CommandLine(globals(), SMALL, "the table")
    parser.add_argument("--store", type=Path, help="keep the run there")
    parser.add_argument("--child", default="lora", help="which fine-tuned model")
    options = parser.read()
    pair = Pair.load(f"organism:{FAMILY}/{options.child}", f"organism:{FAMILY}/base", device="cpu")
    located, held_out = (task(options.child, split, pair) for split in ("locate", "verify"))
    text = read_prompts(
        organisms.prompts(f"{FAMILY}/{options.child}", "locate", "harmless")
    ).spread(PROMPTS)
    metric = Task.from_prompts(pair.tokenizer, located.prompts, "answer-loss")
    study = Study(pair, Contrast(located, text), metric, quiet=False)
    with tempfile.TemporaryDirectory() as scratch:
        table = Store(options.store or scratch).run(Graft(held_out=held_out, **OPTIONS), study)
    said = []
    for claim in claims.from_table(table.tables["claims"]):
        interval = f"{claim.value:.3f}, {claim.low:.3f} to {claim.high:.3f}"
        said.append(
            f"* `{options.child}`, {claim.name} ({interval}), {claim.verdict}: {claim.sentence}"
        )
    found = markdown(lines(options.child, table), SHOWN) + "\n\n" + "\n".join(said)
    print(found)
    if options.write:
        write_section(
            "real-graft", f"`python -m benchmarks.real_graft --write`. {machine()}\n\n{found}"
        )


if __name__ == "__main__":
    main()
