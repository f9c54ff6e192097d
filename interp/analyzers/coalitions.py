"""``Coalitions``: does a sum of scores predict the effect of ablating a random half of all units?

Half of the units, drawn at random, get their base contributions inside the fine-tuned model, and
the metric is measured exactly; the sum of their scores is the predicted loss. Effects of single
units mislead where a behaviour saturates or is shared, hence the halves. Each half is drawn with
its complement. The claim uses the rank correlation: effects saturate, so that Pearson's can depend
on the one half that holds the units that matter.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.stats import linregress

from interp.analyzers.base import Analyzer
from interp.claims import Claim, Draws, conclude, correlation, statistic
from interp.errors import OptionError
from interp.experiments.ablated_metric import AblatedMetric
from interp.experiments.conditions import PatchSource
from interp.experiments.cost import Work
from interp.experiments.ranking_sets import scores_of, spearman, unit_of
from interp.experiments.row_selection import sample_rows
from interp.maths.statistics import rank_correlation
from interp.metrics import require_number
from interp.study import Study
from interp.table import Table, table

MIN_CORRELATION = 0.5


@dataclass(frozen=True)
class Coalitions(Analyzer):
    """Exact effect of ``draws`` random halves (and their complements), compared with the sum of
    their ``located`` scores.

    ``prompts`` positive prompts are used; the null is ``permutations`` permutations of the scores
    within layers. Needs a base. Returns a table of kind ``coalitions``, one row per half.
    """

    name: ClassVar[str] = "coalitions"
    version: ClassVar[int] = 2
    takes: ClassVar[dict[str, str]] = {"located": "locate-neurons"}

    located: Table | None = field(default=None, metadata={"from_parent": True})
    draws: int = 32
    prompts: int = 48
    permutations: int = 200

    @classmethod
    def of(cls, located: Table, **options) -> "Coalitions":
        """The analyzer for a locating run's table."""
        return cls(located=located, parent=located.require_provenance().key, **options)

    def work(self, study: Study) -> Work:
        """A pass of each model over some positive prompts, for every half."""
        n_prompts = sum(len(study.encoded(group)) for group in study.classes)
        share = min(self.prompts, len(study.contrast.positive)) / n_prompts
        # measured: the coupled passes of both models take a quarter more than two passes
        return Work(passes=2.5 * self.draws * share)

    def __call__(self, study: Study) -> Table:
        """Draw halves, predict, measure."""
        study.pair.require_base("patching coalitions")
        if self.located is None:
            raise OptionError("coalitions need a locating run with scores; give located")
        if self.draws < 4 or self.permutations < 1:
            raise OptionError(
                f"{self.draws} draws with {self.permutations} permutations are too few; use at"
                " least 4 and 1"
            )
        require_number(study.require_metric(), "what coalitions do")
        scores, unit = scores_of(self.located), unit_of(self.located)
        donors = PatchSource.from_study(study, unit)
        rows = sample_rows(
            study.contrast.positive, range(len(study.contrast.positive)), self.prompts, study.seed
        )
        numbers = AblatedMetric(study, donors, rows)
        generator = np.random.default_rng(study.seed)
        in_half = np.zeros((2 * self.draws, scores.size), dtype=bool)
        for draw in range(self.draws):
            chosen = generator.permutation(scores.size)[: scores.size // 2]
            in_half[2 * draw, chosen] = True
            in_half[2 * draw + 1] = ~in_half[2 * draw]
        unedited_mean = numbers.of([]).mean()
        noise = 16 * float(torch.finfo(study.pair.tuned.dtype).eps) * max(1.0, abs(unedited_mean))
        exact = np.array(
            [
                unedited_mean
                - numbers.of(
                    [divmod(int(index), scores.shape[1]) for index in np.flatnonzero(half)]
                ).mean()
                for half in study.progress(list(in_half), "coalitions")
            ]
        )
        # rounding error must not enter the correlation
        exact[np.abs(exact) <= noise] = 0.0
        predicted = in_half @ scores.ravel()
        null = np.array(
            [
                rank_correlation(in_half @ _permuted_within_layers(scores, generator), exact)
                for _ in range(self.permutations)
            ]
        )
        # scipy's annotations name no field
        line: Any = linregress(predicted, exact) if np.ptp(predicted) else None
        slope = float("nan") if line is None else line.slope
        words = study.require_metric().labels
        run = table(
            self.name,
            {
                "coalition": (np.arange(len(exact)), "key", "number of the half"),
                "draw": (
                    np.arange(len(exact)) // 2,
                    "key",
                    "number of the draw: a half and its complement",
                ),
                "size": (in_half.sum(1), "measure", "units given their base contributions"),
                "predicted": (predicted, "measure", "sum of their scores"),
                "exact": (exact, "measure", f"fall of the {words.number}", words.unit),
                "predicted_standard": (
                    _standardised(predicted),
                    "measure",
                    "predicted, in standard deviations",
                ),
            },
            provenance=study.provenance(self),
            summary={
                "pearson": correlation(predicted, exact),
                "spearman": spearman(predicted, exact),
                "slope": float(slope),
                "method": self.located.summary["method"],
                "positive": len(study.contrast.positive),
                "negative": len(study.contrast.negative),
            },
            tables={
                "permuted": table(
                    "coalitions-permuted",
                    {
                        "draw": (np.arange(len(null)), "key", "number of the permutation"),
                        "spearman": (
                            null,
                            "measure",
                            "rank correlation with scores permuted within layers",
                        ),
                    },
                ),
            },
        )
        return conclude(run, [CLAIM])


def _standardised(values: np.ndarray) -> np.ndarray:
    # the standard deviation of equal values can differ from zero by rounding
    return (values - values.mean()) / values.std() if np.ptp(values) else np.zeros_like(values)


def _permuted_within_layers(scores: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return generator.permuted(scores, axis=1).ravel()


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
