"""The analysis store: every table that was computed, as files that outlive this package.

A run is a directory named by its key::

    <store>/<key>/manifest.json             kind, provenance, summary and digests of its files
                  table.parquet             the rows
                  tables/<name>.parquet     named sub-tables
                  arrays.safetensors        larger arrays, if there are any
    <store>/.requests/<fingerprint>.json    which runs answered a command (see ``requests``)
    <store>/.svd/<name>.safetensors         singular vectors of base matrices (see ``svd_cache``)
    <store>/.temporary/                     runs being written; leftovers of a crash are removed
    <store>/.unfinished/<key>.jsonl         finished parts of an interrupted run
    <store>/.aside/                         damaged directories that had the name of a run

``runs`` reads and writes runs, ``query`` runs SQL across them; ``files``, ``manifest`` and
``transaction`` handle files. ``Store`` is imported on first use, so that a repeated command, which
reads only manifests, does not wait for pyarrow.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.store.runs import Store, StoredRun

__all__ = ["Store", "StoredRun"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from interp.store import runs

    return getattr(runs, name)
