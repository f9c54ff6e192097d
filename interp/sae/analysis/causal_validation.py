"""Do latents that predict a behaviour also cause it? Ablation and steering, compared with random
latents of similar firing rates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

from interp.errors import OptionError
from interp.maths.intervals import Interval, cluster_interval
from interp.maths.statistics import permutation_p
from interp.sae.core.dictionary import Dictionary
from interp.sae.core.edits import LatentEdit
from interp.sites import Site

NEIGHBOURS = 20
"""A control latent is drawn from this many latents with the most similar firing rates."""

Measure = Callable[[Sequence[LatentEdit]], Float[NDArray[np.float64], " N"]]
"""A function from edits to one value per prompt; no edits give the unedited model."""


class Effect(NamedTuple):
    """Mean change of the measure with its interval over clusters, mean changes under random sets of
    latents, and a two-sided p.
    """

    change: Interval
    null: NDArray[np.float64]
    p: float


def rate_matched(
    latents: Sequence[int], rates: ArrayLike, draws: int, seed: int = 0, exclude: Sequence[int] = ()
) -> list[list[int]]:
    """Distinct random sets of other latents with similar firing rates.

    ``rates`` [F]: firing rates. For each latent of the set, in random order, one of the 20 unused
    latents with the most similar rate is drawn, excluding ``latents`` and ``exclude``; latents that
    never fire are not drawn. The result can be shorter than ``draws``: for a single latent there
    are at most 20 sets. Raises OptionError if too few latents are available.
    """
    rates = np.asarray(rates, dtype=np.float64)
    others = np.setdiff1d(np.flatnonzero(rates > 0), [*latents, *exclude])
    if len(others) < len(latents) + 1 or not len(latents):
        raise OptionError(
            f"{len(others)} other latents fire, which are too few to draw controls for"
            f" {len(latents)}; use more prompts or fewer latents"
        )
    generator, sets = np.random.default_rng(seed), {}
    logs = np.log(np.maximum(rates, 1e-9))
    for _ in range(20 * draws):
        if len(sets) == draws:
            break
        partner: dict[int, int] = {}
        for latent in generator.permutation(np.asarray(latents)):
            unused = np.setdiff1d(others, list(partner.values()))
            candidates = unused[
                np.argsort(np.abs(logs[unused] - logs[latent]), kind="stable")[:NEIGHBOURS]
            ]
            partner[int(latent)] = int(generator.choice(candidates))
        drawn = [partner[int(latent)] for latent in latents]
        sets.setdefault(frozenset(drawn), drawn)
    return list(sets.values())


def measure_effects(
    measure: Measure,
    dictionary: Dictionary,
    site: Site,
    latents: Sequence[int],
    rates: ArrayLike,
    clusters: ArrayLike,
    *,
    amount: float,
    draws: int = 19,
    seed: int = 0,
) -> dict[str, Effect]:
    """Effects of ``ablate`` (latents set to 0) and ``steer`` (``amount`` added to each code); the
    reconstruction error is kept.

    ``rates`` [F]: firing rates; random sets come from ``rate_matched``, which raises OptionError if
    there are none.
    """
    unedited, sets = measure(()), rate_matched(latents, rates, draws, seed)
    effects = {}
    for name, options in (
        ("ablate", {"factor": 0.0}),
        ("steer", {"factor": 1.0, "amount": amount}),
    ):

        def change(chosen: Sequence[int], options: dict = options) -> NDArray[np.float64]:
            return (
                measure([LatentEdit(site, dictionary, torch.tensor(list(chosen)), **options)])
                - unedited
            )

        changes = change(latents)
        null = np.array([change(chosen).mean() for chosen in sets])
        interval = cluster_interval(changes, clusters)
        effects[name] = Effect(interval, null, permutation_p(abs(changes.mean()), np.abs(null)))
    return effects
