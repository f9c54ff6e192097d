"""Dictionaries on disk: a directory with ``config.json`` and ``weights.safetensors``, written
atomically.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from interp.atomic import complete_folder
from interp.errors import DictionaryError, OptionError, reporting_os_errors
from interp.maths.host import in_host_memory, to_host
from interp.sae.core.config import DictionaryConfig
from interp.sae.core.dictionary import Dictionary

FORMAT = 1
CONFIG, WEIGHTS = "config.json", "weights.safetensors"


def save(
    dictionary: Dictionary, folder: str | os.PathLike, about: Mapping[str, Any] | None = None
) -> Path:
    """Write a dictionary with metadata ``about`` it (site, model, data, training); the folder must
    not exist.

    Raises DictionaryError if the folder exists or a parameter is not finite.
    """
    require_finite(dictionary, str(folder))
    with atomic_folder(folder) as draft:
        tensors = {name: in_host_memory(value) for name, value in dictionary.state_dict().items()}
        save_file(tensors, draft / WEIGHTS)
        record = {
            "format": FORMAT,
            "dictionary": dictionary.config.to_json(),
            "about": dict(about or {}),
        }
        record["norms"] = parameter_norms(dictionary)
        (draft / CONFIG).write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    return Path(folder)


@contextmanager
def atomic_folder(folder: str | os.PathLike) -> Iterator[Path]:
    """A temporary folder to write into, renamed to ``folder`` when the block ends without an error.

    Raises DictionaryError if ``folder`` exists, and for any error of the file system.
    """
    folder = Path(folder)
    if folder.exists():
        raise DictionaryError(f"{folder} exists already; give a folder that does not, or remove it")
    with reporting_os_errors("write", folder, DictionaryError), complete_folder(folder) as draft:
        yield draft


def load(folder: str | os.PathLike) -> tuple[Dictionary, dict[str, Any]]:
    """A dictionary and its metadata; raises a one-line DictionaryError for anything broken."""
    folder = Path(folder)
    try:
        record = json.loads((folder / CONFIG).read_text("utf-8"))
        if record.get("format") != FORMAT:
            raise DictionaryError(
                f"{folder} has format {record.get('format')!r}; this version reads format {FORMAT}"
            )
        config = DictionaryConfig.from_json(record["dictionary"])
    except OSError as error:
        raise DictionaryError(
            f"{folder} contains no dictionary: {error.strerror or error}"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, OptionError) as error:
        raise DictionaryError(f"{folder / CONFIG} cannot be read: {error}") from error
    dictionary = dictionary_from_tensors(config, read_tensors(folder / WEIGHTS), str(folder))
    require_same_norms(dictionary, record.get("norms", {}), str(folder))
    return dictionary, record.get("about", {})


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file; raises DictionaryError if it is missing or truncated."""
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise DictionaryError(
            f"{path} is missing: the folder has a configuration but no weights"
        ) from error
    except (SafetensorError, OSError) as error:
        raise DictionaryError(
            f"{path} is not a complete safetensors file ({error}); download it again"
        ) from error


def dictionary_from_tensors(
    config: DictionaryConfig, tensors: Mapping[str, torch.Tensor], name: str
) -> Dictionary:
    """A dictionary with these parameters; raises DictionaryError for missing, unknown, misshapen or
    NaN parameters.
    """
    dictionary = Dictionary(config)
    expected = dictionary.state_dict()
    parameters = dict(tensors)
    parameters.setdefault("scale", torch.ones(config.models))
    if missing := sorted(set(expected) - set(parameters)):
        raise DictionaryError(
            f"{name} lacks {', '.join(missing)}, which a {config.architecture} dictionary has"
        )
    if unknown := sorted(set(parameters) - set(expected)):
        raise DictionaryError(
            f"{name} has {', '.join(unknown)}, which a {config.architecture} dictionary does not"
            " have"
        )
    for key, value in parameters.items():
        if value.shape != expected[key].shape:
            raise DictionaryError(
                f"{name}: {key} is {list(value.shape)}, its configuration says"
                f" {list(expected[key].shape)}"
            )
    dictionary.load_state_dict(
        {key: value.to(expected[key].dtype) for key, value in parameters.items()}
    )
    require_finite(dictionary, name)
    return dictionary


def require_finite(dictionary: Dictionary, name: str) -> None:
    """Raise DictionaryError if a parameter is NaN or infinite; a threshold that is not set yet may
    be NaN.
    """
    for key, value in dictionary.state_dict().items():
        unset = key == "threshold" and value.ndim == 0 and math.isnan(to_host(value))
        if not unset and not bool(to_host(torch.isfinite(value).all())):
            bad = int(to_host((~torch.isfinite(value)).sum()))
            raise DictionaryError(
                f"{name}: {bad} values of {key} are not finite; download it again, or retrain it"
            )


def parameter_norms(dictionary: Dictionary) -> dict[str, float]:
    """The norm of every parameter, in float64; folding a scale changes it, copying does not."""
    norms = {
        key: float(to_host(value.double().norm())) for key, value in dictionary.state_dict().items()
    }
    return {key: norm for key, norm in norms.items() if math.isfinite(norm)}


def require_same_norms(dictionary: Dictionary, recorded: Mapping[str, float], name: str) -> None:
    """Raise DictionaryError if parameter norms differ from the recorded ones, and say what may have
    been folded since.

    Differences below 1/500 are accepted; conversion to another dtype causes those.
    """
    norms = parameter_norms(dictionary)
    ratios = {
        key: norms[key] / recorded[key]
        for key in sorted(set(norms) & set(recorded))
        if recorded[key]
    }
    changed = {key: ratio for key, ratio in ratios.items() if abs(ratio - 1) > 2e-3}
    if not changed:
        return
    product = changed.get("W_enc", 0.0) * changed.get("W_dec", 0.0)
    diagnosis = (
        "a scale was folded twice"
        if abs(product - 1) < 1e-3
        else "it is half-folded or was modified"
    )
    changes = ", ".join(f"{key} {ratio:.4g} times" for key, ratio in changed.items())
    raise DictionaryError(
        f"{name} is not what was saved: {changes} the recorded norm; {diagnosis}; use the original"
    )
