"""``Compare``: a first look at a pair. Do outputs, residual streams or weights differ?

1. Both models read every prompt: KL divergence and change of the top token, token by token.
2. Residual streams at every depth: cosine, ratio of norms, linear CKA; and both logit lenses at the
   last token.
3. Every tensor of both: norm of its change, relative to its own norm.

All of it is compared with control fine-tunes where there are any.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from interp.analyzers.compare.compute import measure_group, rounding_floor, stream_sites
from interp.analyzers.compare.findings import (
    ComparedControlRow,
    claims_of,
    control_numbers,
    depth_tables,
    prompt_table,
    token_table,
    weight_table,
)
from interp.analyzers.framework import Analyzer, Needs, Result, option
from interp.claims.control_fine_tunes import controls_table
from interp.errors import UnsupportedModel
from interp.experiments.cost import Work
from interp.experiments.same_base import require_same_base
from interp.models.changes import tensor_changes
from interp.models.pair import Pair
from interp.models.pairs_on_demand import tuned_names
from interp.study import Study
from interp.table import Table

DIVERGENCE_ONLY = (
    "Divergence shows that the models' outputs differ, not that this was the aim of fine-tuning."
)
NO_CONTROL = (
    "How much any fine-tuning of this size changes the model was not measured: no control was"
    " given."
)


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
    needs: ClassVar[Needs] = Needs(base=True)

    controls: Sequence[Pair] = option(
        (), "Pairs of the same base and a control fine-tune each.", compare=False
    )
    cka_tokens: int = option(512, "Tokens in the CKA of the streams.", ge=4)
    token_rows: int = option(20_000, "Rows of the table of tokens.")
    floor_prompts: int = option(8, "Prompts of each class on which rounding is measured.")

    def require(self, study: Study) -> None:
        """Raise OptionError, PairError or UnsupportedModel for a study that cannot be compared."""
        super().require(study)
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

    def run(self, study: Study) -> Result:
        """Read both models, and the controls."""
        results = [
            measure_group(study, study.pair, group, "compare", self.cka_tokens)
            for group in study.classes
        ]
        controls, control_changes = [], []
        # indexed each time: a name for one control would keep it in memory beside the next
        for at in range(len(self.controls)):
            controls.append(
                [
                    measure_group(
                        study, self.controls[at], group, f"control {at + 1}", self.cka_tokens
                    )
                    for group in study.classes
                ]
            )
            control_changes.append(list(tensor_changes(self.controls[at])))
        floor = rounding_floor(study, self.floor_prompts)
        rows = prompt_table(study, results, controls)
        drift, layers = depth_tables(study, results, controls)
        unread: list[str] = []
        weights = weight_table(list(tensor_changes(study.pair, unread)), *control_changes)
        names = tuned_names(self.controls)
        tables = {
            "layers": layers,
            "drift": drift,
            "tokens": token_table(study, results, self.token_rows),
            "weights": weights,
        }
        if controls:
            tables["controls"] = controls_table(
                names, row=ComparedControlRow, numbers=control_numbers(controls)
            )
        return Result(
            rows,
            tables,
            claims_of(int(drift["depth"].max()), floor, len(controls), len(study.classes)),
            {
                "weights": _weights_sentence(weights, unread),
                **{name: float(rows[name].mean()) for name in ("kl", "kl_last", "flips")},
                "noise_floor": floor,
                "controls": names,
            },
            [DIVERGENCE_ONLY, *([] if controls else [NO_CONTROL])],
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
