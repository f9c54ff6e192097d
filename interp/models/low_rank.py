"""The update of each matrix by a LoRA adapter, from its files alone: plain, rank-stabilised, or
DoRA.

Other kinds of adapters, or ones that change more than matrices, raise an error that names the
reason. Every tensor of the file must belong to a module of the base, as when a model is loaded.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from peft.utils.other import get_pattern_key
from torch import Tensor

from interp.errors import AdapterNotLanded, UnsupportedModel, WrongBase
from interp.maths.host import to_host
from interp.models.anatomy import Place
from interp.models.checkpoint import Checkpoint
from interp.models.sources import Source

Factors = tuple[Float[Tensor, "out r"], Float[Tensor, "r in"]]

_FACTOR_KEY = re.compile(
    r"base_model\.model\.(.+?)\.(lora_A|lora_B|lora_magnitude_vector|lora_embedding_[AB])(\.weight)?"
)
_SAVED_KEY = re.compile(r"base_model\.model\.(.+?)(\.base_layer)?\.weight")
_DUPLICATE_KEY = re.compile(r"\.(modules_to_save|original_module)\.")
_BIAS_KEY = re.compile(r"base_model\.model\..+\.bias")
# these initialisations do not change the base; others (PiSSA, OLoRA, CorDA, LoftQ ...) do
_BASE_PRESERVING_INITIALISATIONS = (True, False, "gaussian", "eva", "orthogonal")
_UNSUPPORTED_OPTIONS = (
    "alora_invocation_tokens",
    "arrow_config",
    "layer_replication",
    "megatron_config",
    "target_parameters",
    "use_qalora",
    "use_bdlora",
    "trainable_token_indices",
)


@dataclass(frozen=True)
class LowRank:
    """An adapter's tensors by module of the base and kind; ``saved`` are complete matrices in its
    file.
    """

    checkpoint: Checkpoint
    config: dict[str, Any]
    factor_keys: dict[str, dict[str, str]] = field(default_factory=dict)
    saved: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, source: Source, modules: Collection[str]) -> "LowRank":
        """Group the adapter's tensors; raises UnsupportedModel or AdapterNotLanded.

        ``modules`` are the dotted paths of all modules of the base.
        """
        config = dict(source.adapter or {})
        kind, initialisation = config.get("peft_type"), config.get("init_lora_weights", True)
        if kind != "LORA":
            raise UnsupportedModel(
                f"{source.name} is a {kind} adapter and only LoRA is supported; merge it into its "
                "base"
            )
        if initialisation not in _BASE_PRESERVING_INITIALISATIONS:
            raise UnsupportedModel(
                f"{source.name} was initialised with init_lora_weights={initialisation!r}, which"
                " changes the base itself; merge it, save the merged model, and give that"
            )
        if unsupported := [name for name in _UNSUPPORTED_OPTIONS if config.get(name)]:
            raise UnsupportedModel(
                f"{source.name} uses {unsupported[0]}, which is not supported; merge it and give"
                " the merged model"
            )
        adapter = cls(Checkpoint.open(source), config)
        for key in adapter.checkpoint.locations:
            # with a resized embedding peft saves both versions a second time, under their names in
            # memory
            if (
                _DUPLICATE_KEY.sub(".", key) != key
                and _DUPLICATE_KEY.sub(".", key) in adapter.checkpoint.locations
            ):
                continue
            if match := _FACTOR_KEY.fullmatch(key):
                adapter.factor_keys.setdefault(match[1], {})[match[2]] = key
            elif match := _SAVED_KEY.fullmatch(key):
                adapter.saved[match[1]] = key
            elif not _BIAS_KEY.fullmatch(key):
                raise UnsupportedModel(
                    f"{source.name} contains {key}, which is not part of LoRA; merge it and give "
                    "the merged model"
                )
        unmatched = sorted(
            path for path in (*adapter.factor_keys, *adapter.saved) if path not in modules
        )
        if unmatched:
            raise AdapterNotLanded(
                f"{source.name}: tensors of {len(unmatched)} modules match none of this base, first"
                f" {unmatched[0]}; give the base it was trained on"
            )
        for path, kinds in adapter.factor_keys.items():
            if not (
                {"lora_A", "lora_B"} <= set(kinds)
                or {"lora_embedding_A", "lora_embedding_B"} <= set(kinds)
            ):
                raise AdapterNotLanded(
                    f"{source.name} contains only {sorted(kinds)} for {path}; copy it again"
                )
        return adapter

    @property
    def changed_modules(self) -> set[str]:
        """Modules whose matrix the adapter changes."""
        return {*self.factor_keys, *self.saved}

    def keeps_tied(self, paths: Collection[str]) -> bool:
        """Whether modules that share one matrix still do: peft keeps them tied, or the adapter
        changes none.
        """
        touched = self.changed_modules.intersection(paths)
        return not touched or (
            touched == set(paths) and bool(self.config.get("ensure_weight_tying"))
        )

    def saved_shape(self, path: str, base_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the complete matrix in the file, or the module's own."""
        return self.checkpoint.shape(self.saved[path]) if path in self.saved else base_shape

    def scaling(self, path: str, rank: int) -> float:
        """The factor on the product of the low-rank factors."""
        patterns = self.config.get("alpha_pattern") or {}
        alpha = patterns.get(
            get_pattern_key(list(patterns), path), self.config.get("lora_alpha", 8)
        )
        return alpha / (rank**0.5 if self.config.get("use_rslora") else rank)

    def apply(
        self, path: str, place: Place, base_matrix: Float[Tensor, "rows in"], transposed: bool
    ) -> tuple[Float[Tensor, "out in"], Factors | None]:
        """The fine-tuned matrix, and the factors of its update if the update is their product.

        ``base_matrix`` is the matrix of the base's module, as ``(out, in)``. Raises WrongBase for
        other shapes.
        """
        base_unchanged = True
        if path in self.saved:
            matrix = self.checkpoint.read(self.saved[path])
            matrix = matrix.T if transposed else matrix
            self._require_shape(path, tuple(matrix.shape), tuple(base_matrix.shape))
            if path not in self.factor_keys:
                return place.rows_of(matrix), None
            # peft saves the matrix of a head or an embedding with the factors of its update, and
            # loads both
            base_unchanged, base_matrix = bool(to_host((matrix == base_matrix).all())), matrix
        kinds = self.factor_keys[path]
        left, right = (self.checkpoint.read(kinds[name]) for name in ("lora_B", "lora_A"))
        self._require_shape(path, (left.shape[0], right.shape[1]), tuple(base_matrix.shape))
        left = left * self.scaling(path, right.shape[0])
        if "lora_magnitude_vector" in kinds:
            merged = base_matrix + left @ right
            magnitude = self.checkpoint.read(kinds["lora_magnitude_vector"]).reshape(-1, 1)
            return place.rows_of(merged * (magnitude / merged.norm(dim=1, keepdim=True))), None
        left_rows = place.rows_of(left)
        return place.rows_of(base_matrix) + left_rows @ right, (
            (
                left_rows,
                right,
            )
            if base_unchanged
            else None
        )

    def _require_shape(
        self, path: str, shape: tuple[int, ...], base_shape: tuple[int, ...]
    ) -> None:
        if shape != base_shape:
            raise WrongBase(
                f"{self.checkpoint.name} changes {path} with shape {shape}, the base's is"
                f" {base_shape}; give the base it was trained on"
            )
