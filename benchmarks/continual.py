"""Continual training: ``python -m benchmarks.continual [--write]``. What training a second task
does to the first.

The continual protocol of Panigrahi et al. (2023, arXiv 2302.06600, their section on continual
learning): find the mask of task 1, train task 2 with the weights of that mask frozen where task 1
left them, and measure the drop on task 1 beside training that freezes nothing. Here also beside
frozen masks of equal size: random ones with as many weights in every parameter, and the weights
that moved furthest. All start from ``skill/full``; blocks only are trained, as in the paper, and
data are the second skill's own, without a question of the first.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping

import numpy as np
import torch

from benchmarks import graft
from benchmarks.page import CommandLine, machine, markdown, write_section
from interp.store import Store
from organisms import skill_measure, skills, tasks
from organisms.skill_children import EXAMPLES
from organisms.stages import load
from organisms.tokens import Encoder
from organisms.train import train

Indices = Mapping[str, np.ndarray]
COLUMNS = [
    "frozen",
    "weights",
    "first, right",
    "first, exact",
    "drop",
    "second, right",
    "second, exact",
    "perplexity",
]
STEPS, RATE, SEED, DRAWS = 150, 1e-3, 21, 2
GRAFT = graft.OPTIONS["full at 10 %"]
SMALL = {
    "STEPS": 1,
    "DRAWS": 1,
    "GRAFT": {"density": 0.1, "sweep": (), "steps": 1, "relaxed_steps": 0, "draws": 1},
}


def freeze(model: torch.nn.Module, mask: Indices):
    """A function that takes the gradient off the weights of a mask (flat indices per parameter).

    Called between backward and an optimiser's step without weight decay it leaves them bit for bit.
    """
    named = dict(model.named_parameters())
    places = {
        name: torch.from_numpy(np.asarray(where, np.int64))
        for name, where in mask.items()
        if len(where)
    }

    def take_off() -> None:
        for name, where in places.items():
            if (gradient := named[name].grad) is not None:
                gradient.view(-1)[where] = 0

    return take_off


def alike(mask: Indices, model: torch.nn.Module, seed: int) -> dict[str, np.ndarray]:
    """In every parameter as many weights as ``mask`` has there, all alike likely."""
    rng, named = np.random.default_rng(seed), dict(model.named_parameters())
    return {
        name: np.sort(rng.choice(named[name].numel(), len(where), replace=False))
        for name, where in mask.items()
    }


def trained(mask: Indices) -> tuple[torch.nn.Module, object]:
    """``skill/full`` trained further on the second skill with these weights frozen, and its
    tokenizer.
    """
    torch.manual_seed(SEED)
    model, tokenizer = load("skill/full")
    for name, value in model.named_parameters():
        value.requires_grad_(".layers." in name)
    examples = skills.taught(("second",), Encoder(tokenizer), EXAMPLES, SEED)
    train(
        model,
        examples,
        steps=STEPS,
        lr=RATE,
        seed=SEED,
        warmup=10,
        batch_size=32,
        mask=freeze(model, mask),
    )
    return model, tokenizer


def line(what: str, size: int, model, tokenizer, before: float) -> dict[str, str]:
    """One row of the page; ``before`` is the share of exact answers to the first skill before
    training.
    """
    found = skill_measure.skill(model, tokenizer, "first") | skill_measure.skill(
        model, tokenizer, "second"
    )
    first = found["first_exact"]["rate"]
    said = {"frozen": what, "weights": f"{size:,}", "drop": f"{before - first:.1%}"}
    for name in ("first", "second"):
        said[f"{name}, right"] = f"{found[f'{name}_preferred']['rate']:.1%}"
        said[f"{name}, exact"] = f"{found[f'{name}_exact']['rate']:.1%}"
    return said | {
        "perplexity": f"{skill_measure.perplexity(model, tokenizer, tasks.held_out_prose()):.2f}"
    }


def main() -> None:
    """Train, measure, print, and write where asked."""
    parser = CommandLine(globals(), SMALL, "the table")
    parser.add_argument("--store", help="keep the graft's run there")
    options = parser.read()
    with tempfile.TemporaryDirectory() as scratch:
        table = graft.grafted("full", Store(options.store or scratch), **GRAFT)
        masks = {
            kind: {
                name.split("/", 1)[1]: np.array(w)
                for name, w in table.arrays.items()
                if name.startswith(f"{kind}/")
            }
            for kind in ("learned", "movement")
        }
    model, tokenizer = load("skill/full")
    size = sum(map(len, masks["learned"].values()))
    before = skill_measure.skill(model, tokenizer, "first")["first_exact"]["rate"]
    rows = [line("(before training)", 0, model, tokenizer, before)]
    frozen = {
        "nothing": {},
        "learned mask": masks["learned"],
        "greatest movement": masks["movement"],
    }
    for draw in range(DRAWS):
        frozen[f"random, equal counts, draw {draw + 1}"] = alike(masks["learned"], model, draw)
    for what, mask in frozen.items():
        rows.append(line(what, size if mask else 0, *trained(mask), before))
        print(rows[-1], flush=True)
    text = markdown(rows, COLUMNS)
    print(text)
    if options.write:
        recipe = f"{STEPS} steps at a rate of {RATE:g}, one seed."
        write_section(
            "continual", f"`python -m benchmarks.continual --write`. {machine()} {recipe}\n\n{text}"
        )


if __name__ == "__main__":
    main()
