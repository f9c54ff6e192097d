"""``BehaviourChange``: how often base and fine-tuned model show a behaviour on the same prompts.

Both models answer every prompt greedily, until no continuation would change what is read. The null
exchanges both models' answers at random, all prompts of a cluster together. Whether a difference is
small enough to count as none is a question of a margin that was fixed before: ``interp audit``.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from interp.analyzers.framework import Analyzer, Needs, Result, option, prompt_rows, sign_flips
from interp.claims import Claim, Draws, escape_braces, mean
from interp.errors import OptionError
from interp.experiments.cost import Work
from interp.experiments.shown_behaviour import shown_behaviour
from interp.metrics.base import MetricLabels
from interp.rows import DrawRow, PromptRow, flag, measure
from interp.study import Study

BY_BEGINNING = "What an answer says after its first {tokens} tokens was not read."


class BehaviourChangeRow(PromptRow):
    """A row per prompt."""

    base: bool = flag("the base's answer shows the behaviour")
    tuned: bool = flag("the fine-tuned model's answer shows the behaviour")


class ExchangedRow(DrawRow):
    """A row per random exchange of both models."""

    positive: float = measure("difference of the rates on positive prompts")
    negative: float = measure("the same on negative prompts", optional=True)


@dataclass(frozen=True)
class BehaviourChange(Analyzer):
    """Whether the answers of both models show the study's behaviour, prompt by prompt.

    ``label`` names the behaviour in ``interp audit``. Returns a table of kind ``behaviour-change``,
    one row per prompt, with ``exchanged``, the null.
    """

    name: ClassVar[str] = "behaviour-change"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base=True, metric=True)

    label: str = option("", "Name of the behaviour.")
    draws: int = option(999, "Random exchanges of the two models.", ge=19)

    def require(self, study: Study) -> None:
        """As ``Analyzer``; the behaviour must be one that every class can show."""
        super().require(study)
        metric = study.require_metric()
        if wrong := [group for group in study.classes if not metric.applies(group)]:
            raise OptionError(
                f"the metric does not apply to {wrong[0]} prompts; give one class of prompts"
            )

    def work(self, study: Study) -> Work:
        """Answers of both models."""
        return Work(tokens=2 * study.max_new_tokens)

    def run(self, study: Study) -> Result:
        """Answer every prompt with both models."""
        flags = {
            role: np.concatenate([shown_behaviour(study, role, group) for group in study.classes])
            for role in ("base", "tuned")
        }
        rows = prompt_rows(study, BehaviourChangeRow, **flags)
        shift = flags["tuned"].astype(int) - flags["base"]
        group_of = np.asarray(rows["group"])
        by_class = {
            group: shift * (group_of == group) * (len(shift) / (group_of == group).sum())
            for group in study.classes
        }
        labels = study.require_metric().labels
        return Result(
            rows,
            {"exchanged": sign_flips(study, ExchangedRow, self.draws, **by_class)},
            [_claim(group, labels, float(values.mean())) for group, values in by_class.items()],
            {
                "label": self.label or labels.column,
                "share": labels.share,
                **_rates(group_of, flags),
            },
            [BY_BEGINNING.format(tokens=study.max_new_tokens)],
        )


def _rates(group_of: np.ndarray, flags: dict[str, np.ndarray]) -> dict[str, Any]:
    return {
        f"{role}_{group}": float(values[group_of == group].mean())
        for role, values in flags.items()
        for group in dict.fromkeys(group_of.tolist())
    }


def _claim(group: str, labels: MetricLabels, shift: float) -> Claim:
    where = {"group": group}
    return Claim(
        name=f"changes-on-{group}",
        estimate=mean("tuned", where=where, minus={"column": "base"}),
        at_least=0.0 if shift >= 0 else None,
        at_most=None if shift >= 0 else 0.0,
        beyond=["threshold"],
        null=Draws("exchanged", group, alternative="two-sided"),
        control="both models exchanged at random, cluster by cluster",
        text=(
            f"{escape_braces(labels.share)} on {group} prompts: {{tuned:.1%}} in the fine-tuned"
            " model, {base:.1%} in the base, {value:+.1%} [{low:+.1%}, {high:+.1%}], p = {p:.2g}."
        ),
        also={role: mean(role, where=where) for role in ("tuned", "base")},
    )
