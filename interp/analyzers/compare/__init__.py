"""``Compare``: a first look at a pair. Do outputs, residual streams or weights differ?

1. Both models read every prompt: KL divergence and change of the top token, token by token.
2. Residual streams at every depth: cosine, ratio of norms, linear CKA; and both logit lenses at the
   last token.
3. Every tensor of both: norm of its change, relative to its own norm.

All of it is compared with control fine-tunes where there are any.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from interp.analyzers.base import Analyzer
from interp.analyzers.compare.compute import Read, read, rounding, stream_sites
from interp.analyzers.compare.findings import (
    claims_of,
    control_columns,
    depth_table,
    prompt_columns,
    token_table,
    weight_table,
)
from interp.claims import conclude
from interp.claims.control_fine_tunes import controls_table
from interp.errors import OptionError, UnsupportedModel
from interp.experiments.cost import Work
from interp.experiments.same_base import require_same_base
from interp.models.changes import tensor_changes
from interp.models.pair import Pair
from interp.models.pairs_on_demand import names_of
from interp.study import Study
from interp.table import Table, table


@dataclass(frozen=True)
class Compare(Analyzer):
    """Both models of a pair over the study's prompts; needs a base.

    ``controls``: pairs of the same base and a control fine-tune each (the same training on neutral
    data), which are measured in the same way; with several, prompts are compared with their mean.
    ``cka_tokens`` streams are kept for CKA; ``token_rows`` rows of the table of tokens. Returns a
    table of kind ``compare``, one row per prompt, with ``layers`` (depths, with intervals),
    ``drift`` (prompt by depth), ``tokens``, ``weights`` and, with controls, ``controls``.
    """

    name: ClassVar[str] = "compare"
    version: ClassVar[int] = 7

    controls: Sequence[Pair] = field(default=(), compare=False)
    cka_tokens: int = 512
    token_rows: int = 20_000
    floor_prompts: int = 8
    parent: str | None = None

    def require(self, study: Study) -> None:
        """Raise OptionError, PairError or UnsupportedModel for a study that cannot be compared."""
        study.pair.require_base("a comparison")
        if self.cka_tokens < 4:
            raise OptionError(f"CKA of {self.cka_tokens} tokens is undefined; use at least 4")
        anatomy = study.pair.tuned.anatomy
        if missing := [
            site.hook for site in stream_sites(study.pair.tuned) if site.hook not in anatomy.targets
        ]:
            raise UnsupportedModel(
                f"{anatomy.architecture} has no exact counterpart of {missing[0]}"
            )
        require_same_base(study, self.controls)

    def work(self, study: Study) -> Work:
        """Passes of both models over every prompt, and the same for every control, with the
        distribution of every token.
        """
        # measured: divergences and lenses of all tokens take longer than the passes themselves
        return Work(full_logits=4.2 * (1 + len(self.controls)))

    def __call__(self, study: Study) -> Table:
        """Read both models, and the controls."""
        self.require(study)
        base, tuned = study.pair.require_base("a comparison"), study.pair.tuned
        found = [read(study, self, base, tuned, group, "compare") for group in study.classes]
        controls, theirs = [], []
        for at in range(len(self.controls)):
            controls.append([self._read_control(study, at, group) for group in study.classes])
            theirs.append(list(tensor_changes(self.controls[at])))
        floor = rounding(study, self)
        depths, layers = depth_table(study, found, controls)
        unread: list[str] = []
        weights = weight_table(list(tensor_changes(study.pair, unread)), *theirs)
        columns = prompt_columns(found, controls)
        end = int(depths["depth"].max())
        names = names_of(self.controls)
        further = (
            {} if not controls else {"controls": controls_table(names, control_columns(controls))}
        )
        run = table(
            self.name,
            columns,
            provenance=study.provenance(self),
            summary={
                "weights": _moved(weights, unread),
                "kl": float(columns["kl"][0].mean()),
                "kl_last": float(columns["kl_last"][0].mean()),
                "flips": float(columns["flips"][0].mean()),
                "noise_floor": floor,
                "controls": names,
                "limits": _limits(study, len(self.controls)),
                **{group: len(study.prompts(group)) for group in study.classes},
            },
            tables={
                "layers": layers,
                "drift": depths,
                "tokens": token_table(study, found, self.token_rows),
                "weights": weights,
                **further,
            },
        )
        return conclude(run, claims_of(end, floor, len(controls), len(study.classes)))

    def _read_control(self, study: Study, at: int, group: str) -> Read:
        pair = self.controls[at]
        return read(
            study, self, pair.require_base("a comparison"), pair.tuned, group, f"control {at + 1}"
        )


def _moved(weights: Table, unread: Sequence[str]) -> str:
    changed = weights["change"] > 0
    left = (
        f" Not compared: {len(unread)} that the adapter changes, first {unread[0]}."
        if unread
        else ""
    )
    if not changed.any():
        return (
            f"None of {len(weights)} tensors"
            f" changed{' among those compared' if unread else ''}.{left}"
        )
    most = int(np.argmax(weights["relative"]))
    where = (
        f"block {weights['layer'][most]} {weights['part'][most]}"
        if weights["layer"][most] >= 0
        else (weights["part"][most])
    )
    return (
        f"{int(changed.sum())} of {len(weights)} tensors changed, most relative to its norm:"
        f" {where} ({weights['relative'][most]:.2g}).{left}"
    )


def _limits(study: Study, controls: int) -> Sequence[str]:
    found = [
        "Divergence shows that the models' outputs differ, not that this was the aim of"
        " fine-tuning."
    ]
    if not controls:
        found.append(
            "How much any fine-tuning of this size changes the model was not measured: no control"
            " was given."
        )
    return found
