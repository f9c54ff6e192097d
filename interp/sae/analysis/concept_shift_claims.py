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
from interp.sae.analysis import concept_shift as shifts
from interp.sae.analysis.token_labels import Texts

Columns = dict[str, tuple]


class Model(NamedTuple):
    """One fine-tuned model: its states minus the base's [N, D] on one half of the clusters, the
    shifts there, and their recovery on the other half.
    """

    moved: Float[NDArray[np.float64], "N D"]
    found: shifts.Shifts
    nearer: shifts.Recovery


@dataclass(frozen=True)
class Concepts:
    """``count`` concepts of a base's states, by k-means on one half of the clusters, with ``draws``
    draws of each null.
    """

    count: int
    draws: int = 199
    seed: int = 0

    def __call__(
        self, base: Float[NDArray, "N D"], tuned: Sequence[Float[NDArray, "N D"]], texts: Texts
    ) -> tuple[list[Model], Int[NDArray[np.int64], " n"]]:
        """Shifts of the same concepts in each fine-tuned model, and the concept of each token of
        ``texts.training``.

        Raises OptionError if a half has too few tokens.
        """
        mine, other = texts.training, ~texts.training
        if min(mine.sum(), other.sum()) < max(2 * shifts.FEWEST, self.count):
            raise OptionError(
                f"{len(mine)} content tokens leave {min(mine.sum(), other.sum())} in a half, too"
                f" few for {self.count} concepts; give more prompts or use fewer concepts"
            )
        member = shifts.clustered(base[mine], self.count, self.seed)
        half = Texts(
            texts.tokens[mine],
            texts.documents[mine],
            texts.clusters[mine],
            np.ones(int(mine.sum()), bool),
        )
        models = []
        for states in tuned:
            found = shifts.ConceptShift(self.draws, self.seed)(
                base[mine], states[mine], member, half, self.count
            )
            theirs = shifts.clustered(states[other], self.count, self.seed)
            nearer = shifts.recovery(found, shifts.means(states[other], theirs, self.count))
            models.append(Model(np.asarray(states[mine] - base[mine], np.float64), found, nearer))
        return models, member


def columns_of(own: Model, base: Float[NDArray, "N D"]) -> Columns:
    """Shifts of one model, a row per concept; ``base``: the base's states on the half that defines
    concepts.
    """
    found, nearer = own.found, own.nearer
    size = float(np.sqrt(np.square(base - base.mean(0)).sum(1).mean()))
    exchange, permuted = shifts.corrected(found.exchange_p), shifts.corrected(found.permuted_p)
    columns = {
        "concept": (
            np.arange(len(found.tokens)),
            "key",
            "number of the concept, by decreasing size",
        ),
        "tokens": (found.tokens, "measure", "its tokens in the half that defines concepts"),
        "shift": (found.size, "measure", "length of its mean shift"),
        "relative": (
            found.size / size if size else found.size,
            "measure",
            "the same divided by the spread of the base's states",
        ),
        "own": (found.own, "measure", "length of its shift minus the mean shift of all tokens"),
    }
    meanings = {
        "pairwise": "mean cosine of the shifts of two tokens from different clusters",
        "aligned": "mean cosine of a token's shift and its concept's shift",
    }
    for name, meaning in meanings.items():
        value, low, high = getattr(found, name).T
        columns[name] = (value, "measure", meaning)
        columns[f"{name}_low"] = (
            low,
            "measure",
            f"lower end of its interval over clusters: {meaning}",
        )
        columns[f"{name}_high"] = (
            high,
            "measure",
            f"upper end of its interval over clusters: {meaning}",
        )
    return columns | {
        "exchange_p": (
            exchange,
            "measure",
            "p of a shift as long with models exchanged per document, corrected",
        ),
        "permuted_p": (
            permuted,
            "measure",
            (
                "p of a shift as far from the mean shift with concepts assigned "
                "to other clusters, corrected"
            ),
        ),
        "measured": (np.isfinite(found.size), "flag", "it has enough tokens"),
        "shifted": (_below(found.exchange_p), "flag", "it moves more than with exchanged models"),
        "moves_distinctly": (
            _below(found.permuted_p),
            "flag",
            "its shift differs from that of tokens in general",
        ),
        "match": (
            nearer.match,
            "measure",
            "the tuned model's concept that it is matched with, -1 for none",
        ),
        "gain": (
            nearer.gain,
            "measure",
            "how much closer its shift brings it to that, on held-out clusters",
        ),
        "gain_overall": (nearer.by_overall, "measure", "the same for the mean shift of all tokens"),
        "cosine_gain": (nearer.cosine_gain, "measure", "increase of the cosine with that"),
        "paired": (np.isfinite(nearer.gain), "flag", "it has a shift and a match"),
    }


def _below(p: Float[NDArray, " K"]) -> Bool[NDArray[np.bool_], " K"]:
    return np.nan_to_num(shifts.corrected(p), nan=1.0) <= ALPHA


def control_columns(
    own: Model, controls: Sequence[Model], member: Int[NDArray, " N"], clusters: Int[NDArray, " N"]
) -> Columns:
    """The same concepts in control fine-tunes, and whether the model moves them ``FACTOR`` times as
    far as every control.

    ``member``, ``clusters``: concept and cluster of each token in ``Model.moved``.
    """
    k, times = len(own.found.tokens), f"{shifts.FACTOR:g} times"

    def further(one: Model, other: Model, centred: bool) -> Float[NDArray, "K three"]:
        rows = [model.moved - centred * model.moved.mean(0) for model in (one, other)]
        return shifts.excess(rows[0], rows[1], member, clusters, k)

    columns: Columns = {}
    for name, centred, p, length, what in (
        ("", False, "exchange_p", "size", "mean shift"),
        ("own_", True, "permuted_p", "own", "shift minus the mean shift of all tokens"),
    ):
        # with several controls, use the one in which the concept moves furthest
        every = np.stack([further(own, control, centred) for control in controls])
        nearest = np.argmin(np.nan_to_num(every[:, :, 1], nan=np.inf), 0)
        gap = every[nearest, np.arange(k)]
        back = [
            _below(getattr(control.found, p)) & (further(control, own, centred)[:, 1] > 0)
            for control in controls
        ]
        most = np.max([getattr(control.found, length) for control in controls], 0)
        flag = _below(getattr(own.found, p)) & (gap[:, 1] > 0)
        columns |= {
            f"control_{name or 'shift'}".rstrip("_"): (
                most,
                "measure",
                f"length of its {what} in the control",
            ),
            f"{name}excess": (
                gap[:, 0],
                "measure",
                (
                    f"its squared {what} minus that of {times} the control's, from pairs of"
                    " tokens "
                    "of different clusters"
                ),
            ),
            f"{name}excess_low": (gap[:, 1], "measure", "lower end of its interval over clusters"),
            f"{name}excess_high": (gap[:, 2], "measure", "upper end of its interval over clusters"),
            f"{name}beyond_control": (
                flag,
                "flag",
                f"it moves, at least {times} as far as in the control",
            ),
            f"control_{name}beyond": (
                np.any(back, 0),
                "flag",
                f"the reverse: {times} as far in a control",
            ),
        }
    recovers = own.nearer.gain - own.nearer.by_overall
    theirs = np.max([control.nearer.gain - control.nearer.by_overall for control in controls], 0)
    return columns | {
        "recovers": (recovers, "measure", "gain minus gain_overall"),
        "control_recovers": (
            theirs,
            "measure",
            "the same for the control's shift and the control's concept",
        ),
        "recovers_beyond": (
            recovers - shifts.FACTOR * np.fmax(theirs, 0.0) + 0.0 * theirs,
            "measure",
            f"recovers minus {times} the control's, if that is above 0",
        ),
        "compared": (
            np.isfinite(recovers + theirs),
            "flag",
            "it has a shift and a match here and in the control",
        ),
    }


def claims_of(columns: Columns, controls: int) -> list[Claim]:
    """Claims that concepts move, that they move distinctly, and that their shifts recover the tuned
    model's concepts, each more than in the controls.

    Without controls the claims have no reference and are never supported: any fine-tuning shows
    such numbers.
    """
    measured = bool(columns["measured"][0].any())
    if not controls:
        made = [_alone(*each) for each in _SHARES if measured]
        return made + ([_recovers_alone()] if columns["paired"][0].any() else [])
    which = (
        "in the control fine-tune" if controls == 1 else f"in each of {controls} control fine-tunes"
    )
    made = [_beyond(*each, which) for each in _SHARES if measured]
    return made + ([_recovers_beyond(which)] if columns["compared"][0].any() else [])


_MEASURED = {"where": {"measured": True}}
_MISSING = "give a control fine-tune with --control"
_SHARES = (
    ("concepts-shift", "", "shifted", "move more than with exchanged models", "move"),
    (
        "concepts-own-way",
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


def _alone(name: str, _: str, column: str, what: str, __: str) -> Claim:
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


def _beyond(name: str, prefix: str, column: str, what: str, verb: str, which: str) -> Claim:
    """More concepts move further than in the control than the reverse."""
    own, theirs = f"{prefix}beyond_control", f"control_{prefix}beyond"
    return Claim(
        name=f"{name}-beyond-control",
        estimate=mean(own, cluster="concept", minus={"column": theirs}, **_MEASURED),
        at_least=0.0,
        reference=mean(theirs, cluster="concept", **_MEASURED),
        control=f"concepts that {verb} {shifts.FACTOR:g} times as far in a control",
        text=(
            f"{{count:d}} of {{total:d}} concepts {verb} at least {shifts.FACTOR:g} times as far as"
            f" {which}, {{reverse:d}} the reverse: a difference of {{value:.1%}}"
            f" [{{low:.1%}}, {{high:.1%}}] ({{moved:d}} {what})."
        ),
        also=_counts(count=own, reverse=theirs, moved=column),
    )


def _recovers_alone() -> Claim:
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


def _recovers_beyond(which: str) -> Claim:
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
            f" Minus {shifts.FACTOR:g} times that, per concept, it is {{value:.3g}}"
            " [{low:.3g}, {high:.3g}]."
        ),
        also={"own": mean("recovers", cluster="concept", **rows)},
    )
