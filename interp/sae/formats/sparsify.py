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
from interp.sae.core.files import assembled, read_tensors
from interp.sae.formats.base import (
    Format,
    Found,
    by_value,
    coarsest,
    is_far,
    is_unit,
    known,
    peek_json,
    plain,
    read_json,
    spread,
    taken,
    tensors_of,
    wanted,
    with_input_bias,
    write_json,
)

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
NAMES = {"encoder.weight.T": "W_enc", "encoder.bias": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec"}


def holds(path: Path) -> bool:
    """Whether a folder is that of one hookpoint."""
    return (path / WEIGHTS).exists() and (path / CONFIG).exists()


def read(path: Path) -> Found:
    """A ``SparseCoder``: top-k after a relu, ``W_dec`` not transposed, no input bias for a
    transcoder.
    """
    said = read_json(path / CONFIG)
    if (activation := said.get("activation", "topk")) != "topk":
        raise DictionaryError(f"{path}: activation {activation!r} is not supported, only topk")
    if said.get("signed"):
        raise DictionaryError(
            f"{path}: signed codes (the k largest in magnitude) are not supported, only topk"
        )
    d_in, transcode = wanted(said, "d_in", int, path / CONFIG), bool(said.get("transcode"))
    tensors = read_tensors(path / WEIGHTS)
    kept_as = coarsest(tensors)
    names = dict(NAMES)
    if "decoder.weight" in tensors:
        # before version 1.0 the decoder was a linear layer
        names = {"decoder.weight.T" if key == "W_dec" else key: ours for key, ours in names.items()}
    if said.get("skip_connection"):
        names["W_skip"] = "W_skip"
    try:
        config = DictionaryConfig(
            "topk",
            d_in,
            said.get("num_latents") or d_in * said.get("expansion_factor", 32),
            d_out=d_in if transcode else None,
            k=wanted(said, "k", int, path / CONFIG),
            input_bias=not transcode,
            skip=bool(said.get("skip_connection")),
            loss="fraction",
        )
    except OptionError as error:
        raise DictionaryError(f"{path / CONFIG}: {error}") from error
    dictionary = assembled(config, taken(tensors, names, path / WEIGHTS), str(path))
    doubts = []
    # its trainer normalises rows before a step and saves after the step
    if said.get("normalize_decoder", True) and not transcode and is_far(dictionary):
        doubts.append(
            f"{path}: normalize_decoder says that decoder rows have norm 1, these have norm"
            f" {spread(dictionary.decoder_norms)}: it is half-folded"
        )
    training = peek_json(path.parent / "config.json")
    # the library identifies hookpoints by folder names, which anybody may change
    places = training.get("hookpoints") or []
    about = known(
        "sparsify",
        model=training.get("model"),
        site=places[0] if len(places) == 1 else None,
        folded={"decoder_norm": is_unit(dictionary, kept_as), "scale": True},
        mask={key: training[key] for key in ("exclude_tokens", "ctx_len") if training.get(key)},
        source=said,
    )
    return Found(dictionary, about, tuple(doubts))


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
    found = by_value(plain(dictionary, "sparsify", transcoder=True))
    transcode = config.is_transcoder
    found = with_input_bias(found, not transcode)
    save_file(
        tensors_of(found, NAMES | ({"W_skip": "W_skip"} if config.skip else {})), folder / WEIGHTS
    )
    said = {
        "activation": "topk",
        "expansion_factor": max(1, config.width // config.d_in),
        "normalize_decoder": is_unit(found),
        "num_latents": config.width,
        "k": config.k,
        "multi_topk": False,
        "skip_connection": config.skip,
        "transcode": transcode,
        "d_in": config.d_in,
    }
    write_json(folder / CONFIG, said)


FORMAT = Format("sparsify", f"{CONFIG} and {WEIGHTS}", holds, read, write)
