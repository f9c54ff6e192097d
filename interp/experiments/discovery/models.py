"""The fine-tuned model and its controls in turn, each with the base."""

from collections.abc import Iterator, Sequence

from interp.models.pair import Pair
from interp.models.pairs_on_demand import tuned_names
from interp.study import Study


def each_model(study: Study, controls: Sequence[Pair]) -> Iterator[tuple[int, Pair]]:
    """The study's pair (0), then the pair of every control (1, 2, ...), one in memory at a time.

    Do not keep what is yielded: a control is freed when the next is loaded.
    """
    yield 0, study.pair
    for at in range(len(controls)):
        yield at + 1, controls[at]


def model_names(study: Study, controls: Sequence[Pair]) -> list[str]:
    """The names of the fine-tuned model and of the controls, in the order of ``each_model``."""
    return [study.pair.tuned.name, *tuned_names(controls)]
