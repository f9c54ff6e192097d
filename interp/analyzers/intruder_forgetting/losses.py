"""``Forgetting``: how much worse a fine-tuned model predicts plain text than its base."""

from dataclasses import dataclass
from typing import ClassVar

from interp.analyzers.framework import Analyzer, Needs, Result
from interp.claims import Claim, mean
from interp.experiments.plain_text import coded_texts, text_losses
from interp.rows import PromptRow, measure, rows_table
from interp.study import Study

FORGETS = Claim(
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


class TextRow:
    """A row per text."""

    prompt_id: int = PromptRow.prompt_id
    cluster: str = PromptRow.cluster
    tokens: int = measure("length of the text in tokens")
    base_loss: float = measure("loss per token in the base", "nats")
    loss: float = measure("loss per token in the fine-tuned model", "nats")
    forgetting: float = measure("loss minus base_loss", "nats")


@dataclass(frozen=True)
class Forgetting(Analyzer):
    """Loss on plain text of both models of a pair; needs a base.

    Texts are the study's negative prompts, or its only class, read without a chat template. Returns
    a table of kind ``forgetting``, one row per text.
    """

    name: ClassVar[str] = "forgetting"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base=True)

    def run(self, study: Study) -> Result:
        """Compute the loss of every text under both models."""
        base, group = study.pair.require_base(self.name), study.classes[-1]
        base_losses, tuned_losses = text_losses(study, group, [base, study.pair.tuned])
        prompts = study.prompts(group)
        rows = rows_table(
            TextRow,
            "",
            {
                "prompt_id": [prompt.id for prompt in prompts],
                "cluster": prompts.clusters,
                "tokens": [len(text.ids) for text in coded_texts(study, group)],
                "base_loss": base_losses,
                "loss": tuned_losses,
                "forgetting": tuned_losses - base_losses,
            },
        )
        return Result(
            rows,
            claims=[FORGETS],
            summary={
                "base_loss": float(base_losses.mean()),
                "loss": float(tuned_losses.mean()),
                "texts": len(base_losses),
            },
        )
