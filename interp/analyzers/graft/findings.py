"""What grafts show, beside their nulls."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from interp.analyzers.graft.rows import Rows
from interp.claims import Claim
from interp.maths.bootstrap import clustered_bootstrap
from interp.maths.statistics import clustered_rise, permutation_p

KEEPS, CHANCE, ALPHA = 0.95, 0.2, 0.05
NAN = float("nan")


class Findings:
    """Claims about masks of ``count`` of ``size`` weights, by right answers to held-out questions."""

    def __init__(self, rows: Rows, count: int, size: int, seed: int) -> None:
        self.rows, self.count, self.size, self.seed = rows, count, size, seed
        self.clusters = np.array(rows.questions.clusters)
        self.base = rows.seen["base", 0].correct
        self.tuned = rows.seen["tuned", size].correct
        drawn = [kept for kind, _, _, kept in rows.draws if kind == "matched"]
        self.null = np.array([rows.gain(value) for value in drawn])
        self.better = clustered_rise(self.tuned, self.base, self.clusters, seed)[1] > 0

    @property
    def gain(self) -> float:
        """How many more answers the tune gets right than the base, as a share."""
        return float(self.tuned.mean() - self.base.mean())

    def correct(self, kind: str) -> np.ndarray:
        """Right answers of a kind of mask at the size asked for."""
        return self.rows.seen[kind, self.count].correct

    def kept_gain(self, kind: str) -> float:
        """Share of the tune's gain that a kind of mask keeps."""
        return self.rows.gain(float(self.correct(kind).mean()))

    def smallest(self) -> int | None:
        """The fewest weights of the sweep with which the learned mask keeps its 95 %; None where none does."""
        reached = [
            kept
            for (kind, kept), seen in self.rows.seen.items()
            if kind == "learned" and self.better and self.rows.gain(float(seen.correct.mean())) >= KEEPS
        ]
        return min(reached, default=None)

    def claims(self) -> list[Claim]:
        """All of them, the first is what a person reads first."""
        keeps = self._keeps()
        made = [keeps, self._beats("movement", "the weights that moved furthest"), self._random()]
        if "shuffled" in self.rows.kinds:
            made.append(self._localised(keeps.shown))
        return made

    def _where(self, kind: str) -> Mapping[str, object]:
        kept = {"base": 0, "tuned": self.size}.get(kind, self.count)
        return {"where": {"kind": kind, "kept": kept}}

    def _share(self, kind: str) -> dict:
        base, tuned = self._where("base"), self._where("tuned")
        return {"table": "answers", "statistic": "mean", "column": "correct", "cluster": "cluster", **self._where(kind),
                "minus": base, "over": {**tuned, "minus": base}}  # fmt: skip

    def _keeps(self) -> Claim:
        value = self.kept_gain("learned")
        low, high = self._interval(self.correct("learned"))
        p = permutation_p(value, self.null)
        floor, ceiling = (float(end) for end in np.quantile(self.null, [0.025, 0.975]))
        shown = bool(self.better and value >= KEEPS and p <= ALPHA and low > ceiling)
        share = f"{self.count:,} of {self.size:,} weights ({self.count / self.size:.2%})"
        said = (
            f"The tune answers no more of {len(self.base)} held-out questions rightly than the base "
            f"({self.tuned.mean():.1%} and {self.base.mean():.1%}), so that a graft of {share} has nothing to keep."
            if not self.better
            else f"The base with {share} of the tune keeps {value:.1%} of what tuning gained on {len(self.base)} "
            f"held-out questions ({self.base.mean():.1%} to {self.tuned.mean():.1%} right; random masks with equal "
            f"counts in every parameter: {self.null.mean():.1%}, at most {self.null.max():.1%})."
        )
        return Claim(
            "keeps", said, value, low, high, f"{len(self.null)} random masks with equal counts in every parameter",
            self.null.mean(), floor, ceiling, p, KEEPS, "at least", shown,
            {**self._share("learned"), "beyond": ["control_high"],
             "p": {"null": {"table": "random", "column": "kept_gain", "where": {"kind": "matched"}},
                   "observed": self._share("learned")}},
        )  # fmt: skip

    def _interval(self, correct: np.ndarray) -> tuple[float, float]:
        """Of the share of the gain kept: base, graft and tune are resampled together, by clusters."""

        def share(drawn: np.ndarray) -> float:
            rows = drawn.astype(int)
            low, high = self.base[rows].mean(), self.tuned[rows].mean()
            return float((correct[rows].mean() - low) / (high - low)) if high != low else NAN

        rows = np.arange(len(correct), dtype=np.float64)
        _, low, high = clustered_bootstrap(rows, self.clusters, statistic=share, draws=1000, seed=self.seed)
        return low, high

    def _difference(self, kind: str) -> tuple[float, float, float, dict]:
        value, low, high = clustered_rise(self.correct("learned"), self.correct(kind), self.clusters, self.seed)
        recipe = {"table": "answers", "statistic": "mean", "column": "correct", "cluster": "cluster",
                  **self._where("learned"), "minus": self._where(kind)}  # fmt: skip
        return value, low, high, recipe

    def _beats(self, kind: str, what: str) -> Claim:
        value, low, high, recipe = self._difference(kind)
        own, other = (float(self.correct(name).mean()) for name in ("learned", kind))
        no_gain = (
            "" if self.better else " The tune answers no more rightly than the base, so that this is not its gain."
        )
        return Claim(
            f"beats-{kind}",
            f"The learned mask gets {own:.1%} of held-out questions right, as many of {what} {other:.1%}.{no_gain}",
            value, low, high, f"{what}, as many", 0.0, NAN, NAN, NAN, 0.0, "at least", bool(self.better and low > 0),
            recipe,
        )  # fmt: skip

    def _random(self) -> Claim:
        value, low, high = clustered_bootstrap(self.null, np.arange(len(self.null)), seed=self.seed)
        return Claim(
            "random-fails",
            f"Random masks of as many weights, with the learned mask's count in every parameter, keep {value:.1%} of "
            f"the gain on average (of {len(self.null)} the best {self.null.max():.1%}).",
            value, low, high, "the learned mask, as many; the interval is over draws", self.kept_gain("learned"),
            NAN, NAN, NAN,
            CHANCE, "at most", bool(self.better and high <= CHANCE),
            {"table": "random", "statistic": "mean", "column": "kept_gain", "where": {"kind": "matched"}},
        )  # fmt: skip

    def _localised(self, works: bool) -> Claim:
        value, low, high, recipe = self._difference("shuffled")
        own, other = self.kept_gain("learned"), self.kept_gain("shuffled")
        shown = bool(works and low > 0)
        if shown:
            meaning = "that the learned mask works is owed to where each weight went"
        elif low > 0:
            meaning = "the learned mask does better, but is itself not shown to keep the gain as random ones do not"
        elif other >= CHANCE:
            meaning = "choosing weights is itself a way to learn this task, and does not say where the tune has it"
        else:
            meaning = f"too little lies between it and the learned mask ({own:.1%}) to tell"
        said = (
            "A mask learned in the same way on the tune's movement dealt out anew within every parameter keeps "
            f"{other:.1%} of the gain: {meaning}."
        )
        return Claim(
            "localised", said, value, low, high, "a mask learned on the movement dealt out anew", 0.0, NAN, NAN, NAN,
            0.0, "at least", shown, recipe,
        )  # fmt: skip
