"""Columns of concept shifts, and the claims that concepts move further than in control
fine-tunes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from interp.claims import ALPHA, Claim, mean, statistic
from interp.errors import OptionError
from interp.rows import flag, key, measure
from interp.sae.analysis import concept_shift as shifts
from interp.sae.analysis.token_labels import Texts

Columns = dict[str, NDArray]


class ModelShifts(NamedTuple):
    """One fine-tuned model: its states minus the base's [N, D] on one half of the clusters, the
    shifts there, and their recovery on the other half.
    """

    differences: Float[NDArray[np.float64], "N D"]
    measured: shifts.Shifts
    recovery: shifts.ConceptRecovery


@dataclass(frozen=True)
class ConceptShifts:
    """``count`` concepts of a base's states, by k-means on one half of the clusters, with ``draws``
    draws of each null.
    """

    count: int
    draws: int = 199
    seed: int = 0

    def __call__(
        self, base: Float[NDArray, "N D"], tuned: Sequence[Float[NDArray, "N D"]], texts: Texts
    ) -> tuple[list[ModelShifts], Int[NDArray[np.int64], " n"]]:
        """Shifts of the same concepts in each fine-tuned model, and the concept of each token of
        ``texts.training``.

        Raises OptionError if a half has too few tokens.
        """
        selection, held_out = texts.training, ~texts.training
        if min(selection.sum(), held_out.sum()) < max(2 * shifts.MIN_TOKENS, self.count):
            raise OptionError(
                f"{len(selection)} content tokens leave {min(selection.sum(), held_out.sum())} in a"
                f" half, too few for {self.count} concepts; give more prompts or use fewer concepts"
            )
        member = shifts.kmeans_concepts(base[selection], self.count, self.seed)
        half = Texts(
            texts.tokens[selection],
            texts.documents[selection],
            texts.clusters[selection],
            np.ones(int(selection.sum()), bool),
        )
        models = []
        for states in tuned:
            measured = shifts.ShiftEstimator(self.draws, self.seed)(
                base[selection], states[selection], member, half, self.count
            )
            tuned_concepts = shifts.kmeans_concepts(states[held_out], self.count, self.seed)
            recovery = shifts.concept_recovery(
                measured, shifts.mean_per_concept(states[held_out], tuned_concepts, self.count)
            )
            models.append(
                ModelShifts(
                    np.asarray(states[selection] - base[selection], np.float64), measured, recovery
                )
            )
        return models, member


_TIMES = f"{shifts.CONTROL_FACTOR:g} times"
_PAIRWISE = "mean cosine of the shifts of two tokens from different clusters"
_ALIGNED = "mean cosine of a token's shift and its concept's shift"
_CENTRED = "shift minus the mean shift of all tokens"
_EXCESS = (
    "its squared {} minus that of {} the control's, from pairs of tokens of different clusters"
)


class ConceptRow:
    """A row per concept; the optional columns compare it with control fine-tunes."""

    concept: int = key("number of the concept, by decreasing size")
    tokens: int = measure("its tokens in the half that defines concepts")
    shift: float = measure("length of its mean shift")
    relative: float = measure("the same divided by the spread of the base's states")
    own: float = measure(
        "length of the difference between its shift and the mean shift of all tokens"
    )
    pairwise: float = measure(_PAIRWISE)
    pairwise_low: float = measure(f"lower end of its interval over clusters: {_PAIRWISE}")
    pairwise_high: float = measure(f"upper end of its interval over clusters: {_PAIRWISE}")
    aligned: float = measure(_ALIGNED)
    aligned_low: float = measure(f"lower end of its interval over clusters: {_ALIGNED}")
    aligned_high: float = measure(f"upper end of its interval over clusters: {_ALIGNED}")
    exchange_p: float = measure(
        "p of a shift as long with models exchanged per document, corrected"
    )
    permuted_p: float = measure(
        "p of a shift as far from the mean shift with concepts assigned to other clusters,"
        " corrected"
    )
    measured: bool = flag("it has enough tokens")
    shifted: bool = flag("it moves more than with exchanged models")
    moves_distinctly: bool = flag("its shift differs from that of tokens in general")
    match: int = measure("the tuned model's concept that it is matched with, -1 for none")
    gain: float = measure("how much closer its shift brings it to that, on held-out clusters")
    gain_overall: float = measure("the same for the mean shift of all tokens")
    cosine_gain: float = measure("increase of the cosine with that")
    paired: bool = flag("it has a shift and a match")
    control_shift: float = measure("length of its mean shift in the control", optional=True)
    excess: float = measure(_EXCESS.format("mean shift", _TIMES), optional=True)
    excess_low: float = measure("lower end of its interval over clusters", optional=True)
    excess_high: float = measure("upper end of its interval over clusters", optional=True)
    beyond_control: bool = flag(
        f"it moves, at least {_TIMES} as far as in the control", optional=True
    )
    control_beyond: bool = flag(f"the reverse: {_TIMES} as far in a control", optional=True)
    control_own: float = measure(f"length of its {_CENTRED} in the control", optional=True)
    own_excess: float = measure(_EXCESS.format(_CENTRED, _TIMES), optional=True)
    own_excess_low: float = measure("lower end of its interval over clusters", optional=True)
    own_excess_high: float = measure("upper end of its interval over clusters", optional=True)
    own_beyond_control: bool = flag(
        f"it moves distinctly, at least {_TIMES} as far as in the control", optional=True
    )
    control_own_beyond: bool = flag(f"the reverse: {_TIMES} as far in a control", optional=True)
    recovers: float = measure("gain minus gain_overall", optional=True)
    control_recovers: float = measure(
        "the same for the control's shift and the control's concept", optional=True
    )
    recovers_beyond: float = measure(
        f"recovers minus {_TIMES} the control's, if that is above 0", optional=True
    )
    compared: bool = flag("it has a shift and a match here and in the control", optional=True)


def shift_columns(model: ModelShifts, base: Float[NDArray, "N D"]) -> Columns:
    """Shifts of one model, a row per concept; ``base``: the base's states on the half that defines
    concepts.
    """
    measured, recovery = model.measured, model.recovery
    base_spread = float(np.sqrt(np.square(base - base.mean(0)).sum(1).mean()))
    return {
        "concept": np.arange(len(measured.tokens)),
        "tokens": measured.tokens,
        "shift": measured.size,
        "relative": measured.size / base_spread if base_spread else measured.size,
        "own": measured.own,
        **{
            f"{name}{end}": values
            for name in ("pairwise", "aligned")
            for end, values in zip(("", "_low", "_high"), getattr(measured, name).T, strict=True)
        },
        "exchange_p": shifts.corrected_p(measured.exchange_p),
        "permuted_p": shifts.corrected_p(measured.permuted_p),
        "measured": np.isfinite(measured.size),
        "shifted": _is_significant(measured.exchange_p),
        "moves_distinctly": _is_significant(measured.permuted_p),
        "match": recovery.match,
        "gain": recovery.gain,
        "gain_overall": recovery.by_overall,
        "cosine_gain": recovery.cosine_gain,
        "paired": np.isfinite(recovery.gain),
    }


def _is_significant(p: Float[NDArray, " K"]) -> Bool[NDArray[np.bool_], " K"]:
    return np.nan_to_num(shifts.corrected_p(p), nan=1.0) <= ALPHA


def control_columns(
    model_shifts: ModelShifts,
    controls: Sequence[ModelShifts],
    member: Int[NDArray, " N"],
    clusters: Int[NDArray, " N"],
) -> Columns:
    """The same concepts in control fine-tunes, and whether the model moves them ``CONTROL_FACTOR``
    times as far as every control.

    ``member``, ``clusters``: concept and cluster of each token in ``ModelShifts.differences``.
    """
    n_concepts = len(model_shifts.measured.tokens)

    def further(
        first: ModelShifts, second: ModelShifts, centred: bool
    ) -> Float[NDArray, "K three"]:
        rows = [
            model.differences - centred * model.differences.mean(0) for model in (first, second)
        ]
        return shifts.excess(rows[0], rows[1], member, clusters, n_concepts)

    columns: Columns = {}
    for name, centred, p, length in (
        ("", False, "exchange_p", "size"),
        ("own_", True, "permuted_p", "own"),
    ):
        # with several controls, use the one in which the concept moves furthest
        per_control = np.stack([further(model_shifts, control, centred) for control in controls])
        strongest = np.argmin(np.nan_to_num(per_control[:, :, 1], nan=np.inf), 0)
        gap = per_control[strongest, np.arange(n_concepts)]
        reverse = [
            _is_significant(getattr(control.measured, p))
            & (further(control, model_shifts, centred)[:, 1] > 0)
            for control in controls
        ]
        columns |= {
            f"control_{name or 'shift'}".rstrip("_"): np.max(
                [getattr(control.measured, length) for control in controls], 0
            ),
            f"{name}excess": gap[:, 0],
            f"{name}excess_low": gap[:, 1],
            f"{name}excess_high": gap[:, 2],
            f"{name}beyond_control": _is_significant(getattr(model_shifts.measured, p))
            & (gap[:, 1] > 0),
            f"control_{name}beyond": np.any(reverse, 0),
        }
    recovers = model_shifts.recovery.gain - model_shifts.recovery.by_overall
    control_recovers = np.max(
        [control.recovery.gain - control.recovery.by_overall for control in controls], 0
    )
    return columns | {
        "recovers": recovers,
        "control_recovers": control_recovers,
        "recovers_beyond": recovers
        - shifts.CONTROL_FACTOR * np.fmax(control_recovers, 0.0)
        + 0.0 * control_recovers,
        "compared": np.isfinite(recovers + control_recovers),
    }


def claims_of(columns: Columns, controls: int) -> list[Claim]:
    """Claims that concepts move, that they move distinctly, and that their shifts recover the tuned
    model's concepts, each more than in the controls.

    Without controls the claims have no reference and are never supported: any fine-tuning shows
    such numbers.
    """
    measured = bool(columns["measured"].any())
    if not controls:
        claims = [_share_without_control(*each) for each in _SHARES if measured]
        return claims + ([_recovery_without_control()] if columns["paired"].any() else [])
    which = (
        "in the control fine-tune" if controls == 1 else f"in each of {controls} control fine-tunes"
    )
    claims = [_share_beyond_control(*each, which) for each in _SHARES if measured]
    return claims + ([_recovery_beyond_control(which)] if columns["compared"].any() else [])


_MEASURED = {"where": {"measured": True}}
_MISSING = "give a control fine-tune with --control"
_SHARES = (
    ("concepts-shift", "", "shifted", "move more than with exchanged models", "move"),
    (
        "concepts-beyond-mean-shift",
        "own_",
        "moves_distinctly",
        "move differently from tokens in general",
        "move distinctly",
    ),
)


def _counts(**columns: str) -> Mapping:
    return {"total": statistic("count", "measured", **_MEASURED)} | {
        name: statistic("sum", column, **_MEASURED) for name, column in columns.items()
    }


def _share_without_control(name: str, _: str, column: str, what: str, __: str) -> Claim:
    return Claim(
        name=name,
        estimate=mean(column, cluster="concept", **_MEASURED),
        at_least=ALPHA,
        text=(
            f"{{count:d}} of {{total:d}} concepts {what}; there is no control fine-tune to"
            " compare them with."
        ),
        missing=_MISSING,
        also=_counts(count=column),
    )


def _share_beyond_control(
    name: str, prefix: str, column: str, what: str, verb: str, which: str
) -> Claim:
    """More concepts move further than in the control than the reverse."""
    beyond, control_beyond = f"{prefix}beyond_control", f"control_{prefix}beyond"
    return Claim(
        name=f"{name}-beyond-control",
        estimate=mean(beyond, cluster="concept", minus={"column": control_beyond}, **_MEASURED),
        at_least=0.0,
        reference=mean(control_beyond, cluster="concept", **_MEASURED),
        control=f"concepts that {verb} {shifts.CONTROL_FACTOR:g} times as far in a control",
        text=(
            f"{{count:d}} of {{total:d}} concepts {verb} at least {shifts.CONTROL_FACTOR:g} times"
            f" as far as {which}, {{reverse:d}} the reverse: a difference of {{value:.1%}}"
            f" [{{low:.1%}}, {{high:.1%}}] ({{moved:d}} {what})."
        ),
        also=_counts(count=beyond, reverse=control_beyond, moved=column),
    )


def _recovery_without_control() -> Claim:
    rows = {"where": {"paired": True}}
    return Claim(
        name="shift-recovers",
        estimate=mean("gain", cluster="concept", minus={"column": "gain_overall"}, **rows),
        at_least=0.0,
        text=(
            "A concept's own shift brings it {own:.3g} closer to the tuned model's on held-out"
            " clusters, the mean shift of all tokens {overall:.3g}; there is no control"
            " fine-tune to compare this with."
        ),
        missing=_MISSING,
        also={
            "own": mean("gain", cluster="concept", **rows),
            "overall": mean("gain_overall", cluster="concept", **rows),
        },
    )


def _recovery_beyond_control(which: str) -> Claim:
    rows = {"where": {"compared": True}}
    return Claim(
        name="shift-recovers-beyond-control",
        estimate=mean("recovers_beyond", cluster="concept", **rows),
        at_least=0.0,
        reference=mean("control_recovers", cluster="concept", **rows),
        control="the control's shifts, toward the control's concepts",
        text=(
            "On held-out clusters its own shift brings a concept {own:.3g} nearer to the tuned"
            f" model's than the mean shift of all tokens does; {which} that is {{control:.3g}}."
            f" Minus {shifts.CONTROL_FACTOR:g} times that, per concept, it is {{value:.3g}}"
            " [{low:.3g}, {high:.3g}]."
        ),
        also={"own": mean("recovers", cluster="concept", **rows)},
    )
