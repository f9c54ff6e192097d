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
from interp.sae.core.files import appearing, require_finite, require_sizes, save, sizes
from interp.sae.formats import crosscoders, dictionary_learning, saelens, scopes, sparsify
from interp.sae.formats.base import INTERP, About, Format, Found, peek_json, write_json

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
WRITTEN = ("interp", "saelens", "sparsify", "dictionary-learning")
"""Formats that ``write`` supports."""

BESIDE = "interp.json"
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
    found = [name for name, each in FORMATS.items() if each.holds(path)]
    if len(found) == 1:
        return found[0]
    if found:
        raise DictionaryError(f"{path} contains files of {' and '.join(found)}; keep one of them")
    inside = sorted(p for p in path.iterdir() if p.is_dir()) if path.is_dir() else []
    if inside := [p.name for p in inside if any(each.holds(p) for each in FORMATS.values())]:
        named = ", ".join(inside[:4]) + (", ..." if len(inside) > 4 else "")
        raise DictionaryError(
            f"{path} contains {len(inside)} dictionaries ({named}); give one of them"
        )
    has = ", ".join(sorted(p.name for p in path.iterdir())[:6]) if path.is_dir() else path.name
    kinds = "; ".join(f"{each.name}: {each.files}" for each in FORMATS.values())
    raise DictionaryError(
        f"{path} has no known format (it contains {has or 'nothing'}). Known formats: {kinds}"
    )


def read(
    path: str | os.PathLike, *, as_is: bool = False, kind: str | None = None
) -> tuple[Dictionary, About]:
    """A dictionary of any known format and its metadata (see ``formats.base.known``).

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
    found = format.read(path, kind) if format.kinds else format.read(path)
    beside = peek_json((path if path.is_dir() else path.parent) / BESIDE)
    doubts = list(found.doubts)
    try:
        require_sizes(found.dictionary, beside.get("norms", {}), str(path))
    except DictionaryError as error:
        doubts.append(str(error))
    if doubts and not as_is:
        raise DictionaryError(
            f"{doubts[0]}; if this is intended, read it as it is (as_is, --as-is)"
        )
    kept = {
        key: value for key, value in beside.get("about", {}).items() if value not in (None, {}, [])
    }
    better = {
        key: value
        for key, value in kept.items()
        if key in ("model", "site", "target", "layer", "mask")
    }
    about = {**kept, **found.about, **better}
    return found.dictionary, {**about, "doubts": doubts} if doubts else about


def write(
    dictionary: Dictionary,
    folder: str | os.PathLike,
    format: str = "interp",
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Write a dictionary in one of the formats ``WRITTEN``; the folder appears only when complete.

    What was written is read back and compared. Raises OptionError for what the library cannot
    express.
    """
    if format not in WRITTEN:
        only = " is only read" if format in FORMATS else " is not known"
        raise OptionError(f"the format {format!r}{only}; use {', '.join(WRITTEN)}")
    if format == "interp":
        return save(dictionary, folder, about)
    require_finite(dictionary, str(folder))
    known = {
        key: value
        for key, value in (about or {}).items()
        if key not in ("source", "format", "doubts")
    }
    with appearing(folder) as draft:
        required(FORMATS[format].write, "a writer of this format")(dictionary, known, draft)
        again: Found = FORMATS[format].read(draft)
        _require_same(dictionary, again.dictionary, format)
        write_json(draft / BESIDE, {"format": 1, "about": known, "norms": sizes(again.dictionary)})
    return Path(folder)


@torch.no_grad()
def _require_same(one: Dictionary, other: Dictionary, format: str) -> None:
    """Compare reconstructions of random inputs before the folder gets its name; single rows may
    differ where rounding decides between two codes.
    """
    x = torch.randn(33, one.config.inputs, generator=torch.Generator().manual_seed(0)).to(one.W_dec)
    x = x * (1 + one.b_dec.abs().mean()) / float(to_host(one.scale.mean()))
    mine, theirs = one(x), other.to(one.W_dec)(x)
    error = ((mine - theirs).norm(dim=1) / mine.norm(dim=1).clamp_min(1e-6)).median()
    error = float(to_host(error))
    if not error < 1e-3:
        raise DictionaryError(
            f"the dictionary written as {format} does not reconstruct the same (relative error"
            f" {error:.2g})"
        )
