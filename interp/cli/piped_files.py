"""A file that can be read only once (``-`` for stdin, a pipe of the shell): kept whole until the
command ends.
"""

from __future__ import annotations

import atexit
import shutil
import stat
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from interp.errors import OptionError


def as_rereadable(value: Any) -> Any:
    """``value`` as it is, but of paths: ``~`` is the home, and one that can be read only once
    becomes that of a copy.

    A copy of lines of JSON is called ``.jsonl``, every other one ``.txt``. Raises OptionError where
    nothing comes.
    """
    if isinstance(value, list):
        return [as_rereadable(one) if isinstance(one, Path) else one for one in value]
    if not isinstance(value, Path):
        return value
    if str(value).startswith("~"):
        with suppress(RuntimeError):  # a home that nobody has: then it is a name
            value = value.expanduser()
    if str(value) == "-":
        if sys.stdin.isatty():
            raise OptionError(
                "- reads from stdin, and nothing is piped into it; name a file, or pipe one in"
            )
        return _temporary_copy("stdin", sys.stdin.buffer.read())
    if not _is_pipe(value):
        return value
    try:
        return _temporary_copy(f"pipe-{value.name}", value.read_bytes())
    except OSError as error:
        raise OptionError(f"{value} cannot be read ({error.strerror})") from error


def _is_pipe(path: Path) -> bool:
    try:
        return stat.S_ISFIFO(path.stat().st_mode)
    except OSError:
        return False


def _temporary_copy(name: str, content: bytes) -> Path:
    if not content.strip():
        raise OptionError(f"{name.replace('-', ' ')} is empty; nothing was piped into it")
    folder = Path(tempfile.mkdtemp(prefix="interp-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / f"{name}{'.jsonl' if content.lstrip()[:1] == b'{' else '.txt'}"
    path.write_bytes(content)
    return path
