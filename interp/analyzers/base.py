"""What every analyzer is: a frozen dataclass of options, called with a study, giving a Table.

Where only weights are looked at, a ``WeightPair`` is the study.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from hashlib import sha256
from typing import Any, ClassVar, TypeVar, cast

import numpy as np
import torch

from interp.errors import NonFinitePass, OptionError
from interp.experiments.cost import Cost, Work, estimate_cost
from interp.maths.host import raw_bytes
from interp.maths.memory import is_out_of_memory
from interp.models.pair import Pair
from interp.models.pairs_on_demand import PairsOnDemand, pair_inputs
from interp.models.weights import WeightPair
from interp.prompts import Contrast, OneClass, PromptSet
from interp.provenance import JSON, digest, file_digest, to_json_value
from interp.sae import Dictionary
from interp.study import Study
from interp.table import Table

ANNOUNCED_FROM_SECONDS = 5.0
"""Runs that take at least so many seconds print an estimate first."""
Examined = Study | WeightPair
Examine = TypeVar("Examine", bound=Callable[..., Table])


@dataclass(frozen=True)
class Analyzer:
    """Abstract: a subclass names itself, counts its version up when its numbers change, and defines
    ``__call__``.

    When memory runs out in a call, it is made again with smaller batches; raises OutOfMemory where
    one prompt is too many. Unless the study is quiet, how long it takes is told before it begins,
    and how far it is meanwhile.

    ``takes``: fields that are tables of runs, each with the kind that it must be of. The key of the
    first of them becomes the ``parent`` where none is given; OptionError for anything else, when
    the analyzer is made.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    takes: ClassVar[dict[str, str]] = {}

    def __init_subclass__(cls) -> None:
        if "__call__" in vars(cls):
            cls.__call__ = announced(
                names_prompt_of_nan(retries_with_smaller_batches(cls.__call__))
            )

    @property
    def options(self) -> dict[str, Any]:
        """The options that determine the numbers: every field but ``parent``.

        Fields that are read from the parent run's table are marked ``field(metadata={"from_parent":
        True})``: with a parent they are one entry ``from_parent``, their digest. Objects are told
        by their content: see ``fingerprint``.
        """
        inherited = getattr(self, "parent", None) is not None
        option_fields = [one for one in fields(self) if one.name != "parent"]
        values = {one.name: fingerprint(getattr(self, one.name), one.name) for one in option_fields}
        inherited_names = [
            one.name for one in option_fields if inherited and one.metadata.get("from_parent")
        ]
        if not inherited_names:
            return values
        kept = {name: value for name, value in values.items() if name not in inherited_names}
        return {
            **kept,
            "from_parent": digest({name: values[name] for name in inherited_names})[:20],
        }

    def __post_init__(self) -> None:
        for name, kind in self.takes.items():
            given = getattr(self, name)
            for run in given if isinstance(given, (list, tuple)) else (given,):
                self.check_run(run, name, kind)
        first = getattr(self, next(iter(self.takes), ""), None)
        if (
            first is not None
            and first.provenance is not None
            and getattr(self, "parent", None) is None
        ):
            object.__setattr__(self, "parent", first.provenance.key)

    def check_run(self, run: object, name: str, kind: str) -> None:
        """Raise OptionError where the value of the field ``name`` is neither None nor a table of
        ``kind``.
        """
        if run is None or (isinstance(run, Table) and run.kind == kind):
            return
        seen = (
            f"a table of kind {run.kind!r}"
            if isinstance(run, Table)
            else f"{type(run).__name__} {run!r:.60}"
        )
        raise OptionError(
            f"{name} of {type(self).__name__} is {seen}; give a table of kind {kind!r}"
        )

    def work(self, study: Study) -> Work | None:
        """What a call does, so that its time can be told before it begins; None where that is not
        known.
        """
        del study

    def __call__(self, study: Examined) -> Table:
        """Examine the study."""
        raise TypeError(f"{type(self).__name__} must define __call__")


def require_locating(analyzer: Analyzer, locate: object) -> None:
    """Raise OptionError where ``locate`` is not an analyzer (a located table is not one)."""
    if not isinstance(locate, Analyzer):
        raise OptionError(
            f"locate of {type(analyzer).__name__} is a {type(locate).__name__}; give the analyzer"
            ' that locates, LocateNeurons(top="30") for one'
        )


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
    if isinstance(value, Analyzer):
        return {
            "name": value.name,
            "version": value.version,
            "options": value.options,
            "parent": getattr(value, "parent", None),
        }
    if isinstance(value, Table):
        return value.provenance.key if value.provenance else _of_table(value, name)
    if isinstance(value, (PromptSet, Contrast, OneClass, Dictionary)):
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
        " interp.analyzers.base.fingerprint this type"
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


def announced(examine: Examine) -> Examine:
    """Print an estimate of the run's time before it begins, and its progress."""

    @wraps(examine)
    def call(self: Analyzer, study: Examined) -> Table:
        if not isinstance(study, Study) or study.quiet:
            return examine(self, study)
        # an analyzer that another one calls prints nothing
        if (
            study.stages.is_idle
            and (told := _cost(self, study)) is not None
            and told.seconds >= ANNOUNCED_FROM_SECONDS
        ):
            print(f"{self.name}: {told}", file=sys.stderr, flush=True)
        with study.stages.during(self.name, quiet=False):
            return examine(self, study)

    return cast(Examine, call)


def _cost(analyzer: Analyzer, study: Study) -> Cost | None:
    work = analyzer.work(study)
    if work is None:
        return None
    try:
        return estimate_cost(study, work)
    except (MemoryError, RuntimeError) as error:
        # the run itself says what to do then
        if not is_out_of_memory(error):
            raise
        return None


def names_prompt_of_nan(examine: Examine) -> Examine:
    """A pass that gives NaN on some prompt is refused under the prompt's name."""

    @wraps(examine)
    def call(self: Analyzer, study: Examined) -> Table:
        try:
            return examine(self, study)
        except NonFinitePass as error:
            if not isinstance(study, Study) or not (
                prompt := _prompt_that_begins(study, error.ids)
            ):
                raise
            raise NonFinitePass(error.message, error.ids, prompt) from error

    return cast(Examine, call)


def _prompt_that_begins(study: Study, ids: Sequence[int]) -> str:
    """Which prompt of a study these tokens begin with, in words; nothing where they begin with
    none.
    """
    description, longest = "", 0
    # a task's negative class holds none
    for group in (group for group in study.classes if len(study.prompts(group))):
        for coded, prompt in zip(study.encoded(group), study.prompts(group), strict=True):
            length = len(coded.ids)
            if longest < length <= len(ids) and list(ids[:length]) == list(coded.ids):
                longest = length
                description = (
                    f"the first is row {prompt.id} of {study.prompts(group).source},"
                    f" {prompt.text[:40]!r}"
                )
    return description


def retries_with_smaller_batches(examine: Examine) -> Examine:
    """Start again with smaller batches when memory runs out."""

    @wraps(examine)
    def call(self: Analyzer, study: Examined) -> Table:
        # from the start: what a batch had added to running sums before it failed would count twice
        while True:
            try:
                return examine(self, study)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
            # only here is the error gone, and with it the tensors that its frames held
            study.back_off(reason)

    return cast(Examine, call)
