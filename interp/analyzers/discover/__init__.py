"""``Discover``: what did the fine-tuned model learn that control fine-tunes did not?

No model is run: tables of discovery methods (``DISCOVERY_METHODS``) on one pair and the same
controls are joined. Their items are ranked by one statistic over all methods, and compared with the
largest one of every control. A fine-tune on nothing in particular also gives a readable table by
every method, so that nothing counts which controls do as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from interp.analyzers.discover.findings import claims_of, limits_of
from interp.analyzers.discover.joint import Joint, joint_statistic
from interp.analyzers.discover.tables import (
    divergences,
    group_table,
    item_table,
    method_table,
    model_table,
)
from interp.analyzers.framework import Analyzer, Known, Result, option
from interp.claims.discovery_opening import discovery_lines
from interp.errors import OptionError
from interp.experiments.discovery import CONTROLS
from interp.study import Study
from interp.table import Table

DISCOVERY_METHODS = (
    "diff-mining",
    "activation-difference",
    "contrastive-generation",
    "perplexity-differencing",
    "update-directions",
    "trigger-scan",
)
"""Kinds of tables that can be joined."""


@dataclass(frozen=True)
class Discover(Analyzer):
    """Join the evidence of several methods; ``runs``: their tables, on one pair with the same
    controls.

    Returns a table of kind ``discover``, one row per item, with ``methods``, ``models`` (the joint
    statistic of every model) and ``groups`` (tokens and phrases that are one word).
    """

    name: ClassVar[str] = "discover"
    version: ClassVar[int] = 2

    runs: Sequence[Table] = option((), "Tables of discovery methods.")
    rows: int = option(30, "Items listed of each method.", ge=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        first = next((run for run in self.runs if isinstance(run, Table)), None)
        if self.parent is None and first is not None and first.provenance is not None:
            object.__setattr__(self, "parent", first.provenance.key)

    def check(self, known: Known) -> None:
        """Raise OptionError without tables, for one of another kind, and for two that are of other
        models.
        """
        if not self.runs:
            raise OptionError("there is nothing to join; give tables of discovery methods")
        for run in self.runs:
            if not isinstance(run, Table) or run.kind not in DISCOVERY_METHODS:
                seen = run.kind if isinstance(run, Table) else type(run).__name__
                raise OptionError(
                    f"runs of Discover hold {seen!r}; give tables of {', '.join(DISCOVERY_METHODS)}"
                )
        kinds = [run.kind for run in self.runs]
        if twice := sorted({kind for kind in kinds if kinds.count(kind) > 1}):
            raise OptionError(f"runs of Discover hold {twice[0]!r} twice; give each method once")
        names = [_model_names(run) for run in self.runs]
        if any(each != names[0] for each in names):
            raise OptionError(
                "runs of Discover are of other models or controls:"
                f" {' / '.join(', '.join(each) for each in names)}; give runs of one pair with the"
                " same controls"
            )

    def run(self, study: Study) -> Result:
        """Join the tables."""
        names = _model_names(self.runs[0])
        maxima = np.stack([run.tables[CONTROLS]["maximum"] for run in self.runs], axis=1)
        joint = joint_statistic(maxima)
        methods = method_table(self.runs, joint)
        items = item_table(self.runs, joint, self.rows)
        kl = divergences(self.runs, len(names))
        models = model_table(names, joint, [run.kind for run in self.runs], kl)
        n_controls = len(names) - 1
        beyond = int(items["beyond"].sum())
        summary: dict[str, Any] = {
            "controls": names[1:],
            "methods": [run.kind for run in self.runs],
            "beyond": beyond,
            "opening": discovery_lines(items, methods, n_controls),
        }
        return Result(
            items,
            {"methods": methods, "models": models, "groups": group_table(items)},
            claims_of(items, methods, n_controls, float(np.max(joint.maxima[1:], initial=0.0))),
            summary,
            limits_of(kl),
            # without a claim there is no sentence of one
            lead="" if n_controls else summary["opening"][0],
        )


def _model_names(run: Table) -> list[str]:
    return list(map(str, run.tables[CONTROLS]["model"])) if CONTROLS in run.tables else []


__all__ = ["DISCOVERY_METHODS", "Discover", "Joint"]
