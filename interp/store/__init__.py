"""The analysis store: every table that was computed, as files that outlive this package.

A run is a directory named by its key::

    <store>/runs/<key>/manifest.json        what it is, what it was made from, its summary, digests
                                            of its files
                       table.parquet        its rows
                       tables/<name>.parquet    its named sub-tables
                       arrays.safetensors   larger arrays, where it has any
    <store>/requests/<fingerprint>.json     which runs answered a command: see ``requests``
    <store>/temporary/                      runs being written; what a crash leaves here is swept
    <store>/unfinished/<key>.jsonl          parts of a run that was stopped, to go on from
    <store>/aside/                          directories that were in the way of a run but were none

``runs`` keeps and finds them, ``query`` asks SQL across them; ``files``, ``manifest`` and
``transaction`` are how. ``Store`` is loaded on first use, so that a repeated command, which reads
only manifests, need not wait for pyarrow.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.store.runs import Fetched, Store

__all__ = ["Fetched", "Store"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from interp.store import runs

    return getattr(runs, name)
