"""Parts of a run that are computed several at a time, and kept so that an interrupted run can
resume.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

from interp.study import Study


def parts(
    study: Study,
    names: Sequence[str],
    make: Callable[[Iterable[int]], Sequence[Any]],
    what: str,
    at_once: int,
) -> list[Any]:
    """The parts of these names, in order: kept by an earlier run, or computed by ``make``.

    ``make`` gets indices of names, at most ``at_once``, and returns their parts in this order.
    Progress counts the indices that it has taken.
    """
    missing = [
        at for at, name in enumerate(names) if study.journal is None or not study.journal.has(name)
    ]
    made: dict[int, Any] = {}
    going = iter(study.progress(missing, what))
    for start in range(0, len(missing), at_once):
        some = missing[start : start + at_once]
        for at, value in zip(some, make(islice(going, len(some))), strict=True):
            made[at] = study.part(names[at], lambda value=value: value)
    for _ in going:
        pass
    return [
        made[at] if at in made else study.part(name, lambda: None) for at, name in enumerate(names)
    ]
