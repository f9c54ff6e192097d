"""``WrappedReversal``: how many steps of training bring the base's answers back?

Reverse fine-tuning after Jain et al. 2024 (arXiv 2311.12786): a copy of the fine-tuned model is
trained on the old task. A capability that was only hidden returns in few steps, one that is gone
has to be learned again. The copy is trained on the base's own greedy answers to the prompts of the
selection split; read are those to the held-out split, after every number of ``steps``. The same
batches at the same rate train a random start of the same architecture, and every control fine-tune.

Everything happens in memory: no trained model is written. What the paper leaves open is chosen
here: AdamW at a constant rate (the paper has a schedule), and the base's answers in place of the
labels of the old task.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from interp.analyzers.framework import Analyzer, Known, Needs, Result, option
from interp.analyzers.wrapped_reversal.compute import (
    SCRATCH,
    Curve,
    batches_of,
    reverse,
    step_of_return,
)
from interp.analyzers.wrapped_reversal.findings import (
    VERDICT,
    answers_table,
    claims_of,
    controls_rows,
    steps_table,
)
from interp.errors import OptionError
from interp.experiments.base_answers import (
    CONTROL,
    RANDOM,
    TUNED,
    BaseAnswers,
    any_supported,
    model_columns,
)
from interp.experiments.cost import Work
from interp.experiments.discovery.models import each_model, model_names
from interp.experiments.same_base import require_same_base
from interp.models.copies import merged_copy, random_start
from interp.models.model import Model
from interp.models.pair import Pair
from interp.study import Study
from interp.training.answers import ADAPTER, FULL, RATES, AnswerTraining

LIMITS = (
    "The number of steps depends on rate and batch: compare it with other curves of this run only.",
    "Training on the old answers teaches them too: that they return faster than in a random start"
    " shows that something of use was left, not that the old way of answering was.",
)
NO_CONTROL = "No control fine-tune was trained back in the same way (--control)."


@dataclass(frozen=True)
class WrappedReversal(Analyzer):
    """Train a copy of the fine-tuned model on the base's answers and count the steps; needs a base.

    Returns a table of kind ``wrapped-reversal``, one row per model and number of steps, with
    ``answers`` (the held-out prompts at the step of return) and, with controls, ``controls``. The
    step of return is the first one after which the fine-tuned model writes the share ``level`` of
    the changed answers of the selection split, on which it was trained. Memory: a copy of the
    model, for ``full`` three more of its size. Raises UnsupportedModel for quantised and offloaded
    models.
    """

    name: ClassVar[str] = "wrapped-reversal"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base=True)

    controls: Sequence[Pair] = option(
        (), "Pairs of the same base and a control fine-tune each.", compare=False
    )
    train: str = option(
        FULL,
        "What is trained back: full (all weights) or adapter (a new LoRA).",
        choices=(FULL, ADAPTER),
    )
    learning_rate: float | None = option(
        None, "Learning rate; assumed where none is given: 0.0001 for full, 0.001 for adapter."
    )
    steps: tuple[int, ...] = option(
        (1, 2, 5, 10, 20, 50, 100), "Steps after which answers are read."
    )
    batch: int = option(8, "Prompts per step.", ge=1)
    level: float = option(
        0.9, "Share of the changed answers that counts as their return.", ge=0.01, le=1
    )

    def check(self, known: Known) -> None:
        """Raise OptionError for steps or a learning rate that cannot be."""
        super().check(known)
        if not self.steps or min(self.steps) < 1:
            raise OptionError(f"steps are {list(self.steps)}; give numbers of steps from 1 on")
        if self.learning_rate is not None and not 0 < self.learning_rate < 1:
            raise OptionError(
                f"a learning rate of {self.learning_rate:g}; give one between 0 and 1"
            )

    def require(self, study: Study) -> None:
        """Raise OptionError or PairError for a study or controls that cannot be compared."""
        super().require(study)
        require_same_base(study, self.controls)

    def work(self, study: Study) -> Work:
        """A gradient per step of every model, and a pass over all prompts for each number of steps.

        Gradients here include those of weights, which take about twice as long.
        """
        prompts = sum(len(study.prompts(group)) for group in study.classes)
        models, steps = 2 + len(self.controls), max(self.steps, default=0)
        return Work(
            passes=models * (1 + len(self.steps)),
            gradients=2 * models * steps * self.batch / prompts,
            tokens=study.max_new_tokens,
        )

    def run(self, study: Study) -> Result:
        """Train every model on the same batches, and compare their curves."""
        answers = BaseAnswers.from_study(study)
        names = model_names(study, self.controls)
        curves = [
            self._curve(answers, names[number], pair.tuned)
            for number, pair in each_model(study, self.controls)
        ]
        scratch = self._curve(answers, SCRATCH, study.pair.tuned, scratch=True)
        step = step_of_return(answers, curves[0], self.level)
        shown = [
            (model_columns(TUNED, names[0]), curves[0]),
            (model_columns(RANDOM, SCRATCH), scratch),
            *(
                (model_columns(CONTROL, name, number), curve)
                for number, (name, curve) in enumerate(zip(names[1:], curves[1:], strict=True))
            ),
        ]
        tables = {"answers": answers_table(answers, curves[0], scratch, step)}
        if self.controls:
            tables["controls"] = controls_rows(answers, names[1:], curves[1:], self.level)
        rows = steps_table(answers, shown, step)
        last, n_controls = max(self.steps), len(self.controls)
        claims = claims_of(answers, step, self._options_text, last, n_controls)
        return Result(
            rows,
            tables,
            claims,
            {
                **answers.summary,
                "step": step,
                "train": self.train,
                "rate": self._rate,
                "controls": names[1:],
            },
            [*LIMITS, *([] if self.controls else [NO_CONTROL])],
            supported=any_supported(claims, rows, tables, VERDICT),
        )

    @property
    def _rate(self) -> float:
        return RATES[self.train] if self.learning_rate is None else self.learning_rate

    @property
    def _options_text(self) -> str:
        what = "all weights" if self.train == FULL else "a LoRA adapter"
        return f"{what}, {self.batch} prompts a step, learning rate {self._rate:g}"

    def _curve(self, answers: BaseAnswers, name: str, model: Model, scratch: bool = False) -> Curve:
        """The curve of a copy of a model, or of a random start of its architecture.

        A random start trains all its weights: an adapter on frozen random ones learns little, and
        would be too easy to beat.
        """
        seed = answers.study.seed
        module = random_start(model, seed) if scratch else merged_copy(model)
        how = FULL if scratch else self.train
        training = AnswerTraining(f"{name}, trained back", module, how, self._rate, seed)
        steps = sorted({0, *self.steps})
        return reverse(answers, training, steps, batches_of(answers, self.batch, steps[-1]))
