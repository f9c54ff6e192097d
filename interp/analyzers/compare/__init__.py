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
from interp.analyzers.compare.compute import (
    GroupComparison,
    measure_group,
    rounding_floor,
    stream_sites,
)
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
from interp.models.pairs_on_demand import tuned_names
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
        results = [
            measure_group(study, self, base, tuned, group, "compare") for group in study.classes
        ]
        controls, control_changes = [], []
        for index in range(len(self.controls)):
            controls.append([self._measure_control(study, index, group) for group in study.classes])
            control_changes.append(list(tensor_changes(self.controls[index])))
        floor = rounding_floor(study, self)
        depths, layers = depth_table(study, results, controls)
        unread: list[str] = []
        weights = weight_table(list(tensor_changes(study.pair, unread)), *control_changes)
        columns = prompt_columns(results, controls)
        last_depth = int(depths["depth"].max())
        names = tuned_names(self.controls)
        control_tables = (
            {} if not controls else {"controls": controls_table(names, control_columns(controls))}
        )
        run = table(
            self.name,
            columns,
            provenance=study.provenance(self),
            summary={
                "weights": _weights_sentence(weights, unread),
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
                "tokens": token_table(study, results, self.token_rows),
                "weights": weights,
                **control_tables,
            },
        )
        return conclude(run, claims_of(last_depth, floor, len(controls), len(study.classes)))

    def _measure_control(self, study: Study, index: int, group: str) -> GroupComparison:
        pair = self.controls[index]
        return measure_group(
            study,
            self,
            pair.require_base("a comparison"),
            pair.tuned,
            group,
            f"control {index + 1}",
        )


def _weights_sentence(weights: Table, unread: Sequence[str]) -> str:
    changed = weights["change"] > 0
    unread_note = (
        f" Not compared: {len(unread)} that the adapter changes, first {unread[0]}."
        if unread
        else ""
    )
    if not changed.any():
        return (
            f"None of {len(weights)} tensors"
            f" changed{' among those compared' if unread else ''}.{unread_note}"
        )
    largest = int(np.argmax(weights["relative"]))
    location = (
        f"block {weights['layer'][largest]} {weights['part'][largest]}"
        if weights["layer"][largest] >= 0
        else (weights["part"][largest])
    )
    return (
        f"{int(changed.sum())} of {len(weights)} tensors changed, most relative to its norm:"
        f" {location} ({weights['relative'][largest]:.2g}).{unread_note}"
    )


def _limits(study: Study, controls: int) -> Sequence[str]:
    notes = [
        "Divergence shows that the models' outputs differ, not that this was the aim of"
        " fine-tuning."
    ]
    if not controls:
        notes.append(
            "How much any fine-tuning of this size changes the model was not measured: no control"
            " was given."
        )
    return notes
