"""``Monitor``: which texts excite a direction that fine-tuning added?

"Watch the Weights" (arXiv 2508.00161): cosines of the residual stream with the left singular vectors
of the update (``interp.experiments.discovery.update_directions``), their largest and smallest value
over the tokens of a text compared with ordinary texts. The positive class of the study are ordinary
texts, the negative class those to be judged.

Where it departs from the reference: instead of a range for each of hundreds of directions, which
flags 38 to 78 % of ordinary texts by their union, one joint score is calibrated to a stated false
positive rate: the largest excursion over all directions, standardised on one half of the ordinary
texts, with a threshold from the other half. Blocks are read before the final norm, all of them;
directions end at the numerical rank; a text's first token is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Bool

from interp.analyzers.framework import Analyzer, Needs, Result, option
from interp.analyzers.framework.analyzer import Known
from interp.analyzers.monitor.compute import (
    SOURCES,
    Extremes,
    Vectors,
    cosine_extremes,
    feature_of,
    present_sources,
    read_texts,
)
from interp.analyzers.monitor.findings import (
    MIN_DRAWS,
    CalibrationRow,
    FlaggedControlRow,
    MonitorRow,
    RandomRow,
    monitor_claims,
)
from interp.claims.control_fine_tunes import TABLE, controls_table
from interp.errors import OptionError, PromptError
from interp.experiments.base_behaviour import prompt_columns
from interp.experiments.cost import Work
from interp.experiments.discovery import each_model, model_names
from interp.experiments.discovery.lens import lens_tokens, marked_example
from interp.experiments.discovery.update_directions import place_of, update_directions
from interp.experiments.same_base import require_same_base
from interp.maths.conformal import Monitored, least_calibration, monitored, rate_bound
from interp.models.pair import Pair
from interp.prompts import Encoded
from interp.rows import rows_table
from interp.study import Study
from interp.table import Table

LONGER = 1.25
_LIMITS = (
    "A flag says that a text is unlike the ordinary ones along what fine-tuning added, not that the"
    " model behaves badly on it: texts of another kind than the ordinary ones can be flagged too.",
)


@dataclass(frozen=True)
class Monitor(Analyzer):
    """Texts flagged by one joint score over all update directions; needs a base and two classes of
    texts: ordinary ones (positive) and those to be judged (negative).

    ``controls``: pairs of the same base and a control fine-tune each, every one with directions and
    calibration of its own. Returns a table of kind ``monitor``, one row per judged text, with
    ``calibration`` (scores of ordinary texts), ``random`` (rates of random directions) and, where
    there are any, ``controls``.
    """

    name: ClassVar[str] = "monitor"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base=True, negatives=True)

    controls: Sequence[Pair] = option(
        (), "Pairs of the same base and a control fine-tune each.", compare=False
    )
    alpha: float = option(
        0.05, "False positive rate for texts like the ordinary ones.", ge=0.001, le=0.5
    )
    most: int = option(20, "Directions of a matrix at most; never beyond its numerical rank.", ge=1)
    max_tokens: int = option(
        128, "Tokens of a text that are read: extremes grow with length.", ge=1
    )
    turns: bool = option(
        False, "Read texts as user turns by the chat template, up to where the answer begins."
    )
    draws: int = option(19, "Sets of random directions: 19 or more, or 0.", ge=0)
    tokens: int = option(6, "Tokens listed for a direction.", ge=1)

    def check(self, known: Known) -> None:
        """Raise OptionError for 1 to 18 draws, which cannot give p of 0.05."""
        del known
        if 0 < self.draws < MIN_DRAWS:
            raise OptionError(
                f"{self.draws} sets of random directions cannot give p <= 0.05; use {MIN_DRAWS} or"
                " more, or 0 for none"
            )

    def require(self, study: Study) -> None:
        """Raise OptionError, PairError or PromptError for what cannot be compared or calibrated."""
        super().require(study)
        require_same_base(study, self.controls)
        least = least_calibration(self.alpha)
        count = int((~_first_half(study)).sum())
        if count < least:
            raise PromptError(
                f"{count} ordinary texts are left to calibrate with, and a false positive rate of"
                f" {self.alpha:g} needs {least}; give at least {2 * least} ordinary texts"
            )

    def work(self, study: Study) -> Work:
        """A pass of one model over every text, for every model."""
        return Work(passes=1.0 + len(self.controls))

    def run(self, study: Study) -> Result:
        """Read both classes in every model; flag, and compare with random directions."""
        texts = [
            read_texts(study, group, self.max_tokens, self.turns)
            for group in ("positive", "negative")
        ]
        _require_same_sources(texts)
        half, names = _first_half(study), model_names(study, self.controls)
        outcomes: list[_Outcome] = []
        rates: list[float] = []
        vectors = None
        for number, pair in each_model(study, self.controls):
            own = Vectors.from_directions(update_directions(pair, self.most))
            sets = [own]
            if not number:
                vectors = own
                sets += [own.random(study.seed, draw) for draw in range(self.draws)]
            found = _judge(study, pair, texts, sets, half, self.alpha, names[number])
            rates.append(found[0].rate)
            outcomes = outcomes or found
            del pair  # so that it is freed before the next is loaded
        assert vectors is not None
        result, randoms = outcomes[0].result, [each.rate for each in outcomes[1:]]
        rows = self._rows(study, texts[1], outcomes[0], vectors)
        tables = {"calibration": _calibration(study, half, result)}
        tables["random"] = rows_table(
            RandomRow,
            "monitor-random",
            {"draw": np.arange(len(randoms)), "flagged": np.array(randoms, np.float64)},
        )
        if self.controls:
            tables[TABLE] = controls_table(
                names[1:], row=FlaggedControlRow, numbers={"flagged": np.array(rates[1:])}
            )
        clusters = study.prompts("positive").keep(np.flatnonzero(~half).tolist()).n_clusters
        bound = rate_bound(clusters, self.alpha)
        lengths = [float(np.mean([_n_read(each) for each in part])) for part in texts]
        return Result(
            rows,
            tables,
            monitor_claims(self.alpha, bound, len(randoms), len(self.controls)),
            {
                "directions": len(vectors.keys),
                "alpha": self.alpha,
                "rate_bound": bound,
                "threshold": result.threshold,
                "flagged": int(result.flagged.sum()),
                "calibration_texts": int((~half).sum()),
                "tokens_ordinary": lengths[0],
                "tokens_judged": lengths[1],
            },
            self._limits(vectors, lengths),
        )

    def _limits(self, vectors: Vectors, lengths: Sequence[float]) -> list[str]:
        limits: list[str] = list(_LIMITS)
        if not vectors.keys:
            limits.append(
                "The output and down projections are the same in both models: there is no direction"
                " to watch, and nothing is flagged."
            )
        if lengths[1] > LONGER * lengths[0]:
            limits.append(
                f"Judged texts have {lengths[1]:.0f} tokens on average and ordinary ones"
                f" {lengths[0]:.0f}: extremes grow with length; use ordinary texts as long, or"
                " fewer tokens (max_tokens)."
            )
        return limits

    def _rows(
        self, study: Study, texts: Sequence[Encoded], outcome: _Outcome, vectors: Vectors
    ) -> Table:
        result, extremes = outcome.result, outcome.judged
        directions, sides, sources, tokens, examples = ([""] * len(texts) for _ in range(5))
        if extremes is not None:
            known = [feature_of(int(at), vectors, extremes.sources) for at in result.feature]
            used = sorted({key for *_, key in known})
            lens = lens_tokens(study, vectors.rows(used), self.tokens)
            by_key = dict(zip(used, lens, strict=True))
            sources, sides = ([each[part] for each in known] for part in (0, 1))
            directions = [place_of(*key) for *_, key in known]
            tokens = [by_key[key][side == "below"] for _, side, key in known]
            places = extremes.positions[np.arange(len(texts)), result.feature].tolist()
            examples = [marked_example(study, texts, *each) for each in enumerate(places)]
        return rows_table(
            MonitorRow,
            self.name,
            {
                **prompt_columns(study.prompts("negative")),
                "group": ["negative"] * len(texts),
                "score": result.judged,
                "threshold": np.full(len(texts), result.threshold),
                "flagged": result.flagged,
                "direction": directions,
                "side": sides,
                "source": sources,
                "tokens": tokens,
                "example": examples,
            },
        )


@dataclass(frozen=True)
class _Outcome:
    """Scores with one set of directions, and the extremes of the judged texts; None without any
    direction.
    """

    result: Monitored
    judged: Extremes | None

    @property
    def rate(self) -> float:
        return float(self.result.flagged.mean())


def _judge(
    study: Study,
    pair: Pair,
    texts: Sequence[Sequence[Encoded]],
    sets: Sequence[Vectors],
    half: Bool[np.ndarray, " n"],
    alpha: float,
    name: str,
) -> list[_Outcome]:
    """Ordinary and judged texts in the fine-tuned model of a pair, for every set of directions."""
    if not sets[0].keys:
        calibration, judged = np.zeros(int((~half).sum())), np.zeros(len(texts[1]))
        nothing = Monitored(calibration, judged, np.zeros(len(judged), np.int64), 0.0)
        return [_Outcome(nothing, None) for _ in sets]
    ordinary, judged = (
        cosine_extremes(study, pair, part, sets, f"{title} texts, {name}")
        for title, part in zip(("ordinary", "judged"), texts, strict=True)
    )
    return [
        _Outcome(monitored(first.features, second.features, half, alpha), second)
        for first, second in zip(ordinary, judged, strict=True)
    ]


def _first_half(study: Study) -> Bool[np.ndarray, " n"]:
    """Which ordinary texts standardise, the others calibrate: half of the clusters, by the seed."""
    names, cluster = np.unique(study.prompts("positive").clusters, return_inverse=True)
    order = np.random.default_rng(study.seed).permutation(len(names))
    chosen = np.zeros(len(names), bool)
    chosen[order[: len(names) // 2]] = True
    return chosen[cluster]


def _require_same_sources(texts: Sequence[Sequence[Encoded]]) -> None:
    ordinary, judged = ([SOURCES[at] for at in present_sources(part)] for part in texts)
    if ordinary != judged:
        raise PromptError(
            f"ordinary texts have tokens of {', '.join(ordinary)} and judged ones of"
            f" {', '.join(judged)}; give both as plain texts or both as conversations"
        )


def _calibration(study: Study, half: Bool[np.ndarray, " n"], result: Monitored) -> Table:
    prompts = study.prompts("positive").keep(np.flatnonzero(~half).tolist())
    return rows_table(
        CalibrationRow,
        "monitor-calibration",
        {
            **prompt_columns(prompts),
            "group": ["positive"] * len(prompts),
            "score": result.calibration,
        },
    )


def _n_read(text: Encoded) -> int:
    return sum(role >= 0 for role in text.roles)
