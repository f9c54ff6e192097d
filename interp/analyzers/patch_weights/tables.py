"""Tables of modules, their effects prompt by prompt, and random and control changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from interp.analyzers.patch_weights.compute import GROUP
from interp.claims.control_fine_tunes import ControlRow
from interp.experiments.records import records_table
from interp.maths.intervals import Interval, cluster_interval
from interp.maths.prediction import observation_p
from interp.maths.statistics import holm
from interp.models.weight_modules import OUTSIDE, WeightModules
from interp.rows import DrawRow, LayerRow, PromptRow, flag, key, measure
from interp.study import Study
from interp.table import Table

RANDOM = ("permuted", "rotated")
"""Random changes of a module that its own change is compared with."""
REST = "rest"
SIDES = ("inserted", "removed")
NAN = float("nan")


class ModuleRow(LayerRow):
    """A module of the change."""

    layer: int = key("block, from 0; -1 outside the blocks and for the rest")
    part: str = key("matrix, or name of another part; rest: all that were not measured exactly")
    rank: int = measure("place by first order, from 1")
    size: int = measure("its weights", "weights")
    norm: float = measure("Euclidean norm of its change")
    base_first_order: float = measure("<gradient, change> at the base, mean over ranking prompts")
    tuned_first_order: float = measure("<gradient, change> at the fine-tuned model")
    exact: bool = flag("measured by exchanging its weights")
    inserted: float = measure(
        "R: change of the mean metric by inserting it in the base, over the fine-tuned model's"
        " change; NaN where not exact, or where that change is not beyond its interval"
    )
    inserted_low: float = measure("lower end of the interval of R")
    inserted_high: float = measure("upper end of the interval of R")
    removed: float = measure("N: the same by taking it out of the fine-tuned model")
    removed_low: float = measure("lower end of the interval of N")
    removed_high: float = measure("upper end of the interval of N")
    tested: bool = flag("compared with random changes")
    inserted_p: float = measure(
        "p of R among random changes, the larger of permuted and rotated ones, after Holm's"
        " correction; NaN where not tested"
    )
    removed_p: float = measure("the same of N")


class EffectRow(PromptRow):
    """A module that was measured exactly, on a prompt."""

    layer: int = ModuleRow.layer
    part: str = ModuleRow.part
    base: float = measure("metric in the base")
    tuned: float = measure("metric in the fine-tuned model")
    inserted: float = measure("metric in the base with the module inserted")
    removed: float = measure("metric in the fine-tuned model with the module taken out")


class SumRow(PromptRow):
    """A prompt, over all modules."""

    base: float = EffectRow.base
    tuned: float = EffectRow.tuned
    inserted_sum: float = measure("sum over modules of what inserting one adds")
    removed_sum: float = measure("sum over modules of what taking one out removes")


class RandomChangeRow(DrawRow):
    """Another change of a module in place of its own, of equal norm."""

    kind: str = key("permuted, rotated, or control")
    layer: int = ModuleRow.layer
    part: str = ModuleRow.part
    inserted: float = measure("R of this change, added to the base")
    removed: float = measure("N of this change, taken from the fine-tuned model")


class ExchangedRow(DrawRow):
    """Both models exchanged at random, cluster by cluster."""

    shift: float = measure("mean metric of the fine-tuned model minus the base's")


class PatchedControlRow(ControlRow):
    """A control's change of the module that ranks first, scaled to the norm of its own."""

    norm_ratio: float = measure("norm of the control's change before scaling, over its own")
    inserted: float = RandomChangeRow.inserted
    removed: float = RandomChangeRow.removed
    shift: float = measure(
        "change of the mean metric by the whole control, in the direction of the fine-tuned model's"
    )


@dataclass
class Effects:
    """The metric of every prompt, ``[P]``: of both models (``ends``), with each of the modules
    ``numbers`` inserted and taken out, and with other changes of some of them.

    ``rest``: with all other modules; None where there are none. ``others``: by kind and module,
    draws ``[draws, P]`` of both sides.
    """

    study: Study
    weights: WeightModules
    ends: Float[np.ndarray, "2 P"]
    order: Sequence[int]
    first_order: Float[np.ndarray, "2 M"]
    numbers: Sequence[int]
    inserted: Float[np.ndarray, "m P"]
    removed: Float[np.ndarray, "m P"]
    rest: Float[np.ndarray, "2 P"] | None
    others: Mapping[tuple[str, int], Float[np.ndarray, "2 D P"]]
    p: dict[tuple[int, str], float] = field(init=False)

    def __post_init__(self) -> None:
        self.p = self._corrected()

    @property
    def tested(self) -> list[int]:
        """Modules that were compared with random changes."""
        return list(dict.fromkeys(number for kind, number in self.others if kind in RANDOM))

    @property
    def clusters(self) -> list[str]:
        """The cluster of every prompt."""
        return [prompt.cluster for prompt in self.study.prompts(GROUP)]

    @property
    def shift(self) -> float:
        """Change of the mean metric by fine-tuning; NaN where its interval covers 0."""
        interval = cluster_interval(self.ends[1], self.clusters, minus=self.ends[0])
        covers = not interval.low * interval.high > 0
        return NAN if covers else interval.value

    def share(self, side: str, values: Float[np.ndarray, " P"]) -> Interval:
        """R or N of a state, with its interval."""
        base, tuned = self.ends
        first, second = (values, base) if side == "inserted" else (tuned, values)
        return cluster_interval(first, self.clusters, minus=second, over=tuned, over_minus=base)

    def draws(self, kind: str, number: int, side: str) -> Float[np.ndarray, " D"]:
        """R or N of every draw of a random change; NaN without a shift."""
        values = self.others[kind, number][SIDES.index(side)].mean(1)
        base, tuned = self.ends.mean(1)
        effects = values - base if side == "inserted" else tuned - values
        return effects / self.shift

    def _corrected(self) -> dict[tuple[int, str], float]:
        """p of each tested module and side, the larger over the kinds, by Holm's correction."""
        values = {"inserted": self.inserted, "removed": self.removed}
        keys = [(number, side) for number in self.tested for side in SIDES]
        p = []
        for number, side in keys:
            own = self.share(side, values[side][list(self.numbers).index(number)]).value
            kinds = [kind for kind in RANDOM if (kind, number) in self.others]
            p.append(max(observation_p(own, self.draws(kind, number, side)) for kind in kinds))
        return dict(zip(keys, holm(p).tolist(), strict=True))


def modules_table(effects: Effects) -> Table:
    """One row per changed module by first order, and one for all that were not measured exactly."""
    records = []
    for rank, number in enumerate(effects.order, 1):
        module = effects.weights.modules[number]
        exact = number in effects.numbers
        at = list(effects.numbers).index(number) if exact else 0
        records.append(
            {
                "layer": module.layer,
                "part": module.part,
                "rank": rank,
                "size": module.size,
                "norm": module.norm,
                "base_first_order": effects.first_order[0, number],
                "tuned_first_order": effects.first_order[1, number],
                "exact": exact,
                **_shares(effects, (effects.inserted[at], effects.removed[at]) if exact else None),
                "tested": number in effects.tested,
                **{f"{side}_p": effects.p.get((number, side), NAN) for side in SIDES},
            }
        )
    if effects.rest is not None:
        others = [number for number in effects.order if number not in effects.numbers]
        modules = [effects.weights.modules[number] for number in others]
        records.append(
            {
                "layer": OUTSIDE,
                "part": REST,
                "rank": len(records) + 1,
                "size": sum(module.size for module in modules),
                "norm": float(np.linalg.norm([module.norm for module in modules])),
                "base_first_order": effects.first_order[0, others].sum(),
                "tuned_first_order": effects.first_order[1, others].sum(),
                "exact": True,
                **_shares(effects, (effects.rest[0], effects.rest[1])),
                "tested": False,
                **{f"{side}_p": NAN for side in SIDES},
            }
        )
    return records_table(ModuleRow, "", records)


def _shares(effects: Effects, values: tuple[np.ndarray, np.ndarray] | None) -> dict[str, float]:
    found: dict[str, float] = {}
    for at, side in enumerate(SIDES):
        interval = (NAN,) * 3 if values is None else effects.share(side, values[at])
        found |= dict(zip((side, f"{side}_low", f"{side}_high"), interval, strict=True))
    return found


def effects_table(effects: Effects) -> Table:
    """One row per exact module, the rest among them, and prompt."""
    places = [
        (module.layer, module.part)
        for module in (effects.weights.modules[number] for number in effects.numbers)
    ]
    inserted, removed = list(effects.inserted), list(effects.removed)
    if effects.rest is not None:
        places.append((OUTSIDE, REST))
        inserted.append(effects.rest[0])
        removed.append(effects.rest[1])
    records = [
        {
            **keys,
            "layer": layer,
            "part": part,
            "base": effects.ends[0, at],
            "tuned": effects.ends[1, at],
            "inserted": inserted[place][at],
            "removed": removed[place][at],
        }
        for place, (layer, part) in enumerate(places)
        for at, keys in enumerate(_prompts(effects.study))
    ]
    return records_table(EffectRow, "", records)


def sums_table(effects: Effects) -> Table:
    """One row per prompt, with the sums over all modules."""
    inserted, removed = effects.inserted, effects.removed
    if effects.rest is not None:
        inserted = np.concatenate([inserted, effects.rest[:1]])
        removed = np.concatenate([removed, effects.rest[1:]])
    base, tuned = effects.ends
    sums = (inserted - base).sum(0), (tuned - removed).sum(0)
    records = [
        {
            **keys,
            "base": base[at],
            "tuned": tuned[at],
            "inserted_sum": sums[0][at],
            "removed_sum": sums[1][at],
        }
        for at, keys in enumerate(_prompts(effects.study))
    ]
    return records_table(SumRow, "", records)


def random_table(effects: Effects) -> Table:
    """One row per draw of a random change, and per control, of the tested modules."""
    records = []
    for kind, number in effects.others:
        module = effects.weights.modules[number]
        sides = {side: effects.draws(kind, number, side) for side in SIDES}
        records += [
            {
                "draw": draw,
                "kind": kind,
                "layer": module.layer,
                "part": module.part,
                **{side: values[draw] for side, values in sides.items()},
            }
            for draw in range(len(sides["inserted"]))
        ]
    return records_table(RandomChangeRow, "", records)


def _prompts(study: Study) -> list[dict]:
    return [
        {"group": GROUP, "prompt_id": prompt.id, "cluster": prompt.cluster}
        for prompt in study.prompts(GROUP)
    ]
