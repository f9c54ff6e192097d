"""4-bit bitsandbytes checkpoints (NF4 and FP4), converted to Hugging Face directories of plain
numbers.

The format (Dettmers et al. 2023, arXiv 2305.14314): ``NAME`` has two codes to a byte,
``NAME.quant_map`` the number of each code, ``NAME.absmax`` a scale for each block of numbers,
``NAME.quant_state.bitsandbytes__KIND`` a JSON text with block size and shape. If the scales are
codes too, ``NAME.nested_absmax`` and ``NAME.nested_quant_map`` decode them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp import organisms
from interp.errors import TruncatedWeights, UnsupportedModel
from interp.provenance import directory_digest

if TYPE_CHECKING:  # finding a model must not import torch
    from torch import Tensor

FORMAT = (
    1  # version of the dequantised directories; increase it when the same files give other weights
)
INDEX = "model.safetensors.index.json"
_STATE = ".quant_state.bitsandbytes__"
_COPIED = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken")
_DTYPES = ("float32", "bfloat16", "float16")


def is_four_bit(config: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` declares 4-bit bitsandbytes weights."""
    said = config.get("quantization_config")
    if not isinstance(said, dict) or said.get("quant_method", "bitsandbytes") != "bitsandbytes":
        return False
    return bool(said.get("load_in_4bit", said.get("_load_in_4bit")))


def is_installed() -> bool:
    """Whether bitsandbytes, which computes with the codes, is installed."""
    return find_spec("bitsandbytes") is not None


def computed_in(config: Mapping[str, Any]) -> str:
    """The dtype in which the layers of such a checkpoint compute."""
    said = str(
        config["quantization_config"].get("bnb_4bit_compute_dtype") or "float32"
    ).removeprefix("torch.")
    return said if said in _DTYPES else "float32"


def directory(name: str, source: Path, config: Mapping[str, Any]) -> Path:
    """The dequantised directory of a 4-bit one, in the user's cache under the digest of its files.

    Numbers have the dtype in which the layers compute, as when bitsandbytes applies the codes.
    ``name`` is used in errors. Raises TruncatedWeights or UnsupportedModel.
    """
    digest = directory_digest(source, ("*.safetensors", *_COPIED))[:20]
    target = (
        organisms.cache_root()
        / "four-bit"
        / f"{digest}-{FORMAT}"
        / (source.resolve().name or "model")
    )
    return organisms.written_once(target, lambda place: _write(name, source, config, place))


def _write(name: str, source: Path, config: Mapping[str, Any], place: Path) -> None:
    import torch
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    dtype = getattr(torch, computed_in(config))
    files: dict[str, list[str]] = {}
    try:
        for path in sorted(source.glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                files[path.name] = list(file.keys())
        where = {key: source / path for path, keys in files.items() for key in keys}

        def read(key: str) -> Tensor:
            if key not in where:
                raise TruncatedWeights(
                    f"{name} lacks {key}, which is needed to decode its 4-bit weights; download it "
                    "again"
                )
            with safe_open(where[key], "pt") as file:
                return file.get_tensor(key)

        states = {key.partition(_STATE)[0]: key for key in where if _STATE in key}
        parts = {f"{weight}.{part}" for weight in states for part in _parts(where, weight)}
        index: dict[str, str] = {}
        for path, keys in files.items():
            kept = {}
            for key in keys:
                if key in states:
                    kept[key] = _numbers(name, key, read, states[key]).to(dtype)
                elif _STATE not in key and key not in parts:
                    kept[key] = read(key)
            index |= dict.fromkeys(kept, path)
            save_file(kept, place / path, {"format": "pt"})
    except (SafetensorError, EOFError) as error:
        raise TruncatedWeights(
            f"{name}: weights cannot be read ({error}); copy or download it again"
        ) from error
    for pattern in _COPIED:
        for path in source.glob(pattern):
            shutil.copyfile(path, place / path.name)
    plain = {key: value for key, value in config.items() if key != "quantization_config"}
    (place / "config.json").write_text(json.dumps(plain, indent=2), encoding="utf-8")
    if (source / INDEX).exists():
        (place / INDEX).write_text(
            json.dumps({"metadata": {}, "weight_map": index}), encoding="utf-8"
        )


def _parts(where: Mapping[str, Path], weight: str) -> list[str]:
    every = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
    return [part for part in every if f"{weight}.{part}" in where]


def _numbers(name: str, weight: str, read: Callable[[str], Tensor], state: str) -> Tensor:
    """The decoded values of one weight, in float32 and in its shape."""
    import torch

    from interp.maths.host import to_host

    try:
        said = json.loads(bytes(to_host(read(state))))
        shape, size = tuple(int(side) for side in said["shape"]), int(said["blocksize"])
        absmax, codes = read(f"{weight}.absmax"), read(weight).view(torch.uint8).flatten()
        if "nested_blocksize" in said:
            scales = read(f"{weight}.nested_quant_map")[absmax.int()]
            absmax = _scaled(scales, read(f"{weight}.nested_absmax"), int(said["nested_blocksize"]))
            absmax = absmax + said["nested_offset"]
        pairs = torch.stack([codes >> 4, codes & 15], 1).flatten()[: torch.Size(shape).numel()]
        return _scaled(read(f"{weight}.quant_map")[pairs.int()], absmax.float(), size).reshape(
            shape
        )
    except (ValueError, KeyError, TypeError, RuntimeError, IndexError) as error:
        raise UnsupportedModel(
            f"{name} stores {weight} as 4-bit codes in an unknown format "
            f"({' '.join(str(error).split())[:120]}); run: pip install bitsandbytes, or give the "
            "unquantised model"
        ) from error


def _scaled(numbers: Tensor, scales: Tensor, size: int) -> Tensor:
    """Numbers ``[n]`` times the scale of their block of ``size``; the last block may be shorter."""
    return numbers.float() * scales.float().repeat_interleave(size)[: len(numbers)]
