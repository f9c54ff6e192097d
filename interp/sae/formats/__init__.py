"""Dictionaries in files of other libraries: ``detect`` the format, ``read`` any, ``write`` some.

A format is recognised by names of files, keys and classes, never by shapes (a square matrix does
not tell its axes) and never by the folder's name, which anybody may change. No file that could
execute code is opened. What a file states is compared with its parameters, and a contradiction
(half-folded, folded twice) is a one-line error; with ``as_is`` it is read anyway and the
contradiction is kept in ``about["doubts"]``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from interp.errors import DictionaryError, OptionError, required
from interp.maths.host import to_host
from interp.sae.core.dictionary import Dictionary
from interp.sae.core.files import (
    atomic_folder,
    parameter_norms,
    require_finite,
    require_same_norms,
    save,
)
from interp.sae.formats import crosscoders, dictionary_learning, saelens, scopes, sparsify
from interp.sae.formats.base import INTERP, About, Format, LoadedDictionary, peek_json, write_json

FORMATS: dict[str, Format] = {
    each.name: each
    for each in (
        INTERP,
        saelens.FORMAT,
        sparsify.FORMAT,
        dictionary_learning.FORMAT,
        crosscoders.FORMAT,
        crosscoders.KISSANE,
        scopes.GEMMA,
        scopes.LLAMA,
    )
}
WRITABLE = ("interp", "saelens", "sparsify", "dictionary-learning")
"""Formats that ``write`` supports."""

SIDECAR = "interp.json"
"""A file that we add to another library's files: metadata of the dictionary, and its parameter
norms when it was written.
"""


def detect(path: str | os.PathLike) -> str:
    """The format of a folder (or a weight file); raises DictionaryError if it is unknown or
    ambiguous.
    """
    path = Path(path)
    if not path.exists():
        raise DictionaryError(f"no dictionary at {path}: no such file or folder")
    names = [name for name, each in FORMATS.items() if each.holds(path)]
    if len(names) == 1:
        return names[0]
    if names:
        raise DictionaryError(f"{path} contains files of {' and '.join(names)}; keep one of them")
    subfolders = sorted(p for p in path.iterdir() if p.is_dir()) if path.is_dir() else []
    if subfolders := [
        p.name for p in subfolders if any(each.holds(p) for each in FORMATS.values())
    ]:
        named = ", ".join(subfolders[:4]) + (", ..." if len(subfolders) > 4 else "")
        raise DictionaryError(
            f"{path} contains {len(subfolders)} dictionaries ({named}); give one of them"
        )
    contents = ", ".join(sorted(p.name for p in path.iterdir())[:6]) if path.is_dir() else path.name
    kinds = "; ".join(f"{each.name}: {each.files}" for each in FORMATS.values())
    raise DictionaryError(
        f"{path} has no known format (it contains {contents or 'nothing'}). Known formats: {kinds}"
    )


def read(
    path: str | os.PathLike, *, as_is: bool = False, kind: str | None = None
) -> tuple[Dictionary, About]:
    """A dictionary of any known format and its metadata (see ``formats.base.describe``).

    ``kind``: for formats whose files do not state it; for Gemma Scope ``transcoder``, or
    ``embeddings``, which was trained on embeddings times sqrt(D) and is converted to read unscaled
    ones. Raises OptionError for a kind that the format does not have or that the files already
    state, and a one-line DictionaryError for truncated files, NaN, pickles of anything but tensors,
    unknown architectures, and (unless ``as_is``) files that contradict themselves.
    """
    path = Path(path)
    format = FORMATS[detect(path)]
    if kind is not None and kind not in format.kinds:
        known = (
            f"use {' or '.join(format.kinds)}"
            if format.kinds
            else "its files state what they are; leave --kind out"
        )
        raise OptionError(f"{path} has format {format.name}, which has no kind {kind!r}: {known}")
    result = format.read(path, kind) if format.kinds else format.read(path)
    sidecar = peek_json((path if path.is_dir() else path.parent) / SIDECAR)
    doubts = list(result.doubts)
    try:
        require_same_norms(result.dictionary, sidecar.get("norms", {}), str(path))
    except DictionaryError as error:
        doubts.append(str(error))
    if doubts and not as_is:
        raise DictionaryError(
            f"{doubts[0]}; if this is intended, read it as it is (as_is, --as-is)"
        )
    recorded = {
        key: value for key, value in sidecar.get("about", {}).items() if value not in (None, {}, [])
    }
    preferred = {
        key: value
        for key, value in recorded.items()
        if key in ("model", "site", "target", "layer", "mask")
    }
    about = {**recorded, **result.about, **preferred}
    return result.dictionary, {**about, "doubts": doubts} if doubts else about


def write(
    dictionary: Dictionary,
    folder: str | os.PathLike,
    format: str = "interp",
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Write a dictionary in one of the formats ``WRITABLE``; the folder appears only when complete.

    What was written is read back and compared. Raises OptionError for what the library cannot
    express.
    """
    if format not in WRITABLE:
        problem = " is only read" if format in FORMATS else " is not known"
        raise OptionError(f"the format {format!r}{problem}; use {', '.join(WRITABLE)}")
    if format == "interp":
        return save(dictionary, folder, about)
    require_finite(dictionary, str(folder))
    metadata = {
        key: value
        for key, value in (about or {}).items()
        if key not in ("source", "format", "doubts")
    }
    with atomic_folder(folder) as draft:
        required(FORMATS[format].write, "a writer of this format")(dictionary, metadata, draft)
        written: LoadedDictionary = FORMATS[format].read(draft)
        _require_same(dictionary, written.dictionary, format)
        write_json(
            draft / SIDECAR,
            {"format": 1, "about": metadata, "norms": parameter_norms(written.dictionary)},
        )
    return Path(folder)


@torch.no_grad()
def _require_same(original: Dictionary, written: Dictionary, format: str) -> None:
    """Compare reconstructions of random inputs before the folder gets its name; single rows may
    differ where rounding decides between two codes.
    """
    x = torch.randn(33, original.config.inputs, generator=torch.Generator().manual_seed(0)).to(
        original.W_dec
    )
    x = x * (1 + original.b_dec.abs().mean()) / float(to_host(original.scale.mean()))
    expected, actual = original(x), written.to(original.W_dec)(x)
    error = ((expected - actual).norm(dim=1) / expected.norm(dim=1).clamp_min(1e-6)).median()
    error = float(to_host(error))
    if not error < 1e-3:
        raise DictionaryError(
            f"the dictionary written as {format} does not reconstruct the same (relative error"
            f" {error:.2g})"
        )
