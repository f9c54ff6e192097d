"""``TraitScreening``: which rows of a data set would move a model along a trait?

The direction is the base's mean residual stream on prompts with the trait (positive) minus that on
prompts without it. Of every row the base's mean stream over its answer is projected on it, minus
the same over the base's own answer to the row's prompt ("persona vectors", Chen et al. 2025, arXiv
2507.21509, screening of training data). No fine-tuned model is run.

Where it departs from the reference: prompts, or the base's own answers to them, make the direction,
without a judge that filters; its depth is that at which the base separates clusters left out best;
the total has a null; what the lengths of answers explain is shown apart. A projection follows topic
and language too.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from interp.analyzers.framework import Analyzer, Known, Needs, Result, option
from interp.analyzers.trait_screening.findings import (
    Screened,
    claims_of,
    null_table,
    screened_table,
)
from interp.analyzers.trait_screening.rows import (
    answer_states,
    own_answers,
    prompts_and_answers,
)
from interp.errors import OptionError
from interp.experiments.cost import Work
from interp.experiments.discovery.labels import ClusteredLabels
from interp.experiments.discovery.trait_directions import Directions, usable_depths
from interp.experiments.discovery.trait_states import mean_states, read_texts, stream_sites
from interp.prompts import PromptSet
from interp.study import Study

LIMITS = (
    "The score is of the base's streams: that a row lies along the trait does not show that training"
    " on it teaches the trait.",
    "The direction is that of the given prompts: whatever else differs between the classes (length,"
    " topic, language) is part of it, and rows that differ from the base's answers in that way rank"
    " high.",
)


@dataclass(frozen=True)
class TraitScreening(Analyzer):
    """Rows of a data set by how far their answers lie along a trait; needs a base and two classes
    of prompts, with the trait and without.

    ``rows_of_data``: texts or conversations. Returns a table of kind ``trait-screening``, one row
    per row of the data, with ``null``.
    """

    name: ClassVar[str] = "trait-screening"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base=True, negatives=True)

    rows_of_data: PromptSet | None = option(None, "Texts or conversations that are screened.")
    position: str = option(
        "answer",
        "Tokens that make the direction: the base's own answer to a prompt, or its last token.",
        choices=("answer", "prompt"),
    )
    prompts: int = option(100, "Prompts of each class at most.", ge=2)
    limit: int = option(1000, "Rows screened at most, from as many clusters as possible.", ge=1)
    beginning: int = option(8, "Tokens of a plain text that count as its prompt.", ge=1)
    separation: float = option(
        0.8, "AUC of the classes in the base that a depth needs, on clusters left out.", ge=0, le=1
    )
    draws: int = option(200, "Permutations of the labels, and random directions.", ge=39)

    def check(self, known: Known) -> None:
        """Raise OptionError without rows."""
        super().check(known)
        if self.rows_of_data is None or not len(self.rows_of_data):
            raise OptionError("there is nothing to screen; give rows_of_data, a file of rows")

    def work(self, study: Study) -> Work:
        """The base's own answers to all prompts and rows, and its passes over both answers."""
        n_rows = min(self.limit, len(self.rows_of_data or ()))
        n_prompts = max(sum(len(study.prompts(group)) for group in study.classes), 1)
        share = min(2 * self.prompts / n_prompts, 1.0)
        written = n_rows / n_prompts + (share if self.position == "answer" else 0.0)
        return Work(passes=share + 2 * n_rows / n_prompts, tokens=written * study.max_new_tokens)

    def run(self, study: Study) -> Result:
        """Make the direction from the prompts, and project both answers to every row's prompt."""
        assert self.rows_of_data is not None
        rows = self.rows_of_data.spread(self.limit)
        pairs = prompts_and_answers(study, rows, self.beginning)
        study = study.with_prompts(study.require_contrast(self.name).limit(self.prompts))
        directions, separation, depth = self._direction(study)
        prompts, answers = [one for one, _ in pairs], [answer for _, answer in pairs]
        own = own_answers(study, prompts)
        changes = answer_states(study, prompts, answers, depth, "rows' answers") - answer_states(
            study, prompts, own, depth, "own answers"
        )
        screened = Screened.from_changes(directions, depth, changes.astype(np.float64))
        lengths = [(len(one), len(other)) for one, other in zip(answers, own, strict=True)]
        decode = study.pair.decode
        table = screened_table(
            screened, rows, [decode(one) for one in answers], [decode(one) for one in own], lengths
        )
        base = study.pair.require_base(self.name)
        return Result(
            table,
            {"null": null_table(screened)},
            claims_of(depth, base.anatomy.n_layers, self._labels(study).arrangements),
            {
                "rows": len(rows),
                "depth": depth,
                "separation": separation,
                "distance": float(directions.distance[depth]),
                "total": float(screened.scores.mean()),
                "beyond": int((screened.p <= 0.05).sum()),
            },
            LIMITS,
        )

    def _labels(self, study: Study) -> ClusteredLabels:
        prompts = [(group, prompt) for group in study.classes for prompt in study.prompts(group)]
        return ClusteredLabels.from_clusters(
            [group == "positive" for group, _ in prompts], [prompt.cluster for _, prompt in prompts]
        )

    def _direction(self, study: Study) -> tuple[Directions, float, int]:
        """The direction at every depth, and the depth with its AUC: of those at which the base
        separates clusters left out, where it does so best (``Directions.gap``).
        """
        base = study.pair.require_base(self.name)
        texts = read_texts(study, self.position)
        groups = study.batches(texts, base, 4 * len(stream_sites(base)) * base.anatomy.width)
        states = mean_states(study, base, texts, groups, "trait prompts")
        labels = self._labels(study)
        clusters = [p.cluster for group in study.classes for p in study.prompts(group)]
        directions = Directions.from_states(states, labels, self.draws, study.seed)
        usable = usable_depths(states, directions.distance)
        separation = directions.separation(clusters)
        eligible = usable & (separation >= self.separation)
        if not eligible.any():
            largest = separation[usable].max(initial=0.0)
            raise OptionError(
                f"the base does not separate the classes: the largest AUC at a depth is {largest:.2f},"
                f" and {self.separation:g} is needed; give more prompts, or others"
            )
        depth = int(np.where(eligible, directions.gap(clusters), -np.inf).argmax())
        return directions, float(separation[depth]), depth
