"""Rights of what is written: those that the umask leaves to any new file.

Libraries that write whole or not at all (safetensors, ``tempfile``) make files that their owner
alone can read, so that a group that shares a folder could not.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

_STATUS = Path("/proc/self/status")


def as_umask(path: Path) -> None:
    """Give a file, or a directory and all in it, the rights of new ones under this process's umask.

    Rights that are there stay (a shared folder may hand down more), and where none can be given
    nothing is done.
    """
    mask = _umask()
    for root, _, files in os.walk(path) if path.is_dir() else ():
        _add(root, 0o777 & ~mask)
        for file in files:
            _add(os.path.join(root, file), 0o666 & ~mask)
    if not path.is_dir():
        _add(path, 0o666 & ~mask)


def _add(path: str | Path, rights: int) -> None:
    mode = stat.S_IMODE(os.stat(path).st_mode)
    if mode | rights != mode:
        with suppress(OSError):
            os.chmod(path, mode | rights)


def _umask() -> int:
    try:
        said = [
            line.split()[1]
            for line in _STATUS.read_text("ascii").splitlines()
            if line.startswith("Umask:")
        ]
        return int(said[0], 8)
    except (OSError, ValueError, IndexError):
        # it can only be asked for by setting it; what another thread writes meanwhile is closed,
        # not open
        mask = os.umask(0o077)
        os.umask(mask)
        return mask
