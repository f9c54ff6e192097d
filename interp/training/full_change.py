"""The change of a fully fine-tuned model, tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from interp.errors import WidthMismatch
from interp.maths.host import to_host
from interp.models import load, preflight
from interp.models.quiet import quiet_libraries
from interp.models.sources import Source
from interp.prompts import Tokenizer
from interp.training.changes import root_mean_square, vocabulary_size
from interp.training.recipe import Setting


@dataclass
class FullChange:
    """The change of a fully fine-tuned model; tensors that it did not change are not trained."""

    source: Source
    module: PreTrainedModel
    tokenizer: Tokenizer
    norms: dict[str, float]
    size: float
    kind: str = "full"
    _start: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def read(
        cls,
        source: Source,
        base: Source,
        module: PreTrainedModel,
        tokenizer: Tokenizer,
        settings: load.LoadSettings,
    ) -> FullChange:
        """Compare the fine-tuned model with the loaded base; raises a PairError where they do not
        fit.
        """
        preflight.require_same_shape(base, source)
        tuned, _ = load.module(source, settings)
        tuned_parameters, norms, changes, start = dict(tuned.named_parameters()), {}, [], {}
        base_parameters = dict(module.named_parameters())
        for name in sorted(base_parameters.keys() ^ tuned_parameters.keys()):
            raise WidthMismatch(
                f"only one of {base.name} and {source.name} has {name}; give the model that was"
                " fine-tuned"
            )
        for name, value in base_parameters.items():
            if value.shape != tuned_parameters[name].shape:
                raise WidthMismatch(
                    f"{name} is {tuple(value.shape)} in the base and"
                    f" {tuple(tuned_parameters[name].shape)} in {source.name}; give the model that"
                    " was fine-tuned"
                )
            change = tuned_parameters[name].data.double() - value.data.double()
            norm = float(to_host(change.norm()))
            if norm > 0:
                norms[name] = norm
                changes.append(change)
        size = root_mean_square(changes)
        for name in norms or base_parameters:
            norms.setdefault(name, 0.0)
            start[name] = base_parameters[name].data.clone()
        return cls(source, module, tokenizer, norms, size, _start=start)

    @property
    def settings(self) -> dict[str, Setting]:
        """The number of tensors that the fine-tune changed."""
        return {"tensors_trained": Setting(len(self.norms), "the fine-tuned model's weights")}

    @property
    def vocabulary(self) -> int:
        """Number of rows of the base's embedding."""
        return vocabulary_size(self.module)

    def begin(self, seed: int) -> nn.Module:
        """The base, with the tensors that the fine-tune changed trainable."""
        self.end()
        torch.manual_seed(seed)
        for name, value in self.module.named_parameters():
            value.requires_grad_(name in self._start)
        return self.module

    def _changes(self) -> dict[str, Tensor]:
        parameters = dict(self.module.named_parameters())
        return {
            name: parameters[name].data.double() - before.double()
            for name, before in self._start.items()
        }

    def trained_norms(self) -> tuple[dict[str, float], float]:
        """Norms and size of the trained change."""
        changes = self._changes()
        return {
            name: float(to_host(value.norm())) for name, value in changes.items()
        }, root_mean_square(changes.values())

    @torch.no_grad()
    def scale(self, factors: Mapping[str, float]) -> None:
        """Multiply the change of every tensor by its factor."""
        parameters = dict(self.module.named_parameters())
        for name, change in self._changes().items():
            parameters[name].copy_(self._start[name].double() + factors[name] * change)

    def save(self, directory: Path) -> None:
        """A Hugging Face directory in float32, with the tokenizer."""
        with quiet_libraries():
            self.module.save_pretrained(directory)
            self.tokenizer.save_pretrained(directory)

    @torch.no_grad()
    def end(self) -> None:
        """Restore the base's values."""
        parameters = dict(self.module.named_parameters())
        for name, before in self._start.items():
            parameters[name].copy_(before)
        self.module.requires_grad_(False).eval()
