"""What every analyzer is: a frozen dataclass of options, called with a study, giving a Table."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar

from interp.study import Study
from interp.table import Table


@dataclass(frozen=True)
class Analyzer:
    """Abstract: a subclass names itself, counts its version up when its numbers change, and defines ``__call__``."""

    name: ClassVar[str]
    version: ClassVar[int]

    @property
    def options(self) -> dict[str, Any]:
        """The options that determine the numbers: every field but ``parent`` and what the parent run determines.

        A field that is read from the parent run's table is marked ``field(metadata={"from_parent": True})``; without a
        parent it was given by hand and counts.
        """
        inherited = getattr(self, "parent", None) is not None
        own = [field for field in fields(self) if not (inherited and field.metadata.get("from_parent"))]
        return {field.name: getattr(self, field.name) for field in own if field.name != "parent"}

    def __call__(self, study: Study) -> Table:
        """Examine the study."""
        raise TypeError(f"{type(self).__name__} must define __call__")
