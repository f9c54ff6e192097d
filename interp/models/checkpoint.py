"""Tensors of a checkpoint by name, read from its safetensors files one at a time; no model is built."""

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
from interp.models.renamed import renamed
from interp.models.sources import Source, about_missing, read_json

INDEX = "model.safetensors.index.json"
HALVES = {"F16": torch.float16, "BF16": torch.bfloat16}
"""Formats of 16 bits, as safetensors writes them."""
_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class Checkpoint:
    """Where each tensor of a model directory lies: name -> (file, shape, dtype as safetensors writes it).

    ``renamed`` are names here by names in the loaded model; ``converted`` those of tensors that are also put together
    with others, cut or transposed while they are loaded; ``unused`` names of which it has nothing.
    """

    name: str
    places: dict[str, tuple[Path, tuple[int, ...], str]]
    renamed: Mapping[str, str] = field(default_factory=dict)
    converted: Mapping[str, str] = field(default_factory=dict)
    unused: Collection[str] = ()

    @classmethod
    def open(cls, source: Source) -> "Checkpoint":
        """Read the headers of the files that loading the model would read.

        Raises TruncatedWeights or MissingWeights for files that are not whole, UnsupportedModel for a tensor that two
        of them hold.
        """
        require_readable(source)
        places = {}
        for path in _files(source):
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 (it is no mapping)
                    if key in places:
                        raise UnsupportedModel(
                            f"{source.name} holds {key} in {places[key][0].name} and in {path.name}, and nothing says "
                            "which counts; move the file that does not belong to the model elsewhere"
                        )
                    part = file.get_slice(key)
                    places[key] = (path, tuple(part.get_shape()), part.get_dtype())
        return cls(source.name, places)

    def loaded_as(self, skeleton: PreTrainedModel) -> "Checkpoint":
        """The same, which also finds a tensor by the name that it has in this model once it is loaded."""
        alone, converted, unused = renamed(self.places, skeleton)
        return replace(self, renamed=alone, converted=converted, unused=unused)

    def find(self, name: str, prefix: str) -> str:
        """The tensor's name here, where the body of the model may have been saved with or without ``prefix``."""
        for one in _spellings(name, prefix):
            if one in self.places:
                return one
        if name in self.renamed:
            return self.renamed[name]
        raise MissingWeights(f"{self.name} lacks {name}; {about_missing([name], self.places)}")

    def has(self, name: str, prefix: str) -> bool:
        """Whether there is such a tensor."""
        return name in self.renamed or any(one in self.places for one in _spellings(name, prefix))

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self.places[name][1]

    def half(self, name: str, prefix: str) -> torch.dtype | None:
        """The format of 16 bits in which a tensor is kept here; None where it has more."""
        return HALVES.get(self.places[self.find(name, prefix)][2])

    def read(self, name: str) -> Tensor:
        """One tensor in at least float32, copied, so that its file need not stay mapped.

        Raises UnsupportedModel for codes of a quantisation, NonFiniteWeights for NaN or infinity.
        """
        path, _, dtype = self.places[name]
        if dtype not in _FLOATS:
            raise UnsupportedModel(f"{self.name} holds {name} as {dtype}; give the model as it was before quantisation")
        with safe_open(path, framework="pt") as file:
            stored = file.get_tensor(name)
            value = stored.to(torch.float64 if dtype == "F64" else torch.float32, copy=True)
            del stored
        if not to_host(torch.isfinite(value).all()):
            raise NonFiniteWeights(f"{self.name}: {name} holds NaN or infinity; the checkpoint is damaged or diverged")
        return value


def _files(source: Source) -> list[Path]:
    """The weight files of a directory in transformers' and peft's precedence; all there are where it names none."""
    index = source.directory / INDEX
    whole = source.directory / ("model.safetensors" if source.adapter is None else "adapter_model.safetensors")
    if whole.exists():
        return [whole]
    if source.adapter is None and index.exists():
        return [source.directory / shard for shard in sorted(set(read_json(index)["weight_map"].values()))]
    return sorted(source.directory.glob("*.safetensors"))


def _spellings(name: str, prefix: str) -> tuple[str, ...]:
    return name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}"
