"""Tensors of a checkpoint by name, read from its safetensors files one at a time without building a
model.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel

from interp.errors import MissingWeights, NonFiniteWeights, UnsupportedModel
from interp.maths.host import to_host
from interp.models.load import require_readable
from interp.models.meta_model import is_tied
from interp.models.renamed_tensors import name_mappings
from interp.models.sources import Source, missing_tensors_advice, read_json

INDEX = "model.safetensors.index.json"
HALF_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16}
"""16-bit formats, as safetensors names them."""
_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class Checkpoint:
    """Location of each tensor of a model directory: name -> (file, shape, dtype as safetensors
    names it).

    ``renamed`` maps names in the loaded model to names in the files; ``converted`` does so for
    tensors that are also joined with others, split or transposed during loading; ``unused`` are
    names in the files that the model does not have. ``tied`` are the names of head and embedding if
    they are one matrix: if one is missing from the files, the other is read.
    """

    name: str
    locations: dict[str, tuple[Path, tuple[int, ...], str]]
    renamed: Mapping[str, str] = field(default_factory=dict)
    converted: Mapping[str, str] = field(default_factory=dict)
    unused: Collection[str] = ()
    tied: tuple[str, ...] = ()

    @classmethod
    def open(cls, source: Source) -> "Checkpoint":
        """Read the headers of the files that loading the model would read.

        Raises TruncatedWeights or MissingWeights for incomplete files, UnsupportedModel for a
        tensor that two files contain.
        """
        require_readable(source)
        locations = {}
        for path in _weight_files(source):
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 (not a mapping)
                    if key in locations:
                        raise UnsupportedModel(
                            f"{source.name} contains {key} both in {locations[key][0].name} and in "
                            f"{path.name}; move the file that does not belong to the model "
                            "elsewhere"
                        )
                    tensor_slice = file.get_slice(key)
                    locations[key] = (
                        path,
                        tuple(tensor_slice.get_shape()),
                        tensor_slice.get_dtype(),
                    )
        return cls(source.name, locations)

    def loaded_as(self, skeleton: PreTrainedModel) -> "Checkpoint":
        """The same checkpoint, in which tensors can also be found by their names in this model."""
        only_renamed, converted, unused = name_mappings(self.locations, skeleton)
        checkpoint = replace(self, renamed=only_renamed, converted=converted, unused=unused)
        ends, prefix = embedding_and_head(skeleton), skeleton.base_model_prefix
        if len(ends) < 2 or not is_tied(skeleton.config):
            return checkpoint
        # if the files have two different matrices, transformers ties nothing, whatever the
        # configuration says
        stored_names = [checkpoint.find(end, prefix) for end in ends if checkpoint.has(end, prefix)]
        are_equal = (
            len(stored_names) < 2
            or stored_names[0] == stored_names[1]
            or torch.equal(*map(checkpoint.read, stored_names))
        )
        return replace(checkpoint, tied=tuple(ends)) if are_equal else checkpoint

    def find(self, name: str, prefix: str) -> str:
        """The name of a tensor in the files; the model's body may have been saved with or without
        ``prefix``.
        """
        for variant in _name_variants(name, prefix):
            if variant in self.locations:
                return variant
        if name in self.renamed:
            return self.renamed[name]
        if tied_name := self.tied_to(name, prefix):
            return self.find(tied_name, prefix)
        raise MissingWeights(
            f"{self.name} lacks {name}; {missing_tensors_advice([name], self.locations)}"
        )

    def has(self, name: str, prefix: str) -> bool:
        """Whether there is such a tensor."""
        return self.holds(name, prefix) or self.tied_to(name, prefix) is not None

    def holds(self, name: str, prefix: str) -> bool:
        """Whether the files contain the tensor itself, not only the other end of a tied matrix."""
        return name in self.renamed or any(
            variant in self.locations for variant in _name_variants(name, prefix)
        )

    def tied_to(self, name: str, prefix: str) -> str | None:
        """The other end of a tied matrix, if the files contain only that one."""
        ends = self.tied if name in self.tied else ()
        return next((end for end in ends if end != name and self.holds(end, prefix)), None)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self.locations[name][1]

    def half_dtype(self, name: str, prefix: str) -> torch.dtype | None:
        """The 16-bit format in which a tensor is stored; None if it has more bits."""
        return HALF_DTYPES.get(self.locations[self.find(name, prefix)][2])

    def read(self, name: str) -> Tensor:
        """One tensor in at least float32, copied, so that its file need not stay mapped.

        Raises UnsupportedModel for quantisation codes, NonFiniteWeights for NaN or infinity.
        """
        path, _, dtype = self.locations[name]
        if dtype not in _FLOATS:
            raise UnsupportedModel(
                f"{self.name} stores {name} as {dtype}; give the unquantised model"
            )
        with safe_open(path, framework="pt") as file:
            stored = file.get_tensor(name)
            value = stored.to(torch.float64 if dtype == "F64" else torch.float32, copy=True)
            del stored
        if not to_host(torch.isfinite(value).all()):
            raise NonFiniteWeights(
                f"{self.name}: {name} contains NaN or infinity; the checkpoint is damaged or its "
                "training diverged"
            )
        return value


def embedding_and_head(skeleton: PreTrainedModel) -> list[str]:
    """Names of the tensors of the embedding and of the head, if they exist."""
    paths = {id(module): path for path, module in skeleton.named_modules()}
    modules = (skeleton.get_input_embeddings(), skeleton.get_output_embeddings())
    return [f"{paths[id(end)]}.weight" for end in modules if end is not None]


def _weight_files(source: Source) -> list[Path]:
    """The weight files of a directory in the precedence of transformers and peft; all of them if
    none has a standard name.
    """
    index = source.directory / INDEX
    single_file = source.directory / (
        "model.safetensors" if source.adapter is None else "adapter_model.safetensors"
    )
    if single_file.exists():
        return [single_file]
    if source.adapter is None and index.exists():
        return [
            source.directory / shard
            for shard in sorted(set(read_json(index)["weight_map"].values()))
        ]
    return sorted(source.directory.glob("*.safetensors"))


def _name_variants(name: str, prefix: str) -> tuple[str, ...]:
    return name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}"
