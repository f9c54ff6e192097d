"""dictionary_learning 0.1: ``config.json`` names one of seven classes, ``ae.pt`` is its state
dict.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from interp.errors import DictionaryError, OptionError
from interp.maths.host import in_host_memory, to_host
from interp.sae.core.config import TOPK_ARCHITECTURES, DictionaryConfig
from interp.sae.core.dictionary import Dictionary
from interp.sae.core.files import dictionary_from_tensors
from interp.sae.core.fold_weights import fold_decoder_norm
from interp.sae.formats.base import (
    Format,
    LoadedDictionary,
    describe,
    has_unit_rows,
    least_precise_dtype,
    norm_range,
    peek_json,
    ranked_by_value,
    read_json,
    read_pickle,
    renamed_parameters,
    renamed_tensors,
    simplified,
    with_input_bias,
    write_json,
)

CONFIG, WEIGHTS = "config.json", "ae.pt"
_LINEAR = {"encoder.weight.T": "W_enc", "decoder.weight.T": "W_dec"}
_PLAIN = {key: key for key in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")}


class SaeClass(NamedTuple):
    """One class: its architecture, its parameter names, and whether it subtracts its decoder bias
    from inputs.
    """

    architecture: str
    names: Mapping[str, str]
    input_bias: bool = True


_BY_K = {**_LINEAR, "encoder.bias": "b_enc", "b_dec": "b_dec", "threshold": "threshold", "k": "k"}
CLASSES = {
    "AutoEncoder": SaeClass("standard", {**_LINEAR, "encoder.bias": "b_enc", "bias": "b_dec"}),
    "AutoEncoderNew": SaeClass(
        "standard", {**_LINEAR, "encoder.bias": "b_enc", "decoder.bias": "b_dec"}, False
    ),
    "GatedAutoEncoder": SaeClass(
        "gated",
        {
            **_LINEAR,
            "decoder_bias": "b_dec",
            "r_mag": "r_mag",
            "gate_bias": "b_gate",
            "mag_bias": "b_mag",
        },
    ),
    "JumpReluAutoEncoder": SaeClass("jumprelu", _PLAIN, False),
    "AutoEncoderTopK": SaeClass("topk", _BY_K),
    "BatchTopKSAE": SaeClass("batchtopk", _BY_K),
    "MatryoshkaBatchTopKSAE": SaeClass(
        "matryoshka", {**_PLAIN, "k": "k", "group_sizes": "group_sizes"}
    ),
}


def files(path: Path) -> tuple[Path, Path]:
    """Configuration and weights of a folder, or of one checkpoint in it
    (``checkpoints/ae_100.pt``).
    """
    if path.suffix == ".pt":
        return (
            path.parent.parent if path.parent.name == "checkpoints" else path.parent
        ) / CONFIG, path
    return path / CONFIG, path / WEIGHTS


def holds(path: Path) -> bool:
    """Whether a folder or a checkpoint has this format, by the class named in its configuration."""
    config, weights = files(path)
    trainer = peek_json(config).get("trainer")
    return isinstance(trainer, dict) and trainer.get("dict_class") in CLASSES and weights.exists()


def read(path: Path) -> LoadedDictionary:
    """One of the seven classes; it encodes as the class does by default, with a threshold where the
    class uses one.
    """
    config_path, weights = files(path)
    settings = read_json(config_path)
    trainer = settings["trainer"]
    name = trainer["dict_class"]
    kind, tensors = CLASSES[name], read_pickle(weights)
    by_k = kind.architecture in TOPK_ARCHITECTURES
    if by_k and "threshold" not in tensors:
        # older files have no threshold
        tensors["threshold"] = torch.tensor(-1.0)
    if by_k and "k" not in tensors and isinstance(trainer.get("k"), int):
        tensors["k"] = torch.tensor(trainer["k"])
    stored_dtype = least_precise_dtype(tensors)
    parameters = renamed_tensors(tensors, kind.names, weights)
    threshold = float(to_host(parameters["threshold"]).item()) if by_k else torch.nan
    if by_k:
        parameters.pop("threshold")
        if kind.architecture != "topk":
            parameters["threshold"] = torch.tensor(
                threshold if threshold >= 0 else torch.nan, dtype=torch.float64
            )
    sizes = parameters.pop("group_sizes", torch.zeros(0, dtype=torch.int64))
    k = int(to_host(parameters.pop("k")).item()) if "k" in parameters else None
    if k is not None and trainer.get("k") not in (None, k):
        raise DictionaryError(f"{weights}: k is {k}, {config_path.name} says {trainer['k']}")
    try:
        config = DictionaryConfig(
            kind.architecture,
            *_sizes(trainer, parameters, config_path),
            k=k,
            prefixes=tuple(accumulate(to_host(sizes).tolist())),
            input_bias=kind.input_bias,
        )
    except OptionError as error:
        raise DictionaryError(f"{weights}: {error}") from error
    dictionary = dictionary_from_tensors(config, parameters, str(path))
    unit, doubts = has_unit_rows(dictionary, stored_dtype), []
    if by_k and not unit:
        doubts.append(
            f"{path}: {name} keeps its decoder rows at norm 1, these have norm"
            f" {norm_range(dictionary.decoder_norms)}: it is half-folded"
        )
    notes = []
    if kind.architecture in ("batchtopk", "matryoshka") and threshold < 0:
        notes.append("no threshold was set in training; one has to be set before it can encode")
    if kind.architecture == "topk" and threshold >= 0:
        notes.append(
            f"it has a threshold of {threshold:.6g}, which the library uses only on request"
        )
    layer = trainer.get("layer")
    about = describe(
        "dictionary-learning",
        model=trainer.get("lm_name"),
        site=trainer.get("submodule_name") or None,
        layer=layer if isinstance(layer, int) else None,
        folded={"decoder_norm": unit, "scale": True},
        mask={
            key: value
            for key, value in (settings.get("buffer") or {}).items()
            if key in ("ctx_len", "remove_bos")
        },
        notes=tuple(notes),
        source=settings,
        **({"scale": trainer["norm_factor"]} if "norm_factor" in trainer else {}),
    )
    return LoadedDictionary(dictionary, about, tuple(doubts))


def _sizes(
    trainer: Mapping[str, Any], parameters: Mapping[str, Tensor], path: Path
) -> tuple[int, int]:
    """Widths from the configuration, else from the encoder, whose axes are known by name."""
    if parameters["W_enc"].ndim != 2:
        raise DictionaryError(
            f"{path}: the encoder has {parameters['W_enc'].ndim} axes, expected 2"
        )
    d_in, width = parameters["W_enc"].shape
    return trainer.get("activation_dim") or d_in, trainer.get("dict_size") or width


def write(dictionary: Dictionary, about: Mapping[str, Any], folder: Path) -> None:
    """Files that ``load_dictionary`` reads."""
    config = dictionary.config
    choices = [
        (name, kind) for name, kind in CLASSES.items() if kind.architecture == config.architecture
    ]
    if not choices:
        raise OptionError(
            f"dictionary-learning has no {config.architecture}; use --to saelens or --to interp"
        )
    matching = [choice for choice in choices if choice[1].input_bias == config.input_bias]
    name, kind = (matching or choices)[0]
    converted = ranked_by_value(simplified(dictionary, "dictionary-learning"))
    converted = with_input_bias(converted, kind.input_bias)
    if config.architecture in TOPK_ARCHITECTURES and not has_unit_rows(converted):
        try:
            converted = fold_decoder_norm(converted)
        except OptionError as error:
            raise OptionError(
                f"dictionary-learning's {name} needs decoder rows of norm 1; {error}; use --to"
                " saelens"
            ) from error
    by_batch = config.architecture in ("batchtopk", "matryoshka")
    if by_batch and bool(to_host(converted.threshold.isnan())):
        raise OptionError(
            f"this {config.architecture} has no threshold yet, and {name} would keep all codes;"
            " train it further"
        )
    tensors = renamed_parameters(
        converted, {t: o for t, o in kind.names.items() if o in dict(converted.named_parameters())}
    )
    if config.architecture in TOPK_ARCHITECTURES:
        threshold = (
            in_host_memory(converted.threshold.float()).clamp_min(0)
            if by_batch
            else torch.tensor(-1.0)
        )
        tensors |= {"k": torch.tensor(config.k, dtype=torch.int32), "threshold": threshold}
    if config.prefixes:
        tensors["group_sizes"] = torch.tensor([b - a for a, b in pairwise((0, *config.prefixes))])
    trainer = {
        "dict_class": name,
        "activation_dim": config.d_in,
        "dict_size": config.width,
        "layer": about.get("layer"),
        "lm_name": about.get("model"),
        "submodule_name": about.get("site"),
        **({"k": config.k} if config.k else {}),
    }
    torch.save(tensors, folder / WEIGHTS)
    write_json(folder / CONFIG, {"trainer": trainer, "buffer": dict(about.get("mask") or {})})


FORMAT = Format(
    "dictionary-learning", f"{CONFIG} with trainer.dict_class, and {WEIGHTS}", holds, read, write
)
