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
from interp.sae.core.config import SPARSE, DictionaryConfig
from interp.sae.core.dictionary import Dictionary
from interp.sae.core.files import assembled
from interp.sae.core.fold_weights import fold_decoder_norm
from interp.sae.formats.base import (
    Format,
    Found,
    by_value,
    coarsest,
    is_unit,
    known,
    peek_json,
    plain,
    read_json,
    read_pickle,
    spread,
    taken,
    tensors_of,
    with_input_bias,
    write_json,
)

CONFIG, WEIGHTS = "config.json", "ae.pt"
_LINEAR = {"encoder.weight.T": "W_enc", "decoder.weight.T": "W_dec"}
_PLAIN = {key: key for key in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")}


class Kind(NamedTuple):
    """One class: its architecture, its parameter names, and whether it subtracts its decoder bias
    from inputs.
    """

    architecture: str
    names: Mapping[str, str]
    input_bias: bool = True


_BY_K = {**_LINEAR, "encoder.bias": "b_enc", "b_dec": "b_dec", "threshold": "threshold", "k": "k"}
CLASSES = {
    "AutoEncoder": Kind("standard", {**_LINEAR, "encoder.bias": "b_enc", "bias": "b_dec"}),
    "AutoEncoderNew": Kind(
        "standard", {**_LINEAR, "encoder.bias": "b_enc", "decoder.bias": "b_dec"}, False
    ),
    "GatedAutoEncoder": Kind(
        "gated",
        {
            **_LINEAR,
            "decoder_bias": "b_dec",
            "r_mag": "r_mag",
            "gate_bias": "b_gate",
            "mag_bias": "b_mag",
        },
    ),
    "JumpReluAutoEncoder": Kind("jumprelu", _PLAIN, False),
    "AutoEncoderTopK": Kind("topk", _BY_K),
    "BatchTopKSAE": Kind("batchtopk", _BY_K),
    "MatryoshkaBatchTopKSAE": Kind(
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


def read(path: Path) -> Found:
    """One of the seven classes; it encodes as the class does by default, with a threshold where the
    class uses one.
    """
    config_path, weights = files(path)
    said = read_json(config_path)
    trainer = said["trainer"]
    name = trainer["dict_class"]
    kind, tensors = CLASSES[name], read_pickle(weights)
    by_k = kind.architecture in SPARSE
    if by_k and "threshold" not in tensors:
        # older files have no threshold
        tensors["threshold"] = torch.tensor(-1.0)
    if by_k and "k" not in tensors and isinstance(trainer.get("k"), int):
        tensors["k"] = torch.tensor(trainer["k"])
    kept_as = coarsest(tensors)
    found = taken(tensors, kind.names, weights)
    threshold = float(to_host(found["threshold"]).item()) if by_k else torch.nan
    if by_k:
        found.pop("threshold")
        if kind.architecture != "topk":
            found["threshold"] = torch.tensor(
                threshold if threshold >= 0 else torch.nan, dtype=torch.float64
            )
    sizes = found.pop("group_sizes", torch.zeros(0, dtype=torch.int64))
    k = int(to_host(found.pop("k")).item()) if "k" in found else None
    if k is not None and trainer.get("k") not in (None, k):
        raise DictionaryError(f"{weights}: k is {k}, {config_path.name} says {trainer['k']}")
    try:
        config = DictionaryConfig(
            kind.architecture,
            *_sizes(trainer, found, config_path),
            k=k,
            prefixes=tuple(accumulate(to_host(sizes).tolist())),
            input_bias=kind.input_bias,
        )
    except OptionError as error:
        raise DictionaryError(f"{weights}: {error}") from error
    dictionary = assembled(config, found, str(path))
    unit, doubts = is_unit(dictionary, kept_as), []
    if by_k and not unit:
        doubts.append(
            f"{path}: {name} keeps its decoder rows at norm 1, these have norm"
            f" {spread(dictionary.decoder_norms)}: it is half-folded"
        )
    notes = []
    if kind.architecture in ("batchtopk", "matryoshka") and threshold < 0:
        notes.append("no threshold was set in training; one has to be set before it can encode")
    if kind.architecture == "topk" and threshold >= 0:
        notes.append(
            f"it has a threshold of {threshold:.6g}, which the library uses only on request"
        )
    layer = trainer.get("layer")
    about = known(
        "dictionary-learning",
        model=trainer.get("lm_name"),
        site=trainer.get("submodule_name") or None,
        layer=layer if isinstance(layer, int) else None,
        folded={"decoder_norm": unit, "scale": True},
        mask={
            key: value
            for key, value in (said.get("buffer") or {}).items()
            if key in ("ctx_len", "remove_bos")
        },
        notes=tuple(notes),
        source=said,
        **({"scale": trainer["norm_factor"]} if "norm_factor" in trainer else {}),
    )
    return Found(dictionary, about, tuple(doubts))


def _sizes(trainer: Mapping[str, Any], found: Mapping[str, Tensor], path: Path) -> tuple[int, int]:
    """Widths from the configuration, else from the encoder, whose axes are known by name."""
    if found["W_enc"].ndim != 2:
        raise DictionaryError(f"{path}: the encoder has {found['W_enc'].ndim} axes, expected 2")
    d_in, width = found["W_enc"].shape
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
    alike = [choice for choice in choices if choice[1].input_bias == config.input_bias]
    name, kind = (alike or choices)[0]
    found = by_value(plain(dictionary, "dictionary-learning"))
    found = with_input_bias(found, kind.input_bias)
    if config.architecture in SPARSE and not is_unit(found):
        try:
            found = fold_decoder_norm(found)
        except OptionError as error:
            raise OptionError(
                f"dictionary-learning's {name} needs decoder rows of norm 1; {error}; use --to"
                " saelens"
            ) from error
    by_batch = config.architecture in ("batchtopk", "matryoshka")
    if by_batch and bool(to_host(found.threshold.isnan())):
        raise OptionError(
            f"this {config.architecture} has no threshold yet, and {name} would keep all codes;"
            " train it further"
        )
    tensors = tensors_of(
        found, {t: o for t, o in kind.names.items() if o in dict(found.named_parameters())}
    )
    if config.architecture in SPARSE:
        threshold = (
            in_host_memory(found.threshold.float()).clamp_min(0) if by_batch else torch.tensor(-1.0)
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
