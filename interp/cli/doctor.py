"""``interp doctor``: does this installation work? Every line is a check: ok, warn, or fail with
what to do.
"""

import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

from packaging.requirements import Requirement

from interp import organisms
from interp.cli.common import Common, takes
from interp.cli.organisms import size
from interp.cli.text import aligned
from interp.errors import InterpError


class Check(NamedTuple):
    """One line of the diagnosis."""

    status: Literal["ok", "warn", "fail"]
    name: str
    detail: str


@takes(Common)
def command(*, common: Common) -> None:
    """Check this installation: versions, torch, the store, the shipped organisms, and one real
    forward pass.
    """
    checks = [*_python(), *_versions(), *_torch(), _store(common.store), *_organisms()]
    failed = [check.name for check in checks if check.status == "fail"]
    record = {"ok": not failed, "checks": [check._asdict() for check in checks]}
    common.result(record, aligned(checks, ("status", "check", "detail")))
    if failed:
        raise InterpError(
            f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}; their lines say"
            " what to do"
        )


def _python() -> Iterator[Check]:
    good = sys.version_info >= (3, 11)
    yield Check(
        "ok" if good else "fail",
        "python",
        platform.python_version() + ("" if good else ": 3.11 is needed"),
    )


def _versions() -> Iterator[Check]:
    try:
        requirements = metadata.requires("interp") or []
    except metadata.PackageNotFoundError:
        yield Check(
            "fail",
            "interp",
            "not installed: pip install -c constraints.txt -e . in its source tree",
        )
        return
    yield Check("ok", "interp", metadata.version("interp"))
    for needed in map(Requirement, requirements):
        if needed.marker and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = metadata.version(needed.name)
        except metadata.PackageNotFoundError:
            yield Check("fail", needed.name, f"not installed: pip install '{needed}'")
            continue
        required = ",".join(sorted(map(str, needed.specifier), reverse=True))
        if needed.specifier.contains(installed, prereleases=True):
            yield Check("ok", needed.name, f"{installed} ({required})")
        else:
            yield Check(
                "fail", needed.name, f"{installed} is outside {required}: pip install '{needed}'"
            )


def _torch() -> Iterator[Check]:
    try:
        import torch
    except ImportError as error:
        yield Check("fail", "device", f"torch cannot be imported ({error}): pip install torch")
        return
    threads, cores = (
        torch.get_num_threads(),
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
    )
    if cores and threads > cores:
        yield Check(
            "warn",
            "threads",
            f"torch uses {threads} threads on {cores} cores: set OMP_NUM_THREADS={cores}",
        )
    else:
        yield Check("ok", "threads", f"{threads}")
    if torch.cuda.is_available():
        yield Check(
            "ok",
            "device",
            ", ".join(map(torch.cuda.get_device_name, range(torch.cuda.device_count()))),
        )
    else:
        yield Check("ok", "device", "cpu")


def _store(root: Path) -> Check:
    """Whether a file can be written in the store, or in the folder where it would be made."""
    existing = root.absolute()
    while not existing.exists():
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return Check(
            "fail", "store", f"{existing} cannot be written ({reason}): name another with --store"
        )
    return Check(
        "ok",
        "store",
        str(root) if root.exists() else f"{root} is not there yet, {existing} can be written",
    )


def _organisms() -> Iterator[Check]:
    try:
        sizes = {name: size(name) for name in organisms.names()}
    except InterpError as error:
        yield Check("fail", "organisms", str(error))
        return
    if not sizes:
        yield Check("fail", "organisms", "none shipped: install interp again, its data is missing")
        return
    yield Check(
        "ok",
        "organisms",
        f"{len(sizes)}, {sum(sizes.values()) / 2**20:.1f} MiB: {', '.join(sizes)}",
    )
    # a base that another package ships is not ours to have run
    ours = (
        name
        for name in sizes
        if organisms.base_of(name) is None and organisms.packaged(name) is None
    )
    yield _forward(min(ours, key=sizes.__getitem__))


def _forward(name: str) -> Check:
    """One pass of an organism through the default engine."""
    try:
        from interp.engines import Batch, TorchEngine
        from interp.maths.host import to_host
        from interp.models.pair import Pair

        start = time.perf_counter()
        pair = Pair.load(f"organism:{name}", device="cpu")
        ids = pair.tokenizer("Which word is last: lamp stone river?")["input_ids"]
        logits = TorchEngine().run(pair.tuned, Batch.pad([ids], 0)).require_logits()
        good = bool(to_host(logits.isfinite().all()))
    except InterpError as error:
        return Check("fail", "forward", f"organism:{name} does not run: {error}")
    except Exception as error:
        reason = re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")
        return Check(
            "fail", "forward", f"organism:{name} does not run ({reason}): install the package again"
        )
    seconds = time.perf_counter() - start
    return Check(
        "ok" if good else "fail", "forward", f"organism:{name} loaded and run in {seconds:.1f} s"
    )
