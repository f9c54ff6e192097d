"""``Baselines``: other methods of the field on the prompts on which a located set was verified, one
row each.

located     the located set with the base's contributions (without a base: set to their mean), as it
            was verified
zero        the same units set to zero
direction   a share of the difference of mean streams removed (Arditi et al. 2024, arXiv
            2406.11717): the largest share whose divergence on answers to negative prompts is at
            most that of ``located``
contrast    the same number of units, the first by a method that reads the fine-tuned model alone
            (Cohen's d between the classes: SafeNeuron, arXiv 2602.12158), intervened on in the same
            way
random      the matched random sets of the verification, their mean

The other methods choose on the selection split; all rows are measured on the held-out split.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from interp.analyzers.baselines.arms import (
    Arm,
    MethodRow,
    arm_from_verification,
    measured_arm,
    random_rows,
    row_of,
)
from interp.analyzers.baselines.findings import answers_table, beats_claim
from interp.analyzers.framework import Analyzer, Known, Needs, Result, option
from interp.errors import OptionError, required
from interp.experiments.conditions import PatchSource, PatchTarget
from interp.experiments.corrected_rates import judge_field
from interp.experiments.divergence import divergence
from interp.experiments.ranking_sets import ranking_of, unit_of
from interp.experiments.records import records_table
from interp.experiments.refusal_directions import (
    candidate_directions,
    choose_direction,
    direction_ablation,
)
from interp.metrics import require_number
from interp.study import Study
from interp.table import Table

STEPS = 128  # shares of the direction are multiples of 1 / STEPS
CONTRAST, DIRECTION = "contrast", "direction"


@dataclass(frozen=True)
class Baselines(Analyzer):
    """One row per method: behaviour, recovery and effects on negative prompts, compared with a
    ``verified`` set.

    ``located`` is the locating run that was verified. ``contrast``: a run on the same prompts by a
    method that needs no base; ``choosing``: the study whose prompts, at most ``prompts`` of each
    class, choose the direction. Without them those rows are omitted. Returns a table of kind
    ``baselines``. Raises OptionError for runs that do not belong together, and for a study that is
    not that of the verifying run.
    """

    name: ClassVar[str] = "baselines"
    version: ClassVar[int] = 2
    needs: ClassVar[Needs] = Needs(negatives=True, metric=True)

    verified: Table | None = option(
        None, "The verifying run.", kind="verify-neurons", from_parent=True
    )
    located: Table | None = option(
        None, "The locating run that was verified.", kind="locate-neurons", from_parent=True
    )
    contrast: Table | None = option(
        None,
        "A locating run on the same prompts, by a method that needs no base.",
        kind="locate-neurons",
    )
    choosing: Study | None = option(None, "The study whose prompts choose the direction.")
    prompts: int = option(48, "Prompts of a class that choose the direction.", ge=1)

    def check(self, known: Known) -> None:
        """Raise OptionError for runs that do not belong together."""
        del known
        if self.verified is None or self.located is None:
            raise OptionError(
                "baselines need a verifying run and the locating run that it verified"
            )
        if self.verified.summary["verified"] not in (None, self.located.require_provenance().key):
            raise OptionError(
                f"the verifying run is of locating run {self.verified.summary['verified']}; give"
                " that run as located"
            )
        unit = unit_of(self.located)
        if not self.verified.summary["selected"]:
            raise OptionError(
                f"no {unit.name} was selected: there is no set to compare baselines with"
            )
        if self.contrast is not None and unit_of(self.contrast).name != unit.name:
            raise OptionError(
                f"units of kind {unit_of(self.contrast).name} cannot be compared with {unit.name}s"
            )

    def require(self, study: Study) -> None:
        """As ``check``; raises OptionError for other prompts than those of the verifying run too."""
        super().require(study)
        verified = required(self.verified, "a verifying run")
        if verified.require_provenance().inputs["prompts"] != study.contrast.digest:
            raise OptionError(
                "the verifying run used other prompts; give the study that it was run on"
            )

    def run(self, study: Study) -> Result:
        """Read the verified set's results, and measure the other methods on the same prompts."""
        verified = required(self.verified, "a verifying run")
        located = required(self.located, "a locating run")
        unit, size = unit_of(located), int(verified.summary["selected"])
        metric, prefix = study.require_metric(), ranking_of(located)[:size]
        ablation, treatment = "ablate-mean", "set to their mean"
        if study.pair.base is not None:
            ablation, treatment = "ablate-base", f"given the base's {verified.summary['patch']}s"
        donors = PatchSource.from_study(study, unit, verified.summary["patch"])
        arms = [
            arm_from_verification(
                study,
                verified,
                ablation,
                "located",
                f"{size} located {unit.name}s {treatment}",
                size,
            ),
            measured_arm(
                study,
                verified,
                "zero",
                "the same set to zero",
                donors.condition("ablate-zero", prefix),
                size,
            ),
        ]
        limits, claims, shared = [], [], None
        if self.choosing is not None:
            require_number(metric, "the direction")
            arm, note = self._direction(
                study, verified, self.choosing, float(arms[0].divergence.mean())
            )
            arms += [arm] if arm is not None else []
            limits += [note] if note else []
            claims.append(beats_claim(metric.labels, unit, size, DIRECTION, arm))
        if self.contrast is not None:
            units = ranking_of(self.contrast)[:size]
            shared = len({*units} & {*prefix})
            method = self.contrast.summary["method"]
            arm = measured_arm(
                study,
                verified,
                CONTRAST,
                f"the first {size} {unit.name}s by {method}, {treatment}",
                donors.condition(ablation, units),
                size,
            )
            arms.append(arm)
            claims.append(beats_claim(metric.labels, unit, size, CONTRAST, arm))
        if judge_field(study):
            limits.append("Shares are not corrected for the judge's errors.")
        rows = [row_of(study, verified, arm) for arm in arms]
        rows += random_rows(
            verified, unit, bool(np.isfinite(rows[0]["recovery"])), metric.applies("negative")
        )
        shares = "; ".join(f"{row['what']}: {row['exhibits_behaviour']:.1%}" for row in rows)
        plural = metric.labels.plural
        return Result(
            records_table(MethodRow, self.name, rows),
            {"answers": answers_table(study, arms)},
            claims,
            {
                "selected": size,
                "unit": unit.name,
                "shared_with_contrast": shared,
                "labels": {"many": plural, "number": metric.labels.number},
            },
            limits,
            lead=f"{plural[:1].upper()}{plural[1:]} under each method: {shares}.",
        )

    def _direction(
        self, study: Study, verified: Table, choosing: Study, max_kl: float
    ) -> tuple[Arm | None, str]:
        """The largest share of the direction with a divergence of at most ``max_kl`` (None where
        there is none), and a note.
        """
        choosing = choosing.with_prompts(
            choosing.require_contrast("the direction").limit(self.prompts)
        )
        best = choose_direction(choosing, candidate_directions(choosing), study)
        rows, low, high = range(len(study.prompts("negative"))), 0, STEPS + 1
        while high - low > 1:
            middle = (low + high) // 2
            edit = direction_ablation(study.pair.tuned, best.direction, middle / STEPS)
            low, high = (
                (middle, high) if divergence(study, edit, rows).mean() <= max_kl else (low, middle)
            )
        notes = []
        if not best.criteria_met:
            notes.append(
                "No direction met its criteria: the one that lowers the metric most was used."
            )
        if not low:
            notes.append(
                f"No share of the direction, down to 1/{STEPS}, has as small a divergence as the"
                " located set."
            )
            return None, " ".join(notes)
        share = low / STEPS
        receiver = PatchTarget("tuned", direction_ablation(study.pair.tuned, best.direction, share))
        what = f"{share:.1%} of one direction removed"
        arm = measured_arm(study, verified, DIRECTION, what, receiver, share=share)
        return arm, " ".join(notes)
