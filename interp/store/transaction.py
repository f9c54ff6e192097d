"""Directories that appear whole or not at all.

A writer makes ``.temporary/<name>.lock``, locks it, makes ``.temporary/<name>/`` and fills it,
flushes everything to disk, and renames the directory into place: the rename is the moment it
exists. The lock lasts as long as its process, so an unlocked lock file, or a directory without one,
is what a crash left, and any process of the same host may sweep it: the names of drafts hold their
host. The file holds the writer's process id too: what a process that still runs made is left alone
where locks are granted to everybody.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from interp.errors import StoreError
from interp.permissions import as_umask
from interp.store.manifest import Damaged

ATTEMPTS = 10
# Locks of a network's file system may hold on one host alone: only the host that made a draft
# sweeps it.
HOST = sha256(socket.gethostname().encode("utf-8", "replace")).hexdigest()[:4]
# What `temporary` names: a folder that is taken for a store may hold other people's things under
# that name.
DRAFT = re.compile(rf".+-{HOST}[0-9a-f]{{8}}", re.DOTALL)
IN_THE_WAY = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)


@contextmanager
def refusing(doing: str, path: Path) -> Iterator[None]:
    """Turn what the operating system refuses into one line."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"cannot {doing} {path}: {error.strerror or error}") from error


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot flush a directory.
        if error.errno != errno.EINVAL or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def flush_tree(directory: Path) -> None:
    """Flush every file and directory below ``directory``, and itself, to disk."""
    for root, _, files in os.walk(directory, topdown=False):
        for file in files:
            _flush(Path(root, file))
        _flush(Path(root))


@contextmanager
def temporary(root: Path, name: str) -> Iterator[Path]:
    """A locked, empty directory under ``root/.temporary``; whatever is still there afterwards is
    removed.
    """
    place = root / ".temporary"
    place.mkdir(parents=True, exist_ok=True)
    while True:
        path = place / f"{name}-{HOST}{secrets.token_hex(4)}"
        lock = path.with_name(path.name + ".lock")
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            # a file system without locks: nothing may stay that nobody would sweep
            lock.unlink()
            os.close(descriptor)
            raise
        # A sweeper may have taken the file between its creation and its lock.
        if os.fstat(descriptor).st_nlink:
            try:
                os.write(descriptor, f"{os.getpid()}\n".encode("ascii"))
            except OSError:  # a full disk
                lock.unlink()
                os.close(descriptor)
                raise
            break
        os.close(descriptor)
    try:
        path.mkdir()
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):
            lock.unlink()
        os.close(descriptor)


def publish(
    directory: Path, target: Path, valid: Callable[[Path], object], aside: Callable[[Path], object]
) -> bool:
    """Rename ``directory`` to ``target``; False when a valid ``target`` is there already.

    ``valid`` raises ``Damaged`` for a target that is none, and ``aside`` then moves it out of the
    way.
    """
    as_umask(directory)
    flush_tree(directory)
    for _ in range(ATTEMPTS):
        try:
            os.rename(directory, target)
        except OSError as error:
            if error.errno not in IN_THE_WAY:
                raise
            try:
                valid(target)
            except Damaged:
                aside(target)
            else:
                return False
        else:
            _flush(target.parent)
            return True
    raise StoreError(f"cannot write {target}: something else keeps appearing there")


def move_aside(path: Path, place: Path) -> Path | None:
    """Move ``path`` into ``place`` under a name of its own; None when it has gone in the meantime."""
    place.mkdir(parents=True, exist_ok=True)
    target = place / f"{path.name}-{secrets.token_hex(6)}"
    try:
        os.rename(path, target)
    except FileNotFoundError:
        return None
    return target


def sweep(root: Path) -> list[str]:
    """Remove what crashed writers left under ``root/.temporary``; the names removed. Never raises
    ``OSError``.

    Names that ``temporary`` does not give are spared: which folder is opened may be said by a file
    from a stranger.
    """
    swept = []
    with suppress(OSError):
        names = {entry.name for entry in os.scandir(root / ".temporary")}
        for name in sorted(names):
            if DRAFT.fullmatch(name.removesuffix(".lock")) is None:
                continue
            if name.endswith(".lock") or f"{name}.lock" not in names:
                with suppress(OSError):
                    swept += _sweep_one(root / ".temporary" / name.removesuffix(".lock"))
    return swept


def _runs(written: bytes) -> bool:
    """Whether another process runs whose id stands in a lock file; False where it holds none."""
    if not written.strip().isdigit() or int(written) == os.getpid():
        return False
    try:
        os.kill(int(written), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _sweep_one(path: Path) -> list[str]:
    lock = path.with_name(path.name + ".lock")
    try:
        descriptor = os.open(lock, os.O_RDWR)
    except FileNotFoundError:
        # Locks are made before their directories and removed after them, so this one has no writer.
        if not path.is_dir():
            return []
        shutil.rmtree(path)
        return [path.name]
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _runs(os.read(descriptor, 32)):
            return []
        if path.exists():
            shutil.rmtree(path)
        lock.unlink()
    finally:
        os.close(descriptor)
    return [path.name]
