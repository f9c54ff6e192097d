"""What a latent fires on: labels of tokens by mutual information, tested on documents that made no label.

A label is a short list of token ids. Its score is balanced accuracy on held-out documents, of "this token is in the
list" against "the latent is active here", beside the labels of other latents: a list of common words scores there too.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from interp.dictionaries.active import Codes
from interp.errors import OptionError
from interp.maths.host import to_host
from interp.maths.statistics import permutation_p

FEWEST = 5
"""Times that a latent must be active in each half to be labelled and scored."""


class Label(NamedTuple):
    """Of one latent: how often it is active, its token ids by falling share of mutual information, balanced accuracy on
    held-out documents, the same of other latents' labels, and p. Score and p are NaN where it is active too seldom.
    """

    latent: int
    density: float
    tokens: tuple[int, ...]
    score: float
    null: NDArray[np.float64]
    p: float


def labels(
    codes: Codes, tokens: ArrayLike, documents: ArrayLike, latents: ArrayLike, *, size: int = 5, draws: int = 19,
    seed: int = 0,
) -> list[Label]:  # fmt: skip
    """Labels of some latents, made on one half of the documents and scored on the other.

    ``codes`` of N tokens [N] with the numbers of their documents [N]. Raises OptionError for fewer than two documents.
    """
    tokens, documents = np.asarray(tokens), np.asarray(documents)
    names, documents = np.unique(documents, return_inverse=True)
    if len(names) < 2:
        raise OptionError("labels are scored on documents that made none; give 2 documents or more")
    generator = np.random.default_rng(seed)
    chosen = np.zeros(len(names), bool)
    chosen[generator.permutation(len(names))[: len(names) // 2]] = True
    training = chosen[documents]
    rows, which = to_host(codes.pattern.rows), to_host(codes.pattern.latents)
    fires = to_host(codes.values) != 0
    active = {int(latent): rows[fires & (which == latent)] for latent in np.asarray(latents)}
    made = {latent: _label(tokens, on, training, size) for latent, on in active.items()}
    found = []
    for latent, on in active.items():
        truth = np.zeros(len(tokens), bool)
        truth[on] = True
        score = _score(tokens, truth, ~training, made[latent])
        others = [other for other in made if other != latent and made[other]]
        drawn = generator.choice(others, min(draws, len(others)), replace=False) if others else []
        null = np.array([_score(tokens, truth, ~training, made[int(other)]) for other in drawn])
        found.append(Label(latent, len(on) / len(tokens), made[latent], score, null, permutation_p(score, null)))
    return found


def _label(tokens: NDArray, active: NDArray, training: NDArray, size: int) -> tuple[int, ...]:
    """Tokens with the largest positive share ``p(t, on) log(p(t | on) / p(t))`` of the mutual information."""
    own = active[training[active]]
    if len(own) < FEWEST:
        return ()
    width = int(tokens.max()) + 1
    on = np.bincount(tokens[own], minlength=width) / len(own)
    everywhere = np.bincount(tokens[training], minlength=width) / training.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(on > 0, on * np.log(on / everywhere), 0.0)
    best = np.argsort(-share, kind="stable")[:size]
    # a token that is hardly commoner than elsewhere says nothing of the latent
    return tuple(int(token) for token in best if share[token] > 0 and on[token] >= 2 * everywhere[token])


def _score(tokens: NDArray, truth: NDArray, held: NDArray, label: tuple[int, ...]) -> float:
    told, truth = np.isin(tokens[held], label), truth[held]
    if min(truth.sum(), (~truth).sum()) < FEWEST:
        return float("nan")
    return float((told[truth].mean() + (~told[~truth]).mean()) / 2)
