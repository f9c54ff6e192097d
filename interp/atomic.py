"""Files and folders that appear completely or not at all.

They are written as a hidden draft in the same folder, under a name of its own, which is renamed at
the end. The store has drafts with locks instead, in ``store.transaction``.
"""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from interp.permissions import apply_umask


@contextmanager
def complete_file(path: Path) -> Iterator[Path]:
    """Where to write a file that replaces ``path`` when the block ends without an error.

    It keeps the permissions that the block gives it, and is flushed to disk only if the block does.
    """
    draft = _draft(path)
    try:
        yield draft
        os.replace(draft, path)
    finally:
        with suppress(OSError):
            draft.unlink()


@contextmanager
def complete_folder(path: Path) -> Iterator[Path]:
    """A new folder to write into, renamed to ``path`` when the block ends without an error.

    Missing parents are created, and everything in it gets the permissions of the umask. Raises
    OSError if ``path`` is a file or a folder that is not empty.
    """
    draft = _draft(path)
    try:
        draft.mkdir(parents=True)
        yield draft
        apply_umask(draft)
        os.rename(draft, path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def flush(path: Path) -> None:
    """Flush a file or a directory to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # some network file systems cannot flush a directory
        if error.errno != errno.EINVAL or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def _draft(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}")
