"""``IntruderForgetting``: does the number of intruders go with forgetting, over several
checkpoints?

Shuttleworth, Andreas, Torralba, Sharma (arXiv 2410.21228) correlate, over fine-tuned models, the
number of intruder dimensions with the loss on pre-training text above the base's (Spearman's rank
correlation). Here the models are the checkpoints that are given, of one base; p is of permutations
of the checkpoints, all of them where there are few.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from typing import Any, ClassVar

import numpy as np

from interp.analyzers.intruder_forgetting.losses import Forgetting
from interp.claims import Claim, Draws, conclude, from_table, statistic
from interp.errors import OptionError
from interp.maths.intervals import cluster_interval
from interp.maths.statistics import rank_correlation
from interp.provenance import Provenance, environment
from interp.table import Table, table

__all__ = ["Checkpoints", "Forgetting", "IntruderForgetting"]

FEWEST = 5
LIMIT = (
    "Whatever grows during training goes together: over checkpoints of one run a correlation does"
    " not say that intruders cause forgetting; compare it with that of the size of the update, and"
    " scale them (--scale)."
)


@dataclass(frozen=True)
class Checkpoints:
    """Checkpoints of one base: of each a run of ``Intruders`` and, in the same order, one of
    ``Forgetting``.

    Raises OptionError for fewer than two, and for runs that are not of the same base, options and
    texts.
    """

    counted: Sequence[Table]
    lost: Sequence[Table]
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.counted) != len(self.lost) or len(self.counted) < 2:
            raise OptionError(
                f"{len(self.counted)} runs of intruders and {len(self.lost)} of forgetting: give"
                " both of two or more checkpoints"
            )
        for kind, tables in (("intruders", self.counted), ("forgetting", self.lost)):
            if wrong := [run.kind for run in tables if run.kind != kind]:
                raise OptionError(
                    f"a run of kind {wrong[0]} was given where one of {kind} is needed"
                )
            first = tables[0].require_provenance()
            for run in tables:
                made = run.require_provenance()
                # how often a null was drawn changes no count
                options = [{**each.options, "draws": 0} for each in (first, made)]
                same = [
                    each.inputs.get(name) for each in (first, made) for name in ("base", "prompts")
                ]
                if options[0] != options[1] or same[:2] != same[2:]:
                    raise OptionError(
                        f"runs {first.key} and {made.key} differ in base, texts or options; use the"
                        " same for every checkpoint"
                    )
        tuned = [
            [run.require_provenance().inputs["tuned"] for run in tables]
            for tables in (self.counted, self.lost)
        ]
        if tuned[0] != tuned[1] or len(set(tuned[0])) != len(tuned[0]):
            raise OptionError(
                "runs of intruders and of forgetting must be of the same checkpoints, each of them"
                " once"
            )

    @property
    def names(self) -> list[str]:
        """What the checkpoints were called."""
        return [str(run.require_provenance().context.get("tuned", "")) for run in self.counted]

    def provenance(self, analyzer: Any) -> Provenance:
        """What a result of this analyzer on these runs is made from."""
        inputs = {
            "base": self.counted[0].require_provenance().inputs["base"],
            "counted": [run.require_provenance().key for run in self.counted],
            "lost": [run.require_provenance().key for run in self.lost],
            "seed": self.seed,
        }
        context = {
            "base": self.counted[0].require_provenance().context.get("base"),
            "tuned": self.names[-1],
            "checkpoints": self.names,
            "environment": environment(),
        }
        return Provenance(analyzer.name, analyzer.version, analyzer.options, None, inputs, context)


@dataclass(frozen=True)
class IntruderForgetting:
    """Rank correlation of the number of intruders with forgetting, over ``Checkpoints``; tested
    from 5 on.

    All permutations of the checkpoints are taken where there are at most ``draws`` and one, else
    ``draws`` random ones. Returns a table of kind ``intruder-forgetting``, one row per checkpoint,
    with ``texts`` and ``permuted``.
    """

    name: ClassVar[str] = "intruder-forgetting"
    version: ClassVar[int] = 1

    draws: int = 9999

    @property
    def options(self) -> dict[str, Any]:
        """What determines the numbers."""
        return asdict(self)

    def __call__(self, checkpoints: Checkpoints) -> Table:
        """Lay both runs of every checkpoint side by side."""
        if self.draws < 19:
            raise OptionError(f"{self.draws} permutations cannot give p of 0.05; use 19 or more")
        names, counted, lost = checkpoints.names, checkpoints.counted, checkpoints.lost
        found = [
            {each.name: each.value for each in from_table(run.tables["claims"])} for run in counted
        ]
        counts = np.array([each["intruders"] for each in found])
        apart = np.array([each["intruders-by-subspace"] for each in found])
        rises = [
            cluster_interval(run["loss"], run["cluster"], minus=run["base_loss"]) for run in lost
        ]
        value, low, high = (np.array(ends) for ends in zip(*rises, strict=True))
        rows = [len(run) for run in lost]
        run = table(
            self.name,
            {
                "checkpoint": (names, "key", "the checkpoint"),
                "place": (np.arange(1, len(names) + 1), "key", "in the order given, from 1"),
                "intruders": (counts, "measure", "intruders, as published"),
                "apart": (
                    apart,
                    "measure",
                    "intruders also against vectors of like singular value together",
                ),
                "relative_norm": (
                    np.array([run.summary["mean_relative_norm"] for run in counted]),
                    "measure",
                    "norm of the update over the base's, mean over matrices",
                ),
                "loss": (
                    np.array([run["loss"].mean() for run in lost]),
                    "measure",
                    "loss on plain text",
                    "nats",
                ),
                "forgetting": (value, "measure", "the same less the base's", "nats"),
                "low": (low, "measure", "lower end of its 95 % interval over texts", "nats"),
                "high": (high, "measure", "upper end of its 95 % interval over texts", "nats"),
            },
            provenance=checkpoints.provenance(self),
            summary={
                "checkpoints": len(names),
                "base_loss": float(lost[0]["base_loss"].mean()),
                "limits": [LIMIT],
            },
            tables={
                "texts": table(
                    "intruder-forgetting-texts",
                    {
                        "checkpoint": (
                            np.repeat(np.array(names, object), rows),
                            "key",
                            "the checkpoint",
                        ),
                        **{
                            name: (
                                np.concatenate([run[name] for run in lost]),
                                column.role,
                                column.meaning,
                            )
                            for name, column in ((c.name, c) for c in lost[0].columns)
                        },
                    },
                ),
                "permuted": table(
                    "intruder-forgetting-permuted",
                    {
                        "correlation": (
                            self._permuted(counts, value, checkpoints.seed),
                            "measure",
                            "rank correlation with forgetting permuted among checkpoints",
                        ),
                    },
                ),
            },
        )
        return conclude(run, [_claim(len(names))])

    def _permuted(self, counts: np.ndarray, forgetting: np.ndarray, seed: int) -> np.ndarray:
        """Correlations under permutations: all but the observed order, which p adds, or random
        ones.
        """
        n = len(counts)
        if math.factorial(n) <= self.draws + 1:
            orders = [list(order) for order in permutations(range(n))][1:]
        else:
            generator = np.random.default_rng(seed)
            orders = [generator.permutation(n) for _ in range(self.draws)]
        return np.array([rank_correlation(counts, forgetting[order]) for order in orders])


def _claim(n: int) -> Claim:
    of = {"by": "forgetting"}
    said = (
        f"Over {n} checkpoints the number of intruders and forgetting have a rank correlation of"
        " {value:.2f}"
    )
    norm = "that of the update's relative norm and forgetting is {norm:.2f}"
    return Claim(
        name="intruders-go-with-forgetting",
        estimate=statistic("rank-correlation", "intruders", **of),
        at_least=0.0,
        null=(
            Draws("permuted", "correlation", arrangements=float(math.factorial(n)))
            if n >= FEWEST
            else None
        ),
        control="permutations of the checkpoints" if n >= FEWEST else "",
        text=(
            f"{said}, p = {{p:.2g}}; {norm}."
            if n >= FEWEST
            else (f"{said} ({FEWEST} checkpoints or more are needed to test it); {norm}.")
        ),
        undefined=(
            f"Over {n} checkpoints there is no correlation: the number of intruders, or forgetting,"
            " is the same in all of them."
        ),
        also={"norm": statistic("rank-correlation", "relative_norm", **of)},
    )
