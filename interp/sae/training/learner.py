"""One dictionary in training: the step, its statistics, and its state as tensors for
checkpoints.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import DictionaryError, required
from interp.maths.host import to_host
from interp.sae.core.config import BATCHTOPK_ARCHITECTURES, TOPK_ARCHITECTURES
from interp.sae.core.dictionary import Dictionary, Reconstruction
from interp.sae.training import distributed
from interp.sae.training.losses import PRE_ACTIVATIONS, Loss, smallest_selected, training_loss
from interp.sae.training.options import HAS_DEFAULT, Training

STEERING_POWER, STEERING_LIMIT = 0.05, 2.0
"""Steering to a target L0: every step multiplies the coefficient by (L0 / target) to the power
``STEERING_POWER``; the ratio is clipped to ``STEERING_LIMIT``.
"""
COEFFICIENT_RANGE = (1e-5, 10.0)
FREE_NORM = 0.1
"""Initial norm of decoder rows whose norm is not fixed, as in SAELens."""
WARN_AT = 5.0
"""Ratio of the mean's norm to the deviations' norm above which a warning about dead latents is
given.
"""


class Learner:
    """A dictionary with its optimiser and counters; ``options`` must have all defaults filled in
    (``Training.with_defaults``).
    """

    def __init__(self, name: str, dictionary: Dictionary, options: Training) -> None:
        self.name, self.dictionary, self.options = name, dictionary, options
        config, device = dictionary.config, dictionary.W_dec.device
        if options.auxiliary and config.architecture in TOPK_ARCHITECTURES:
            self._auxiliary = options.auxiliary
        else:
            self._auxiliary = 0.0
        self.since_active = torch.zeros(config.width, dtype=torch.int64, device=device)
        self.active = torch.zeros(config.width, dtype=torch.int64, device=device)
        self.seen = 0
        self.sparsity_coefficient = float(required(options.sparsity, HAS_DEFAULT))
        self.trainable = [value for value in dictionary.parameters() if value.requires_grad]
        self._optimiser = torch.optim.Adam(
            self.trainable,
            required(options.learning_rate, HAS_DEFAULT),
            options.betas,
            options.epsilon,
            fused=True,
        )
        self._norm = math.sqrt(config.models)
        if config.architecture in BATCHTOPK_ARCHITECTURES:
            # moving a dictionary to another dtype also converts its threshold, whose running mean
            # would drift
            dictionary.threshold = dictionary.threshold.double()
        if options.unit:
            self._renormalise()

    # ------------------------------------------------------------------ initialisation

    def centre(
        self, mean: Float[Tensor, " W"], deviation: Float[Tensor, " W"], size: Float[Tensor, " M"]
    ) -> str | None:
        """Initialise the decoder bias at the targets' mean, and the input scale for inputs of unit
        mean square.

        ``size``: root mean square of each model's inputs, per column. Returns a warning if the mean
        is much larger than the deviations and is not subtracted from inputs, which can make latents
        die.
        """
        dictionary = self.dictionary
        with torch.no_grad():
            if dictionary.config.normalisation == "scale":
                dictionary.scale.copy_(1 / size)
            if self.options.centre and dictionary.config.normalisation in ("none", "scale"):
                scale = dictionary.scale.to(mean).repeat_interleave(
                    len(mean) // dictionary.config.models
                )
                dictionary.b_dec.copy_(mean * scale)
        outlying = float(to_host(mean.norm() / deviation.norm().clamp_min(1e-30)))
        if outlying > WARN_AT and not (self.options.centre and dictionary.config.input_bias):
            return (
                f"{self.name}: the norm of these activations' mean is {outlying:.1f} times"
                " their deviation and is not subtracted from inputs; many latents may die early"
            )
        return None

    # ------------------------------------------------------------------ one step

    def step(self, number: int, x: Float[Tensor, "N D"], y: Float[Tensor, "N O"] | None) -> Loss:
        """One optimisation step on a batch; returns its detached loss."""
        loss = self._backward(number, x, y)
        distributed.mean_([value.grad for value in self.trainable if value.grad is not None])
        with torch.no_grad():
            if self.options.unit:
                self._remove_parallel()
            self._clip()
            self._optimiser.param_groups[0]["lr"] = self.options.learning_rate_at(number)
            self._optimiser.step()
            if self.options.unit:
                self._renormalise()
            if self.dictionary.config.architecture == "jumprelu":
                self.dictionary.threshold.clamp_min_(0)
            self._update_counts(loss, len(x))
        return loss

    def _backward(self, number: int, x: Tensor, y: Tensor | None) -> Loss:
        dictionary, options = self.dictionary, self.options
        normalised_input, undo = dictionary.normalise(x)
        target = None if y is None else (y - undo[0]) / undo[1]
        dead = self.dead if self._auxiliary else None
        self._optimiser.zero_grad(set_to_none=True)
        autocast = (
            torch.autocast(x.device.type, torch.bfloat16)
            if options.precision == "bfloat16"
            else nullcontext()
        )
        with autocast:
            loss = training_loss(
                dictionary,
                normalised_input,
                target,
                sparsity=self._coefficient(number),
                target_l0=options.target_l0,
                dead=dead,
                auxiliary=self._auxiliary,
                auxiliary_count=options.auxiliary_count,
                revival=options.revival,
                hold_decoder=required(options.unit, HAS_DEFAULT),
            )
            total = loss.total
            if loss.forward.pre is not None and options.rescue:
                total = total + options.rescue * self._rescue_distance(loss.forward)
        total.backward()
        return loss._replace(total=total.detach())

    def _coefficient(self, number: int) -> float:
        return (
            self.sparsity_coefficient
            if self.options.steers_l0(self.dictionary.config)
            else self.options.sparsity_at(number)
        )

    @property
    def dead(self) -> Tensor:
        """Latents that have not been active for ``dead_after`` rows."""
        return self.since_active >= required(self.options.dead_after, HAS_DEFAULT)

    def _rescue_distance(self, reconstruction: Reconstruction) -> Tensor:
        """Mean distance of dead latents' pre-activations below their thresholds (Conerly et al.
        2025).
        """
        which, pre = self.dead.nonzero().flatten(), required(reconstruction.pre, PRE_ACTIVATIONS)
        if not len(which):
            return pre.new_zeros(())
        threshold = (
            self.dictionary.threshold[which]
            if self.dictionary.config.architecture == "jumprelu"
            else 0.0
        )
        norms = self.dictionary.decoder_norms.sum(1)[which]
        return ((threshold - pre[:, which]).relu() * norms).sum(1).mean()

    def _squared_norms(self) -> Float[Tensor, "F 1"]:
        """Squared norm of each decoder row."""
        rows = self.dictionary.W_dec
        return torch.bmm(rows[:, None], rows[:, :, None])[:, 0]

    def _remove_parallel(self) -> None:
        gradient, rows = self.dictionary.W_dec.grad, self.dictionary.W_dec
        if gradient is not None:
            # rows have norm 1 (for a crosscoder the square root of its number of models)
            along = torch.bmm(gradient[:, None], rows[:, :, None])[:, 0] / self._norm**2
            gradient.addcmul_(rows, along, value=-1)

    def _renormalise(self) -> None:
        with torch.no_grad():
            self.dictionary.W_dec.mul_(self._norm * self._squared_norms().clamp_min(1e-30).rsqrt())

    def _clip(self) -> None:
        if self.options.clip:
            gradients = [value.grad for value in self.trainable if value.grad is not None]
            norm = torch.linalg.vector_norm(
                torch.stack([torch.linalg.vector_norm(slope) for slope in gradients])
            )
            factor = self.options.clip / (norm + 1e-6)
            if gradients[0].is_cuda or bool(to_host(factor < 1)):
                for slope in gradients:
                    slope.mul_(factor.clamp_max(1.0))

    def _update_counts(self, loss: Loss, rows: int) -> None:
        counts = loss.forward.codes.counts()
        distributed.sum_([counts])
        self.active += counts
        rows *= distributed.world()
        self.seen += rows
        self.since_active += rows
        self.since_active.masked_fill_(counts > 0, 0)
        distributed.min_(self.since_active)
        if self.options.steers_l0(self.dictionary.config):
            ratio = (float(to_host(counts.sum())) / rows + 1e-3) / required(
                self.options.target_l0, "a target L0"
            )
            self.sparsity_coefficient *= (
                min(max(ratio, 1 / STEERING_LIMIT), STEERING_LIMIT) ** STEERING_POWER
            )
            self.sparsity_coefficient = min(
                max(self.sparsity_coefficient, COEFFICIENT_RANGE[0]), COEFFICIENT_RANGE[1]
            )
        if self.dictionary.config.architecture in BATCHTOPK_ARCHITECTURES:
            self._update_threshold(smallest_selected(self.dictionary, loss.forward.codes))

    def _update_threshold(self, smallest: float | None) -> None:
        """Update the threshold's running mean, in float64, with the smallest code selected in this
        step (mean over processes).
        """
        threshold = self.dictionary.threshold
        total_and_count = torch.tensor(
            [0.0 if smallest is None else smallest, float(smallest is not None)]
        ).to(threshold)
        distributed.sum_([total_and_count])
        if not bool(to_host(total_and_count[1])):
            return
        value = total_and_count[0] / total_and_count[1]
        if bool(to_host(threshold.isnan())):
            threshold.copy_(value)
        else:
            threshold.lerp_(value, required(self.options.threshold_rate, HAS_DEFAULT))

    # ------------------------------------------------------------------ reporting and checkpoints

    @torch.no_grad()
    def progress(
        self, loss: Loss, x: Float[Tensor, "N D"], y: Float[Tensor, "N O"] | None
    ) -> dict[str, float]:
        """Loss terms, L0, explained variance and share of dead latents, with codes selected as at
        inference; raises DictionaryError for a loss that is not finite.
        """
        normalised_input, undo = self.dictionary.normalise(x)
        target = normalised_input if y is None else (y - undo[0]) / undo[1]
        reconstruction = loss.forward
        if self.dictionary.config.architecture in BATCHTOPK_ARCHITECTURES and not bool(
            to_host(self.dictionary.threshold.isnan())
        ):
            # a batch has k codes per row by construction; report the codes above the threshold
            # instead
            reconstruction = self.dictionary.reconstruct_normalised(normalised_input)
        squared_error, variance = (
            (target - reconstruction.output).square().sum(),
            (target - target.mean(0)).square().sum(),
        )
        codes, total = reconstruction.codes, torch.tensor(float(len(x)), device=x.device)
        l0 = (codes.values != 0).sum().float()
        sums = torch.stack([loss.total, loss.reconstruction, loss.sparsity, loss.auxiliary]).float()
        distributed.mean_([sums])
        distributed.sum_([squared_error, variance, l0, total])
        parts = to_host(sums)
        if not np.isfinite(parts).all():
            raise DictionaryError(
                f"{self.name}: the loss is {float(parts[0])} after {self.seen} rows; lower the"
                " learning rate"
            )
        return {
            "loss": float(parts[0]),
            "reconstruction": float(parts[1]),
            "sparsity": float(parts[2]),
            "auxiliary": float(parts[3]),
            "l0": float(to_host(l0 / total)),
            "explained": float(to_host(1 - squared_error / variance)),
            "dead": float(to_host(self.dead.float().mean())),
        }

    def tensors(self) -> dict[str, Tensor]:
        """All state that the next step depends on."""
        saved_tensors = {
            f"weights.{name}": value for name, value in self.dictionary.state_dict().items()
        }
        names = {id(value): name for name, value in self.dictionary.named_parameters()}
        for value, state in self._optimiser.state.items():
            saved_tensors |= {
                f"adam.{names[id(value)]}.{part}": state[part]
                for part in ("exp_avg", "exp_avg_sq", "step")
            }
        counts = {
            "since_active": self.since_active,
            "active": self.active,
            "seen": torch.tensor(self.seen),
        }
        return (
            saved_tensors
            | counts
            | {"strength": torch.tensor(self.sparsity_coefficient, dtype=torch.float64)}
        )

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of ``tensors``; raises DictionaryError if they belong to another dictionary."""
        parameters: dict[str, Any] = dict(self.dictionary.state_dict())
        for name, value in parameters.items():
            saved = tensors.get(f"weights.{name}")
            if saved is None or saved.shape != value.shape:
                raise DictionaryError(f"the checkpoint's {name} is not that of {self.name}")
            value.copy_(saved)
        for name, value in self.dictionary.named_parameters():
            if f"adam.{name}.step" not in tensors:
                continue
            moments = {part: torch.empty_like(value) for part in ("exp_avg", "exp_avg_sq")}
            for part, moment in moments.items():
                moment.copy_(tensors[f"adam.{name}.{part}"])
            self._optimiser.state[value] = {
                "step": tensors[f"adam.{name}.step"].clone().to(value.device),
                **moments,
            }
        self.since_active.copy_(tensors["since_active"])
        self.active.copy_(tensors["active"])
        self.seen = int(to_host(tensors["seen"]).item())
        self.sparsity_coefficient = float(to_host(tensors["strength"]).item())
