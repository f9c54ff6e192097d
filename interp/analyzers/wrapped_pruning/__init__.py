"""``WrappedPruning``: do the base's answers return when neurons of the fine-tuned model are pruned?

One-shot pruning after Jain et al. 2024 (arXiv 2311.12786): neurons of the fine-tuned model are
ordered by the signed first-order score of the loss of the old task, and the first K are set to zero
at once. If the old answers return, fine-tuning left the capability in place and added a small part
that hides it (a *wrapper*).

What the paper leaves open is chosen here. The loss is that of the base's own greedy answers to the
prompts of the selection split (mean over tokens, then over prompts): a pair of models comes without
the old task's labels. A score is the sum over the neuron's output weights (``weights``); the paper
sums over a row, which for the up projection of a gated MLP is the same number. K is chosen on the
selection split, and everything reported is on the held-out one. ``score`` "absolute" is another
method (Taylor pruning, Molchanov et al. 2017), which the paper does not use.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from interp.analyzers.framework import Analyzer, Known, Needs, Result, option
from interp.analyzers.wrapped_pruning.compute import (
    PrunedModel,
    prune_model,
    random_prunings,
    read_own_answers,
)
from interp.analyzers.wrapped_pruning.findings import VERDICT, claims_of
from interp.analyzers.wrapped_pruning.scores import ALL, OUTPUT
from interp.analyzers.wrapped_pruning.tables import (
    answers_table,
    controls_rows,
    random_table,
    sizes_table,
    units_table,
)
from interp.errors import OptionError
from interp.experiments.base_answers import BaseAnswers, any_supported
from interp.experiments.cost import Work
from interp.experiments.discovery.models import each_model, model_names
from interp.experiments.same_base import require_same_base
from interp.models.pair import Pair
from interp.models.units import NEURON
from interp.study import Study

SIGNED, ABSOLUTE = "signed", "absolute"
LIMITS = (
    "Answers that do not return are no evidence that the capability is gone: the part that hides it"
    " may be spread over many neurons, or sit in attention, which is not pruned.",
    "Pruning for the loss of the old answers lowers that loss a little in any model: compare with"
    " random sets and with control fine-tunes.",
)
NO_CONTROL = "No control fine-tune was pruned in the same way (--control)."


@dataclass(frozen=True)
class WrappedPruning(Analyzer):
    """Prune neurons of the fine-tuned model until it writes the base's answers again; needs a base.

    Returns a table of kind ``wrapped-pruning``, one row per model and size, with ``answers`` (the
    held-out prompts at the chosen size), ``random``, ``units`` (all neurons with their scores) and,
    with controls, ``controls``. Raises UnsupportedModel where neurons have no exact module.
    """

    name: ClassVar[str] = "wrapped-pruning"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base=True)

    controls: Sequence[Pair] = option(
        (), "Pairs of the same base and a control fine-tune each.", compare=False
    )
    score: str = option(
        SIGNED,
        "Order of pruning: signed (the published score) or absolute (Taylor pruning).",
        choices=(SIGNED, ABSOLUTE),
    )
    weights: str = option(
        OUTPUT,
        "Weights of a neuron in its score: output (its output column) or all (input rows too).",
        choices=(OUTPUT, ALL),
    )
    sizes: tuple[int, ...] = option(
        (1, 2, 5, 10, 15, 20, 30, 50, 100), "Numbers of neurons to prune."
    )
    max_share: float = option(0.1, "Largest share of all neurons that counts as few.", ge=0, le=1)
    random_sets: int = option(39, "Random sets of the chosen size.", ge=1)

    def check(self, known: Known) -> None:
        """Raise OptionError for sizes that are not numbers of neurons."""
        super().check(known)
        if not self.sizes or min(self.sizes) < 1:
            raise OptionError(f"sizes are {list(self.sizes)}; give numbers of neurons from 1 on")

    def require(self, study: Study) -> None:
        """Raise OptionError or PairError for a study or controls that cannot be compared."""
        super().require(study)
        NEURON.require(study.pair.tuned.anatomy)
        require_same_base(study, self.controls)
        anatomy = study.pair.tuned.anatomy
        neurons = anatomy.n_layers * NEURON.count(anatomy)
        if max(self.sizes) > neurons:
            raise OptionError(
                f"sizes go up to {max(self.sizes):,}, and the model has {neurons:,} neurons; give"
                " smaller numbers"
            )
        if min(self.sizes) > self.max_share * neurons:
            raise OptionError(
                f"the smallest size is {min(self.sizes):,}, more than {self.max_share:.0%} of"
                f" {neurons:,} neurons; give a smaller one, or a larger share"
            )

    def work(self, study: Study) -> Work:
        """Answers of two models, a gradient per model, a pass per size and per random set."""
        models = 1 + len(self.controls)
        passes = models * (1 + len(self.sizes)) + self.random_sets / 2 + 3
        return Work(passes=passes, gradients=models / 2, tokens=2 * study.max_new_tokens)

    def run(self, study: Study) -> Result:
        """Order the neurons on one half of the prompts, prune, and read the other half."""
        answers = BaseAnswers.from_study(study)
        names, pruned = model_names(study, self.controls), []
        for number, pair in each_model(study, self.controls):
            pruned.append(self._prune(answers, pair, names[number]))
            del pair  # so that it is freed before the next is loaded
        tuned = pruned[0]
        own = read_own_answers(study, answers, tuned)
        random = random_prunings(study, answers, tuned, self.random_sets)
        rows = sizes_table(answers, names, pruned, own)
        tables = {
            "answers": answers_table(answers, tuned, own),
            "random": random_table(answers, random),
            "units": units_table(tuned),
        }
        if self.controls:
            tables["controls"] = controls_rows(answers, names[1:], pruned[1:])
        claims = claims_of(answers, tuned, self.score, len(self.controls))
        return Result(
            rows,
            tables,
            claims,
            {
                **answers.summary,
                "size": tuned.size,
                "neurons": int(tuned.scores.size),
                "score": self.score,
                "controls": names[1:],
            },
            [*LIMITS, *self._sizes_left_out(tuned), *([] if self.controls else [NO_CONTROL])],
            supported=any_supported(claims, rows, tables, *VERDICT),
        )

    def _prune(self, answers: BaseAnswers, pair: Pair, name: str) -> PrunedModel:
        signed = self.score == SIGNED
        return prune_model(
            answers, pair.tuned, name, self.weights, signed, self.sizes, self.max_share
        )

    def _sizes_left_out(self, tuned: PrunedModel) -> list[str]:
        """Why sizes that were asked for were not pruned, or not chosen from."""
        limits = []
        neurons, last = int(tuned.scores.size), len(tuned.order)
        if larger := sorted(size for size in self.sizes if size > last):
            listed = ", ".join(f"{size:,}" for size in larger)
            limits.append(
                f"Only {last:,} of {neurons:,} neurons have a score above 0, and the signed order"
                f" has no others: {listed} could not be pruned."
            )
        if larger := sorted(size for size in tuned.readings if size > self.max_share * neurons):
            listed = ", ".join(f"{size:,}" for size in larger)
            limits.append(
                f"More than {self.max_share:.0%} of {neurons:,} neurons is no small part"
                f" (--max-share): {listed} are in the table of sizes and were not chosen from."
            )
        return limits
