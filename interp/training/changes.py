"""What a fine-tune changed, how far, and the same change trained anew: of a LoRA adapter, and of a full model."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import peft
import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from interp.errors import UnsupportedModel, WidthMismatch, WrongBase, required
from interp.maths.host import to_host
from interp.models import load, preflight
from interp.models.layout import skeleton
from interp.models.low_rank import LowRank
from interp.models.quiet import line, quiet
from interp.models.sources import Source
from interp.prompts import Tokenizer
from interp.training.recipe import READ, Setting

_PART = re.compile(r"base_model\.model\.(.+?)\.lora_(?:embedding_)?([AB])(?:\.weight)?")
_SHOWN = ("r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "rank_pattern", "alpha_pattern",
          "layers_to_transform", "exclude_modules")  # fmt: skip
_UNCHANGED_STARTS = (True, False, "gaussian", "orthogonal")


@runtime_checkable
class Change(Protocol):
    """A way to train: which numbers, from where, and how large the result is.

    ``norms``: Frobenius norm of the fine-tune's change by module (of a full model: by tensor). ``size``: root mean
    square of what its training moved, see ``interp.training.recipe.planned``.
    """

    kind: str
    norms: dict[str, float]
    size: float

    @property
    def settings(self) -> dict[str, Setting]:
        """What the fine-tune's own files say of its configuration."""
        ...

    @property
    def vocabulary(self) -> int:
        """Tokens that the base has an embedding of."""
        ...

    def begin(self, seed: int) -> nn.Module:
        """The base with what is to be trained at its start."""
        ...

    def trained(self) -> tuple[dict[str, float], float]:
        """Norms and size, as of the fine-tune, of what is trained now."""
        ...

    def scale(self, by: Mapping[str, float]) -> None:
        """Multiply the change of each module."""
        ...

    def save(self, directory: Path) -> None:
        """Write what is trained now, as a user of it expects it."""
        ...

    def end(self) -> None:
        """Put the base back."""
        ...


def product_norm(left: Tensor, right: Tensor) -> float:
    """Frobenius norm of ``left @ right``, [out, r] and [r, in], from the triangles of both: nothing cancels."""
    one, other = (torch.linalg.qr(part.double(), mode="r").R for part in (left, right.T))
    return float(to_host((one @ other.T).norm()))


def root_mean_square(parts: Iterable[Tensor]) -> float:
    """Over all numbers of all parts."""
    total, count = 0.0, 0
    for part in parts:
        total += float(to_host(part.double().square().sum()))
        count += part.numel()
    return (total / count) ** 0.5 if count else 0.0


@dataclass
class LoraChange:
    """A plain LoRA adapter (rank-stabilised too): ``scaling * B @ A`` is added to each of its matrices."""

    source: Source
    config: LoraConfig
    low_rank: LowRank
    base_name: str
    norms: dict[str, float]
    size: float
    tokenizer: Tokenizer | None = None
    module: PreTrainedModel | None = None
    kind: str = "lora"
    _wrapped: PeftModel | None = field(default=None, repr=False)

    @classmethod
    def read(cls, source: Source, base: Source) -> LoraChange:
        """The adapter, from files alone; raises UnsupportedModel, AdapterNotLanded or WrongBase."""
        bare = skeleton(base)
        modules = dict(bare.named_modules())
        found = LowRank.read(source, modules)
        named = {kind for kinds in found.parts.values() for kind in kinds}
        more = [what for what, there in (
            ("whole matrices (modules_to_save)", found.saved), ("biases", found.config.get("bias", "none") != "none"),
            ("magnitudes (DoRA)", "lora_magnitude_vector" in named),
        ) if there]  # fmt: skip
        if more or not found.parts:
            raise UnsupportedModel(
                f"{source.name} trains {more[0] if more else 'nothing'}, and a control is made of plain LoRA adapters "
                "and of full models; merge it, save the whole model, and give that"
            )
        norms, lefts = {}, []
        for path, kinds in found.parts.items():
            left, right = (found.checkpoint.read(kinds[name]) for name in _pair(kinds))
            weight = getattr(modules[path], "weight", None)
            seen = (left.shape[0], right.shape[1])
            if weight is not None and seen not in (tuple(weight.shape), tuple(weight.shape)[::-1]):
                raise WrongBase(
                    f"{source.name} changes {path} as a matrix of {seen}, the base's is {tuple(weight.shape)}; "
                    "give the base it was made for"
                )
            norms[path] = found.scaling(path, right.shape[0]) * product_norm(left, right)
            lefts.append(left)
        return cls(source, _config(source, base.name), found, base.name, norms, root_mean_square(lefts))

    @property
    def settings(self) -> dict[str, Setting]:
        """Rank, scaling, dropout and places."""
        values = self.config.to_dict()
        shown = {name: values.get(name) for name in _SHOWN}
        return {
            name: Setting(sorted(value) if isinstance(value, (set, frozenset)) else value, READ)
            for name, value in shown.items()
            if value not in (None, {}, False)
        }

    @property
    def vocabulary(self) -> int:
        """Rows of the base's embedding."""
        return _rows(required(self.module, "a base"))

    def begin(self, seed: int) -> nn.Module:
        """A fresh adapter of the same configuration on the base."""
        torch.manual_seed(seed)
        assert self.module is not None
        with quiet():
            self._wrapped = get_peft_model(self.module, copy.deepcopy(self.config))
        own, theirs = {path for path, _ in self._factors()}, set(self.norms)
        if own != theirs:
            raise UnsupportedModel(
                f"peft {peft.__version__} puts the configuration of {self.source.name} on other modules than its "
                f"tensors are of, first {min(own ^ theirs)}; save the adapter with target_modules that name them"
            )
        return self._wrapped

    def _factors(self) -> list[tuple[str, dict[str, nn.Parameter]]]:
        found: dict[str, dict[str, nn.Parameter]] = {}
        assert self._wrapped is not None
        for name, value in self._wrapped.named_parameters():
            if match := _PART.fullmatch(name.replace(".default", "")):
                found.setdefault(match[1], {})[match[2]] = value
        return list(found.items())

    def trained(self) -> tuple[dict[str, float], float]:
        """Norms of the products, and the size of B."""
        factors = self._factors()
        norms = {
            path: self.low_rank.scaling(path, two["A"].shape[0]) * product_norm(two["B"].data, two["A"].data)
            for path, two in factors
        }
        return norms, root_mean_square(two["B"].data for _, two in factors)

    @torch.no_grad()
    def scale(self, by: Mapping[str, float]) -> None:
        """Multiply B."""
        for path, two in self._factors():
            two["B"].copy_(two["B"].double() * by[path])

    def save(self, directory: Path) -> None:
        """A PEFT directory, with the tokenizer where the fine-tune has its own."""
        assert self._wrapped is not None
        with quiet():
            self._wrapped.save_pretrained(str(directory), save_embedding_layers=False)
            (directory / "README.md").unlink(missing_ok=True)
            if self.tokenizer is not None:
                self.tokenizer.save_pretrained(directory)

    def end(self) -> None:
        """Take the adapter off."""
        if self._wrapped is not None:
            self.module = self._wrapped.unload().requires_grad_(False)
            self._wrapped = None


def _pair(kinds: Mapping[str, str]) -> tuple[str, str]:
    return ("lora_B", "lora_A") if "lora_B" in kinds else ("lora_embedding_B", "lora_embedding_A")


def _config(source: Source, base: str) -> LoraConfig:
    """The adapter's configuration, ready to train from a start that leaves the base as it is."""
    try:
        with quiet():
            config: Any = PeftConfig.from_pretrained(str(source.directory))
    except Exception as error:  # peft trips over a bad configuration with errors of many classes
        raise UnsupportedModel(
            f"{source.name}: peft {peft.__version__} does not accept its adapter_config.json ({line(error)}); check it"
        ) from error
    config.inference_mode = False
    config.base_model_name_or_path = base
    if config.init_lora_weights not in _UNCHANGED_STARTS or config.init_lora_weights is False:
        config.init_lora_weights = True
    return config


def _rows(module: PreTrainedModel) -> int:
    embedding: Any = module.get_input_embeddings()
    return embedding.weight.shape[0]


@dataclass
class FullChange:
    """A model whose own weights were tuned: tensors that the fine-tune left as they were are left so here too."""

    source: Source
    module: PreTrainedModel
    tokenizer: Tokenizer
    norms: dict[str, float]
    size: float
    kind: str = "full"
    _start: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def read(
        cls, source: Source, base: Source, module: PreTrainedModel, tokenizer: Tokenizer, settings: load.Settings
    ) -> FullChange:
        """Compare the fine-tune with the loaded base, tensor by tensor; raises a PairError where they do not fit."""
        preflight.require_same_shape(base, source)
        tuned, _ = load.module(source, settings)
        theirs, norms, moved, start = dict(tuned.named_parameters()), {}, [], {}
        own = dict(module.named_parameters())
        for name in sorted(own.keys() ^ theirs.keys()):
            raise WidthMismatch(f"only one of {base.name} and {source.name} has {name}; give the model that was tuned")
        for name, value in own.items():
            if value.shape != theirs[name].shape:
                raise WidthMismatch(
                    f"{name} is {tuple(value.shape)} in the base and {tuple(theirs[name].shape)} in {source.name}; "
                    "give the model that was tuned"
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
        """How many tensors the fine-tune changed."""
        return {"tensors_trained": Setting(len(self.norms), "the fine-tuned model's weights")}

    @property
    def vocabulary(self) -> int:
        """Rows of the base's embedding."""
        return _rows(self.module)

    def begin(self, seed: int) -> nn.Module:
        """The base itself, the tensors that the fine-tune changed free to move."""
        self.end()
        torch.manual_seed(seed)
        for name, value in self.module.named_parameters():
            value.requires_grad_(name in self._start)
        return self.module

    def _changes(self) -> dict[str, Tensor]:
        own = dict(self.module.named_parameters())
        return {name: own[name].data.double() - before.double() for name, before in self._start.items()}

    def trained(self) -> tuple[dict[str, float], float]:
        """Norms and size of the change."""
        found = self._changes()
        return {name: float(to_host(value.norm())) for name, value in found.items()}, root_mean_square(found.values())

    @torch.no_grad()
    def scale(self, by: Mapping[str, float]) -> None:
        """Move every tensor along its own path."""
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
        """Put the base's own values back."""
        own = dict(self.module.named_parameters())
        for name, before in self._start.items():
            own[name].copy_(before)
        self.module.requires_grad_(False).eval()
