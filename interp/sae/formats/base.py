"""What all formats share: opening files, metadata of a dictionary, conversion to what another
library can express, and our own format.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from interp.errors import DictionaryError, OptionError
from interp.maths.host import in_host_memory, to_host
from interp.sae.core.dictionary import Dictionary
from interp.sae.core.files import CONFIG, WEIGHTS, load
from interp.sae.core.fold_weights import fold_decoder_norm, fold_scale

About = dict[str, Any]


class LoadedDictionary(NamedTuple):
    """A dictionary read from files, with metadata; ``doubts`` are contradictions between what the
    files state and the parameters.
    """

    dictionary: Dictionary
    about: About
    doubts: tuple[str, ...] = ()


class Format(NamedTuple):
    """One library's file format.

    ``holds``: whether a path has this format, by names of files and keys. ``read``: reads a path.
    ``write``: writes a dictionary and its metadata into an empty folder; None if the format is read
    only. ``kinds``: what files may be without stating it; ``read`` then takes the requested kind,
    or None, as second argument.
    """

    name: str
    files: str
    holds: Callable[[Path], bool]
    read: Callable[..., LoadedDictionary]
    write: Callable[[Dictionary, Mapping[str, Any], Path], None] | None = None
    kinds: tuple[str, ...] = ()


def describe(
    format: str,
    *,
    model: str | None = None,
    site: str | None = None,
    target: str | None = None,
    layer: int | None = None,
    folded: Mapping[str, bool | None] | None = None,
    mask: Mapping[str, Any] | None = None,
    notes: tuple[str, ...] = (),
    source: Mapping[str, Any] | None = None,
    **more: Any,
) -> About:
    """Metadata of a dictionary, under the same names for every format.

    ``site``: where inputs are read, in the library's own notation. ``target``: where targets are
    read, for a transcoder. ``layer``: index of the block, by default parsed from the site.
    ``folded``: whether ``decoder_norm`` and ``scale`` are already folded into the weights (None:
    unknown). ``mask``: which tokens were excluded in training.
    """
    if layer is None and site:
        match = re.search(r"(?:^|\.)(?:blocks|layers|h)\.(\d+)(?:\.|$)", site) or re.match(
            r"layers?[._](\d+)", site
        )
        layer = int(match[1]) if match else None
    metadata = {
        "format": format,
        "model": model,
        "site": site,
        "target": target,
        "layer": layer,
        **more,
    }
    metadata |= {
        "folded": dict(folded or {}),
        "mask": dict(mask or {}),
        "notes": list(notes),
        "source": dict(source or {}),
    }
    return metadata


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises DictionaryError for anything else."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise DictionaryError(f"{path} is missing: weights cannot be read without it") from error
    except (OSError, ValueError) as error:
        raise DictionaryError(f"{path} cannot be read ({error}); download it again") from error
    if not isinstance(value, dict):
        raise DictionaryError(f"{path} is not a JSON object; download it again")
    return value


def peek_json(path: Path) -> dict[str, Any]:
    """As ``read_json``, but empty if there is none; used to detect formats."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object."""
    path.write_text(json.dumps(value, indent=1) + "\n", "utf-8")


def required_field(config: Mapping[str, Any], name: str, kind: type, path: Path) -> Any:
    """A required field of a configuration, of this type; raises DictionaryError otherwise."""
    value = config.get(name)
    if isinstance(value, bool) or not isinstance(value, kind):
        raise DictionaryError(
            f"{path}: {name} is {value!r}, expected {kind.__name__}; download the file again"
        )
    return value


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Tensors of a ``torch.save`` file, opened without executing code; raises DictionaryError for
    anything else.
    """
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DictionaryError(
            f"{path} is missing: the folder has a configuration but no weights"
        ) from error
    except pickle.UnpicklingError as error:
        raise DictionaryError(
            f"{path} is a pickle of more than tensors, which could run code, and is not opened;"
            " use a safetensors file"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise DictionaryError(
            f"{path} is not a complete file of tensors ({str(error)[:80]}); download it again"
        ) from error
    if not isinstance(tensors, Mapping) or not all(
        isinstance(value, Tensor) for value in tensors.values()
    ):
        raise DictionaryError(
            f"{path} contains more than named tensors; give the file of a state_dict"
        )
    # keys of a state dict saved from a compiled module
    return {str(key).removeprefix("_orig_mod."): value for key, value in tensors.items()}


def renamed_tensors(
    tensors: Mapping[str, Tensor], names: Mapping[str, str], path: Path
) -> dict[str, Tensor]:
    """Tensors under our names; a name ending in ``.T`` is transposed, which happens nowhere else.

    ``names``: their names to ours. Raises DictionaryError for missing and for unexpected tensors.
    """
    our_names = {name.removesuffix(".T"): ours for name, ours in names.items()}
    transposed = {name.removesuffix(".T") for name in names if name.endswith(".T")}
    if missing := sorted(set(our_names) - set(tensors)):
        raise DictionaryError(
            f"{path} lacks {', '.join(missing)}; it is truncated or has another architecture"
        )
    if unknown := sorted(set(tensors) - set(our_names)):
        raise DictionaryError(
            f"{path} has {', '.join(unknown)}, which its architecture does not have"
        )
    return {
        ours: tensors[name].T if name in transposed else tensors[name]
        for name, ours in our_names.items()
    }


def norm_range(norms: Tensor) -> str:
    """The range of some norms as text."""
    return f"{float(to_host(norms.min())):.3g} to {float(to_host(norms.max())):.3g}"


def least_precise_dtype(tensors: Mapping[str, Tensor]) -> torch.dtype:
    """The least precise floating-point dtype in a file."""
    kinds = [value.dtype for value in tensors.values() if value.is_floating_point()]
    return max(kinds, key=lambda kind: torch.finfo(kind).eps, default=torch.float32)


def has_unit_rows(dictionary: Dictionary, stored_dtype: torch.dtype = torch.float32) -> bool:
    """Whether all decoder rows have norm 1, within the precision of the dtype they were stored
    in.
    """
    tolerance = 1e-3 if stored_dtype in (torch.float32, torch.float64) else 2e-2
    return bool(to_host(((dictionary.decoder_norms.sum(1) - 1).abs() < tolerance).all()))


def has_unexpected_norms(dictionary: Dictionary) -> bool:
    """Whether decoder rows that training keeps near norm 1 have a clearly different norm: more than
    a fifth off in the median.

    Libraries that normalise before a step but not after it, or only at initialisation, save rows
    that are slightly off.
    """
    return not 0.8 < float(to_host(dictionary.decoder_norms.sum(1).median())) < 1.25


# ---------------------------------------------------------------------- conversion for writing


def simplified(
    dictionary: Dictionary, library: str, *, per_input: bool = False, transcoder: bool = False
) -> Dictionary:
    """The same dictionary as ``library`` can store it: one model, its scale folded; raises
    OptionError for what it cannot express.

    ``per_input``: the library normalises inputs individually. ``transcoder``: it has transcoders.
    """
    config = dictionary.config
    if config.models > 1:
        raise OptionError(
            f"{library} has no crosscoders, and this is a crosscoder of {config.models} models;"
            " use --to interp"
        )
    if (config.is_transcoder or config.skip) and not transcoder:
        raise OptionError(f"{library} has no transcoders and no skip connections; use --to interp")
    if config.normalisation in ("layer-norm", "constant-norm") and not per_input:
        raise OptionError(
            f"{library} cannot normalise inputs individually ({config.normalisation}), and that"
            " cannot be folded into weights; use --to saelens or --to interp"
        )
    return fold_scale(dictionary) if config.normalisation == "scale" else dictionary


def ranked_by_value(dictionary: Dictionary) -> Dictionary:
    """The same function ranked by value: with decoder rows of norm 1 both rankings are equal."""
    if dictionary.config.rank_by == "value":
        return dictionary
    folded = fold_decoder_norm(dictionary)
    folded.config = replace(folded.config, rank_by="value")
    return folded


def with_input_bias(dictionary: Dictionary, input_bias: bool) -> Dictionary:
    """The same function with or without subtracting the decoder bias from inputs; the difference is
    folded into the encoder biases.
    """
    config = dictionary.config
    if config.input_bias == input_bias or config.architecture == "matching_pursuit":
        return dictionary
    changed = Dictionary(replace(config, input_bias=input_bias)).to(dictionary.W_dec)
    changed.load_state_dict(dictionary.state_dict())
    with torch.no_grad():
        shift = (dictionary.b_dec.double() @ dictionary.W_enc.double()) * (1 if input_bias else -1)
        if config.architecture == "gated":
            changed.b_gate.add_(shift)
            changed.b_mag.add_(shift * dictionary.r_mag.double().exp())
        else:
            changed.b_enc.add_(shift)
    return changed


def renamed_parameters(dictionary: Dictionary, names: Mapping[str, str]) -> dict[str, Tensor]:
    """Our parameters under another library's names; inverse of ``renamed_tensors``."""
    state = dictionary.state_dict()
    tensors = {}
    for name, ours in names.items():
        value = in_host_memory(state[ours].float())
        tensors[name.removesuffix(".T")] = (
            (value.T if name.endswith(".T") else value).clone().contiguous()
        )
    return tensors


# ---------------------------------------------------------------------- our own format


def holds_interp(path: Path) -> bool:
    """Whether a folder has our own format."""
    config = peek_json(path / CONFIG)
    return "dictionary" in config and "format" in config


def read_interp(path: Path) -> LoadedDictionary:
    """A dictionary in our own format, with its metadata."""
    dictionary, about = load(path)
    return LoadedDictionary(dictionary, {"format": "interp", **about})


INTERP = Format("interp", f"{CONFIG} and {WEIGHTS}", holds_interp, read_interp)
