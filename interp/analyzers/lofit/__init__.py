"""``Lofit``: which attention heads suffice to give the base the fine-tuned model's answers?

After LoFiT (Yin, Ye and Durrett 2024, arXiv 2406.01563). A head's output z before the output
projection becomes ``(1 + A) z + v`` at all positions. Stage 1 trains scales A of all heads under
L1; the heads of the largest norm of A are located. Stage 2 discards A and trains offsets v of these
heads alone. The paper learns labels of a task; here the answers learned are, as a rule, those of the
fine-tuned model, so that the heads found say where the base can be moved to answer as it does.

Everything happens in memory: nothing trained is written. What the specification leaves open is
chosen here: AdamW at a constant rate, mean loss per token of a batch, and the same batches and the
same starting numbers for all sets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from interp.analyzers.framework import Analyzer, Known, Needs, Result, option
from interp.analyzers.lofit.answers import TunedAnswers
from interp.analyzers.lofit.findings import VERDICT, claims_of
from interp.analyzers.lofit.selection import (
    NODES,
    first_heads,
    gradient_scores,
    probe_scores,
    random_heads,
    scale_scores,
)
from interp.analyzers.lofit.tables import (
    ALL,
    GRADIENTS,
    LOCATED,
    PROBES,
    LofitControlRow,
    Trained,
    answers_table,
    heads_table,
    overlaps_table,
    random_table,
    recovered,
    sets_table,
)
from interp.analyzers.lofit.training import Examples, Head, Recipe, train_offsets
from interp.claims.control_fine_tunes import controls_table
from interp.errors import OptionError
from interp.experiments.base_answers import any_supported
from interp.experiments.cost import Work
from interp.experiments.same_base import require_same_base
from interp.models.pair import Pair
from interp.models.pairs_on_demand import tuned_names
from interp.models.units import HEAD
from interp.study import Study

LIMITS = (
    "That offsets on some heads suffice does not show that fine-tuning changed these heads: other"
    " heads may do as well, which is what random sets are for.",
    "The number of steps is epochs times prompts over batch: with few prompts offsets stay small.",
)
NO_CONTROL = "No heads were located for the answers of a control fine-tune (--control)."
NOTHING = (
    "The base writes the fine-tuned model's answer to every prompt: there is nothing to learn."
)


@dataclass(frozen=True)
class Lofit(Analyzer):
    """Locate heads by trained scales and train offsets of them in the base; needs a base.

    Returns a table of kind ``lofit``, one row per head, with ``sets`` (held-out results by set of
    heads), ``answers``, ``random``, ``overlaps`` and, with controls, ``controls``. Scales, offsets
    and scores come from the selection split, half of the clusters. All sets have as many heads as
    the located one, but ``all``. Raises UnsupportedModel for families without exact heads.
    """

    name: ClassVar[str] = "lofit"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base=True)

    controls: Sequence[Pair] = option(
        (), "Pairs of the same base and a control fine-tune each.", compare=False
    )
    heads: int | None = option(None, "Heads to locate.", ge=1)
    share: float = option(0.03, "Share of all heads to locate.", ge=0.001, le=1)
    scale_rate: float = option(5e-3, "Learning rate of scales.")
    l1: float = option(5e-4, "Factor of the L1 penalty on scales.", ge=0)
    offset_rate: float = option(1e-2, "Learning rate of offsets.")
    epochs: int = option(5, "Passes over the selection split.", ge=1)
    batch: int = option(8, "Prompts per step.", ge=1)
    draws: int = option(19, "Random sets of heads; 0: none.", ge=0)

    def check(self, known: Known) -> None:
        """Raise OptionError for learning rates that cannot be."""
        super().check(known)
        for rate in (self.scale_rate, self.offset_rate):
            if not 0 < rate < 1:
                raise OptionError(f"a learning rate of {rate:g}; give one between 0 and 1")

    def require(self, study: Study) -> None:
        """Raise OptionError, PairError or UnsupportedModel for what cannot be measured."""
        super().require(study)
        anatomy = study.pair.require_base(self.name).anatomy
        HEAD.require(anatomy)
        total = anatomy.n_layers * anatomy.n_heads
        if self.heads is not None and self.heads > total:
            raise OptionError(f"{self.heads} heads of a model that has {total}; give fewer")
        require_same_base(study, self.controls)

    def work(self, study: Study) -> Work:
        """Epochs of gradients over half of the prompts for every training."""
        del study
        trainings = 5 + self.draws + 2 * len(self.controls)
        return Work(
            passes=2 + 0.5 * trainings,
            gradients=0.5 * (self.epochs * trainings + NODES),
            tokens=0,
        )

    def run(self, study: Study) -> Result:
        """Locate heads, train offsets of every set, and read held-out answers."""
        answers = TunedAnswers.from_study(study)
        if not answers.changed.any():
            return self._unchanged(answers)
        base = study.pair.require_base(self.name)
        shape = base.anatomy.n_layers, base.anatomy.n_heads
        count = self._count(shape)
        rows = answers.selection.tolist()
        examples = Examples(answers.encoded, answers.answers).select(rows)
        scores = scale_scores(study, base, examples, self._scales(study), "scales of all heads")
        gradients, probes = gradient_scores(study, examples), probe_scores(answers, rows)
        heads: dict[str, Sequence[Head]] = {
            LOCATED: first_heads(scores, count),
            GRADIENTS: first_heads(gradients, count),
            ALL: [(layer, head) for layer in range(shape[0]) for head in range(shape[1])],
        }
        if not np.isnan(probes).any():
            heads[PROBES] = first_heads(probes, count)
        sets = {name: self._train(answers, examples, one, name) for name, one in heads.items()}
        draws = [
            self._train(
                answers,
                examples,
                random_heads(shape, count, study.seed, draw),
                f"random heads {draw + 1} of {self.draws}",
            )
            for draw in range(self.draws)
        ]
        located = heads.pop(LOCATED)
        heads.pop(ALL)
        overlapping = {LOCATED: located, **heads}
        names = tuned_names(self.controls)
        tables = {
            "sets": sets_table(answers, sets, HEAD.width(base.anatomy)),
            "answers": answers_table(answers, sets),
            "random": random_table(answers, draws, located),
        }
        if names:
            of_controls = self._of_controls(answers, examples, count)
            overlapping |= {f"control-{at}": one.heads for at, one in enumerate(of_controls)}
            tables["controls"] = _controls(answers, names, of_controls, located)
        tables["overlaps"] = overlaps_table(overlapping, shape[0] * shape[1])
        table = heads_table(scores, gradients, probes, sets)
        claims = claims_of(count, list(sets), self.draws, len(names))
        return Result(
            table,
            tables,
            claims,
            {**answers.summary, "heads": count, "of_heads": scores.size, "controls": names},
            [*LIMITS, *([] if names else [NO_CONTROL])],
            supported=any_supported(claims, table, tables, VERDICT),
        )

    def _count(self, shape: tuple[int, int]) -> int:
        return self.heads or max(1, round(self.share * shape[0] * shape[1]))

    def _scales(self, study: Study) -> Recipe:
        return Recipe(self.scale_rate, self.l1, self.epochs, self.batch, study.seed)

    def _train(
        self, answers: TunedAnswers, examples: Examples, heads: Sequence[Head], title: str
    ) -> Trained:
        """Offsets of some heads, trained on the selection split and read on the held-out one."""
        study = answers.study
        base = study.pair.require_base(self.name)
        recipe = Recipe(self.offset_rate, 0.0, self.epochs, self.batch, study.seed)
        offsets = train_offsets(study, base, examples, recipe, heads, f"offsets: {title}")
        return Trained(tuple(heads), answers.read(answers.held_out, offsets.intervention(base)))

    def _of_controls(self, answers: TunedAnswers, examples: Examples, count: int) -> list[Trained]:
        """Heads located for every control's answers, with offsets for the fine-tuned model's."""
        study, found = answers.study, []
        base = study.pair.require_base(self.name)
        # indexed each time: a name for one control would keep it in memory beside the next
        for at in range(len(self.controls)):
            written = answers.of_control(self.controls[at])
            chosen = [written[row] for row in answers.selection.tolist()]
            own = Examples(examples.encoded, chosen)
            scores = scale_scores(study, base, own, self._scales(study), f"scales: control {at}")
            found.append(self._train(answers, examples, first_heads(scores, count), "control"))
        return found

    def _unchanged(self, answers: TunedAnswers) -> Result:
        """The result where the base already writes every answer."""
        anatomy = answers.study.pair.require_base(self.name).anatomy
        nothing = np.zeros((anatomy.n_layers, anatomy.n_heads))
        tables = {
            "sets": sets_table(answers, {}, HEAD.width(anatomy)),
            "answers": answers_table(answers, {}),
            "random": random_table(answers, [], []),
            "overlaps": overlaps_table({}, nothing.size),
        }
        summary = {
            **answers.summary,
            "heads": 0,
            "of_heads": nothing.size,
            "controls": tuned_names(self.controls),
        }
        table = heads_table(nothing, nothing, nothing * np.nan, {})
        claims = claims_of(0, [], 0, 0)
        return Result(table, tables, claims, summary, LIMITS, lead=NOTHING, supported=False)


def _controls(
    answers: TunedAnswers,
    names: Sequence[str],
    located_heads: Sequence[Trained],
    located: Sequence[Head],
):
    return controls_table(
        names,
        row=LofitControlRow,
        numbers={
            "recovered": [recovered(answers, one.reading)[0] for one in located_heads],
            "writes": [float(one.reading.writes.mean()) for one in located_heads],
            "jaccard": [
                len({*one.heads} & {*located}) / len({*one.heads} | {*located})
                for one in located_heads
            ],
        },
    )


__all__: Sequence[str] = ("Lofit",)
