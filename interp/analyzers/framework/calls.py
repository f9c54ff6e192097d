"""What happens around the call of an analyzer: its time is announced, a prompt that gives NaN is
named, and when memory runs out the call starts again with smaller batches.
"""

import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar, cast

from interp.errors import NonFinitePass
from interp.experiments.cost import Cost, estimate_cost
from interp.maths.memory import is_out_of_memory
from interp.study import Study
from interp.table import Table

ANNOUNCED_FROM_SECONDS = 5.0
"""Runs that take at least so many seconds print an estimate first."""
Examine = TypeVar("Examine", bound=Callable[..., Table])


def announced(examine: Examine) -> Examine:
    """Print an estimate of the run's time before it begins, and its progress."""

    @wraps(examine)
    def call(self: Any, study: Any) -> Table:
        if not isinstance(study, Study) or study.quiet:
            return examine(self, study)
        self.require(study)
        # an analyzer that another one calls prints nothing
        if (
            study.stages.is_idle
            and (told := _cost(self, study)) is not None
            and told.seconds >= ANNOUNCED_FROM_SECONDS
        ):
            print(f"{self.name}: {told}", file=sys.stderr, flush=True)
        with study.stages.during(self.name, quiet=False):
            return examine(self, study)

    return cast(Examine, call)


def _cost(analyzer: Any, study: Study) -> Cost | None:
    work = analyzer.work(study)
    if work is None:
        return None
    try:
        return estimate_cost(study, work)
    except (MemoryError, RuntimeError) as error:
        # the run itself says what to do then
        if not is_out_of_memory(error):
            raise
        return None


def names_prompt_of_nan(examine: Examine) -> Examine:
    """A pass that gives NaN on some prompt is refused under the prompt's name."""

    @wraps(examine)
    def call(self: Any, study: Any) -> Table:
        try:
            return examine(self, study)
        except NonFinitePass as error:
            if not isinstance(study, Study) or not (
                prompt := _prompt_that_begins(study, error.ids)
            ):
                raise
            raise NonFinitePass(error.message, error.ids, prompt) from error

    return cast(Examine, call)


def _prompt_that_begins(study: Study, ids: Sequence[int]) -> str:
    """Which prompt of a study these tokens begin with, in words; nothing where they begin with
    none.
    """
    description, longest = "", 0
    # a task's negative class holds none
    for group in (group for group in study.classes if len(study.prompts(group))):
        for coded, prompt in zip(study.encoded(group), study.prompts(group), strict=True):
            length = len(coded.ids)
            if longest < length <= len(ids) and list(ids[:length]) == list(coded.ids):
                longest = length
                description = (
                    f"the first is row {prompt.id} of {study.prompts(group).source},"
                    f" {prompt.text[:40]!r}"
                )
    return description


def retries_with_smaller_batches(examine: Examine) -> Examine:
    """Start again with smaller batches when memory runs out."""

    @wraps(examine)
    def call(self: Any, study: Any) -> Table:
        # from the start: what a batch had added to running sums before it failed would count twice
        while True:
            try:
                return examine(self, study)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or not hasattr(study, "back_off"):
                    raise
                reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
            # only here is the error gone, and with it the tensors that its frames held
            study.back_off(reason)

    return cast(Examine, call)
