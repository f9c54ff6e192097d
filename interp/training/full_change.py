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
from interp.models.quiet import quiet
from interp.models.sources import Source
from interp.prompts import Tokenizer
from interp.training.changes import root_mean_square, rows_of
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
        settings: load.Settings,
    ) -> FullChange:
        """Compare the fine-tuned model with the loaded base; raises a PairError where they do not
        fit.
        """
        preflight.require_same_shape(base, source)
        tuned, _ = load.module(source, settings)
        theirs, norms, moved, start = dict(tuned.named_parameters()), {}, [], {}
        own = dict(module.named_parameters())
        for name in sorted(own.keys() ^ theirs.keys()):
            raise WidthMismatch(
                f"only one of {base.name} and {source.name} has {name}; give the model that was"
                " fine-tuned"
            )
        for name, value in own.items():
            if value.shape != theirs[name].shape:
                raise WidthMismatch(
                    f"{name} is {tuple(value.shape)} in the base and {tuple(theirs[name].shape)} in"
                    f" {source.name}; give the model that was fine-tuned"
                )
            change = theirs[name].data.double() - value.data.double()
            norm = float(to_host(change.norm()))
            if norm > 0:
                norms[name] = norm
                moved.append(change)
        size = root_mean_square(moved)
        for name in norms or own:
            norms.setdefault(name, 0.0)
            start[name] = own[name].data.clone()
        return cls(source, module, tokenizer, norms, size, _start=start)

    @property
    def settings(self) -> dict[str, Setting]:
        """The number of tensors that the fine-tune changed."""
        return {"tensors_trained": Setting(len(self.norms), "the fine-tuned model's weights")}

    @property
    def vocabulary(self) -> int:
        """Number of rows of the base's embedding."""
        return rows_of(self.module)

    def begin(self, seed: int) -> nn.Module:
        """The base, with the tensors that the fine-tune changed trainable."""
        self.end()
        torch.manual_seed(seed)
        for name, value in self.module.named_parameters():
            value.requires_grad_(name in self._start)
        return self.module

    def _changes(self) -> dict[str, Tensor]:
        own = dict(self.module.named_parameters())
        return {
            name: own[name].data.double() - before.double() for name, before in self._start.items()
        }

    def trained(self) -> tuple[dict[str, float], float]:
        """Norms and size of the trained change."""
        found = self._changes()
        return {
            name: float(to_host(value.norm())) for name, value in found.items()
        }, root_mean_square(found.values())

    @torch.no_grad()
    def scale(self, by: Mapping[str, float]) -> None:
        """Multiply the change of every tensor by its factor."""
        own = dict(self.module.named_parameters())
        for name, change in self._changes().items():
            own[name].copy_(self._start[name].double() + by[name] * change)

    def save(self, directory: Path) -> None:
        """A Hugging Face directory in float32, with the tokenizer."""
        with quiet():
            self.module.save_pretrained(directory)
            self.tokenizer.save_pretrained(directory)

    @torch.no_grad()
    def end(self) -> None:
        """Restore the base's values."""
        own = dict(self.module.named_parameters())
        for name, before in self._start.items():
            own[name].copy_(before)
        self.module.requires_grad_(False).eval()
