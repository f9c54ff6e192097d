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

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from interp.analyzers.base import Analyzer
from interp.analyzers.baselines.arms import (
    Arm,
    arm_from_verification,
    measured_arm,
    random_rows,
    row_of,
)
from interp.analyzers.baselines.findings import answers_table, beats_claim, columns
from interp.claims import conclude
from interp.errors import OptionError
from interp.experiments.conditions import PatchSource, PatchTarget
from interp.experiments.corrected_rates import judge_field
from interp.experiments.divergence import divergence
from interp.experiments.ranking_sets import ranking_of, unit_of
from interp.experiments.refusal_directions import (
    candidate_directions,
    choose_direction,
    direction_ablation,
)
from interp.metrics import require_number
from interp.models.units import Unit
from interp.study import Study
from interp.table import Table, table

STEPS = 128  # shares of the direction are multiples of 1 / STEPS
CONTRAST, DIRECTION = "contrast", "direction"


@dataclass(frozen=True)
class Baselines(Analyzer):
    """One row per method: behaviour, recovery and effects on negative prompts, compared with a
    ``verified`` set.

    ``located`` is the locating run that was verified. ``contrast``: a run on the same prompts by a
    method that needs no base; ``choosing``: the study whose prompts, at most ``prompts`` of each
    class, choose the direction. Without them those rows are omitted. Returns a table of kind
    ``baselines``.
    """

    name: ClassVar[str] = "baselines"
    version: ClassVar[int] = 2
    takes: ClassVar[dict[str, str]] = {
        "verified": "verify-neurons",
        "located": "locate-neurons",
        "contrast": "locate-neurons",
    }

    verified: Table | None = field(default=None, metadata={"from_parent": True})
    located: Table | None = field(default=None, metadata={"from_parent": True})
    contrast: Table | None = None
    choosing: Study | None = None
    prompts: int = 48

    @classmethod
    def of(cls, verified: Table, located: Table, **options) -> "Baselines":
        """The analyzer for a verifying run's table and the locating run's table that it
        verified.
        """
        return cls(
            verified=verified, located=located, parent=verified.require_provenance().key, **options
        )

    def __call__(self, study: Study) -> Table:
        """Read the verified set's results, and measure the other methods on the same prompts."""
        verified, located, unit, size = self._validated(study)
        words, prefix = study.require_metric().labels, ranking_of(located)[:size]
        has_base = study.pair.base is not None
        ablation, treatment = "ablate-mean", "set to their mean"
        if has_base:
            ablation, treatment = "ablate-base", f"given the base's {verified.summary['patch']}s"
        donors = PatchSource.from_study(study, unit, verified.summary["patch"])
        located_arm = arm_from_verification(
            study, verified, ablation, "located", f"{size} located {unit.name}s {treatment}", size
        )
        zero = measured_arm(
            study,
            verified,
            "zero",
            "the same set to zero",
            donors.condition("ablate-zero", prefix),
            float(size),
        )
        arms, limits, claims, shared = [located_arm, zero], [], [], None
        if self.choosing is not None:
            require_number(study.require_metric(), "the direction")
            arm, note = self._direction(study, verified, float(located_arm.divergence.mean()))
            arms += [arm] if arm is not None else []
            limits += [note] if note else []
            claims.append(beats_claim(words, unit, size, DIRECTION, arm))
        if self.contrast is not None:
            contrast_units = ranking_of(self.contrast)[:size]
            method, shared = self.contrast.summary["method"], len({*contrast_units} & {*prefix})
            description = f"the first {size} {unit.name}s by {method}, {treatment}"
            arms.append(
                measured_arm(
                    study,
                    verified,
                    CONTRAST,
                    description,
                    donors.condition(ablation, contrast_units),
                    float(size),
                )
            )
            claims.append(beats_claim(words, unit, size, CONTRAST, arms[-1]))
        if judge_field(study):
            limits.append("Shares are not corrected for the judge's errors.")
        rows = [row_of(study, verified, arm) for arm in arms]
        flips = study.require_metric().applies("negative")
        rows += random_rows(verified, unit, bool(np.isfinite(rows[0]["recovery"])), flips)
        run = table(
            self.name,
            columns(rows),
            provenance=study.provenance(self),
            summary={
                "selected": size,
                "unit": unit.name,
                "shared_with_contrast": shared,
                "positive": len(study.prompts("positive")),
                "negative": len(study.prompts("negative")),
                "labels": {"many": words.plural, "number": words.number},
            },
            tables={"answers": answers_table(study, arms)},
        )
        shares = "; ".join(f"{row['what']}: {row['exhibits_behaviour']:.1%}" for row in rows)
        return conclude(
            run,
            claims,
            lead=f"{words.plural[:1].upper()}{words.plural[1:]} under each method: {shares}.",
            limits=limits,
        )

    def _validated(self, study: Study) -> tuple[Table, Table, Unit, int]:
        """The runs, the unit and the size of the set; OptionError for runs that do not belong
        together.
        """
        verified, located = self.verified, self.located
        if verified is None or located is None:
            raise OptionError(
                "baselines need a verifying run and the locating run that it verified"
            )
        if verified.summary["verified"] not in (None, located.require_provenance().key):
            raise OptionError(
                f"the verifying run is of locating run {verified.summary['verified']}; give that"
                " run as located"
            )
        if verified.require_provenance().inputs["prompts"] != study.contrast.digest:
            raise OptionError(
                "the verifying run used other prompts; give the study that it was run on"
            )
        unit, size = unit_of(located), int(verified.summary["selected"])
        if not size:
            raise OptionError(
                f"no {unit.name} was selected: there is no set to compare baselines with"
            )
        if self.contrast is not None and unit_of(self.contrast).name != unit.name:
            raise OptionError(
                f"units of kind {unit_of(self.contrast).name} cannot be compared with {unit.name}s"
            )
        return verified, located, unit, size

    def _direction(self, study: Study, verified: Table, max_kl: float) -> tuple[Arm | None, str]:
        """The largest share of the direction with a divergence of at most ``max_kl`` (None where
        there is none), and a note.
        """
        choosing = self.choosing
        assert choosing is not None
        choosing = choosing.with_prompts(
            choosing.require_contrast("the direction").limit(self.prompts)
        )
        best, rows = (
            choose_direction(choosing, candidate_directions(choosing), study),
            range(len(study.prompts("negative"))),
        )
        low, high = 0, STEPS + 1
        while high - low > 1:
            middle = (low + high) // 2
            kl = divergence(
                study, direction_ablation(study.pair.tuned, best.direction, middle / STEPS), rows
            ).mean()
            low, high = (middle, high) if kl <= max_kl else (low, middle)
        notes = (
            []
            if best.criteria_met
            else ["No direction met its criteria: the one that lowers the metric most was used."]
        )
        if not low:
            notes.append(
                f"No share of the direction, down to 1/{STEPS}, has as small a divergence as the"
                " located set."
            )
            return None, " ".join(notes)
        share = low / STEPS
        receiver = PatchTarget("tuned", direction_ablation(study.pair.tuned, best.direction, share))
        description = f"{share:.1%} of one direction removed"
        return measured_arm(
            study, verified, DIRECTION, description, receiver, share=share
        ), " ".join(notes)
