"""``Transfer``: does a set located in one fine-tuned model carry the behaviour in another one?

Indices mean the same in two models only where their neurons correspond. So a neuron's write weights
in the source are compared with those of the same index in the target, with shuffles within layers
as null; the set is not reused where some layer does not exceed the null (after NeuroStrike's
transfer to descendants, arXiv 2509.11864, whose protocol is unverified: the check is ours). Two
things are then measured on the target's prompts: the effect of the source's set on the behaviour,
compared with matched random sets, and the overlap with the set located in the target, compared with
random sets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch

from interp.analyzers.base import Analyzer
from interp.claims import Claim, Draws, conclude, evaluate, mean, statistic
from interp.errors import OptionError, PairError, required
from interp.experiments.conditions import PatchSource
from interp.experiments.contributions import contribution_norms
from interp.experiments.dose import dose_effect, matches_donor
from interp.experiments.outcomes import Outcomes
from interp.experiments.ranking_sets import chance_jaccards, scores_of, selected_of, unit_of
from interp.experiments.row_selection import changed_rows, sample_rows
from interp.interventions.random_sets import equally_large, matched_sets
from interp.maths.host import to_host
from interp.models.model import Model
from interp.models.pair import Pair
from interp.prompts import Prompt
from interp.study import Study
from interp.table import Table, table

MIN_COSINE, MIN_EFFECT, MIN_JACCARD, _MAX_SHUFFLED = 0.5, 0.5, 1 / 3, 1024


@dataclass(frozen=True)
class Transfer(Analyzer):
    """Reuse a ``located`` set of a ``source`` pair in the study's pair, and compare with the set
    ``recomputed`` there.

    ``recomputed`` is the table of a locating run on the study's pair (its key is an option);
    without it nothing is compared. Raises PairError where the two fine-tuned models differ in
    shape. Where their neurons do not correspond the set is not reused, which the table's limits
    report. Returns a table of kind ``transfer``, one row per unit.
    """

    name: ClassVar[str] = "transfer"
    version: ClassVar[int] = 4
    takes: ClassVar[dict[str, str]] = {"located": "locate-neurons", "recomputed": "locate-neurons"}

    located: Table | None = field(default=None, metadata={"from_parent": True})
    source: Pair | None = field(default=None, metadata={"from_parent": True})
    recomputed: Table | None = None
    random_sets: int = 200
    control_prompts: int = 48
    permutations: int = 200

    @classmethod
    def of(cls, located: Table, source: Pair, **options) -> "Transfer":
        """The analyzer for a locating run's table and the pair that was examined."""
        return cls(
            located=located, source=source, parent=located.require_provenance().key, **options
        )

    def __call__(self, study: Study) -> Table:
        """Compare weights, reuse the set, compare it with the set located in the target."""
        if self.located is None or self.source is None:
            raise OptionError(
                "a transfer needs a locating run and its pair; give located and source"
            )
        unit, target = unit_of(self.located), study.pair.tuned
        if self.recomputed is not None and unit_of(self.recomputed) is not unit:
            raise OptionError(
                f"the runs are of {unit.plural} and {unit_of(self.recomputed).plural}; locate one"
                " kind in both pairs"
            )
        if self.permutations < 1:
            raise OptionError(f"{self.permutations} permutations give no null; use at least 1")
        _require_one_shape(self.source.tuned, target)
        donors = PatchSource.from_study(study, unit)
        cosines, shuffled = self._correspondence(study, donors)
        claims, layers = [_correspondence_claim(cosines, unit.plural)], _layers(cosines)
        shuffles = _draws(
            "transfer-shuffled", cosine=(shuffled, "lowest mean cosine of a layer, units shuffled")
        )
        corresponds = evaluate(
            claims, replace(layers, tables={"layers": layers, "shuffled": shuffles})
        )[0].supported
        chosen = selected_of(self.located)
        answers, null = _answers([], {}), _random([])
        if corresponds and chosen and study.pair.base is not None:
            answers, null = self._reuse(study, donors, chosen)
            claims += [_reuse_claim(len(chosen), unit.name)] if len(answers) else []
        chance, recomputed_set = np.zeros(0), []
        if self.recomputed is not None:
            recomputed_set = selected_of(self.recomputed)
            if chosen or recomputed_set:
                claim, chance = self._agreement(study, cosines.shape[1])
                claims.append(claim)
        score, recomputed_scores = (
            scores_of(self.located),
            None if self.recomputed is None else scores_of(self.recomputed),
        )
        layer, index = (part.ravel() for part in np.indices(score.shape))
        columns = {
            "layer": (layer, "key", "block"),
            unit.name: (index, "key", f"one of the block's {unit.plural}"),
            "cosine": (
                cosines.ravel(),
                "measure",
                "cosine of its write weights in source and target",
            ),
            "score": (score.ravel(), "measure", "score in the source"),
            "selected": (_membership(score.shape, chosen), "flag", "selected in the source"),
        }
        if recomputed_scores is not None:
            columns["score_recomputed"] = (
                recomputed_scores.ravel(),
                "measure",
                "score in the target",
            )
            columns["selected_recomputed"] = (
                _membership(score.shape, recomputed_set),
                "flag",
                "selected in the target",
            )
        limits = []
        if not corresponds:
            limits.append(f"The {unit.plural} do not correspond: the set was not reused.")
        elif not len(answers):
            limits.append(
                "The set was not reused: that needs selected units, a base and prompts where the"
                " models differ in behaviour."
            )
        run = table(
            self.name,
            columns,
            provenance=study.provenance(self),
            summary={
                "reused": bool(len(answers)),
                "mean_cosine": float(cosines.mean()),
                "limits": limits,
                "positive": len(study.contrast.positive),
                "negative": len(study.contrast.negative),
            },
            tables={
                "layers": layers,
                "shuffled": shuffles,
                "random": null,
                "chance": _draws(
                    "transfer-chance", jaccard=(chance, "Jaccard index of random sets")
                ),
                "sets": _sets(chosen, recomputed_set, unit.name),
                "answers": answers,
            },
        )
        # the claim about the set comes first, before that about correspondence
        claims.sort(key=lambda claim: claim.name != "reused")
        result = conclude(run, claims)
        return (
            result
            if len(answers)
            else replace(result, summary={**result.summary, "supported": False})
        )

    def _correspondence(self, study: Study, donors: PatchSource) -> tuple[np.ndarray, np.ndarray]:
        """Cosine of every unit's write weights in source and target ``[L, U]``; null of the lowest
        layer mean.
        """
        unit, anatomy = donors.unit, study.pair.tuned.anatomy
        source = required(self.source, "the source pair").tuned
        generator, rows, shuffled = (
            np.random.default_rng(study.seed),
            [],
            np.full(self.permutations, np.inf),
        )
        for layer in range(anatomy.n_layers):
            source_directions, target_directions = (
                _directions(write, unit.width(anatomy))
                for write in (unit.write_weights(source, layer), donors.write["tuned"][layer])
            )
            rows.append((source_directions * target_directions).sum(1))
            # a sample where there are many units: the null of its mean is wider, which is
            # conservative
            sample = generator.permutation(len(target_directions))[:_MAX_SHUFFLED]
            source_directions, target_directions = (
                source_directions[sample],
                target_directions[sample],
            )
            for draw in range(self.permutations):
                shuffled_mean = (
                    source_directions
                    * target_directions[generator.permutation(len(target_directions))]
                ).sum() / len(target_directions)
                shuffled[draw] = min(shuffled[draw], shuffled_mean)
        return np.stack(rows), shuffled

    def _reuse(self, study: Study, donors: PatchSource, chosen: list) -> tuple[Table, Table]:
        """Effect of the source's set on each prompt where the models differ in the behaviour, and
        of random sets.
        """
        rows = sample_rows(
            study.prompts("positive"), changed_rows(study), self.control_prompts, study.seed
        )
        if not rows:
            return _answers([], {}), _random([])
        norms = contribution_norms(study, donors)
        draws = equally_large(matched_sets(chosen, norms, self.random_sets, study.seed), chosen)
        outcomes = Outcomes(study, donors, "necessity", rows, units={*chosen}.union(*draws))
        null = [
            dose_effect(outcomes, draw) for draw in study.progress(draws, "transfer, random sets")
        ]
        prompts, outcome = study.prompts("positive").prompts, outcomes.of(chosen)
        measured = {
            "as_base": matches_donor(outcomes, outcome),
            "number": outcome.number,
            "number_tuned": outcomes.receiver.number,
            "number_base": outcomes.donor.number,
        }
        return _answers([prompts[row] for row in rows], measured), _random(null)

    def _agreement(self, study: Study, width: int) -> tuple[Claim, np.ndarray]:
        """Claim of the overlap of the sets located in source and target, and the Jaccard indices of
        random sets.
        """
        source_set, target_set = (
            selected_of(required(one, "both runs")) for one in (self.located, self.recomputed)
        )
        shared = len(set(source_set) & set(target_set))
        chance = chance_jaccards(source_set, target_set, width, self.permutations, study.seed)
        claim = Claim(
            name="recomputed",
            estimate=statistic("mean", "shared", table="sets"),
            at_least=MIN_JACCARD,
            null=Draws("chance", "jaccard"),
            control="random pairs of sets with the same counts in every layer",
            text=(
                f"Located in the target, {len(target_set)} units share {shared} with the source's"
                f" {len(source_set)}: Jaccard index {{value:.2f}} (random sets {{control:.2f}}, at"
                " most {control_max:.2f}); rank correlation of all scores {ranks:.2f}."
            ),
            also={"ranks": statistic("rank-correlation", "score", by="score_recomputed")},
        )
        return claim, chance


def _require_one_shape(source: Model, target: Model) -> None:
    names = ("n_layers", "width", "n_neurons", "n_heads", "head_width")
    shapes = [tuple(getattr(model.anatomy, name) for name in names) for model in (source, target)]
    if shapes[0] != shapes[1]:
        raise PairError(
            f"{source.name} and {target.name} have blocks, width, neurons, heads, head width"
            f" {shapes[0]} and {shapes[1]}: units of equal index do not correspond; give a"
            " fine-tuned model of the same base"
        )


def _directions(write: torch.Tensor, width: int) -> np.ndarray:
    """Every unit's write weights as one unit vector (zeros where it writes nothing): ``[U, D *
    width]``.
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


_MEASURED = {
    "as_base": (bool, "flag", "the base's behaviour under the source's set"),
    "number": (float, "measure", "the metric's number under the source's set"),
    "number_tuned": (float, "measure", "the same of the fine-tuned model"),
    "number_base": (float, "measure", "the same of the base"),
}


def _answers(prompts: Sequence[Prompt], measured: Mapping[str, np.ndarray]) -> Table:
    return table(
        "transfer-answers",
        {
            "prompt_id": (
                np.array([prompt.id for prompt in prompts], np.int64),
                "key",
                "position in the prompt file",
            ),
            "cluster": (
                [prompt.cluster for prompt in prompts],
                "key",
                "prompts that depend on each other",
            ),
            **{
                name: (np.array(measured.get(name, ()), kind), *described)
                for name, (kind, *described) in _MEASURED.items()
            },
        },
    )


def _random(effects: Sequence[Mapping[str, float]]) -> Table:
    effect, recovery = (
        np.array([one[name] for one in effects], np.float64) for name in ("effect", "recovery")
    )
    return _draws(
        "transfer-random",
        effect=(effect, "share of the prompts with the base's behaviour under a random set"),
        recovery=(recovery, "share of the gap between both models' mean numbers that it closes"),
    )


def _draws(kind: str, **columns: tuple[np.ndarray, str]) -> Table:
    number = np.arange(len(next(iter(columns.values()))[0]))
    measured = {name: (values, "measure", meaning) for name, (values, meaning) in columns.items()}
    return table(kind, {"draw": (number, "key", "number of the draw"), **measured})


def _layers(cosines: np.ndarray) -> Table:
    return table(
        "transfer-layers",
        {
            "layer": (np.arange(len(cosines)), "key", "block"),
            "cosine": (cosines.mean(1), "measure", "mean cosine of its units"),
        },
    )


def _membership(shape: tuple[int, ...], chosen: list) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    for pair in chosen:
        mask[pair] = True
    return mask.ravel()


def _sets(source_set: list, target_set: list, unit: str) -> Table:
    """Table of the units of either set."""
    union = sorted({*source_set, *target_set})
    return table(
        "transfer-sets",
        {
            "layer": (np.array([pair[0] for pair in union], np.int64), "key", "block"),
            unit: (np.array([pair[1] for pair in union], np.int64), "key", f"{unit} of the block"),
            "shared": (
                np.array([pair in set(source_set) & set(target_set) for pair in union], bool),
                "flag",
                "in both sets",
            ),
        },
    )
