"""How every command that keeps runs works: answered from the store where nothing changed, else
computed, kept and printed.

A command checks its options and describes its request; ``answer`` recalls the request or calls the
command's ``compute``, which gets a ``Session`` and returns the runs, the one that is printed first.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from interp.cli.common import RuntimeOptions
from interp.cli.request_cache import Request
from interp.cli.results import page_name, print_result, recalled_page, write_page_of
from interp.errors import OptionError
from interp.provenance import JSON

if TYPE_CHECKING:
    from interp.models.pair import Pair
    from interp.store import Store
    from interp.study import Study

_UNDESCRIBED: JSON = object()


class Session:
    """What a command computes with: its store, the models and studies it asks for, its notes.

    torch is imported when the first of these is used.
    """

    def __init__(self, common: RuntimeOptions, request: Request) -> None:
        self.common, self.notes, self._request = common, [], request
        self._described = _UNDESCRIBED

    @cached_property
    def store(self) -> "Store":
        """Where runs are kept."""
        from interp.store import Store

        return Store(self.common.store)

    def note(self, *lines: str) -> None:
        """Print notes on the result to stderr, each once; they are kept with the request."""
        notes = [f"note: {line}" for line in dict.fromkeys(lines)]
        for note in notes:
            self.common.remark(note)
        self.notes += notes

    def begin(self) -> None:
        """Describe the request, once all options and prompts were found to be right and before any
        model is read.
        """
        if self._described is _UNDESCRIBED:
            self._described = self._request.describe()

    def load(self, tuned: str, base: str | None, needs_base: str = "") -> "Pair":
        """A pair, with what its chat template is given; ``needs_base`` names what cannot be done
        without a base.

        Raises OptionError where a base is needed and none is known, before any weight is read.
        """
        from interp.models.pair import Pair
        from interp.models.sources import find

        if needs_base and base is None and find(tuned).base_name is None:
            raise OptionError(
                f"{needs_base} needs a base model and none was given; add --base MODEL"
            )
        self.begin()
        self.common.status(f"loading {tuned}")
        pair = Pair.load(tuned, base, **self.common.loading)
        templated = getattr(self.common, "templated", None)
        return pair if templated is None else templated(pair)

    def study(self, pair: "Pair", prompts: Any, metric: Any = None) -> "Study":
        """A study of a pair on prompts, as the common options say."""
        from interp.engines import engine_named
        from interp.study import Study

        common = self.common
        return Study(
            pair,
            prompts,
            metric,
            common.seed,
            common.batches(),
            engine=engine_named(common.engine, common.remote),
            quiet=common.quiet,
        )

    def finish(self, runs: Sequence[Any], title: str) -> str:
        """Write the page, remember the request, print; returns the first run's key."""
        self.begin()
        for run in runs:
            if run.aside:
                self.common.remark(
                    f"note: run {run.key} was damaged; it was made again, what was there is in"
                    f" {run.aside}"
                )
        keys = [run.key for run in runs]
        page = write_page_of(runs[0].path / page_name(keys), [run.table for run in runs], title)
        self._request.remember(self._described, keys, self.notes, page)
        return print_result(self.common, runs, page)


def answer(
    request: Request, title: str, compute: Callable[[Session], Sequence[Any]], recalls: bool = True
) -> str:
    """Print what a request gave before, if nothing that determines it changed; else compute it.

    ``recalls`` False: compute in any case; runs in the store are used again. Returns the key of the
    first run.
    """
    common = request.common
    if recalls and (remembered := request.recall()) is not None:
        for note in remembered.notes:
            common.remark(note)
        return print_result(common, remembered.runs, recalled_page(common.store, remembered, title))
    session = Session(common, request)
    return session.finish(compute(session), title)
