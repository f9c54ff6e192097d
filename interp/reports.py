"""``write_report`` and ``verify``: reports of results in a notebook, as ``interp report`` and
``interp verify`` write and check them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.errors import ClaimError, OptionError
from interp.replication.remeasure import remeasurement
from interp.report import document
from interp.report.verification import checks
from interp.store import Store


@dataclass(frozen=True)
class Verification:
    """The outcome of the checks of a report; true if none failed.

    ``checks`` and ``claims``: how many could be asked, and how many of them recompute a claim.
    ``failed`` and ``not_asked``: name and reason of each.
    """

    checks: int
    claims: int
    failed: tuple[tuple[str, str], ...]
    not_asked: tuple[tuple[str, str], ...]

    def __bool__(self) -> bool:
        return not self.failed

    def __repr__(self) -> str:
        lines = [reason for _, reason in self.failed]
        lines += [f"{name}: {reason}" for name, reason in self.not_asked]
        held = self.checks - len(self.failed)
        summary = (
            f"{held} of {self.checks} checks hold; {self.claims} of the checks recompute a claim"
            " from the stored tables"
        )
        return "\n".join([*lines, summary])


def write_report(
    runs: Iterable[Any],
    path: str | os.PathLike,
    *,
    store: Store | None = None,
    title: str | None = None,
    agreement_draws: int | None = None,
) -> Path:
    """Write an offline HTML page over some runs, and the JSON of its claims beside it; returns the
    path of the JSON.

    ``runs``: what ``Store.run`` returned, or keys of stored runs, or tables, for which ``store``
    says where they are. ``agreement_draws``: also compare where the methods of one pair place the
    change, with so many random draws. Raises OptionError or StoreError before anything is written.
    """
    listed = list(runs)
    if not listed:
        raise OptionError("a report needs at least one run; give what Store.run returned")
    stores = {found.root: found for run in listed if (found := _store_of(run)) is not None}
    if store is None and len(stores) != 1:
        raise OptionError(
            f"the runs are from {len(stores)} known stores; name the one to read with store="
        )
    return document.write_report(
        path,
        [_key_of(run) for run in listed],
        store or next(iter(stores.values())),
        title=title,
        draws=agreement_draws,
    )


def verify(
    path: str | os.PathLike,
    *,
    store: str | os.PathLike | None = None,
    remeasure: bool = False,
    prompts: Sequence[str | os.PathLike] = (),
    tolerance: float = 1e-6,
) -> Verification:
    """Check the JSON of a report: recompute all that it says from the stored tables.

    ``store``: where its runs are; by default the store that the report names. ``remeasure``: also
    run the commands again that made the runs, and compare within ``tolerance`` (relative, absolute
    below 1). ``prompts``: also ask the claims of fresh prompts, one file or a positive and a
    negative one. Raises StoreError for a file that is not a report.
    """
    report = document.read(path, store)
    with remeasurement([str(item) for item in prompts], tolerance) as again:
        recomputed = checks(report)
        questions: list[Any] = [*recomputed]
        if remeasure:
            questions += again.remeasured(report)
        questions += again.on_fresh_prompts(report)
        failed, not_asked = _ask(questions)
    return Verification(
        len(questions) - len(not_asked),
        sum(bool(check.claim) for check in recomputed),
        tuple(failed),
        tuple(not_asked),
    )


def _ask(
    questions: Sequence[Callable[[], str | None]],
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Names and reasons of the questions that failed, and of those that could not be asked."""
    failed, not_asked = [], []
    for question in questions:
        name = getattr(question, "name", "check")
        try:
            reason = question()
        except ClaimError as error:
            failed.append((name, str(error)))
            continue
        if reason:
            not_asked.append((name, reason))
    return failed, not_asked


def _key_of(run: Any) -> str:
    if isinstance(run, str):
        return run
    key = getattr(run, "key", None)
    return key if isinstance(key, str) else run.require_provenance().key


def _store_of(run: Any) -> Store | None:
    """The store in which a result lies, from the path of its run."""
    path = getattr(run, "path", None)
    return None if path is None else Store(Path(path).parent)
