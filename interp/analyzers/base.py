"""Passing: analyzers that define ``__call__`` themselves."""

from dataclasses import dataclass
from typing import ClassVar

from interp.analyzers.framework import analyzer as framework
from interp.analyzers.framework import require_locating
from interp.analyzers.framework.calls import (
    announced,
    names_prompt_of_nan,
    retries_with_smaller_batches,
)
from interp.analyzers.framework.content import fingerprint


@dataclass(frozen=True)
class Analyzer(framework.Analyzer):
    """Passing."""

    takes: ClassVar[dict[str, str]] = {}

    def __init_subclass__(cls) -> None:
        if "__call__" in vars(cls):
            cls.__call__ = announced(
                names_prompt_of_nan(retries_with_smaller_batches(cls.__call__))
            )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, kind in self.takes.items():
            given = getattr(self, name)
            for run in given if isinstance(given, (list, tuple)) else (given,):
                framework.require_run(self, run, name, kind)
        first = getattr(self, next(iter(self.takes), ""), None)
        if (
            first is not None
            and first.provenance is not None
            and getattr(self, "parent", None) is None
        ):
            object.__setattr__(self, "parent", first.provenance.key)

    def check_run(self, run: object, name: str, kind: str) -> None:
        """Passing."""
        framework.require_run(self, run, name, kind)


__all__ = ["Analyzer", "fingerprint", "require_locating"]
