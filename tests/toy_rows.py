"""Rows of known directions, made of a counter, and a training of them that another process can run
too.
"""

import sys
import time
from pathlib import Path

import torch

from interp.sae import Buffer, Dictionary, DictionaryConfig, Training, train
from interp.sae.training.sources import FunctionSource

D, F, K = 12, 32, 3


def rows(number: int, size: int = 300) -> torch.Tensor:
    """A chunk: sparse non-negative codes of 32 directions, and a mean."""
    generator = torch.Generator().manual_seed(number)
    directions = torch.nn.functional.normalize(
        torch.randn(F, D, generator=torch.Generator().manual_seed(99)), dim=1
    )
    codes = (torch.rand(size, F, generator=generator) < 0.08) * (
        1 + torch.rand(size, F, generator=generator)
    )
    return codes @ directions + 0.5


def config(architecture: str = "topk", **more) -> DictionaryConfig:
    """A small dictionary's."""
    more.setdefault("k", K if architecture in ("topk", "batchtopk", "matryoshka") else None)
    if architecture == "matryoshka":
        more.setdefault("prefixes", (8, F))
    if architecture == "matching_pursuit":
        more.setdefault("steps", K)
    return DictionaryConfig(architecture, D, F, **more)


def options(**more) -> Training:
    """A short training."""
    return Training(
        **{
            "steps": 24,
            "batch": 64,
            "learning_rate": 0.01,
            "checkpoint_every": 7,
            "log_every": 6,
            **more,
        }
    )


def run(folder: Path, architecture: str, make=rows, stream=None, **more) -> Dictionary:
    """Train one dictionary on the rows, or go on."""
    dictionary = Dictionary(config(architecture), seed=1)
    stream = stream or Buffer(FunctionSource(make, D), 512, seed=2)
    return train(dictionary, stream, options(**more), folder)["dictionary"]


if __name__ == "__main__":

    def slow(number: int) -> torch.Tensor:
        """The same rows, with time to be killed in."""
        time.sleep(0.05)
        return rows(number)

    torch.set_num_threads(1)
    run(Path(sys.argv[1]), sys.argv[2], slow, steps=int(sys.argv[3]), dead_after=256)
