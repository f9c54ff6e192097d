"""``Coalitions``: does a sum of scores predict the effect of ablating a random half of all units?

Half of the units, drawn at random, get their base contributions inside the fine-tuned model, and
the metric is measured exactly; the sum of their scores is the predicted loss. Effects of single
units mislead where a behaviour saturates or is shared, hence the halves. Each half is drawn with
its complement. The claim uses the rank correlation: effects saturate, so that Pearson's can depend
on the one half that holds the units that matter.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.stats import linregress

from interp.analyzers.framework import Analyzer, Known, Needs, Result, option
from interp.claims import Claim, Draws, correlation, statistic
from interp.errors import OptionError, required
from interp.experiments.ablated_metric import AblatedMetric
from interp.experiments.conditions import PatchSource
from interp.experiments.cost import Work
from interp.experiments.ranking_sets import scores_of, spearman, unit_of
from interp.experiments.row_selection import sample_rows
from interp.maths.statistics import rank_correlation
from interp.metrics import require_number
from interp.rows import DrawRow, key, measure, rows_table
from interp.study import Study
from interp.table import Table

MIN_CORRELATION = 0.5
_SENTENCE = (
    "the effects of random halves of all units: rank correlation {value:.2f} over {count:d} halves"
    " (scores permuted within layers: {control:.2f}, at most {control_max:.2f})."
)
CLAIM = Claim(
    name="coalitions",
    estimate=statistic("rank-correlation", "predicted", by="exact", cluster="draw"),
    at_least=MIN_CORRELATION,
    beyond=[0.0, "control"],
    null=Draws("permuted", "spearman"),
    control="permutations of the scores within layers",
    text=f"Sums of scores predict {_SENTENCE}",
    otherwise=f"Sums of scores do not predict well enough {_SENTENCE}",
    also={"count": statistic("count", "coalition")},
)


class HalfRow:
    """A row per random half of all units."""

    coalition: int = key("number of the half, from 0")
    draw: int = key("number of the draw, from 0: a half and its complement")
    size: int = measure("units given their base contributions")
    predicted: float = measure("sum of their scores")
    exact: float = measure("fall of the metric")
    predicted_standard: float = measure("predicted, in standard deviations")


class PermutationRow(DrawRow):
    """The null of the correlation."""

    spearman: float = measure("rank correlation with scores permuted within layers")


@dataclass(frozen=True)
class Coalitions(Analyzer):
    """Exact effect of ``draws`` random halves (and their complements), compared with the sum of
    their ``located`` scores.

    The table has one row per half. Its null is in the sub-table ``permuted``.
    """

    name: ClassVar[str] = "coalitions"
    version: ClassVar[int] = 2
    needs: ClassVar[Needs] = Needs(base=True, metric=True)

    located: Table | None = option(
        None,
        "The locating run whose scores predict.",
        kind="locate-neurons",
        from_parent=True,
    )
    draws: int = option(32, "Random halves, each measured with its complement.", ge=4)
    prompts: int = option(48, "Positive prompts that measure the halves.", ge=1)
    permutations: int = option(200, "Permutations of the scores within layers.", ge=1)

    def check(self, known: Known) -> None:
        """Raise OptionError without a locating run."""
        if self.located is None:
            raise OptionError("coalitions need a locating run with scores; give located")

    def require(self, study: Study) -> None:
        """As ``Analyzer``; the metric must also have a number."""
        super().require(study)
        require_number(study.require_metric(), "what coalitions do")

    def work(self, study: Study) -> Work:
        """A pass of each model over some positive prompts, for every half."""
        n_prompts = sum(len(study.encoded(group)) for group in study.classes)
        share = min(self.prompts, len(study.contrast.positive)) / n_prompts
        # measured: the coupled passes of both models take a quarter more than two passes
        return Work(passes=2.5 * self.draws * share)

    def run(self, study: Study) -> Result:
        """Draw halves, predict, measure."""
        located = required(self.located, "the locating run")
        scores, prompts = scores_of(located), study.contrast.positive
        metric = AblatedMetric(
            study,
            PatchSource.from_study(study, unit_of(located)),
            sample_rows(prompts, range(len(prompts)), self.prompts, study.seed),
        )
        generator = np.random.default_rng(study.seed)
        in_half = np.zeros((2 * self.draws, scores.size), dtype=bool)
        for draw in range(self.draws):
            in_half[2 * draw, generator.permutation(scores.size)[: scores.size // 2]] = True
            in_half[2 * draw + 1] = ~in_half[2 * draw]
        unedited_mean = metric.of([]).mean()
        exact = np.array(
            [
                unedited_mean
                - metric.of(
                    [divmod(int(index), scores.shape[1]) for index in np.flatnonzero(half)]
                ).mean()
                for half in study.progress(list(in_half), "coalitions")
            ]
        )
        # rounding error must not enter the correlation
        noise = 16 * float(torch.finfo(study.pair.tuned.dtype).eps) * max(1.0, abs(unedited_mean))
        exact[np.abs(exact) <= noise] = 0.0
        predicted = in_half @ scores.ravel()
        null = [
            rank_correlation(in_half @ generator.permuted(scores, axis=1).ravel(), exact)
            for _ in range(self.permutations)
        ]
        # the standard deviation of equal values can differ from zero by rounding
        varies, number = bool(np.ptp(predicted)), np.arange(len(exact))
        words = study.require_metric().labels
        # scipy's annotations name no field
        line: Any = linregress(predicted, exact) if varies else None
        rows = rows_table(
            HalfRow,
            self.name,
            {
                "coalition": number,
                "draw": number // 2,
                "size": in_half.sum(1),
                "predicted": predicted,
                "exact": exact,
                "predicted_standard": (predicted - predicted.mean()) / predicted.std()
                if varies
                else np.zeros_like(predicted),
            },
            units={"exact": words.unit},
            meanings={"exact": f"fall of the {words.number}"},
        )
        permuted = {"draw": np.arange(len(null)), "spearman": null}
        return Result(
            rows,
            {"permuted": rows_table(PermutationRow, "", permuted)},
            [CLAIM],
            {
                "pearson": correlation(predicted, exact),
                "spearman": spearman(predicted, exact),
                "slope": float(line.slope) if varies else float("nan"),
                "method": located.summary["method"],
            },
        )
