"""Finished parts of an unfinished run, so that an interrupted run continues where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from interp.provenance import JSON


class Journal:
    """Named parts of one run, one line of JSON each; parts that cannot be read are computed again.

    The file is named by the run's key, on which all parts depend. Two processes that compute the
    same run share their finished parts.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._parts: dict[str, Any] = {}
        self._read()

    def _read(self) -> None:
        with suppress(OSError):
            for line in self.path.read_text(encoding="utf-8").splitlines():
                # the last line is incomplete if the writer was killed
                with suppress(ValueError, KeyError, TypeError):
                    part = json.loads(line)
                    self._parts.setdefault(part["name"], part["value"])

    def __len__(self) -> int:
        return len(self._parts)

    def has(self, name: str) -> bool:
        """Whether this process or another one has finished the part of this name."""
        if name not in self._parts:
            self._read()
        return name in self._parts

    def part(self, name: str, make: Callable[[], JSON]) -> JSON:
        """The part of this name, computed by ``make`` if it is missing: a JSON value or NaN."""
        if not self.has(name):
            self._parts[name] = value = make()
            with suppress(OSError):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                line = json.dumps({"name": name, "value": value}) + "\n"
                descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
                try:
                    # begin a new line: the last one may be incomplete
                    os.write(descriptor, ("\n" + line).encode())
                finally:
                    os.close(descriptor)
        return self._parts[name]

    def remove(self) -> None:
        """Delete the journal of a finished run."""
        self.path.unlink(missing_ok=True)
        with suppress(OSError):
            self.path.parent.rmdir()
