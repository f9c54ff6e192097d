"""The pair of models that a stored locating run was made of."""

from typing import TYPE_CHECKING

from interp.cli.common import RuntimeOptions
from interp.errors import OptionError, required

if TYPE_CHECKING:
    from interp.models.pair import Pair
    from interp.store import Store
    from interp.table import Table


def located_run(store: "Store", run: str) -> "Table":
    """The table of a stored ``locate-neurons`` run; OptionError for a run of another kind."""
    located = store.get(run)
    if located.kind != "locate-neurons":
        raise OptionError(
            f"run {run} is of kind {located.kind}; give the key of a locate-neurons run (interp ls)"
        )
    return located


def source_pair(
    common: RuntimeOptions, located: "Table", source: str | None, source_base: str | None
) -> "Pair":
    """The models that ``located`` was measured on, by default where they were then; OptionError
    where they are others now.
    """
    from interp.models.pair import Pair

    provenance = located.require_provenance()
    source = source or provenance.context["tuned"]
    source_base = source_base or provenance.context.get("base") or None
    pair = Pair.load(required(source, "--source MODEL"), source_base, **common.loading)
    for role in ("base", "tuned", "adapter"):
        before = provenance.inputs.get(role)
        if before is not None and before != pair.digests.get(role):
            raise OptionError(
                f"{source} is not what run {provenance.key} was made of: its {role} changed; give"
                " --source MODEL"
            )
    return pair
