"""Parts of a run that is not finished, kept as they are made, so that one that was stopped goes on
where it was.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from interp.provenance import JSON


class Journal:
    """Named parts of one run, a line of JSON each; what cannot be read or written is computed
    again.

    The file is named by the run's key, which names all that determines the parts. Of two processes
    that make one run, each takes what the other has finished.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._parts: dict[str, Any] = {}
        self._read()

    def _read(self) -> None:
        with suppress(OSError):
            for line in self.path.read_text(encoding="utf-8").splitlines():
                # the last line is torn where the writer was killed
                with suppress(ValueError, KeyError, TypeError):
                    part = json.loads(line)
                    self._parts.setdefault(part["name"], part["value"])

    def __len__(self) -> int:
        return len(self._parts)

    def has(self, name: str) -> bool:
        """Whether the part of this name was made, by this process or by another."""
        if name not in self._parts:
            self._read()
        return name in self._parts

    def part(self, name: str, make: Callable[[], JSON]) -> JSON:
        """The part of this name, made and kept where it is not there yet: what JSON can hold,
        not-a-number too.
        """
        if not self.has(name):
            self._parts[name] = value = make()
            with suppress(OSError):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                line = json.dumps({"name": name, "value": value}) + "\n"
                descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
                try:
                    # begun on a new line: what a killed writer left would spoil it
                    os.write(descriptor, ("\n" + line).encode())
                finally:
                    os.close(descriptor)
        return self._parts[name]

    def remove(self) -> None:
        """The run is finished."""
        self.path.unlink(missing_ok=True)
        with suppress(OSError):
            self.path.parent.rmdir()
