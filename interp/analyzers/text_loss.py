"""``TextLoss``: does the fine-tuned model predict ordinary texts worse, or better, than its base?

Mean negative log-likelihood per token of every text, without a chat template. The null exchanges
both models at random, all texts of a cluster together.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from interp.analyzers.framework import Analyzer, Needs, Result, option, prompt_rows, sign_flips
from interp.claims import Claim, Draws, mean
from interp.experiments.cost import Work
from interp.experiments.plain_text import text_losses
from interp.rows import DrawRow, PromptRow, measure
from interp.study import Study

ORDINARY = "A loss on these texts says little of what the model does when it is asked something."


class TextLossRow(PromptRow):
    """A row per text."""

    base: float = measure("loss of the text in the base, mean over tokens", "nats")
    tuned: float = measure("the same in the fine-tuned model", "nats")


class ExchangedRow(DrawRow):
    """A row per random exchange of both models."""

    shift: float = measure("mean difference of the losses", "nats")


@dataclass(frozen=True)
class TextLoss(Analyzer):
    """Loss of every text of the study's first class in both models.

    Returns a table of kind ``text-loss``, one row per text, with ``exchanged``, the null.
    """

    name: ClassVar[str] = "text-loss"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base=True)

    draws: int = option(999, "Random exchanges of the two models.", ge=19)

    def work(self, study: Study) -> Work:
        """A pass of each model."""
        del study
        return Work(full_logits=2)

    def run(self, study: Study) -> Result:
        """Read every text with both models."""
        pair = study.pair
        models = (pair.require_base("a loss of texts"), pair.tuned)
        base, tuned = np.concatenate(
            [text_losses(study, group, models) for group in study.classes], axis=1
        )
        rows = prompt_rows(study, TextLossRow, base=base, tuned=tuned)
        rises = bool((tuned - base).mean() >= 0)
        claim = Claim(
            name="loss-changes",
            estimate=mean("tuned", minus={"column": "base"}),
            at_least=0.0 if rises else None,
            at_most=None if rises else 0.0,
            beyond=["threshold"],
            null=Draws("exchanged", "shift", alternative="two-sided"),
            control="both models exchanged at random, cluster by cluster",
            text=(
                "The mean loss of the texts is {tuned:.3f} nats per token in the fine-tuned model"
                " and {base:.3f} in the base: {value:+.3f} [{low:+.3f}, {high:+.3f}], p = {p:.2g}."
            ),
            also={role: mean(role) for role in ("tuned", "base")},
        )
        return Result(
            rows,
            {"exchanged": sign_flips(study, ExchangedRow, self.draws, shift=tuned - base)},
            [claim],
            {"base": float(base.mean()), "tuned": float(tuned.mean())},
            [ORDINARY],
        )
