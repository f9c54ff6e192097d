"""Rows of the table, and what is claimed of them: beyond rounding and a sham, and of two classes which is above."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from interp.analyzers.tuco.passes import Asked, Measured
from interp.analyzers.tuco.shuffles import ENOUGH, Shuffles, too_few
from interp.claims import Claim
from interp.maths.auc import clustered_auc, clustered_auc_rise, wins
from interp.maths.statistics import clustered_bootstrap, permutation_p
from interp.study import Study
from interp.table import Table, table

NAN = float("nan")
ALPHA = 0.05
POSITIVE = {"where": {"group": "positive"}}


def rows_and_claims(
    study: Study,
    asked: Asked,
    found: Sequence[Measured],
    sham: Sequence[Measured] | None,
    floor: float,
    names: tuple[str, str],
) -> tuple[dict[str, tuple], list[Claim], Table | None]:
    """Columns by prompt, claims, and (of two classes, called ``names``) the AUC under shuffled labels."""
    prompts = [prompt for part in found for prompt in part.prompts]
    tuco = np.concatenate([part.tuco for part in found])
    clusters = [prompt.cluster for prompt in prompts]
    beyond = "at the last token" if asked.positions == "last" else "over all tokens"
    columns = {
        "group": ([part.group for part in found for _ in part.prompts], "key",
                  f"class of the prompt: {names[0]} prompts are positive"),
        "prompt_id": (np.array([p.id for p in prompts]), "key", "position in the prompt file, from 0"),
        "cluster": (clusters, "key", "prompts that are resampled together"),
        "tokens": (np.concatenate([part.lengths for part in found]), "measure", "tokens of the prompt"),
        "tuco": (tuco, "measure", f"share of tuning in what all blocks add {beyond}"),
        "pre_co": (1 - tuco, "measure", "share of the base's blocks"),
        "output_co": (
            np.concatenate([part.output_co for part in found]), "measure",
            "the same share of where the two models' own streams end; NaN where it was not asked",
        ),
        "base_own": (
            np.concatenate([part.base_own for part in found]), "measure",
            "norm of what the base's blocks add on its own stream; NaN where OutputCo was not asked",
        ),
        "beta": (np.concatenate([part.betas.max(1) for part in found]), "measure", "largest share after any block"),
    }  # fmt: skip
    made = [_beyond(study, tuco, clusters, floor, len(prompts), beyond)]
    if sham is not None:
        columns["sham_tuco"] = (np.concatenate([part.tuco for part in sham]), "measure", "TuCo of the sham")
        made.append(_beyond_sham(study, columns))
    if len(found) == 1:
        return columns, made, None
    classes = Classes.of(study, asked, *found, names)
    columns |= classes.columns(sham)
    null = classes.shuffled(asked.permutations)
    draws = {
        "draw": (np.arange(asked.permutations), "key", "number of the shuffle"),
        "auc": (null[0], "measure", "AUC with labels of whole clusters shuffled"),
        "auc_near": (null[1], "measure", "AUC at equal length, labels shuffled among clusters of one mean length"),
    }
    made += classes.claims(null, sham)
    return columns, made, table("tuco-permuted", draws)


def _beyond(study: Study, tuco: np.ndarray, clusters: Sequence[str], floor: float, count: int, where: str) -> Claim:
    value, low, high = clustered_bootstrap(tuco, clusters, seed=study.seed)
    shown = bool(value > floor and low > floor)
    return Claim(
        "beyond-rounding",
        f"Tuning makes up {value:.3g} of what the blocks add {where} (TuCo, mean of {count} prompts; rounding alone "
        f"gives at most {floor:.1g}).",
        value, low, high, "the tuned model and itself, by arithmetic of another shape", floor, NAN, NAN, NAN, floor,
        "at least", shown, {"table": "", "statistic": "mean", "column": "tuco", "cluster": "cluster"},
    )  # fmt: skip


def _beyond_sham(study: Study, columns: Mapping[str, tuple]) -> Claim:
    tuco, sham, clusters = (columns[name][0] for name in ("tuco", "sham_tuco", "cluster"))
    value, low, high = clustered_bootstrap(tuco, clusters, minus=sham, seed=study.seed)
    control = clustered_bootstrap(sham, clusters, seed=study.seed)
    return Claim(
        "beyond-sham",
        f"That is {value:.3g} more [{low:.3g}, {high:.3g}] than of the sham ({control[0]:.3g}).",
        value, low, high, "the sham tune on the same prompts", *control, NAN, 0.0, "at least", bool(low > 0),
        {"table": "", "statistic": "mean", "column": "tuco", "cluster": "cluster", "minus": {"column": "sham_tuco"}},
    )  # fmt: skip


@dataclass(frozen=True)
class Classes:
    """Two classes side by side: ``near`` [n, m] says which pairs are equally long, ``above`` which TuCo is above.

    ``base`` is ``above`` of what the base's blocks add on its own stream, in whichever direction it tells more of the
    near pairs apart; None where that was not measured.
    """

    study: Study
    caliper: int
    positive: Measured
    negative: Measured
    names: tuple[str, str]
    near: np.ndarray
    above: np.ndarray
    base: np.ndarray | None

    @classmethod
    def of(cls, study: Study, asked: Asked, positive: Measured, negative: Measured, names: tuple[str, str]) -> Classes:
        """Compare them prompt by prompt."""
        near = np.abs(positive.lengths[:, None] - negative.lengths[None]) <= asked.caliper
        base = None
        if asked.output:
            base = wins(positive.base_own, negative.base_own)
            counted = base[near] if near.any() else base
            base = base if counted.mean() >= 0.5 else 1 - base
        above = wins(positive.tuco, negative.tuco)
        return cls(study, asked.caliper, positive, negative, names, near, above, base)

    def columns(self, sham: Sequence[Measured] | None) -> dict[str, tuple]:
        """What claims are measured from, for positive prompts; NaN for negative ones."""
        none, many = np.full(len(self.negative.tuco), NAN), f"negative prompts within {self.caliper} tokens of length"
        found = {
            "above": (self.above.sum(1), "how many negative prompts have a smaller one"),
            "beside": (np.full(len(self.above), float(self.above.shape[1])), "negative prompts"),
            "near": (self.near.sum(1), many),
            "near_above": ((self.above * self.near).sum(1), "and how many of them have a smaller one"),
        }
        if self.base is not None:
            said = "and of how many base_own is on the other side, the one that is right more often"
            found["near_base"] = ((self.base * self.near).sum(1), said)
        if sham is not None:
            said = "and how many of them have a smaller one in the sham"
            found["near_sham"] = ((wins(sham[0].tuco, sham[1].tuco) * self.near).sum(1), said)
        return {name: (np.r_[values, none], "measure", said) for name, (values, said) in found.items()}

    def shuffled(self, draws: int) -> tuple[np.ndarray, np.ndarray]:
        """AUCs with labels of whole clusters shuffled, and those of equal length."""
        both = np.concatenate([self.positive.tuco, self.negative.tuco])
        lengths = np.concatenate([self.positive.lengths, self.negative.lengths])
        return (
            self.shuffles.auc(both, draws, self.study.seed),
            self.shuffles.near_auc(both, lengths, self.caliper, draws, self.study.seed),
        )

    @cached_property
    def shuffles(self) -> Shuffles:
        """What labels the nulls may shuffle."""
        return Shuffles.of(self.study.contrast)

    def claims(self, null: tuple[np.ndarray, np.ndarray], sham: Sequence[Measured] | None) -> list[Claim]:
        """One class above the other; at equal length; and more so than without this tuning."""
        made = [self._separates(null[0]), self._at_equal_length(null[1])]
        if self.base is not None:
            made.append(self._more(
                "base", self.base, "what the base's blocks add on its own stream, by its size alone, in whichever "
                "direction", "the size of the base's own update, which no tuning touches",
            ))  # fmt: skip
        if sham is not None:
            other = wins(sham[0].tuco, sham[1].tuco)
            made.append(self._more("sham", other, "TuCo of the sham", "the sham tune on the same prompts"))
        return made

    def _separates(self, null: np.ndarray) -> Claim:
        value, low, high = self._auc("tuco")
        p, ways = permutation_p(value, null), self.shuffles.ways
        # a sum over a sum, as every draw of the null is: a mean of row means is another last bit, which ties would show
        recipe = {"table": "", "statistic": "sum", "column": "above", **POSITIVE,
                  "over": {"column": "beside", **POSITIVE}}  # fmt: skip
        return Claim(
            "separates",
            f"TuCo of {self.names[0]} prompts is above that of {self.names[1]} ones with AUC {value:.2f} [{low:.2f}, "
            f"{high:.2f}]; their number of tokens alone with {self._auc('lengths')[0]:.2f}.{too_few(ways)}",
            value, low, high, f"{len(null)} shuffles of labels, by whole clusters", null.mean(),
            *np.quantile(null, [0.025, 0.975]), p, 0.5, "at least", bool(low > 0.5 and p <= ALPHA and ways >= ENOUGH),
            recipe | {"cluster": "cluster",
                      "p": {"null": {"table": "permuted", "column": "auc", "where": {}}, "observed": recipe}},
        )  # fmt: skip

    @property
    def _most(self) -> str:
        return f"{self.caliper} token{'s' * (self.caliper != 1)}"

    def _at_equal_length(self, null: np.ndarray) -> Claim:
        value, low, high = self._auc("tuco", self.near)
        length, p = self._auc("lengths", self.near), permutation_p(value, null)
        ways = self.shuffles.near_ways(np.concatenate([self.positive.lengths, self.negative.lengths]))
        drawn = null[~np.isnan(null)]
        ends = (drawn.mean(), *np.quantile(drawn, [0.025, 0.975])) if drawn.size else (NAN,) * 3
        said = f"{int(self.near.sum())} of {self.near.size} pairs of prompts whose lengths differ by at most"
        recipe = {"table": "", "statistic": "sum", "column": "near_above", **POSITIVE,
                  "over": {"column": "near", **POSITIVE}}  # fmt: skip
        drawn_from = {"null": {"table": "permuted", "column": "auc_near", "where": {}}, "observed": recipe}
        return Claim(
            "separates-at-equal-length",
            f"Over {said} {self._most}, the AUC is {value:.2f} [{low:.2f}, {high:.2f}] (number of tokens alone "
            f"{length[0]:.2f}).{too_few(ways)}"
            if self.near.any() else f"No pair of prompts has lengths that differ by at most {self._most}: TuCo "
            "moves with length, and what length does cannot be told apart here.",
            value, low, high, f"{len(null)} shuffles of labels among clusters of one mean length", *ends, p, 0.5,
            "at least", bool(low > 0.5 and p <= ALPHA and ways >= ENOUGH),
            recipe | {"cluster": "cluster", "p": drawn_from},
        )  # fmt: skip

    def _more(self, name: str, other: np.ndarray, beside: str, control: str) -> Claim:
        """The AUC at equal length beside another number's, on the same pairs."""
        value, low, high = clustered_auc_rise(self.above, other, *self._clusters, self.near, seed=self.study.seed)
        theirs = float(other[self.near].mean()) if self.near.any() else NAN
        recipe = {"table": "", "statistic": "sum", "column": "near_above", **POSITIVE, "cluster": "cluster",
                  "minus": {"column": f"near_{name}"}, "over": {"column": "near"}}  # fmt: skip
        return Claim(
            f"separates-beyond-{name}",
            f"That is {value:+.2f} [{low:+.2f}, {high:+.2f}] beside {beside} ({theirs:.2f})."
            if self.near.any() else f"Nor can it be set beside {beside}.",
            value, low, high, control, theirs, NAN, NAN, NAN, 0.0, "at least", bool(low > 0),
            recipe,
        )  # fmt: skip

    @property
    def _clusters(self) -> tuple[list[str], list[str]]:
        clusters, count = self.study.contrast.clusters, len(self.positive.prompts)
        return clusters[:count], clusters[count:]

    def _auc(self, column: str, near: np.ndarray | None = None) -> tuple[float, float, float]:
        values = (getattr(part, column) for part in (self.positive, self.negative))
        return clustered_auc(*values, *self._clusters, near, seed=self.study.seed)
