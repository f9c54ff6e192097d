"""Tensors of a checkpoint by name, read from its safetensors files one at a time; no model is
built.
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
from interp.models.meta_model import tied
from interp.models.renamed_tensors import renamed
from interp.models.sources import Source, about_missing, read_json

INDEX = "model.safetensors.index.json"
HALVES = {"F16": torch.float16, "BF16": torch.bfloat16}
"""Formats of 16 bits, as safetensors writes them."""
_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class Checkpoint:
    """Where each tensor of a model directory lies: name -> (file, shape, dtype as safetensors
    writes it).

    ``renamed`` are names here by names in the loaded model; ``converted`` those of tensors that are
    also put together with others, cut or transposed while they are loaded; ``unused`` names of
    which it has nothing. ``tied`` are the names in the loaded model of a head and an embedding that
    are one matrix: for one the files lack the other is read.
    """

    name: str
    places: dict[str, tuple[Path, tuple[int, ...], str]]
    renamed: Mapping[str, str] = field(default_factory=dict)
    converted: Mapping[str, str] = field(default_factory=dict)
    unused: Collection[str] = ()
    tied: tuple[str, ...] = ()

    @classmethod
    def open(cls, source: Source) -> "Checkpoint":
        """Read the headers of the files that loading the model would read.

        Raises TruncatedWeights or MissingWeights for files that are not whole, UnsupportedModel for
        a tensor that two of them hold.
        """
        require_readable(source)
        places = {}
        for path in _files(source):
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 (it is no mapping)
                    if key in places:
                        raise UnsupportedModel(
                            f"{source.name} holds {key} in {places[key][0].name} and in"
                            f" {path.name}, and nothing says which counts; move the file that does"
                            " not belong to the model elsewhere"
                        )
                    part = file.get_slice(key)
                    places[key] = (path, tuple(part.get_shape()), part.get_dtype())
        return cls(source.name, places)

    def loaded_as(self, skeleton: PreTrainedModel) -> "Checkpoint":
        """The same, which also finds a tensor by the name that it has in this model once it is
        loaded.
        """
        alone, converted, unused = renamed(self.places, skeleton)
        found = replace(self, renamed=alone, converted=converted, unused=unused)
        ends, prefix = ends_of(skeleton), skeleton.base_model_prefix
        if len(ends) < 2 or not tied(skeleton.config):
            return found
        # with two matrices that differ the configuration is wrong, and transformers ties nothing
        held = [found.find(end, prefix) for end in ends if found.has(end, prefix)]
        same = len(held) < 2 or held[0] == held[1] or torch.equal(*map(found.read, held))
        return replace(found, tied=tuple(ends)) if same else found

    def find(self, name: str, prefix: str) -> str:
        """The tensor's name here, where the body of the model may have been saved with or without
        ``prefix``.
        """
        for one in _spellings(name, prefix):
            if one in self.places:
                return one
        if name in self.renamed:
            return self.renamed[name]
        if other := self._instead(name, prefix):
            return self.find(other, prefix)
        raise MissingWeights(f"{self.name} lacks {name}; {about_missing([name], self.places)}")

    def has(self, name: str, prefix: str) -> bool:
        """Whether there is such a tensor."""
        return self.holds(name, prefix) or self._instead(name, prefix) is not None

    def holds(self, name: str, prefix: str) -> bool:
        """Whether the files have it themselves, not as the other end of a tied matrix."""
        return name in self.renamed or any(one in self.places for one in _spellings(name, prefix))

    def _instead(self, name: str, prefix: str) -> str | None:
        """The other end of a tied matrix, where the files have it under that name alone."""
        ends = self.tied if name in self.tied else ()
        return next((end for end in ends if end != name and self.holds(end, prefix)), None)

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
            raise UnsupportedModel(
                f"{self.name} holds {name} as {dtype}; give the model as it was before quantisation"
            )
        with safe_open(path, framework="pt") as file:
            stored = file.get_tensor(name)
            value = stored.to(torch.float64 if dtype == "F64" else torch.float32, copy=True)
            del stored
        if not to_host(torch.isfinite(value).all()):
            raise NonFiniteWeights(
                f"{self.name}: {name} holds NaN or infinity; the checkpoint is damaged or diverged"
            )
        return value


def ends_of(skeleton: PreTrainedModel) -> list[str]:
    """Names of the tensors of the embedding and of the head, of what there is."""
    paths = {id(module): path for path, module in skeleton.named_modules()}
    ends = (skeleton.get_input_embeddings(), skeleton.get_output_embeddings())
    return [f"{paths[id(end)]}.weight" for end in ends if end is not None]


def _files(source: Source) -> list[Path]:
    """The weight files of a directory in transformers' and peft's precedence; all there are where
    it names none.
    """
    index = source.directory / INDEX
    whole = source.directory / (
        "model.safetensors" if source.adapter is None else "adapter_model.safetensors"
    )
    if whole.exists():
        return [whole]
    if source.adapter is None and index.exists():
        return [
            source.directory / shard
            for shard in sorted(set(read_json(index)["weight_map"].values()))
        ]
    return sorted(source.directory.glob("*.safetensors"))


def _spellings(name: str, prefix: str) -> tuple[str, ...]:
    return name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}"
