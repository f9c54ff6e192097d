"""``Transfer``: does a set located in one fine-tuned model carry the behaviour in another one?

Indices mean the same in two models only where their neurons correspond. So a neuron's write weights
in the source are compared with those of the same index in the target, with shuffles within layers
as null; the set is not reused where some layer does not exceed the null (after NeuroStrike's
transfer to descendants, arXiv 2509.11864, whose protocol is unverified: the check is ours). Two
things are then measured on the target's prompts: the effect of the source's set on the behaviour,
compared with matched random sets, and the overlap with the set located in the target, compared with
random sets.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float

from interp.analyzers.framework import Analyzer, Known, Result, option
from interp.claims import Claim, Draws, evaluate, mean, statistic
from interp.errors import OptionError, PairError, required
from interp.experiments.base_behaviour import PositivePromptRow, RandomSetRow, prompt_columns
from interp.experiments.conditions import PatchSource
from interp.experiments.contributions import contribution_norms
from interp.experiments.dose import dose_effect, matches_donor
from interp.experiments.outcomes import Outcomes
from interp.experiments.ranking_sets import chance_jaccards, scores_of, selected_of, unit_of
from interp.experiments.records import records_table
from interp.experiments.row_selection import changed_rows, sample_rows
from interp.interventions.random_sets import equally_large, matched_sets
from interp.maths.host import to_host
from interp.models.pair import Pair
from interp.rows import DrawRow, LayerRow, UnitRow, flag, measure, rows_table
from interp.study import Study
from interp.table import Table

MIN_COSINE, MIN_EFFECT, MIN_JACCARD, _MAX_SHUFFLED = 0.5, 0.5, 1 / 3, 1024
_ANATOMY = ("n_layers", "width", "n_neurons", "n_heads", "head_width")


class TransferRow(UnitRow):
    """A row per unit; ``_recomputed``: where a locating run on the target is given."""

    cosine: float = measure("cosine of its write weights in source and target")
    score: float = measure("score in the source")
    selected: bool = flag("selected in the source")
    score_recomputed: float = measure("score in the target", optional=True)
    selected_recomputed: bool = flag("selected in the target", optional=True)


class LayerCosineRow(LayerRow):
    """A row per block."""

    cosine: float = measure("mean cosine of its units")


class ShuffledRow(DrawRow):
    """The null of the correspondence."""

    cosine: float = measure("lowest mean cosine of a layer, units shuffled")


class ChanceRow(DrawRow):
    """The null of the overlap."""

    jaccard: float = measure("Jaccard index of random sets")


class SetsRow(UnitRow):
    """A row per unit of either set."""

    shared: bool = flag("in both sets")


class TransferAnswerRow(PositivePromptRow):
    """A row per positive prompt on which the models differ in the behaviour."""

    as_base: bool = flag("the base's behaviour under the source's set")
    number: float = measure("the metric's number under the source's set")
    number_tuned: float = measure("the same of the fine-tuned model")
    number_base: float = measure("the same of the base")


@dataclass(frozen=True)
class Transfer(Analyzer):
    """Reuse a ``located`` set of a ``source`` pair in the study's pair, and compare with the set
    ``recomputed`` there.

    Raises PairError where the two fine-tuned models differ in shape. Where their neurons do not
    correspond the set is not reused, which the table's limits report. The table has one row per
    unit.
    """

    name: ClassVar[str] = "transfer"
    version: ClassVar[int] = 4

    located: Table | None = option(
        None, "The locating run on the source pair.", kind="locate-neurons", from_parent=True
    )
    source: Pair | None = option(None, "The source pair.", from_parent=True)
    recomputed: Table | None = option(
        None,
        "A locating run on the study's pair; without one no sets are compared.",
        kind="locate-neurons",
    )
    random_sets: int = option(40, "Matched random sets.", ge=1)
    control_prompts: int = option(48, "Prompts that measure the set.", ge=1)
    permutations: int = option(200, "Draws of the nulls of correspondence and overlap.", ge=1)

    def check(self, known: Known) -> None:
        """Raise OptionError without a run and its pair, and for runs of two kinds of unit."""
        if self.located is None or self.source is None:
            raise OptionError(
                "a transfer needs a locating run and its pair; give located and source"
            )
        unit = unit_of(self.located)
        if self.recomputed is not None and unit_of(self.recomputed) is not unit:
            raise OptionError(
                f"the runs are of {unit.plural} and {unit_of(self.recomputed).plural}; locate one"
                " kind in both pairs"
            )

    def require(self, study: Study) -> None:
        """As ``Analyzer``; raises PairError where the two fine-tuned models differ in shape."""
        super().require(study)
        source, target = required(self.source, "the source pair").tuned, study.pair.tuned
        shapes = [
            tuple(getattr(one.anatomy, name) for name in _ANATOMY) for one in (source, target)
        ]
        if shapes[0] != shapes[1]:
            raise PairError(
                f"{source.name} and {target.name} have blocks, width, neurons, heads, head width"
                f" {shapes[0]} and {shapes[1]}: units of equal index do not correspond; give a"
                " fine-tuned model of the same base"
            )

    def run(self, study: Study) -> Result:
        """Compare weights, reuse the set, compare it with the set located in the target."""
        located = required(self.located, "the locating run")
        unit, score, chosen = unit_of(located), scores_of(located), selected_of(located)
        donors = PatchSource.from_study(study, unit)
        cosines, shuffled = self._correspondence(study, donors)
        layer, index = (part.ravel() for part in np.indices(score.shape))
        columns = {
            "layer": layer,
            "unit": index,
            "cosine": cosines.ravel(),
            "score": score.ravel(),
            "selected": _membership(score.shape, chosen),
        }
        layers = {"layer": np.arange(len(cosines)), "cosine": cosines.mean(1)}
        parts = {
            "layers": rows_table(LayerCosineRow, "transfer-layers", layers),
            "shuffled": _draws(ShuffledRow, "transfer-shuffled", cosine=shuffled),
        }
        claims = [_correspondence_claim(cosines, unit.plural)]
        corresponds = evaluate(claims, replace(parts["layers"], tables=parts))[0].supported
        answers, random = self._reuse(study, donors, chosen if corresponds else [])
        reused, limits = bool(len(answers)), []
        if reused:
            # the claim about the set comes first, before that about correspondence
            claims.insert(0, _reuse_claim(len(chosen), unit.name))
        elif corresponds:
            limits.append(
                "The set was not reused: that needs selected units, a base and prompts where the"
                " models differ in behaviour."
            )
        else:
            limits.append(f"The {unit.plural} do not correspond: the set was not reused.")
        chance, target_set = np.zeros(0), []
        if self.recomputed is not None:
            target_set = selected_of(self.recomputed)
            columns["score_recomputed"] = scores_of(self.recomputed).ravel()
            columns["selected_recomputed"] = _membership(score.shape, target_set)
        union, shared = sorted({*chosen, *target_set}), {*chosen} & {*target_set}
        if self.recomputed is not None and union:
            chance = chance_jaccards(
                chosen, target_set, score.shape[1], self.permutations, study.seed
            )
            claims.append(_overlap_claim(len(chosen), len(target_set), len(shared)))
        sets = [{"layer": pair[0], "unit": pair[1], "shared": pair in shared} for pair in union]
        rename = {"unit": unit.name}
        return Result(
            rows_table(TransferRow, self.name, columns, rename=rename),
            {
                **parts,
                "random": random,
                "chance": _draws(ChanceRow, "transfer-chance", jaccard=chance),
                "sets": records_table(SetsRow, "transfer-sets", sets, rename=rename),
                "answers": answers,
            },
            claims,
            {"reused": reused, "mean_cosine": float(cosines.mean())},
            limits,
            supported=None if reused else False,
        )

    def _correspondence(
        self, study: Study, donors: PatchSource
    ) -> tuple[Float[np.ndarray, "L U"], Float[np.ndarray, " draws"]]:
        """Cosine of every unit's write weights in source and target; null of the lowest layer
        mean.
        """
        unit, anatomy = donors.unit, study.pair.tuned.anatomy
        source = required(self.source, "the source pair").tuned
        generator, rows = np.random.default_rng(study.seed), []
        shuffled = np.full(self.permutations, np.inf)
        for layer in range(anatomy.n_layers):
            ours, theirs = (
                _directions(write, unit.width(anatomy))
                for write in (unit.write_weights(source, layer), donors.write["tuned"][layer])
            )
            rows.append((ours * theirs).sum(1))
            # a sample where there are many units: the null of its mean is wider, which is
            # conservative
            sample = generator.permutation(len(theirs))[:_MAX_SHUFFLED]
            ours, theirs = ours[sample], theirs[sample]
            for draw in range(self.permutations):
                order = generator.permutation(len(theirs))
                shuffled[draw] = min(shuffled[draw], (ours * theirs[order]).sum() / len(theirs))
        return np.stack(rows), shuffled

    def _reuse(
        self, study: Study, donors: PatchSource, chosen: list[tuple[int, int]]
    ) -> tuple[Table, Table]:
        """Effect of the chosen units on each prompt where the models differ in the behaviour, and
        of random sets; without units, a base or such prompts no rows.
        """
        positive, rows, null = study.prompts("positive"), [], []
        if chosen and study.pair.base is not None:
            rows = sample_rows(positive, changed_rows(study), self.control_prompts, study.seed)
        measured = {"as_base": np.zeros(0, bool)} | dict.fromkeys(
            ("number", "number_tuned", "number_base"), np.zeros(0)
        )
        if rows:
            norms = contribution_norms(study, donors)
            draws = equally_large(matched_sets(chosen, norms, self.random_sets, study.seed), chosen)
            outcomes = Outcomes(study, donors, "necessity", rows, units={*chosen}.union(*draws))
            null = [
                {"draw": number, **dose_effect(outcomes, draw)}
                for number, draw in enumerate(study.progress(draws, "transfer, random sets"))
            ]
            outcome = outcomes.of(chosen)
            measured = {
                "as_base": matches_donor(outcomes, outcome),
                "number": outcome.number,
                "number_tuned": outcomes.receiver.number,
                "number_base": outcomes.donor.number,
            }
        columns = prompt_columns(positive.prompts[row] for row in rows) | measured
        return (
            rows_table(TransferAnswerRow, "transfer-answers", columns),
            records_table(RandomSetRow, "transfer-random", null),
        )


def _directions(write: Float[torch.Tensor, "D C"], width: int) -> Float[np.ndarray, "U W"]:
    """Every unit's write weights as one unit vector, zeros where it writes nothing: ``[U, D *
    width]``, ``width`` channels for each unit.
    """
    columns = to_host(write.double().unflatten(1, (-1, width)).permute(1, 0, 2).flatten(1))
    norms = np.linalg.norm(columns, axis=1, keepdims=True)
    return np.divide(columns, norms, out=np.zeros_like(columns), where=norms > 0)


def _correspondence_claim(cosines: np.ndarray, plural: str) -> Claim:
    # the least similar layer: the mean over all would hide one permuted layer
    sentence = (
        "write in similar directions in source and target: mean cosine {value:.2f} in layer"
        f" {cosines.mean(1).argmin()}, the lowest (shuffled within layers at most"
        " {control_max:.2f})."
    )
    return Claim(
        name="correspondence",
        estimate=statistic("minimum", "cosine", table="layers", spread="range"),
        at_least=MIN_COSINE,
        beyond=["control"],
        null=Draws("shuffled", "cosine"),
        control="shuffles within layers",
        text=f"The {plural} of equal index {sentence}",
        otherwise=f"The {plural} of equal index do not {sentence}",
    )


def _reuse_claim(size: int, unit: str) -> Claim:
    return Claim(
        name="reused",
        estimate=mean("as_base", table="answers"),
        at_least=MIN_EFFECT,
        beyond=["control"],
        null=Draws("random", "effect"),
        control="matched random sets",
        text=(
            f"Given their base contributions in the target, the source's {size} {unit}s return the"
            " base's behaviour on {value:.1%} of the prompts where the models differ in it"
            " ({draws:d} matched random sets: at most {control_max:.1%})."
        ),
    )


def _overlap_claim(n_source: int, n_target: int, n_shared: int) -> Claim:
    return Claim(
        name="recomputed",
        estimate=statistic("mean", "shared", table="sets"),
        at_least=MIN_JACCARD,
        null=Draws("chance", "jaccard"),
        control="random pairs of sets with the same counts in every layer",
        text=(
            f"Located in the target, {n_target} units share {n_shared} with the source's"
            f" {n_source}: Jaccard index {{value:.2f}} (random sets {{control:.2f}}, at most"
            " {control_max:.2f}); rank correlation of all scores {ranks:.2f}."
        ),
        also={"ranks": statistic("rank-correlation", "score", by="score_recomputed")},
    )


def _draws(row: type[DrawRow], kind: str, **columns: Float[np.ndarray, " draws"]) -> Table:
    return rows_table(row, kind, {"draw": np.arange(len(next(iter(columns.values())))), **columns})


def _membership(
    shape: tuple[int, ...], chosen: list[tuple[int, int]]
) -> Bool[np.ndarray, " units"]:
    mask = np.zeros(shape, dtype=bool)
    for pair in chosen:
        mask[pair] = True
    return mask.ravel()
