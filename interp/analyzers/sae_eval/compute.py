"""Passes over the prompts: activations and reconstructions, and the models with reconstructions in
place of the target.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.capture import capture, make_batch
from interp.errors import OptionError
from interp.maths.host import to_host
from interp.prompts import Encoded
from interp.sae import Codes, Dictionary
from interp.sae.analysis.baselines import Covariance, Predicted, predicted, principal, random_rows
from interp.sae.analysis.input_output import TUNED, Place, difference
from interp.sae.analysis.scores import Scores
from interp.sae.analysis.splice import CLEAN, MEAN, ZERO, Make, counted_positions, splice
from interp.sae.core.config import DictionaryConfig
from interp.study import Study

OWN, PCA, RANDOM = "dictionary", "pca", "random"
DEVIATION, PCA_ALONE = "deviation", "pca_alone"
Made = Dictionary | Predicted


class Rows(NamedTuple):
    """Counted tokens of a batch: inputs, targets, role codes, prompt numbers."""

    x: Float[Tensor, "N D"]
    y: Float[Tensor, "N O"]
    roles: Int[Tensor, " N"]
    owners: Int[Tensor, " N"]


class Sums(NamedTuple):
    """Sums per prompt: squared errors by name, and ``counts`` [2, prompts] of next tokens and of
    positions.

    ``costs``: by model and condition, summed loss and divergence [2, prompts]. ``halves``: for a
    crosscoder, summed squared errors of tuned minus base, including those of its own principal
    components (``PCA_ALONE``); otherwise empty.
    """

    prompts: dict[str, np.ndarray]
    halves: dict[str, np.ndarray]
    costs: dict[tuple[str, str], np.ndarray]
    counts: np.ndarray


def fitted(
    seen: Covariance, config: DictionaryConfig, joint: bool, k: int, seed: int, dtype: torch.dtype
) -> dict[str, Made]:
    """Principal components and random rows with k codes, of the targets or (``joint``) of their
    prediction from inputs.

    A transcoder's skip connection is a linear map; its baseline uses all components, which is the
    full prediction.
    """
    codes = config.outputs if config.skip and joint else k
    make = {
        PCA: lambda of: principal(of, codes, dtype),
        RANDOM: lambda of: random_rows(of, k, config.width, seed, dtype),
    }
    return {
        name: predicted(seen, config.inputs, one, dtype) if joint else one(seen)
        for name, one in make.items()
    }


def alone(seen: Covariance, k: int, dtype: torch.dtype) -> Dictionary:
    """Principal components with k codes of tuned minus base, from the covariance of both models
    concatenated.
    """
    parts, half = seen.deviation.unflatten(0, (2, -1)).unflatten(2, (2, -1)), len(seen.mean) // 2
    spread = parts[1, :, 1] + parts[0, :, 0] - parts[0, :, 1] - parts[1, :, 0]
    return principal(Covariance(seen.count, seen.mean[half:] - seen.mean[:half], spread), k, dtype)


class Passes:
    """Passes over a study's encoded prompts; tokens with a role in ``excluded`` are ignored."""

    def __init__(
        self,
        study: Study,
        place: Place,
        config: DictionaryConfig,
        encoded: Sequence[Encoded],
        excluded: Sequence[int],
    ) -> None:
        self.study, self.place, self.config, self.encoded, self.excluded = (
            study,
            place,
            config,
            encoded,
            excluded,
        )
        model = study.pair.tuned
        # logits of the clean pass are kept until all other passes are done
        held = 8 * model.anatomy.vocabulary * len(place.edited) + 8 * config.inputs
        held += 8 * config.outputs if place.site != place.target else 0
        self.groups = study.batches(encoded, model, held)

    def reading(self) -> Iterator[Rows]:
        """All rows, batch by batch; raises OptionError if the dictionary and the sites differ in
        width.
        """
        study, place = self.study, self.place
        models = {role: study.pair[role] for role in place.roles}
        each = study.progress(self.groups, "reading")
        for got in capture(
            study.engine, models, self.encoded, each, place.sites, pad_id=study.pad_id
        ):
            counted = counted_positions(got.batch, got.roles, self.excluded)
            wide = {site: got.values[TUNED, site].shape[-1] for site in place.sites}
            config = self.config
            for site, width in (
                (place.site, config.d_in),
                (place.target, config.outputs // config.models),
            ):
                if wide[site] != width:
                    raise OptionError(
                        f"the dictionary has width {width} and {site} has {wide[site]}"
                    )
            owners = got.rows.to(counted.device)[:, None].expand_as(counted)[counted]
            yield Rows(*place.rows(got.values, counted), got.roles[counted], owners)

    @torch.no_grad()
    def reconstructed(
        self, one: Made, rows: Float[Tensor, "N D"]
    ) -> tuple[Float[Tensor, "N O"], Codes]:
        """Output in the dtype of the rows, and codes."""
        found = one.reconstruct(rows.to(one.W_dec))
        return found.output.to(rows.dtype), found.codes

    def splicing(
        self,
        made: Mapping[str, Made],
        scored: Mapping[str, Scores],
        mean: Float[Tensor, " O"],
        apart: Dictionary | None = None,
    ) -> Sums:
        """Replace the target by each reconstruction, by zero and by the mean; also scores the
        baselines.

        ``apart``: for a crosscoder, a dictionary of tuned minus base.
        """
        study, place, count = self.study, self.place, len(self.encoded)
        names = (DEVIATION, *made)
        sums = Sums(
            {name: np.zeros(count) for name in names},
            {name: np.zeros(count) for name in (*names, PCA_ALONE)} if apart is not None else {},
            {
                (role, name): np.zeros((2, count))
                for role in place.edited
                for name in (CLEAN, *made, ZERO, MEAN)
            },
            np.zeros((2, count), np.int64),
        )
        for rows in study.progress(self.groups, "splicing"):
            batches = {
                role: make_batch(self.encoded, rows, study.pad_id, study.pair[role].device)
                for role in place.roles
            }
            clean = {
                role: study.engine.run(
                    study.pair[role],
                    batch,
                    reads=place.sites,
                    keep=None if role in place.edited else 0,
                )
                for role, (batch, _) in batches.items()
            }
            values = {
                (role, site): value
                for role, run in clean.items()
                for site, value in run.values.items()
            }
            batch, roles = batches[TUNED]
            counted = counted_positions(batch, roles, self.excluded)
            x, y = place.rows(values, counted)
            owner = torch.arange(len(rows), device=counted.device)[:, None].expand_as(counted)[
                counted
            ]
            owners = torch.tensor(rows, device=owner.device)[owner]
            outputs = {}
            for name, one in made.items():
                outputs[name], codes = self.reconstructed(one, x)
                if name != OWN:
                    scored[name].update(
                        y, outputs[name], codes, roles=roles[counted], owners=owners
                    )
                self._add(sums, name, rows, owner, y - outputs[name])
            self._add(sums, DEVIATION, rows, owner, y.double() - mean)
            if apart is not None:
                own = difference(y)
                error = own - self.reconstructed(apart, own)[0]
                sums.halves[PCA_ALONE][rows] = _by(owner, error.double().square().sum(1), len(rows))
            outputs |= {ZERO: torch.zeros_like(y), MEAN: mean.to(y).expand_as(y)}
            for role in place.edited:
                at = counted.to(batches[role][0].ids.device)
                functions = {
                    name: _instead(place.put(role, each, values, counted))
                    for name, each in outputs.items()
                }
                costs = splice(
                    study.engine,
                    study.pair[role],
                    batches[role][0],
                    place.target,
                    functions,
                    at,
                    clean[role],
                )
                sums.counts[:, rows] = to_host(torch.stack([costs.predicted, costs.positions]))
                for name, cost in costs.by.items():
                    sums.costs[role, name][:, rows] = to_host(torch.stack(list(cost)))
        return sums

    def _add(
        self, sums: Sums, name: str, rows: Sequence[int], owner: Tensor, error: Tensor
    ) -> None:
        sums.prompts[name][rows] = _by(owner, error.double().square().sum(1), len(rows))
        if sums.halves:
            sums.halves[name][rows] = _by(
                owner, difference(error).double().square().sum(1), len(rows)
            )


def _instead(rows: Tensor) -> Make:
    return lambda there: rows.to(there)


def _by(owner: Tensor, values: Tensor, count: int) -> np.ndarray:
    return to_host(
        torch.zeros(count, dtype=torch.float64, device=values.device).index_add_(0, owner, values)
    )


__all__ = [
    "DEVIATION",
    "OWN",
    "PCA",
    "PCA_ALONE",
    "RANDOM",
    "Made",
    "Passes",
    "Rows",
    "Sums",
    "alone",
    "fitted",
]
