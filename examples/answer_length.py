"""Does fine-tuning make answers shorter? Null: both models exchanged at random within clusters."""

from dataclasses import dataclass
from typing import ClassVar

from interp.analyzers.framework import (
    Analyzer,
    Needs,
    Result,
    answer_lengths,
    option,
    prompt_rows,
    sign_flips,
)
from interp.claims import Claim, Draws, mean
from interp.rows import DrawRow, PromptRow, measure
from interp.study import Study

SHORTER = Claim(
    name="shorter",
    estimate=mean("saved"),
    at_least=1.0,
    beyond=[0.0, "control"],
    null=Draws("exchanged", "saved"),
    control="random exchanges of the two models' answers",
    text="Answers are {value:.1f} tokens shorter on average [{low:.1f}, {high:.1f}].",
)


class Row(PromptRow):
    base: int = measure("length of the base's answer", "tokens")
    tuned: int = measure("length of the fine-tuned model's answer", "tokens")
    saved: int = measure("base minus fine-tuned", "tokens")


class Exchanged(DrawRow):
    saved: float = measure("the same mean with the models exchanged at random", "tokens")


@dataclass(frozen=True)
class AnswerLength(Analyzer):
    """Are answers of the fine-tuned model shorter than the base's to the same prompts?"""

    name: ClassVar[str] = "answer-length"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base=True)

    draws: int = option(999, "Random exchanges of the two models.", ge=19)

    def run(self, study: Study) -> Result:
        base, tuned = (answer_lengths(study, role) for role in ("base", "tuned"))
        rows = prompt_rows(study, Row, base=base, tuned=tuned, saved=base - tuned)
        null = sign_flips(study, Exchanged, self.draws, saved=base - tuned)
        limits = [f"Answers end at {study.max_new_tokens} tokens; longer ones count as that long."]
        return Result(rows, {"exchanged": null}, [SHORTER], limits=limits)
