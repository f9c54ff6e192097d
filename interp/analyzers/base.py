"""What every analyzer is: a frozen dataclass of options, called with a study, giving a Table.

Where only weights are looked at, a ``WeightPair`` is the study.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any, ClassVar

from interp.maths.memory import ran_out_of_memory
from interp.models.weights import WeightPair
from interp.study import Study
from interp.table import Table

Examined = Study | WeightPair


@dataclass(frozen=True)
class Analyzer:
    """Abstract: a subclass names itself, counts its version up when its numbers change, and defines ``__call__``.

    When memory runs out in a call, it is made again with smaller batches; raises OutOfMemory where one prompt is too
    many.
    """

    name: ClassVar[str]
    version: ClassVar[int]

    def __init_subclass__(cls) -> None:
        if "__call__" in vars(cls):
            cls.__call__ = _backing_off(cls.__call__)

    @property
    def options(self) -> dict[str, Any]:
        """The options that determine the numbers: every field but ``parent`` and what the parent run determines.

        A field that is read from the parent run's table is marked ``field(metadata={"from_parent": True})``; without a
        parent it was given by hand and counts.
        """
        inherited = getattr(self, "parent", None) is not None
        own = [field for field in fields(self) if not (inherited and field.metadata.get("from_parent"))]
        return {field.name: _said(getattr(self, field.name)) for field in own if field.name != "parent"}

    def __call__(self, study: Examined) -> Table:
        """Examine the study."""
        raise TypeError(f"{type(self).__name__} must define __call__")


def _said(value: Any) -> Any:
    """An option as provenance keeps it: an analyzer within another by name, version and options, a run by its key."""
    if isinstance(value, Table):
        return value.provenance and value.provenance.key
    if not isinstance(value, Analyzer):
        return value
    return {"name": value.name, "version": value.version, "options": value.options, "parent": value.parent}


def _backing_off(examine: Callable[[Any, Examined], Table]) -> Callable[[Any, Examined], Table]:
    @wraps(examine)
    def call(self: Analyzer, study: Examined) -> Table:
        # from the start: what a batch had added to running sums before it failed would count twice
        while True:
            try:
                return examine(self, study)
            except (MemoryError, RuntimeError) as error:
                if not ran_out_of_memory(error):
                    raise
                reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
            # only here is the error gone, and with it the tensors that its frames held
            study.back_off(reason)

    return call
