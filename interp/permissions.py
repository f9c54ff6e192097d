"""File permissions: what is written gets the permissions that the umask allows for new files.

Libraries that write atomically (safetensors, ``tempfile``) create files that only their owner can
read, which breaks folders shared by a group.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

_STATUS = Path("/proc/self/status")


def apply_umask(path: Path) -> None:
    """Give a file, or a directory with its contents, the permissions of new files under the umask.

    Permissions are only added (a shared folder may grant more); where they cannot be changed,
    nothing happens.
    """
    mask = _umask()
    for root, _, files in os.walk(path) if path.is_dir() else ():
        _add_permissions(root, 0o777 & ~mask)
        for file in files:
            _add_permissions(os.path.join(root, file), 0o666 & ~mask)
    if not path.is_dir():
        _add_permissions(path, 0o666 & ~mask)


def _add_permissions(path: str | Path, permissions: int) -> None:
    mode = stat.S_IMODE(os.stat(path).st_mode)
    if mode | permissions != mode:
        with suppress(OSError):
            os.chmod(path, mode | permissions)


def _umask() -> int:
    try:
        values = [
            line.split()[1]
            for line in _STATUS.read_text("ascii").splitlines()
            if line.startswith("Umask:")
        ]
        return int(values[0], 8)
    except (OSError, ValueError, IndexError):
        # the umask can only be read by setting it; files that another thread creates meanwhile are
        # private, not public
        mask = os.umask(0o077)
        os.umask(mask)
        return mask
