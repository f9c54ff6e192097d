"""One model: a Hugging Face module, its anatomy, and the adapter state in which it is used."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

from interp.maths.precision import widen
from interp.models.anatomy import Anatomy, Target, read_anatomy
from interp.models.matrices import embedding_of, is_packed, matrix_of, shape_of
from interp.models.offload import execution_device, materialized
from interp.models.settings import setting
from interp.sites import Site, Weight

UNBOUNDED = 2**20
"""Context length, in tokens, of a model that states none."""


class AdapterSwitch:
    """The adapters inside a module, switched on and off together; the base's weights are never
    copied.
    """

    def __init__(self, module: nn.Module) -> None:
        """Collect every adapter layer (and every module stored in two versions) below ``module``."""
        kinds = (BaseTunerLayer, AuxiliaryTrainingWrapper)
        self._layers = [layer for layer in module.modules() if isinstance(layer, kinds)]
        self.enabled = True

    def set(self, enabled: bool) -> None:
        """Enable or disable all adapters; parameters stay frozen."""
        if enabled == self.enabled:
            return
        for layer in self._layers:
            layer.enable_adapters(enabled)
            layer.requires_grad_(False)
        self.enabled = enabled


@dataclass(frozen=True, eq=False)
class Model:
    """A frozen model; run it only inside ``with model.active() as module``.

    ``adapter_on``: the adapter state of a shared module in which this model is used; None without
    an adapter. ``resized``: its vocabulary has another number of rows than the saved model's.
    """

    name: str
    module: PreTrainedModel
    anatomy: Anatomy
    switch: AdapterSwitch | None = None
    adapter_on: bool | None = None
    resized: bool = False

    @classmethod
    def wrap(cls, name: str, module: PreTrainedModel, resized: bool = False) -> "Model":
        """A model without adapters, frozen and in evaluation mode."""
        module.eval().requires_grad_(False)
        return cls(name, module, read_anatomy(module), resized=resized)

    def __repr__(self) -> str:
        return f"Model({self.name!r}, {self.anatomy.architecture}, {self.anatomy.n_layers} blocks)"

    @property
    def sizes(self) -> tuple[int, int]:
        """Number of parameters: the model's own, and those of adapters inside it."""
        all_parameters = {id(part): part.numel() for part in self.module.parameters()}
        adapter_parameters: dict[int, int] = {}
        for layer in self.module.modules():
            if isinstance(layer, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
                inner = (
                    layer.get_base_layer()
                    if isinstance(layer, BaseTunerLayer)
                    else original_module(layer)
                )
                base_ids = {id(part) for part in inner.parameters()}
                adapter_parameters |= {
                    id(part): part.numel()
                    for part in layer.parameters()
                    if id(part) not in base_ids
                }
        return sum(all_parameters.values()) - sum(adapter_parameters.values()), sum(
            adapter_parameters.values()
        )

    @contextmanager
    def active(self) -> Iterator[PreTrainedModel]:
        """The module in this model's adapter state; the previous state is restored afterwards."""
        if self.switch is None or self.adapter_on is None:
            yield self.module
            return
        previous = self.switch.enabled
        self.switch.set(self.adapter_on)
        try:
            yield self.module
        finally:
            self.switch.set(previous)

    @property
    def device(self) -> torch.device:
        """Device of the token embedding, where input ids go."""
        return execution_device(self.module.get_input_embeddings())

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return embedding_of(self.module).dtype

    @property
    def cached_bytes(self) -> int:
        """Bytes of one token's keys and values in a cache, according to the configuration."""
        config, anatomy = self.module.config.get_text_config(), self.anatomy
        heads = setting(config, "num_key_value_heads") or anatomy.n_heads
        return 2 * anatomy.n_layers * heads * anatomy.head_width * self.dtype.itemsize

    @property
    def context_length(self) -> int:
        """The longest sequence that the configuration allows; a large number if it states none
        (state-space models).
        """
        return (
            getattr(self.module.config.get_text_config(), "max_position_embeddings", None)
            or UNBOUNDED
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on what is not exact in this model."""
        packed = [type(part).__name__ for part in self.module.modules() if is_packed(part)]
        if not packed:
            return ()
        return (
            (
                f"{self.name} is quantised ({len(packed)} matrices, {packed[0]}): activations, "
                "edits and gradients are those of the quantised model; weights are its dequantised "
                "ones"
            ),
        )

    def at(self, site: Site) -> tuple[nn.Module, Target]:
        """The module and side at which a site is."""
        target = self.anatomy.target(site)
        return self.module.get_submodule(target.path), target

    @torch.no_grad()
    def weight(self, weight: Weight) -> Float[Tensor, "out in"]:
        """A matrix as ``(out, in)`` in at least float32, with the adapter applied and fused ones
        split.
        """
        place = self.anatomy.place(weight)
        module = self.module.get_submodule(place.path)
        with self.active(), materialized(module):
            return place.rows_of(
                widen(effective_weight(module, self.dtype, self.adapter_on is not False))
            )

    @torch.no_grad()
    def write_weights(self, layer: int) -> Float[Tensor, "D N"]:
        """The down projection of a block, whose columns are the neurons' output weights; adapter
        applied.
        """
        return self.weight(Weight(layer, "mlp.out"))


def original_module(wrapper: AuxiliaryTrainingWrapper) -> nn.Module:
    """The original module of a wrapper that stores several versions."""
    return cast(nn.Module, wrapper.original_module)


def adapter_versions(wrapper: AuxiliaryTrainingWrapper) -> nn.ModuleDict:
    """The adapters' versions of a module, by adapter name."""
    return cast(nn.ModuleDict, wrapper.modules_to_save)


def active_version(wrapper: AuxiliaryTrainingWrapper) -> nn.Module:
    """The first active adapter's version."""
    return adapter_versions(wrapper)[wrapper.active_adapters[0]]


def effective_weight(
    module: nn.Module, dtype: torch.dtype, with_adapter: bool
) -> Float[Tensor, "out in"]:
    """A linear module's matrix with its adapter: the base's matrix, plus the adapter's effect on
    unit vectors.

    Correct for every kind of adapter, and exactly the base's matrix where the adapter adds nothing.
    """
    if isinstance(module, AuxiliaryTrainingWrapper):
        return effective_weight(
            active_version(module) if with_adapter else original_module(module), dtype, with_adapter
        )
    if not isinstance(module, BaseTunerLayer):
        return _own_matrix(module, dtype)
    inner = module.get_base_layer()
    base_matrix = _own_matrix(inner, dtype)
    if not with_adapter:
        return base_matrix
    identity = torch.eye(base_matrix.shape[1], dtype=dtype, device=base_matrix.device)
    zero_input = torch.zeros_like(identity[:1])
    adapted, plain = module(identity) - module(zero_input), inner(identity) - inner(zero_input)
    return widen(base_matrix) + (widen(adapted) - widen(plain)).T


def _own_matrix(module: nn.Module, dtype: torch.dtype) -> Float[Tensor, "out in"]:
    """A linear module's matrix; from codes, its output for unit vectors, which is the matrix it
    applies.
    """
    if not is_packed(module):
        return matrix_of(module).detach()
    identity = torch.eye(shape_of(module)[1], dtype=dtype, device=execution_device(module))
    return (module(identity) - module(torch.zeros_like(identity))).T
