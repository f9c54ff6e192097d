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

_PARTS = re.compile(
    r"base_model\.model\.(.+?)\.(lora_A|lora_B|lora_magnitude_vector|lora_embedding_[AB])(\.weight)?"
)
_SAVED = re.compile(r"base_model\.model\.(.+?)(\.base_layer)?\.weight")
_AGAIN = re.compile(r"\.(modules_to_save|original_module)\.")
_BIAS = re.compile(r"base_model\.model\..+\.bias")
# these initialisations do not change the base; others (PiSSA, OLoRA, CorDA, LoftQ ...) do
_STARTS = (True, False, "gaussian", "eva", "orthogonal")
_OTHERS = (
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
    parts: dict[str, dict[str, str]] = field(default_factory=dict)
    saved: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, source: Source, modules: Collection[str]) -> "LowRank":
        """Group the adapter's tensors; raises UnsupportedModel or AdapterNotLanded.

        ``modules`` are the dotted paths of all modules of the base.
        """
        config = dict(source.adapter or {})
        kind, start = config.get("peft_type"), config.get("init_lora_weights", True)
        if kind != "LORA":
            raise UnsupportedModel(
                f"{source.name} is a {kind} adapter and only LoRA is supported; merge it into its "
                "base"
            )
        if start not in _STARTS:
            raise UnsupportedModel(
                f"{source.name} was initialised with init_lora_weights={start!r}, which changes the "
                "base itself; merge it, save the merged model, and give that"
            )
        if used := [name for name in _OTHERS if config.get(name)]:
            raise UnsupportedModel(
                f"{source.name} uses {used[0]}, which is not supported; merge it and give the "
                "merged model"
            )
        found = cls(Checkpoint.open(source), config)
        for key in found.checkpoint.places:
            # with a resized embedding peft saves both versions a second time, under their names in
            # memory
            if _AGAIN.sub(".", key) != key and _AGAIN.sub(".", key) in found.checkpoint.places:
                continue
            if match := _PARTS.fullmatch(key):
                found.parts.setdefault(match[1], {})[match[2]] = key
            elif match := _SAVED.fullmatch(key):
                found.saved[match[1]] = key
            elif not _BIAS.fullmatch(key):
                raise UnsupportedModel(
                    f"{source.name} contains {key}, which is not part of LoRA; merge it and give "
                    "the merged model"
                )
        lost = sorted(path for path in (*found.parts, *found.saved) if path not in modules)
        if lost:
            raise AdapterNotLanded(
                f"{source.name}: tensors of {len(lost)} modules match none of this base, first "
                f"{lost[0]}; give the base it was trained on"
            )
        for path, kinds in found.parts.items():
            if not (
                {"lora_A", "lora_B"} <= set(kinds)
                or {"lora_embedding_A", "lora_embedding_B"} <= set(kinds)
            ):
                raise AdapterNotLanded(
                    f"{source.name} contains only {sorted(kinds)} for {path}; copy it again"
                )
        return found

    @property
    def touched(self) -> set[str]:
        """Modules whose matrix the adapter changes."""
        return {*self.parts, *self.saved}

    def changes_alike(self, paths: Collection[str]) -> bool:
        """Whether modules that share one matrix still do: peft keeps them tied, or the adapter
        changes none.
        """
        touched = self.touched.intersection(paths)
        return not touched or (
            touched == set(paths) and bool(self.config.get("ensure_weight_tying"))
        )

    def saved_shape(self, path: str, own: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the complete matrix in the file, or the module's own."""
        return self.checkpoint.shape(self.saved[path]) if path in self.saved else own

    def scaling(self, path: str, rank: int) -> float:
        """The factor on the product of the low-rank factors."""
        patterns = self.config.get("alpha_pattern") or {}
        alpha = patterns.get(
            get_pattern_key(list(patterns), path), self.config.get("lora_alpha", 8)
        )
        return alpha / (rank**0.5 if self.config.get("use_rslora") else rank)

    def apply(
        self, path: str, place: Place, whole: Float[Tensor, "rows in"], transposed: bool
    ) -> tuple[Float[Tensor, "out in"], Factors | None]:
        """The fine-tuned matrix, and the factors of its update if the update is their product.

        ``whole`` is the matrix of the base's module, as ``(out, in)``. Raises WrongBase for other
        shapes.
        """
        same = True
        if path in self.saved:
            matrix = self.checkpoint.read(self.saved[path])
            matrix = matrix.T if transposed else matrix
            self._require(path, tuple(matrix.shape), tuple(whole.shape))
            if path not in self.parts:
                return place.cut(matrix), None
            # peft saves the matrix of a head or an embedding with the factors of its update, and
            # loads both
            same, whole = bool(to_host((matrix == whole).all())), matrix
        kinds = self.parts[path]
        left, right = (self.checkpoint.read(kinds[name]) for name in ("lora_B", "lora_A"))
        self._require(path, (left.shape[0], right.shape[1]), tuple(whole.shape))
        left = left * self.scaling(path, right.shape[0])
        if "lora_magnitude_vector" in kinds:
            merged = whole + left @ right
            size = self.checkpoint.read(kinds["lora_magnitude_vector"]).reshape(-1, 1)
            return place.cut(merged * (size / merged.norm(dim=1, keepdim=True))), None
        mine = place.cut(left)
        return place.cut(whole) + mine @ right, (mine, right) if same else None

    def _require(self, path: str, seen: tuple[int, ...], wanted: tuple[int, ...]) -> None:
        if seen != wanted:
            raise WrongBase(
                f"{self.checkpoint.name} changes {path} with shape {seen}, the base's is {wanted}; "
                "give the base it was trained on"
            )
