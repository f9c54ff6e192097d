"""sparsify 1.3 (EleutherAI): a folder per hookpoint with ``cfg.json`` and ``sae.safetensors``;
top-k only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from interp.errors import DictionaryError, OptionError
from interp.sae.core.config import DictionaryConfig
from interp.sae.core.dictionary import Dictionary
from interp.sae.core.files import dictionary_from_tensors, read_tensors
from interp.sae.formats.base import (
    Format,
    LoadedDictionary,
    describe,
    has_unexpected_norms,
    has_unit_rows,
    least_precise_dtype,
    norm_range,
    peek_json,
    ranked_by_value,
    read_json,
    renamed_parameters,
    renamed_tensors,
    required_field,
    simplified,
    with_input_bias,
    write_json,
)

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
NAMES = {"encoder.weight.T": "W_enc", "encoder.bias": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec"}


def holds(path: Path) -> bool:
    """Whether a folder is that of one hookpoint."""
    return (path / WEIGHTS).exists() and (path / CONFIG).exists()


def read(path: Path) -> LoadedDictionary:
    """A ``SparseCoder``: top-k after a relu, ``W_dec`` not transposed, no input bias for a
    transcoder.
    """
    settings = read_json(path / CONFIG)
    if (activation := settings.get("activation", "topk")) != "topk":
        raise DictionaryError(f"{path}: activation {activation!r} is not supported, only topk")
    if settings.get("signed"):
        raise DictionaryError(
            f"{path}: signed codes (the k largest in magnitude) are not supported, only topk"
        )
    d_in, transcode = (
        required_field(settings, "d_in", int, path / CONFIG),
        bool(settings.get("transcode")),
    )
    tensors = read_tensors(path / WEIGHTS)
    stored_dtype = least_precise_dtype(tensors)
    names = dict(NAMES)
    if "decoder.weight" in tensors:
        # before version 1.0 the decoder was a linear layer
        names = {"decoder.weight.T" if key == "W_dec" else key: ours for key, ours in names.items()}
    if settings.get("skip_connection"):
        names["W_skip"] = "W_skip"
    try:
        config = DictionaryConfig(
            "topk",
            d_in,
            settings.get("num_latents") or d_in * settings.get("expansion_factor", 32),
            d_out=d_in if transcode else None,
            k=required_field(settings, "k", int, path / CONFIG),
            input_bias=not transcode,
            skip=bool(settings.get("skip_connection")),
            loss="fraction",
        )
    except OptionError as error:
        raise DictionaryError(f"{path / CONFIG}: {error}") from error
    dictionary = dictionary_from_tensors(
        config, renamed_tensors(tensors, names, path / WEIGHTS), str(path)
    )
    doubts = []
    # its trainer normalises rows before a step and saves after the step
    if (
        settings.get("normalize_decoder", True)
        and not transcode
        and has_unexpected_norms(dictionary)
    ):
        doubts.append(
            f"{path}: normalize_decoder says that decoder rows have norm 1, these have norm"
            f" {norm_range(dictionary.decoder_norms)}: it is half-folded"
        )
    training = peek_json(path.parent / "config.json")
    # the library identifies hookpoints by folder names, which anybody may change
    hookpoints = training.get("hookpoints") or []
    about = describe(
        "sparsify",
        model=training.get("model"),
        site=hookpoints[0] if len(hookpoints) == 1 else None,
        folded={"decoder_norm": has_unit_rows(dictionary, stored_dtype), "scale": True},
        mask={key: training[key] for key in ("exclude_tokens", "ctx_len") if training.get(key)},
        source=settings,
    )
    return LoadedDictionary(dictionary, about, tuple(doubts))


def write(dictionary: Dictionary, about: Mapping[str, Any], folder: Path) -> None:
    """Files that ``SparseCoder.load_from_disk`` reads."""
    config = dictionary.config
    if config.architecture != "topk":
        raise OptionError(
            f"sparsify supports topk only, and this is {config.architecture}; use --to saelens"
        )
    if config.is_transcoder and config.d_out != config.d_in:
        raise OptionError(
            f"sparsify's transcoders have equal input and output width, not {config.d_in} and"
            f" {config.d_out}"
        )
    converted = ranked_by_value(simplified(dictionary, "sparsify", transcoder=True))
    transcode = config.is_transcoder
    converted = with_input_bias(converted, not transcode)
    save_file(
        renamed_parameters(converted, NAMES | ({"W_skip": "W_skip"} if config.skip else {})),
        folder / WEIGHTS,
    )
    settings = {
        "activation": "topk",
        "expansion_factor": max(1, config.width // config.d_in),
        "normalize_decoder": has_unit_rows(converted),
        "num_latents": config.width,
        "k": config.k,
        "multi_topk": False,
        "skip_connection": config.skip,
        "transcode": transcode,
        "d_in": config.d_in,
    }
    write_json(folder / CONFIG, settings)


FORMAT = Format("sparsify", f"{CONFIG} and {WEIGHTS}", holds, read, write)
