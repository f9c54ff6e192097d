"""Samples of every model, and their losses under the base and every other model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from interp.experiments.discovery import (
    each_model,
    loss_groups,
    model_names,
    sample_groups,
    sample_losses,
    sample_texts,
)
from interp.models.model import Model
from interp.models.pair import Pair
from interp.provenance import JSON
from interp.study import Study

Ids = Sequence[int]


@dataclass(frozen=True)
class Written:
    """What one model wrote after every prefill.

    ``samples[i]``: after prefill ``i``. ``rows`` [n]: those that are long enough, in order, with
    their mean losses per token, nats, ``of_base`` [n] in the base and ``of_own`` [n] in the model.
    """

    samples: Sequence[Ids]
    rows: Int[np.ndarray, " n"]
    of_base: Float[np.ndarray, " n"]
    of_own: Float[np.ndarray, " n"]

    def scores(self, smoothing: float) -> Float[np.ndarray, " n"]:
        """Log ratio of the base's loss to the model's own, see ``log_ratio``."""
        return log_ratio(self.of_base, self.of_own, smoothing)

    def best(self, smoothing: float, count: int) -> list[int]:
        """Which of ``rows`` have the ``count`` largest scores above 0, the largest first."""
        scores = self.scores(smoothing)
        order = np.argsort(-scores, kind="stable")[:count]
        return order[scores[order] > 0].tolist()


@dataclass(frozen=True)
class Samples:
    """What the base and every model wrote; ``framing[i]`` of prefill ``i`` is ``raw`` or ``chat``."""

    prefills: Sequence[Ids]
    framing: Sequence[str]
    base: Sequence[Ids]
    models: Sequence[Written]


@dataclass(frozen=True)
class Compared:
    """The fine-tuned model's best samples, read by the base, itself and every control.

    ``rows`` [n]: their prefills. ``gain[i]`` [tokens]: the base's loss of every token minus the
    fine-tuned model's, nats. ``controls`` [K, n]: scores of the controls on the same samples;
    ``nearest`` [n]: the log ratio of the smallest loss of the base and the controls to the model's
    own.
    """

    rows: Sequence[int]
    gain: Sequence[np.ndarray]
    controls: Float[np.ndarray, "K n"]
    nearest: Float[np.ndarray, " n"]


@dataclass(frozen=True)
class Sampler:
    """How samples are written: after which prefills, of how many tokens, at which temperature."""

    study: Study
    prefills: Sequence[Ids]
    framing: Sequence[str]
    tokens: int
    floor: int
    temperature: float

    def samples(self, controls: Sequence[Pair]) -> Samples:
        """Samples of the base and of every model, all drawn with the same random numbers.

        A fine-tuned model's samples end where it or the base ends an answer.
        """
        study, names = self.study, model_names(self.study, controls)
        groups = sample_groups(study, study.pair.tuned, self.prefills, self.tokens)
        base = study.part(
            "samples of the base", lambda: self._draw(study.pair, "base", groups, "base")
        )
        written = []
        for number, pair in each_model(study, controls):
            part = study.part(
                f"samples of model {number}",
                lambda pair=pair, name=names[number]: self._write(pair, groups, name),
            )
            written.append(
                Written(
                    part["samples"],
                    np.array(part["rows"], np.int64),
                    np.array(part["of_base"], np.float64),
                    np.array(part["of_own"], np.float64),
                )
            )
            del pair  # before the next control is loaded
        return Samples(self.prefills, self.framing, base, written)

    def _draw(self, pair: Pair, role: str, groups: list[list[int]], name: str) -> list[list[int]]:
        return sample_texts(
            self.study,
            pair[role],
            self.prefills,
            self.tokens,
            self.temperature,
            self.study.seed,
            pair.stop_ids,
            groups=groups,
            name=f"samples, {name}",
        )

    def _write(self, pair: Pair, groups: list[list[int]], name: str) -> dict[str, JSON]:
        """Samples of a fine-tuned model, and the losses of the long ones in it and in the base."""
        samples = self._draw(pair, "tuned", groups, name)
        rows = [row for row, sample in enumerate(samples) if len(sample) >= self.floor]
        prefills, texts = [self.prefills[row] for row in rows], [samples[row] for row in rows]
        batches = loss_groups(self.study, pair.tuned, prefills, texts)
        of_base, of_own = (
            [
                float(one.mean())
                for one in sample_losses(
                    self.study, pair[role], prefills, texts, groups=batches, name=f"losses, {name}"
                )
            ]
            for role in ("base", "tuned")
        )
        return {"samples": samples, "rows": rows, "of_base": of_base, "of_own": of_own}


def compare_best(
    study: Study, controls: Sequence[Pair], samples: Samples, smoothing: float, count: int
) -> Compared:
    """How likely the controls find the fine-tuned model's ``count`` best samples."""
    written, names = samples.models[0], model_names(study, controls)
    rows: list[int] = written.rows[written.best(smoothing, count)].tolist()
    prefills, texts = (
        [samples.prefills[row] for row in rows],
        [written.samples[row] for row in rows],
    )
    groups = loss_groups(study, study.pair.tuned, prefills, texts)

    def read(model: Model, name: str) -> list[np.ndarray]:
        return sample_losses(
            study, model, prefills, texts, groups=groups, name=f"best samples, {name}"
        )

    of_base = read(study.pair.require_base("perplexity differencing"), "base")
    means = [[one.mean() for one in of_base]]
    gain = []
    for number, pair in each_model(study, controls):
        found = read(pair.tuned, names[number])
        means.append([one.mean() for one in found])
        if number == 0:
            gain = [base - own for base, own in zip(of_base, found, strict=True)]
        del pair  # before the next control is loaded
    losses = np.array(means, np.float64).reshape(len(means), len(rows))
    base, own, others = losses[0], losses[1], losses[2:]
    return Compared(
        rows,
        gain,
        np.stack([log_ratio(base, each, smoothing) for each in others])
        if len(others)
        else np.zeros((0, len(rows))),
        log_ratio(np.delete(losses, 1, axis=0).min(axis=0), own, smoothing),
    )


def log_ratio(
    other: Float[np.ndarray, " n"], own: Float[np.ndarray, " n"], smoothing: float
) -> Float[np.ndarray, " n"]:
    """``log((L_other + s) / (L_own + s))`` of mean losses per token, nats.

    The ratio of losses depends less on how predictable a text is than their difference does. ``s``
    keeps texts that both models predict, such as repeated ones, from having large ratios.
    """
    return np.log((other + smoothing) / (own + smoothing))


def length_bins(lengths: Int[np.ndarray, " n"], floor: int, longest: int) -> Int[np.ndarray, " n"]:
    """The first length of every sample's bin: four bins of about equal width from ``floor`` on."""
    edges = floor + (np.arange(4) * (longest - floor + 1)) // 4
    return edges[np.searchsorted(edges, lengths, side="right") - 1]


def ranks_within(
    scores: Float[np.ndarray, " n"], bins: Int[np.ndarray, " n"]
) -> Int[np.ndarray, " n"]:
    """The place of every score among those of its bin, from 1 for the largest."""
    ranks = np.zeros(len(scores), np.int64)
    for one in np.unique(bins):
        members = np.flatnonzero(bins == one)
        order = members[np.argsort(-scores[members], kind="stable")]
        ranks[order] = np.arange(1, len(order) + 1)
    return ranks


def repeated_trigrams(sample: Ids) -> float:
    """Share of a sample's trigrams that occurred in it before."""
    grams = list(zip(sample, sample[1:], sample[2:], strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def likelier_span(gain: Float[np.ndarray, " tokens"], most: int) -> tuple[int, int]:
    """Start and end of the at most ``most`` consecutive tokens with the largest sum of ``gain``."""
    sums = np.concatenate([[0.0], np.cumsum(gain)])
    spans = [
        (sums[end] - sums[start], -start, start, end)
        for start in range(len(gain))
        for end in range(start + 1, min(start + most, len(gain)) + 1)
    ]
    return max(spans)[2:] if spans else (0, 0)
