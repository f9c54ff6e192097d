"""What all formats share: how files are opened, what is known about a dictionary, what another
library can express.
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
from interp.sae.core.fold_weights import fold_decoder_norm, fold_scale

About = dict[str, Any]


class Found(NamedTuple):
    """What a file holds; ``doubts`` are contradictions between what it says and what its numbers
    are.
    """

    dictionary: Dictionary
    about: About
    doubts: tuple[str, ...] = ()


class Format(NamedTuple):
    """One library's way to keep a dictionary.

    ``holds``: whether a path is one, by names of files and of keys, never by shapes. ``read``: a
    path to what it holds. ``write``: a dictionary and what is known about it into an empty folder;
    None where the format is only read. ``kinds``: what a file may be that it does not say itself;
    ``read`` takes the one that was named, or None, beside.
    """

    name: str
    files: str
    holds: Callable[[Path], bool]
    read: Callable[..., Found]
    write: Callable[[Dictionary, Mapping[str, Any], Path], None] | None = None
    kinds: tuple[str, ...] = ()


def known(
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
    """What a file says about its dictionary, under the same names for every format.

    ``site``: where inputs are read, in the library's own words; ``target``: where targets are, for
    a transcoder; ``layer``: the block's index, read off the site where it is not given. ``folded``:
    whether ``decoder_norm`` and ``scale`` lie in the weights already (None: the format does not
    say). ``mask``: which tokens it was trained without.
    """
    if layer is None and site:
        found = re.search(r"(?:^|\.)(?:blocks|layers|h)\.(\d+)(?:\.|$)", site) or re.match(
            r"layers?[._](\d+)", site
        )
        layer = int(found[1]) if found else None
    said = {
        "format": format,
        "model": model,
        "site": site,
        "target": target,
        "layer": layer,
        **more,
    }
    said |= {
        "folded": dict(folded or {}),
        "mask": dict(mask or {}),
        "notes": list(notes),
        "source": dict(source or {}),
    }
    return said


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; DictionaryError for anything else."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise DictionaryError(
            f"{path} is missing: without its configuration weights cannot be read"
        ) from error
    except (OSError, ValueError) as error:
        raise DictionaryError(f"{path} cannot be read ({error}); fetch it again") from error
    if not isinstance(value, dict):
        raise DictionaryError(f"{path} is no JSON object; fetch it again")
    return value


def peek_json(path: Path) -> dict[str, Any]:
    """As ``read_json``; empty where there is none, to look at what a folder may be."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object."""
    path.write_text(json.dumps(value, indent=1) + "\n", "utf-8")


def wanted(said: Mapping[str, Any], name: str, kind: type, path: Path) -> Any:
    """A field that a configuration must have, of this kind; DictionaryError otherwise."""
    value = said.get(name)
    if isinstance(value, bool) or not isinstance(value, kind):
        raise DictionaryError(
            f"{path}: {name} is {value!r}, expected {kind.__name__}; fetch the file again"
        )
    return value


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Tensors of a file of ``torch.save``, opened so that it can run no code; DictionaryError for
    anything else.
    """
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DictionaryError(
            f"{path} is missing: the folder has a configuration and no weights"
        ) from error
    except pickle.UnpicklingError as error:
        raise DictionaryError(
            f"{path} is a pickle of more than tensors, which could run code, and is not opened; ask"
            " for safetensors"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise DictionaryError(
            f"{path} is no whole file of tensors ({str(error)[:80]}); fetch it again"
        ) from error
    if not isinstance(tensors, Mapping) or not all(
        isinstance(value, Tensor) for value in tensors.values()
    ):
        raise DictionaryError(
            f"{path} holds other things than named tensors; give the file of a state_dict"
        )
    # a state that was saved from a compiled module
    return {str(key).removeprefix("_orig_mod."): value for key, value in tensors.items()}


def taken(tensors: Mapping[str, Tensor], names: Mapping[str, str], path: Path) -> dict[str, Tensor]:
    """Tensors under our names; a name that ends in ``.T`` is transposed, which no other place does.

    ``names``: theirs to ours. DictionaryError names what the file lacks and what nobody asked for.
    """
    theirs = {name.removesuffix(".T"): ours for name, ours in names.items()}
    turned = {name.removesuffix(".T") for name in names if name.endswith(".T")}
    if missing := sorted(set(theirs) - set(tensors)):
        raise DictionaryError(
            f"{path} lacks {', '.join(missing)}; it is cut off or of another architecture"
        )
    if unknown := sorted(set(tensors) - set(theirs)):
        raise DictionaryError(
            f"{path} has {', '.join(unknown)}, which its architecture does not have"
        )
    return {
        ours: tensors[name].T if name in turned else tensors[name] for name, ours in theirs.items()
    }


def spread(norms: Tensor) -> str:
    """The range of some norms, in words."""
    return f"{float(to_host(norms.min())):.3g} to {float(to_host(norms.max())):.3g}"


def coarsest(tensors: Mapping[str, Tensor]) -> torch.dtype:
    """The least exact number type of a file."""
    kinds = [value.dtype for value in tensors.values() if value.is_floating_point()]
    return max(kinds, key=lambda kind: torch.finfo(kind).eps, default=torch.float32)


def is_unit(dictionary: Dictionary, kept_as: torch.dtype = torch.float32) -> bool:
    """Whether every decoder row is of norm 1, as exactly as the type that it was kept in can say."""
    slack = 1e-3 if kept_as in (torch.float32, torch.float64) else 2e-2
    return bool(to_host(((dictionary.decoder_norms.sum(1) - 1).abs() < slack).all()))


def is_far(dictionary: Dictionary) -> bool:
    """Whether decoder rows that training keeps near norm 1 are of another norm altogether: a fifth
    off, in the median.

    Libraries that normalise before a step and not after, or at the start only, save rows that are
    off by steps.
    """
    return not 0.8 < float(to_host(dictionary.decoder_norms.sum(1).median())) < 1.25


# ---------------------------------------------------------------------- what is to be written


def plain(
    dictionary: Dictionary, library: str, *, per_input: bool = False, transcoder: bool = False
) -> Dictionary:
    """The same dictionary as ``library`` could hold it: one model, its scale folded; OptionError
    says what cannot be.

    ``per_input``: the library normalises inputs one by one. ``transcoder``: it has transcoders.
    """
    config = dictionary.config
    if config.models > 1:
        raise OptionError(
            f"{library} has no crosscoders, and this is one of {config.models} models; use --to"
            " interp"
        )
    if (config.is_transcoder or config.skip) and not transcoder:
        raise OptionError(f"{library} has no transcoders and no skip connections; use --to interp")
    if config.normalisation in ("layer-norm", "constant-norm") and not per_input:
        raise OptionError(
            f"{library} cannot normalise inputs one by one ({config.normalisation}), and that"
            " cannot be folded into weights; use --to saelens or --to interp"
        )
    return fold_scale(dictionary) if config.normalisation == "scale" else dictionary


def by_value(dictionary: Dictionary) -> Dictionary:
    """The same function ranked by value: with decoder rows of norm 1, both rankings are one."""
    if dictionary.config.rank_by == "value":
        return dictionary
    folded = fold_decoder_norm(dictionary)
    folded.config = replace(folded.config, rank_by="value")
    return folded


def with_input_bias(dictionary: Dictionary, wanted: bool) -> Dictionary:
    """The same function with or without subtraction of the decoder's bias, which moves into the
    encoder's biases.
    """
    config = dictionary.config
    if config.input_bias == wanted or config.architecture == "matching_pursuit":
        return dictionary
    changed = Dictionary(replace(config, input_bias=wanted)).to(dictionary.W_dec)
    changed.load_state_dict(dictionary.state_dict())
    with torch.no_grad():
        shift = (dictionary.b_dec.double() @ dictionary.W_enc.double()) * (1 if wanted else -1)
        if config.architecture == "gated":
            changed.b_gate.add_(shift)
            changed.b_mag.add_(shift * dictionary.r_mag.double().exp())
        else:
            changed.b_enc.add_(shift)
    return changed


def tensors_of(dictionary: Dictionary, names: Mapping[str, str]) -> dict[str, Tensor]:
    """Our parameters under another library's names; inverse of ``taken``."""
    state = dictionary.state_dict()
    found = {}
    for theirs, ours in names.items():
        value = in_host_memory(state[ours].float())
        found[theirs.removesuffix(".T")] = (
            (value.T if theirs.endswith(".T") else value).clone().contiguous()
        )
    return found
