"""Control fine-tunes must have the same base as the pair."""

from collections.abc import Sequence

from interp.errors import PairError
from interp.models.pair import Pair
from interp.models.pairs_on_demand import pair_inputs, tuned_names
from interp.study import Study


def require_same_base(study: Study, controls: Sequence[Pair]) -> None:
    """Raise PairError for a control fine-tune with another base than the study's."""
    for name, inputs in zip(tuned_names(controls), pair_inputs(controls), strict=True):
        if inputs.get("base") != study.pair.digests.get("base"):
            raise PairError(
                f"the control fine-tune {name} has another base than {study.pair.tuned.name}; give"
                " one that was tuned from the same base"
            )
