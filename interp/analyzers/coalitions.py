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
from interp.experiments.ablated_metric import Numbers
from interp.experiments.conditions import PatchSource
from interp.experiments.cost import Work
from interp.experiments.ranking_sets import scores_of, spearman, unit_of
from interp.experiments.row_selection import some
from interp.maths.statistics import rank_correlation
from interp.metrics import require_number
from interp.study import Study
from interp.table import Table, table

AGREEMENT = 0.5


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
    parent: str | None = None
    draws: int = 32
    prompts: int = 48
    permutations: int = 200

    @classmethod
    def of(cls, located: Table, **options) -> "Coalitions":
        """The analyzer for a locating run's table."""
        return cls(located=located, parent=located.require_provenance().key, **options)

    def work(self, study: Study) -> Work:
        """A pass of each model over some positive prompts, for every half."""
        every = sum(len(study.encoded(group)) for group in study.classes)
        used = min(self.prompts, len(study.contrast.positive)) / every
        # measured: the coupled passes of both models take a quarter more than two passes
        return Work(passes=2.5 * self.draws * used)

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
        donors = PatchSource.read(study, unit)
        rows = some(
            study.contrast.positive, range(len(study.contrast.positive)), self.prompts, study.seed
        )
        numbers = Numbers(study, donors, rows)
        generator = np.random.default_rng(study.seed)
        inside = np.zeros((2 * self.draws, scores.size), dtype=bool)
        for draw in range(self.draws):
            chosen = generator.permutation(scores.size)[: scores.size // 2]
            inside[2 * draw, chosen] = True
            inside[2 * draw + 1] = ~inside[2 * draw]
        whole = numbers.of([]).mean()
        noise = 16 * float(torch.finfo(study.pair.tuned.dtype).eps) * max(1.0, abs(whole))
        exact = np.array(
            [
                whole
                - numbers.of(
                    [divmod(int(index), scores.shape[1]) for index in np.flatnonzero(half)]
                ).mean()
                for half in study.progress(list(inside), "coalitions")
            ]
        )
        # rounding error must not enter the correlation
        exact[np.abs(exact) <= noise] = 0.0
        predicted = inside @ scores.ravel()
        null = np.array(
            [
                rank_correlation(inside @ _shuffled(scores, generator), exact)
                for _ in range(self.permutations)
            ]
        )
        # scipy's annotations name no field
        line: Any = linregress(predicted, exact) if np.ptp(predicted) else None
        slope = float("nan") if line is None else line.slope
        words = study.require_metric().words
        run = table(
            self.name,
            {
                "coalition": (np.arange(len(exact)), "key", "number of the half"),
                "draw": (
                    np.arange(len(exact)) // 2,
                    "key",
                    "number of the draw: a half and its complement",
                ),
                "size": (inside.sum(1), "measure", "units given their base contributions"),
                "predicted": (predicted, "measure", "sum of their scores"),
                "exact": (exact, "measure", f"fall of the {words.number}", words.unit),
                "predicted_standard": (
                    _standard(predicted),
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


def _standard(values: np.ndarray) -> np.ndarray:
    # the standard deviation of equal values can differ from zero by rounding
    return (values - values.mean()) / values.std() if np.ptp(values) else np.zeros_like(values)


def _shuffled(scores: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return generator.permuted(scores, axis=1).ravel()


_SENTENCE = (
    "the effects of random halves of all units: rank correlation {value:.2f} over {count:d} halves"
    " (scores permuted within layers: {control:.2f}, at most {control_max:.2f})."
)
CLAIM = Claim(
    name="coalitions",
    estimate=statistic("rank-correlation", "predicted", by="exact", cluster="draw"),
    at_least=AGREEMENT,
    beyond=[0.0, "control"],
    null=Draws("permuted", "spearman"),
    control="permutations of the scores within layers",
    text=f"Sums of scores predict {_SENTENCE}",
    otherwise=f"Sums of scores do not predict well enough {_SENTENCE}",
    also={"count": statistic("count", "coalition")},
)
