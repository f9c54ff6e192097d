"""``WrappedConjugate``: does the fine-tuned model give the base's answer in another register?

Conjugate prompting after Kotha, Springer and Raghunathan 2024 (arXiv 2309.10105): change a prompt
by an invertible map into a form that fine-tuning hardly touched, let the fine-tuned model answer,
and undo the map on the answer. If it then is the old answer, fine-tuning changed which task the
model takes a prompt for, not whether it can do the old one. The authors translate into another
language; here the map is a change of register by rules (``interp.prompts.registers``), which is
checked to be invertible on every prompt.

The base answers the changed prompts too, since a register can cost an answer by itself; so does
every control fine-tune. With several registers the one in which the selection split gains most
is chosen, and everything claimed is of the held-out split. What counts is the gain over the plain
prompts, over all prompts: of those whose answer changed some get the old one in any other form, as
others lose it there, wherever the model is undecided.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from interp.analyzers.framework import Analyzer, Known, Needs, Result, option
from interp.analyzers.wrapped_conjugate.compute import (
    chosen_register,
    exchanged_shares,
    in_register,
    matches_base,
)
from interp.analyzers.wrapped_conjugate.findings import (
    VERDICT,
    answers_table,
    claims_of,
    controls_rows,
    exchanged_table,
    registers_table,
)
from interp.errors import OptionError, PromptError
from interp.experiments.base_answers import (
    BASE,
    CONTROL,
    TUNED,
    BaseAnswers,
    any_supported,
    model_columns,
)
from interp.experiments.cost import Work
from interp.experiments.discovery.models import each_model, model_names
from interp.experiments.same_base import require_same_base
from interp.models.pair import Pair
from interp.prompts.registers import Register
from interp.study import Study

LIMITS = (
    "Answers that do not return in these registers are no evidence that the capability is gone:"
    " fine-tuning may have generalised to them.",
)
NO_CONTROL = "No control fine-tune was asked in other registers (--control)."


@dataclass(frozen=True)
class WrappedConjugate(Analyzer):
    """Ask in another register and change the answer back; needs a base and registers.

    Returns a table of kind ``wrapped-conjugate``, one row per register and model, with ``answers``
    (the held-out prompts in every register), ``exchanged`` (answers of other prompts) and, with
    controls, ``controls``. Prompts that no rule of a register fits are left out there. Raises
    OptionError without registers, PromptError for one that is not invertible, and where none fits a
    held-out prompt.
    """

    name: ClassVar[str] = "wrapped-conjugate"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base=True)

    registers: tuple[Register, ...] = option((), "Changes of register, with their rules.")
    controls: Sequence[Pair] = option(
        (), "Pairs of the same base and a control fine-tune each.", compare=False
    )
    exchanges: int = option(39, "Random exchanges of answers among prompts.", ge=19)

    def check(self, known: Known) -> None:
        """Raise OptionError without registers."""
        super().check(known)
        if not self.registers:
            raise OptionError("no registers were given; conjugate prompting needs --styles FILE")

    def require(self, study: Study) -> None:
        """Raise OptionError or PairError for a study or controls that cannot be compared."""
        super().require(study)
        require_same_base(study, self.controls)

    def work(self, study: Study) -> Work:
        """Answers of both models to the prompts, and of every model in every register."""
        answered = 1 + len(self.registers) * (2 + len(self.controls))
        return Work(passes=2 + answered, tokens=answered * study.max_new_tokens)

    def run(self, study: Study) -> Result:
        """Answer in every register, and compare with the base's plain answers."""
        answers = BaseAnswers.from_study(study)
        rewritten = [in_register(answers, register) for register in self.registers]
        empty = [one.name for one in rewritten if not one.held_out(answers).any()]
        if len(empty) == len(rewritten):
            raise PromptError(
                f"no rule of the registers {', '.join(empty)} fits a held-out prompt, such as"
                f" {answers.prompts[answers.held_out[0]][1].text[:60]!r}; give rules for these"
                " prompts, or more prompts"
            )
        rewritten = [one for one in rewritten if one.held_out(answers).any()]
        names = model_names(study, self.controls)
        base = [matches_base(answers, one, study.pair, "base") for one in rewritten]
        models, plain = [], []
        for _, pair in each_model(study, self.controls):
            models.append([matches_base(answers, one, pair, "tuned") for one in rewritten])
            plain.append(answers.read(pair.tuned).writes)
            del pair  # so that it is freed before the next is loaded
        tuned, controls = models[0], models[1:]
        at = chosen_register(answers, rewritten, tuned)
        exchanged = exchanged_shares(answers, rewritten[at], study.pair, self.exchanges)
        tables = {
            "answers": answers_table(answers, rewritten, tuned, base),
            "exchanged": exchanged_table(exchanged),
        }
        if controls:
            own_matches = [one[at] for one in controls]
            tables["controls"] = controls_rows(
                answers, rewritten[at], names[1:], plain[1:], own_matches
            )
        shown = [
            (
                model_columns(BASE, study.pair.require_base(self.name).name),
                base,
                answers.base.writes,
            ),
            *(
                (model_columns(CONTROL if number else TUNED, name, number - 1), own, before)
                for number, (name, own, before) in enumerate(zip(names, models, plain, strict=True))
            ),
        ]
        rows = registers_table(answers, rewritten, shown, at)
        claims = claims_of(answers, rewritten[at], len(self.controls))
        return Result(
            rows,
            tables,
            claims,
            {
                **answers.summary,
                "register": rewritten[at].name,
                "registers": {one.name: len(one.rows) for one in rewritten},
                "controls": names[1:],
            },
            [*LIMITS, *_left_out(empty), *([] if self.controls else [NO_CONTROL])],
            supported=any_supported(claims, rows, tables, VERDICT),
        )


def _left_out(empty: Sequence[str]) -> list[str]:
    return [f"No rule of the register {name} fits a held-out prompt." for name in empty]
