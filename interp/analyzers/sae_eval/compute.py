"""Passes over the prompts: activations and reconstructions, and the models with reconstructions in
place of the target.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
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
from interp.sae.analysis.baselines import (
    Covariance,
    PredictionBaseline,
    least_squares_baseline,
    principal_components,
    random_directions,
)
from interp.sae.analysis.input_output import TUNED, InputOutput, difference
from interp.sae.analysis.scores import Scores
from interp.sae.analysis.splice import CLEAN, MEAN, ZERO, Replacement, counted_positions, splice
from interp.sae.core.config import DictionaryConfig
from interp.study import Study

DICTIONARY, PCA, RANDOM = "dictionary", "pca", "random"
DEVIATION, PCA_DIFFERENCE = "deviation", "pca_alone"
Reconstructor = Dictionary | PredictionBaseline


class TokenRows(NamedTuple):
    """Counted tokens of a batch: inputs, targets, role codes, prompt numbers."""

    x: Float[Tensor, "N D"]
    y: Float[Tensor, "N O"]
    roles: Int[Tensor, " N"]
    owners: Int[Tensor, " N"]


class EvaluationSums(NamedTuple):
    """Sums per prompt: squared errors by name, and ``counts`` [2, prompts] of next tokens and of
    positions.

    ``costs``: by model and condition, summed loss and divergence [2, prompts]. ``differences``: for
    a crosscoder, summed squared errors of tuned minus base, including those of its own principal
    components (``PCA_DIFFERENCE``); otherwise empty.
    """

    prompts: dict[str, np.ndarray]
    differences: dict[str, np.ndarray]
    costs: dict[tuple[str, str], np.ndarray]
    counts: np.ndarray


def fit_baselines(
    covariance: Covariance,
    config: DictionaryConfig,
    is_transcoder: bool,
    k: int,
    seed: int,
    dtype: torch.dtype,
) -> dict[str, Reconstructor]:
    """Principal components and random rows with k codes, of the targets or (``is_transcoder``) of
    their prediction from inputs.

    A transcoder's skip connection is a linear map; its baseline uses all components, which is the
    full prediction.
    """
    codes = config.outputs if config.skip and is_transcoder else k
    builders = {
        PCA: lambda of: principal_components(of, codes, dtype),
        RANDOM: lambda of: random_directions(of, k, config.width, seed, dtype),
    }
    return {
        name: least_squares_baseline(covariance, config.inputs, one, dtype)
        if is_transcoder
        else one(covariance)
        for name, one in builders.items()
    }


def difference_components(covariance: Covariance, k: int, dtype: torch.dtype) -> Dictionary:
    """Principal components with k codes of tuned minus base, from the covariance of both models
    concatenated.
    """
    blocks = covariance.deviation.unflatten(0, (2, -1)).unflatten(2, (2, -1))
    base, tuned = covariance.mean.unflatten(0, (2, -1))
    deviation = blocks[1, :, 1] + blocks[0, :, 0] - blocks[0, :, 1] - blocks[1, :, 0]
    return principal_components(Covariance(covariance.count, tuned - base, deviation), k, dtype)


@dataclass
class EvaluationPasses:
    """Passes over a study's encoded prompts; tokens with a role in ``excluded`` are ignored."""

    study: Study
    inputs_outputs: InputOutput
    config: DictionaryConfig
    encoded: Sequence[Encoded]
    excluded: Sequence[int]

    @cached_property
    def groups(self) -> list[list[int]]:
        """Numbers of prompts that are read together."""
        # logits of the clean pass are kept until all other passes are done
        bytes_per_token = (
            8 * self.study.pair.tuned.anatomy.vocabulary * len(self.inputs_outputs.spliced_roles)
            + 8 * self.config.inputs
        )
        if self.inputs_outputs.site != self.inputs_outputs.target:
            bytes_per_token += 8 * self.config.outputs
        return self.study.batches(self.encoded, self.study.pair.tuned, bytes_per_token)

    def read_rows(self) -> Iterator[TokenRows]:
        """All rows, batch by batch; raises OptionError if the dictionary and the sites differ in
        width.
        """
        study, inputs_outputs, config = self.study, self.inputs_outputs, self.config
        for captured in capture(
            study.engine,
            {role: study.pair[role] for role in inputs_outputs.roles},
            self.encoded,
            study.progress(self.groups, "reading"),
            inputs_outputs.sites,
            pad_id=study.pad_id,
        ):
            counted = counted_positions(captured.batch, captured.roles, self.excluded)
            for site, width in (
                (inputs_outputs.site, config.d_in),
                (inputs_outputs.target, config.outputs // config.models),
            ):
                if (found := captured.values[TUNED, site].shape[-1]) != width:
                    raise OptionError(f"the dictionary has width {width} and {site} has {found}")
            owners = captured.rows.to(counted.device)[:, None].expand_as(counted)[counted]
            yield TokenRows(
                *inputs_outputs.rows(captured.values, counted), captured.roles[counted], owners
            )

    @torch.no_grad()
    def reconstruct(
        self, reconstructor: Reconstructor, rows: Float[Tensor, "N D"]
    ) -> tuple[Float[Tensor, "N O"], Codes]:
        """Output in the dtype of the rows, and codes."""
        reconstruction = reconstructor.reconstruct(rows.to(reconstructor.W_dec))
        return reconstruction.output.to(rows.dtype), reconstruction.codes

    def splice_all(
        self,
        reconstructors: Mapping[str, Reconstructor],
        scores: Mapping[str, Scores],
        mean: Float[Tensor, " O"],
        difference_dictionary: Dictionary | None = None,
    ) -> EvaluationSums:
        """Replace the target by each reconstruction, by zero and by the mean; also scores the
        baselines.

        ``difference_dictionary``: for a crosscoder, a dictionary of tuned minus base.
        """
        study, inputs_outputs, count = self.study, self.inputs_outputs, len(self.encoded)
        names = (DEVIATION, *reconstructors)
        sums = EvaluationSums(
            {name: np.zeros(count) for name in names},
            {name: np.zeros(count) for name in (*names, PCA_DIFFERENCE)}
            if difference_dictionary is not None
            else {},
            {
                (role, name): np.zeros((2, count))
                for role in inputs_outputs.spliced_roles
                for name in (CLEAN, *reconstructors, ZERO, MEAN)
            },
            np.zeros((2, count), np.int64),
        )
        for rows in study.progress(self.groups, "splicing"):
            batches = {
                role: make_batch(self.encoded, rows, study.pad_id, study.pair[role].device)
                for role in inputs_outputs.roles
            }
            clean = {
                role: study.engine.run(
                    study.pair[role],
                    batch,
                    reads=inputs_outputs.sites,
                    keep=None if role in inputs_outputs.spliced_roles else 0,
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
            x, y = inputs_outputs.rows(values, counted)
            owner = torch.arange(len(rows), device=counted.device)[:, None].expand_as(counted)[
                counted
            ]
            owners = torch.tensor(rows, device=owner.device)[owner]
            outputs = {}
            for name, reconstructor in reconstructors.items():
                outputs[name], codes = self.reconstruct(reconstructor, x)
                if name != DICTIONARY:
                    scores[name].update(
                        y, outputs[name], codes, roles=roles[counted], owners=owners
                    )
                self._add(sums, name, rows, owner, y - outputs[name])
            self._add(sums, DEVIATION, rows, owner, y.double() - mean)
            if difference_dictionary is not None:
                target = difference(y)
                error = target - self.reconstruct(difference_dictionary, target)[0]
                sums.differences[PCA_DIFFERENCE][rows] = _squared_by_prompt(owner, error, len(rows))
            outputs |= {ZERO: torch.zeros_like(y), MEAN: mean.to(y).expand_as(y)}
            for role in inputs_outputs.spliced_roles:
                costs = splice(
                    study.engine,
                    study.pair[role],
                    batches[role][0],
                    inputs_outputs.target,
                    {
                        name: _constant(inputs_outputs.replacement(role, each, values, counted))
                        for name, each in outputs.items()
                    },
                    counted.to(batches[role][0].ids.device),
                    clean[role],
                )
                sums.counts[:, rows] = to_host(torch.stack([costs.predicted, costs.positions]))
                for name, cost in costs.by_condition.items():
                    sums.costs[role, name][:, rows] = to_host(torch.stack(list(cost)))
        return sums

    def _add(
        self, sums: EvaluationSums, name: str, rows: Sequence[int], owner: Tensor, error: Tensor
    ) -> None:
        sums.prompts[name][rows] = _squared_by_prompt(owner, error, len(rows))
        if sums.differences:
            sums.differences[name][rows] = _squared_by_prompt(owner, difference(error), len(rows))


def _constant(rows: Tensor) -> Replacement:
    return lambda there: rows.to(there)


def _squared_by_prompt(owner: Tensor, error: Tensor, count: int) -> np.ndarray:
    """Squared errors of each prompt, summed over its tokens and the width."""
    sums = torch.zeros(count, dtype=torch.float64, device=error.device)
    return to_host(sums.index_add_(0, owner, error.double().square().sum(1)))
