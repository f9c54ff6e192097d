"""``DirectionChange``: does the direction that separates two classes of prompts still point where it
did?

The direction at a depth is the difference of the classes' mean residual streams at the last token,
as for the refusal direction of Arditi et al. (2024, arXiv 2406.11717). Its cosine between base and
fine-tuned model is compared with that between the base and control fine-tunes, since any
fine-tuning turns it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from interp.analyzers.framework import Analyzer, Needs, Result, option
from interp.claims import Claim, mean, statistic
from interp.claims.control_fine_tunes import ControlRow, beyond_new_control, controls_table
from interp.errors import OptionError
from interp.experiments.cost import Work
from interp.experiments.last_streams import last_streams
from interp.experiments.same_base import require_same_base
from interp.models.model import Model
from interp.models.pair import Pair
from interp.models.pairs_on_demand import tuned_names
from interp.rows import key, measure, rows_table
from interp.study import Study

NO_CONTROL = "How far any fine-tuning turns the direction was not measured: no control was given."
NOT_CAUSAL = "A direction that turned may still be used: nothing was edited."


class DepthRow:
    """A row per depth."""

    depth: int = key("blocks that the stream has passed")
    cosine: float = measure("cosine of both models' directions")
    norm_ratio: float = measure("length of the fine-tuned model's direction over the base's")
    turn: float = measure("one minus the cosine")
    control_cosine: float = measure("cosine of base and control, mean over controls", optional=True)


class ClusterRow:
    """A row per cluster of prompts."""

    cluster: str = key("prompts that are not independent of each other share a cluster")
    turn: float = measure(
        "one minus the cosine, mean over depths: m times that of all m clusters minus m - 1 times"
        " that without this one"
    )


class DirectionControlRow(ControlRow):
    """A row per control fine-tune."""

    turn: float = measure("the same, mean over clusters")


@dataclass(frozen=True)
class DirectionChange(Analyzer):
    """The direction between positive and negative prompts in both models at every depth, and in
    every control.

    ``controls``: pairs of the same base and a control fine-tune each. Returns a table of kind
    ``direction-change``, one row per depth from the first block on, with ``controls``.
    """

    name: ClassVar[str] = "direction-change"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base=True, negatives=True)

    controls: Sequence[Pair] = option(
        (), "Pairs of the same base and a control fine-tune each.", compare=False
    )

    def require(self, study: Study) -> None:
        """As ``Analyzer``; controls must be of the pair's base."""
        super().require(study)
        require_same_base(study, self.controls)

    def work(self, study: Study) -> Work:
        """A pass of every model."""
        del study
        return Work(passes=2 + len(self.controls))

    def run(self, study: Study) -> Result:
        """Read both classes with every model."""
        base = _read(study, study.pair.require_base("a direction"), "base")
        if not np.linalg.norm(base.direction(), axis=-1).all():
            raise OptionError(
                "both classes have the same mean residual stream in the base: there is no"
                " direction between them; give other prompts"
            )
        tuned = _read(study, study.pair.tuned, "fine-tuned model")
        cosine, lengths = (
            _cosines(base.direction(), tuned.direction()),
            (np.linalg.norm(each.direction(), axis=-1) for each in (tuned, base)),
        )
        turns, controls = _turns(base, tuned), []
        # indexed each time: a name for one control would keep it in memory beside the next
        for at in range(len(self.controls)):
            read = _read(study, self.controls[at].tuned, f"control {at + 1}")
            of_control = _cosines(base.direction(), read.direction())
            controls.append((of_control, float(_turns(base, read).mean())))
        columns = {
            "depth": np.arange(1, len(cosine) + 1),
            "cosine": cosine,
            "norm_ratio": np.divide(*lengths),
            "turn": 1 - cosine,
        }
        if controls:
            columns["control_cosine"] = np.mean([each for each, _ in controls], 0)
        tables = {"clusters": rows_table(ClusterRow, "", {"cluster": base.clusters, "turn": turns})}
        if controls:
            tables["controls"] = controls_table(
                tuned_names(self.controls),
                row=DirectionControlRow,
                numbers={"turn": [turn for _, turn in controls]},
            )
        return Result(
            rows_table(DepthRow, "", columns),
            tables,
            _claims(len(controls)),
            {"turn": float(turns.mean()), "controls": tuned_names(self.controls)},
            [NOT_CAUSAL, *([] if controls else [NO_CONTROL])],
        )


@dataclass(frozen=True)
class _Streams:
    """Streams at the last token of a model, class by class [n, depths, D], float64; clusters."""

    positive: Float[np.ndarray, "n depths D"]
    negative: Float[np.ndarray, "m depths D"]
    names: tuple[np.ndarray, np.ndarray]

    @property
    def clusters(self) -> list[str]:
        """The clusters, sorted."""
        return sorted({*self.names[0].tolist(), *self.names[1].tolist()})

    def direction(self, without: str | None = None) -> Float[np.ndarray, "depths D"]:
        """Difference of the classes' means at every depth, of all clusters or without one."""
        means = [
            streams[names != without].mean(0)
            for streams, names in zip((self.positive, self.negative), self.names, strict=True)
        ]
        return means[0] - means[1]


def _read(study: Study, model: Model, name: str) -> _Streams:
    """The streams of both classes after every block."""
    positive, negative = (
        last_streams(study, model, study.encoded(group), f"{name}, {group}")[:, 1:].astype(
            np.float64
        )
        for group in ("positive", "negative")
    )
    names = tuple(
        np.array([prompt.cluster for prompt in study.prompts(group)])
        for group in ("positive", "negative")
    )
    return _Streams(positive, negative, (names[0], names[1]))


def _turns(base: _Streams, other: _Streams) -> Float[np.ndarray, " clusters"]:
    """Jackknife pseudo-values, by cluster, of one minus the mean cosine (Tukey 1958)."""
    clusters = base.clusters
    whole = 1 - _cosines(base.direction(), other.direction()).mean()
    left_out = np.array(
        [1 - _cosines(base.direction(one), other.direction(one)).mean() for one in clusters]
    )
    return len(clusters) * whole - (len(clusters) - 1) * left_out


def _cosines(
    base: Float[np.ndarray, "depths D"], other: Float[np.ndarray, "depths D"]
) -> Float[np.ndarray, " depths"]:
    """Cosines by depth; exactly 1 where both directions are equal, 0 where ``other`` is zero."""
    norms = np.linalg.norm(base, axis=-1) * np.linalg.norm(other, axis=-1)
    cosine = (base * other).sum(-1) / np.where(norms > 0, norms, 1.0)
    return np.where((base == other).all(-1), 1.0, cosine)


def _claims(n_controls: int) -> list[Claim]:
    turned = mean("turn", table="clusters")
    if n_controls:
        return [
            beyond_new_control(
                "turns-beyond-new-control",
                turned,
                "turn",
                n_controls,
                "one minus the cosine of the directions",
                ".3g",
            )
        ]
    return [
        Claim(
            name="turns-beyond-new-control",
            estimate=turned,
            at_least=0.0,
            text=(
                "The direction between the classes has a cosine of {cosine:.3f} with the base's on"
                " average over depths, at least {least:.3f}."
            ),
            also={"cosine": statistic("mean", "cosine"), "least": statistic("minimum", "cosine")},
            missing="no control fine-tune was given (--control)",
        )
    ]
