"""Directories that appear completely or not at all.

A writer locks ``.temporary/<name>.lock``, fills ``.temporary/<name>/``, flushes everything to disk
and renames the directory into place; the rename makes it exist. The lock ends with its process, so
an unlocked lock file, or a directory without one, was left by a crash, and any process of the same
host may remove it: the names of drafts contain a digest of the host. The lock file also contains
the writer's process id, so that the drafts of a running process stay where a file system grants
every lock to everybody.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from filelock import FileLock

from interp.atomic import flush
from interp.errors import StoreError
from interp.permissions import apply_umask
from interp.store.manifest import DamagedRun

ATTEMPTS = 10
# On a network file system locks may hold on one host only, so a host removes only its own drafts.
HOST = sha256(socket.gethostname().encode("utf-8", "replace")).hexdigest()[:4]
# The names that `temporary` makes: another folder opened as a store may hold other files there.
DRAFT_NAME = re.compile(rf".+-{HOST}[0-9a-f]{{8}}", re.DOTALL)
TARGET_EXISTS = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)


def file_lock(path: str | os.PathLike) -> FileLock:
    """A lock between processes; ``acquire`` raises ``OSError`` if the file system has no locks."""
    return FileLock(path, fallback_to_soft=False)


def flush_tree(directory: Path) -> None:
    """Flush every file and directory below ``directory``, and itself, to disk."""
    for root, _, files in os.walk(directory, topdown=False):
        for file in files:
            flush(Path(root, file))
        flush(Path(root))


@contextmanager
def temporary(root: Path, name: str) -> Iterator[Path]:
    """A locked, empty directory under ``root/.temporary``; what is left of it is removed at the
    end.
    """
    folder = root / ".temporary"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{HOST}{secrets.token_hex(4)}"
    lock_path = path.with_name(path.name + ".lock")
    lock = file_lock(lock_path)
    try:
        lock.acquire()
        lock_path.write_text(f"{os.getpid()}\n", encoding="ascii")
    except OSError:
        # no locks, or a full disk: leave nothing behind
        with suppress(OSError):
            lock_path.unlink()
        lock.release()
        raise
    try:
        path.mkdir()
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):
            lock_path.unlink()
        lock.release()


def publish(
    directory: Path,
    target: Path,
    check: Callable[[Path], object],
    move_damaged: Callable[[Path], object],
) -> bool:
    """Rename ``directory`` to ``target``; False if a valid ``target`` exists already.

    ``check`` raises ``DamagedRun`` for an invalid target, which ``move_damaged`` then moves out of the
    way.
    """
    apply_umask(directory)
    flush_tree(directory)
    # not `complete_folder`: a lock shows other processes that this draft is in use, and a rename
    # that fails because the target exists is tried again
    for _ in range(ATTEMPTS):
        try:
            os.rename(directory, target)
        except OSError as error:
            if error.errno not in TARGET_EXISTS:
                raise
            try:
                check(target)
            except DamagedRun:
                move_damaged(target)
            else:
                return False
        else:
            flush(target.parent)
            return True
    raise StoreError(f"cannot write {target}: another file keeps appearing there")


def move_aside(path: Path, folder: Path) -> Path | None:
    """Move ``path`` into ``folder`` under a unique name; None if it no longer exists."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{path.name}-{secrets.token_hex(6)}"
    try:
        os.rename(path, target)
    except FileNotFoundError:
        return None
    return target


def sweep(root: Path) -> list[str]:
    """Remove what crashed writers left under ``root/.temporary``; returns the names removed.

    Never raises ``OSError``. Names that ``temporary`` does not make are left alone: the folder may
    come from a file that somebody else wrote.
    """
    removed = []
    with suppress(OSError):
        names = {entry.name.removesuffix(".lock") for entry in os.scandir(root / ".temporary")}
        for name in sorted(name for name in names if DRAFT_NAME.fullmatch(name)):
            with suppress(OSError):
                removed += _sweep_one(root / ".temporary" / name)
    return removed


def _sweep_one(path: Path) -> list[str]:
    lock_path = path.with_name(path.name + ".lock")
    lock = file_lock(lock_path)
    # a lock that another process holds is a Timeout, which is an OSError
    lock.acquire(blocking=False)
    try:
        if _is_running(lock_path.read_bytes()[:32]):
            return []
        if path.exists():
            shutil.rmtree(path)
        lock_path.unlink()
    finally:
        lock.release()
    return [path.name]


def _is_running(process_id: bytes) -> bool:
    """Whether the process of this id runs and is another one; False for what is not an id."""
    if not process_id.strip().isdigit() or int(process_id) == os.getpid():
        return False
    try:
        os.kill(int(process_id), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
