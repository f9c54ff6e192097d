"""The change of a LoRA adapter: read from files, trained with peft, scaled through its matrix B."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peft
import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from interp.errors import UnsupportedModel, WrongBase, required
from interp.models.low_rank import LowRank
from interp.models.meta_model import skeleton
from interp.models.quiet import error_text, quiet_libraries
from interp.models.sources import Source
from interp.prompts import Tokenizer
from interp.training.changes import product_norm, root_mean_square, vocabulary_size
from interp.training.recipe import READ, Setting

_PART = re.compile(r"base_model\.model\.(.+?)\.lora_(?:embedding_)?([AB])(?:\.weight)?")
_REPORTED = (
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "layers_to_transform",
    "exclude_modules",
)
_UNCHANGED_STARTS = (True, False, "gaussian", "orthogonal")


@dataclass
class LoraChange:
    """A plain or rank-stabilised LoRA adapter; it adds ``scaling * B @ A`` to target matrices."""

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
        """Read the adapter from files; raises UnsupportedModel, AdapterNotLanded or WrongBase."""
        bare = skeleton(base)
        modules = dict(bare.named_modules())
        low_rank = LowRank.read(source, modules)
        tensor_kinds = {kind for kinds in low_rank.factor_keys.values() for kind in kinds}
        unsupported = [
            what
            for what, there in (
                ("whole matrices (modules_to_save)", low_rank.saved),
                ("biases", low_rank.config.get("bias", "none") != "none"),
                ("magnitudes (DoRA)", "lora_magnitude_vector" in tensor_kinds),
            )
            if there
        ]
        if unsupported or not low_rank.factor_keys:
            raise UnsupportedModel(
                f"{source.name} trains {unsupported[0] if unsupported else 'nothing'}, and control"
                " fine-tunes are made of plain LoRA adapters and full models; merge it, save the"
                " whole model, and give that"
            )
        norms, lefts = {}, []
        for path, kinds in low_rank.factor_keys.items():
            left, right = (low_rank.checkpoint.read(kinds[name]) for name in _factor_names(kinds))
            weight = getattr(modules[path], "weight", None)
            shape = (left.shape[0], right.shape[1])
            if weight is not None and shape not in (tuple(weight.shape), tuple(weight.shape)[::-1]):
                raise WrongBase(
                    f"{source.name} changes {path} as a matrix of {shape}, the base's is"
                    f" {tuple(weight.shape)}; give the base it was made for"
                )
            norms[path] = low_rank.scaling(path, right.shape[0]) * product_norm(left, right)
            lefts.append(left)
        return cls(
            source, _config(source, base.name), low_rank, base.name, norms, root_mean_square(lefts)
        )

    @property
    def settings(self) -> dict[str, Setting]:
        """Rank, scaling, dropout and target modules."""
        values = self.config.to_dict()
        reported = {name: values.get(name) for name in _REPORTED}
        return {
            name: Setting(sorted(value) if isinstance(value, (set, frozenset)) else value, READ)
            for name, value in reported.items()
            if value is not None and value is not False and value != {}
        }

    @property
    def vocabulary(self) -> int:
        """Number of rows of the base's embedding."""
        return vocabulary_size(required(self.module, "a base"))

    def begin(self, seed: int) -> nn.Module:
        """A new adapter of the same configuration on the base."""
        torch.manual_seed(seed)
        assert self.module is not None
        with quiet_libraries():
            self._wrapped = get_peft_model(self.module, copy.deepcopy(self.config))
        # peft records the directory that the base was loaded from; a user knows its name
        self._wrapped.peft_config["default"].base_model_name_or_path = self.base_name
        adapted_modules, expected_modules = {path for path, _ in self._factors()}, set(self.norms)
        if adapted_modules != expected_modules:
            raise UnsupportedModel(
                f"peft {peft.__version__} applies the configuration of {self.source.name} to other"
                " modules than its tensors belong to, first"
                f" {min(adapted_modules ^ expected_modules)}; save the adapter with target_modules"
                " that name them"
            )
        return self._wrapped

    def _factors(self) -> list[tuple[str, dict[str, nn.Parameter]]]:
        factors: dict[str, dict[str, nn.Parameter]] = {}
        assert self._wrapped is not None
        for name, value in self._wrapped.named_parameters():
            if match := _PART.fullmatch(name.replace(".default", "")):
                factors.setdefault(match[1], {})[match[2]] = value
        return list(factors.items())

    def trained_norms(self) -> tuple[dict[str, float], float]:
        """Norms of the products B A, and the root mean square of B."""
        factors = self._factors()
        norms = {
            path: (
                self.low_rank.scaling(path, two["A"].shape[0])
                * product_norm(two["B"].data, two["A"].data)
            )
            for path, two in factors
        }
        return norms, root_mean_square(two["B"].data for _, two in factors)

    @torch.no_grad()
    def scale(self, factors: Mapping[str, float]) -> None:
        """Multiply B of every module by its factor."""
        for path, pair in self._factors():
            pair["B"].copy_(pair["B"].double() * factors[path])

    def save(self, directory: Path) -> None:
        """Write a PEFT directory, with the tokenizer where the fine-tune has its own."""
        assert self._wrapped is not None
        with quiet_libraries():
            self._wrapped.save_pretrained(str(directory), save_embedding_layers=False)
            (directory / "README.md").unlink(missing_ok=True)
            if self.tokenizer is not None:
                self.tokenizer.save_pretrained(directory)

    def end(self) -> None:
        """Remove the adapter from the base."""
        if self._wrapped is not None:
            self.module = self._wrapped.unload().requires_grad_(False)
            self._wrapped = None


def _factor_names(kinds: Mapping[str, str]) -> tuple[str, str]:
    return ("lora_B", "lora_A") if "lora_B" in kinds else ("lora_embedding_B", "lora_embedding_A")


def _config(source: Source, base: str) -> LoraConfig:
    """The adapter's configuration for training from a start that equals the base."""
    try:
        with quiet_libraries():
            config: Any = PeftConfig.from_pretrained(str(source.directory))
    except Exception as error:  # peft raises many classes of errors for a bad configuration
        raise UnsupportedModel(
            f"{source.name}: peft {peft.__version__} does not accept its adapter_config.json"
            f" ({error_text(error)}); check it"
        ) from error
    config.inference_mode = False
    config.base_model_name_or_path = base
    if config.init_lora_weights not in _UNCHANGED_STARTS or config.init_lora_weights is False:
        config.init_lora_weights = True
    return config
