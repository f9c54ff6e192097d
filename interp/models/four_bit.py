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

FORMAT_VERSION = (
    1  # version of the dequantised directories; increase it when the same files give other weights
)
INDEX = "model.safetensors.index.json"
_STATE_SUFFIX = ".quant_state.bitsandbytes__"
_COPIED_PATTERNS = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken")
_DTYPES = ("float32", "bfloat16", "float16")


def is_four_bit(config: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` declares 4-bit bitsandbytes weights."""
    quantisation = config.get("quantization_config")
    if (
        not isinstance(quantisation, dict)
        or quantisation.get("quant_method", "bitsandbytes") != "bitsandbytes"
    ):
        return False
    return bool(quantisation.get("load_in_4bit", quantisation.get("_load_in_4bit")))


def is_installed() -> bool:
    """Whether bitsandbytes, which computes with the codes, is installed."""
    return find_spec("bitsandbytes") is not None


def compute_dtype(config: Mapping[str, Any]) -> str:
    """The dtype in which the layers of such a checkpoint compute."""
    dtype = str(
        config["quantization_config"].get("bnb_4bit_compute_dtype") or "float32"
    ).removeprefix("torch.")
    return dtype if dtype in _DTYPES else "float32"


def directory(name: str, source: Path, config: Mapping[str, Any]) -> Path:
    """The dequantised directory of a 4-bit one, in the user's cache under the digest of its files.

    Numbers have the dtype in which the layers compute, as when bitsandbytes applies the codes.
    ``name`` is used in errors. Raises TruncatedWeights or UnsupportedModel.
    """
    digest = directory_digest(source, ("*.safetensors", *_COPIED_PATTERNS))[:20]
    target = (
        organisms.cache_root()
        / "four-bit"
        / f"{digest}-{FORMAT_VERSION}"
        / (source.resolve().name or "model")
    )
    return organisms.write_once(target, lambda place: _write(name, source, config, place))


def _write(name: str, source: Path, config: Mapping[str, Any], target: Path) -> None:
    import torch
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    dtype = getattr(torch, compute_dtype(config))
    files: dict[str, list[str]] = {}
    try:
        for path in sorted(source.glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                files[path.name] = list(file.keys())
        file_of_key = {key: source / path for path, keys in files.items() for key in keys}

        def read(key: str) -> Tensor:
            if key not in file_of_key:
                raise TruncatedWeights(
                    f"{name} lacks {key}, which is needed to decode its 4-bit weights; download it "
                    "again"
                )
            with safe_open(file_of_key[key], "pt") as file:
                return file.get_tensor(key)

        state_keys = {
            key.partition(_STATE_SUFFIX)[0]: key for key in file_of_key if _STATE_SUFFIX in key
        }
        code_tensors = {
            f"{weight}.{part}"
            for weight in state_keys
            for part in _code_tensor_kinds(file_of_key, weight)
        }
        index: dict[str, str] = {}
        for path, keys in files.items():
            tensors = {}
            for key in keys:
                if key in state_keys:
                    tensors[key] = _decoded(name, key, read, state_keys[key]).to(dtype)
                elif _STATE_SUFFIX not in key and key not in code_tensors:
                    tensors[key] = read(key)
            index |= dict.fromkeys(tensors, path)
            save_file(tensors, target / path, {"format": "pt"})
    except (SafetensorError, EOFError) as error:
        raise TruncatedWeights(
            f"{name}: weights cannot be read ({error}); copy or download it again"
        ) from error
    for pattern in _COPIED_PATTERNS:
        for path in source.glob(pattern):
            shutil.copyfile(path, target / path.name)
    plain_config = {key: value for key, value in config.items() if key != "quantization_config"}
    (target / "config.json").write_text(json.dumps(plain_config, indent=2), encoding="utf-8")
    if (source / INDEX).exists():
        (target / INDEX).write_text(
            json.dumps({"metadata": {}, "weight_map": index}), encoding="utf-8"
        )


def _code_tensor_kinds(keys: Mapping[str, Path], weight: str) -> list[str]:
    kinds = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
    return [part for part in kinds if f"{weight}.{part}" in keys]


def _decoded(name: str, weight: str, read: Callable[[str], Tensor], state_key: str) -> Tensor:
    """The decoded values of one weight, in float32 and in its shape."""
    import torch

    from interp.maths.host import to_host

    try:
        quant_state = json.loads(bytes(to_host(read(state_key))))
        shape, size = (
            tuple(int(side) for side in quant_state["shape"]),
            int(quant_state["blocksize"]),
        )
        absmax, codes = read(f"{weight}.absmax"), read(weight).view(torch.uint8).flatten()
        if "nested_blocksize" in quant_state:
            scales = read(f"{weight}.nested_quant_map")[absmax.int()]
            absmax = _times_scales(
                scales, read(f"{weight}.nested_absmax"), int(quant_state["nested_blocksize"])
            )
            absmax = absmax + quant_state["nested_offset"]
        pairs = torch.stack([codes >> 4, codes & 15], 1).flatten()[: torch.Size(shape).numel()]
        return _times_scales(
            read(f"{weight}.quant_map")[pairs.int()], absmax.float(), size
        ).reshape(shape)
    except (ValueError, KeyError, TypeError, RuntimeError, IndexError) as error:
        raise UnsupportedModel(
            f"{name} stores {weight} as 4-bit codes in an unknown format "
            f"({' '.join(str(error).split())[:120]}); run: pip install bitsandbytes, or give the "
            "unquantised model"
        ) from error


def _times_scales(numbers: Tensor, scales: Tensor, size: int) -> Tensor:
    """Numbers ``[n]`` times the scale of their block of ``size``; the last block may be shorter."""
    return numbers.float() * scales.float().repeat_interleave(size)[: len(numbers)]
