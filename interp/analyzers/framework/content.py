"""What the key of a run records of the value of an option."""

import os
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import torch

from interp.errors import OptionError
from interp.maths.host import raw_bytes
from interp.models.pair import Pair
from interp.models.pairs_on_demand import PairsOnDemand, pair_inputs
from interp.models.weights import WeightPair
from interp.prompts import Contrast, OneClass, PromptSet, TaskFile
from interp.provenance import JSON, HasOptions, digest, file_digest, to_json_value
from interp.sae import Dictionary
from interp.study import Study
from interp.table import Table


def fingerprint(value: Any, name: str = "value") -> JSON:
    """What provenance keeps of an option: values as they are, objects by what determines the
    numbers they give.

    Models and studies by their inputs, prompts and dictionaries by their digests, tables by the
    keys of their runs (those of no run by their content), arrays and tensors by type, shape and
    bytes, files (``Path``) by their content, other analyzers and dataclasses by all their fields.
    Raises OptionError, naming the option, for anything else: two runs that differ in an object that
    does not count would have one key.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, HasOptions) and callable(value):
        return {
            "name": value.name,
            "version": value.version,
            "options": value.options,
            "parent": value.parent,
        }
    if isinstance(value, Table):
        return value.provenance.key if value.provenance else _of_table(value, name)
    if isinstance(value, (PromptSet, Contrast, OneClass, TaskFile, Dictionary)):
        return value.digest
    if isinstance(value, (Pair, Study, WeightPair)):
        return value.inputs
    if isinstance(value, PairsOnDemand):
        return list(pair_inputs(value))
    if isinstance(value, Mapping):
        if wrong := [key for key in value if not isinstance(key, str)]:
            raise OptionError(f"{name} has the key {wrong[0]!r}: keys must be text")
        return {key: fingerprint(one, f"{name}.{key}") for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [fingerprint(one, f"{name}[{at}]") for at, one in enumerate(value)]
    small = isinstance(value, np.floating) and value.dtype in (np.float16, np.float32)
    if small or isinstance(value, (np.bool_, np.integer)):
        return to_json_value(value, name)
    if isinstance(value, np.ndarray) and value.dtype == object:
        return {"shape": list(value.shape), "values": fingerprint(list(value.flat), name)}
    if isinstance(value, (torch.Tensor, np.ndarray)):
        content = raw_bytes(value) if isinstance(value, torch.Tensor) else value.tobytes()
        return {
            "type": str(value.dtype),
            "shape": list(value.shape),
            "sha256": sha256(content).hexdigest(),
        }
    if isinstance(value, os.PathLike):
        return file_digest(value)
    if is_dataclass(value) and not isinstance(value, type):
        values = {
            each.name: fingerprint(getattr(value, each.name), f"{name}.{each.name}")
            for each in fields(value)
        }
        return {"type": type(value).__name__, **values}
    raise OptionError(
        f"{name} is a {type(value).__name__}, which has no fingerprint: runs of two of them would"
        " have one key; pass numbers, text, arrays or records of them, or teach"
        " interp.analyzers.framework.fingerprint this type"
    )


def _of_table(table: Table, name: str) -> JSON:
    """A table that no store keeps, by its content."""
    columns = {
        c.name: [c.role, c.unit, fingerprint(table[c.name], f"{name}.{c.name}")]
        for c in table.columns
    }
    parts = {part: _of_table(one, f"{name}.{part}") for part, one in table.tables.items()}
    arrays = {part: fingerprint(one, f"{name}.{part}") for part, one in table.arrays.items()}
    return digest(
        {
            "kind": table.kind,
            "columns": columns,
            "summary": table.summary,
            "tables": parts,
            "arrays": arrays,
        }
    )
