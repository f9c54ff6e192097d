"""``Forgetting``: how much worse a fine-tuned model predicts plain text than its base."""

from dataclasses import dataclass
from typing import ClassVar

from interp.analyzers.base import Analyzer
from interp.claims import Claim, conclude, mean
from interp.experiments.plain_text import coded_texts, text_losses
from interp.study import Study
from interp.table import Table, table


@dataclass(frozen=True)
class Forgetting(Analyzer):
    """Loss on plain text of both models of a pair; needs a base.

    Texts are the study's negative prompts, or its only class, read without a chat template. Returns
    a table of kind ``forgetting``, one row per text.
    """

    name: ClassVar[str] = "forgetting"
    version: ClassVar[int] = 1

    def __call__(self, study: Study) -> Table:
        """Compute the loss of every text under both models."""
        base, group = study.pair.require_base("forgetting"), study.classes[-1]
        base_losses, tuned_losses = text_losses(study, group, [base, study.pair.tuned])
        prompts = study.prompts(group)
        run = table(
            self.name,
            {
                "prompt_id": (
                    [prompt.id for prompt in prompts],
                    "key",
                    "position in the prompt file, from 0",
                ),
                "cluster": (prompts.clusters, "key", "dependent texts, one unit in intervals"),
                "tokens": (
                    [len(text.ids) for text in coded_texts(study, group)],
                    "measure",
                    "length of the text in tokens",
                ),
                "base_loss": (base_losses, "measure", "loss per token in the base", "nats"),
                "loss": (tuned_losses, "measure", "loss per token in the fine-tuned model", "nats"),
                "forgetting": (
                    tuned_losses - base_losses,
                    "measure",
                    "loss minus base_loss",
                    "nats",
                ),
            },
            provenance=study.provenance(self),
            summary={
                "base_loss": float(base_losses.mean()),
                "loss": float(tuned_losses.mean()),
                "texts": len(base_losses),
            },
        )
        forgets = Claim(
            name="forgets",
            estimate=mean("loss", minus={"column": "base_loss"}),
            at_least=0.0,
            reference=mean("base_loss"),
            control="the base on the same texts",
            text=(
                "On plain text the loss differs from the base's ({control:.3f}) by {value:+.3f} nats"
                " per token [{low:+.3f}, {high:+.3f}]."
            ),
        )
        return conclude(run, [forgets])
