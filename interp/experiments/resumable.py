"""Parts of a run that are computed several at a time, and kept so that an interrupted run can
resume.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

from interp.study import Study


def resumable_parts(
    study: Study,
    names: Sequence[str],
    make: Callable[[Iterable[int]], Sequence[Any]],
    description: str,
    batch_size: int,
) -> list[Any]:
    """The parts of these names, in order: kept by an earlier run, or computed by ``make``.

    ``make`` gets indices of names, at most ``batch_size``, and returns their parts in this order.
    Progress counts the indices that it has taken.
    """
    missing = [
        at for at, name in enumerate(names) if study.journal is None or not study.journal.has(name)
    ]
    computed: dict[int, Any] = {}
    progress = iter(study.progress(missing, description))
    for start in range(0, len(missing), batch_size):
        indices = missing[start : start + batch_size]
        for at, value in zip(indices, make(islice(progress, len(indices))), strict=True):
            computed[at] = study.part(names[at], lambda value=value: value)
    for _ in progress:
        pass
    return [
        computed[at] if at in computed else study.part(name, lambda: None)
        for at, name in enumerate(names)
    ]
