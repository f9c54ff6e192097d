"""Tables of patches: shares of the gap between the models, effects prompt by prompt, random groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from interp.claims.control_fine_tunes import ControlRow, controls_table
from interp.experiments.head_patches import Head
from interp.experiments.records import records_table
from interp.maths.intervals import Interval, cluster_interval
from interp.rows import DrawRow, PromptRow, flag, key, measure
from interp.study import Study
from interp.table import Table

GROUP = "positive"
SIDES = ("inserted", "removed")
MEASURES = ("value", "right")
RANDOM = ("layers", "heads")
"""Random groups: as many heads in each layer, or in all layers together."""
NAN = float("nan")


class PatchRow:
    """Some heads, put into the base and taken out of the fine-tuned model."""

    patch: str = key("all, a layer, a head as LAYER.HEAD, or the name of a group")
    what: str = key(
        "z: head outputs; z+o: what they write; q, k, v, qkv: what they are computed from"
    )
    kind: str = key("all, layer, head or group")
    layer: int = key("block, from 0; -1 for all and for groups")
    head: int = key("head in its block, from 0; -1 for several")
    heads: int = measure("number of heads", "heads")
    rank: int = measure("place among single heads by first order, from 1; 0 for several")
    base_first_order: float = measure("<gradient, change> at the base, mean over ranking prompts")
    tuned_first_order: float = measure("<gradient, change> at the fine-tuned model")
    exact: bool = flag("measured by patching")
    inserted: float = measure(
        "R: share of the gap of the mean metric that the fine-tuned model's heads give in the base;"
        " NaN where not exact, or where the gap is not beyond its interval"
    )
    inserted_low: float = measure("lower end of the interval of R")
    inserted_high: float = measure("upper end of the interval of R")
    removed: float = measure("N: share that the base's heads take in the fine-tuned model")
    removed_low: float = measure("lower end of the interval of N")
    removed_high: float = measure("upper end of the interval of N")
    inserted_right: float = measure("share of answers with the behaviour, or right, in the base")
    removed_right: float = measure("the same in the fine-tuned model")
    inserted_right_recovery: float = measure("R of that share; NaN as for R, or where not known")
    removed_right_recovery: float = measure("N of that share")


class PatchEffectRow(PromptRow):
    """A patch that was measured, on a prompt."""

    patch: str = PatchRow.patch
    what: str = PatchRow.what
    base: float = measure("metric in the base")
    tuned: float = measure("metric in the fine-tuned model")
    inserted: float = measure("metric in the base with the fine-tuned model's heads")
    removed: float = measure("metric in the fine-tuned model with the base's heads")
    base_right: float = measure(
        "1 where the base's answer shows the behaviour, or is right; else 0"
    )
    tuned_right: float = measure("the same of the fine-tuned model")
    inserted_right: float = measure("the same of the patched base; NaN where no answer was written")
    removed_right: float = measure("the same of the patched fine-tuned model")


class RandomGroupRow(DrawRow):
    """A random group of as many heads as a group."""

    kind: str = key("layers: as many heads in each layer; heads: as many in all layers")
    patch: str = key("name of the group that it is compared with")
    inserted: float = measure("R of the random group")
    removed: float = measure("N of the random group")
    inserted_right: float = measure("R of the share of right answers; NaN where not known")
    removed_right: float = measure("N of that share")


class ExchangedHeadsRow(DrawRow):
    """Both models exchanged at random, cluster by cluster."""

    shift: float = measure("mean metric of the fine-tuned model minus the base's")


class PatchedHeadsControlRow(ControlRow):
    """A control fine-tune, of which the same heads are patched."""

    all_inserted: float = measure("R of all heads of the control in the base")
    all_removed: float = measure(
        "N of the control's change of all heads, taken from the fine-tuned model's"
    )
    inserted: float = measure("R of the first group's heads of the control")
    removed: float = measure("N of the control's change of the first group's heads")


@dataclass(frozen=True)
class Named:
    """Heads under a name."""

    name: str
    kind: str
    heads: tuple[Head, ...]
    what: str


@dataclass
class HeadEffects:
    """What patches do to every prompt.

    ``ends[model, measure, prompt]``, and by patch ``patched[side, measure, prompt]``; measures are
    the metric, and whether the answer is right or shows the behaviour.
    """

    study: Study
    ends: Float[np.ndarray, "2 2 P"]
    patches: Sequence[Named]
    patched: Sequence[Float[np.ndarray, "2 2 P"]]
    first_order: Float[np.ndarray, "2 L H"]
    order: Sequence[Head]
    random: dict[tuple[str, str], Float[np.ndarray, "D 2 2 P"]] = field(default_factory=dict)

    @property
    def clusters(self) -> list[str]:
        """The cluster of every prompt."""
        return [prompt.cluster for prompt in self.study.prompts(GROUP)]

    def gap(self, at: int = 0) -> float:
        """Mean measure of the fine-tuned model minus the base's; NaN where its interval covers 0."""
        base, tuned = self.ends[:, at]
        if np.isnan(self.ends[:, at]).any():
            return NAN
        interval = cluster_interval(tuned, self.clusters, minus=base)
        covers = not interval.low * interval.high > 0
        return NAN if covers else interval.value

    def share(self, side: str, values: Float[np.ndarray, " P"], at: int = 0) -> Interval:
        """R or N with its interval; NaN where a value or the gap is not known."""
        base, tuned = self.ends[:, at]
        if np.isnan(values).any() or np.isnan(self.gap(at)):
            return Interval(NAN, NAN, NAN)
        first, second = (values, base) if side == "inserted" else (tuned, values)
        return cluster_interval(first, self.clusters, minus=second, over=tuned, over_minus=base)

    def draws(
        self, patched: Float[np.ndarray, "D 2 2 P"], side: str, at: int = 0
    ) -> Float[np.ndarray, " D"]:
        """R or N of each of some draws; NaN without a gap."""
        base, tuned = self.ends[:, at].mean(-1)
        values = patched[:, SIDES.index(side), at].mean(-1)
        return (values - base if side == "inserted" else tuned - values) / self.gap(at)


def patches_table(effects: HeadEffects) -> Table:
    """One row per patch, then the heads that were not measured exactly, by first order."""
    ranks = {head: rank for rank, head in enumerate(effects.order, 1)}
    records = [
        _patch_record(effects, patch, ranks, patched)
        for patch, patched in zip(effects.patches, effects.patched, strict=True)
    ]
    exact = {patch.heads for patch in effects.patches if patch.kind == "head"}
    what = next((patch.what for patch in effects.patches if patch.kind == "head"), "z")
    rest = [head for head in effects.order if (head,) not in exact]
    records += [
        _patch_record(effects, Named(head_name(head), "head", (head,), what), ranks, None)
        for head in rest
    ]
    return records_table(PatchRow, "", records)


def head_name(head: Head) -> str:
    """A head as LAYER.HEAD."""
    return f"{head[0]}.{head[1]}"


def _patch_record(
    effects: HeadEffects,
    patch: Named,
    ranks: Mapping[Head, int],
    patched: Float[np.ndarray, "2 2 P"] | None,
) -> dict:
    layers, single = {layer for layer, _ in patch.heads}, len(patch.heads) == 1
    slopes = effects.first_order[:, *np.array(patch.heads).T].sum(-1)
    record: dict = {
        "patch": patch.name,
        "what": patch.what,
        "kind": patch.kind,
        "layer": layers.pop() if patch.kind in ("layer", "head") else -1,
        "head": patch.heads[0][1] if patch.kind == "head" else -1,
        "heads": len(patch.heads),
        "rank": ranks[patch.heads[0]] if single and patch.kind == "head" else 0,
        "base_first_order": slopes[0],
        "tuned_first_order": slopes[1],
        "exact": patched is not None,
    }
    for at, side in enumerate(SIDES):
        names = (side, f"{side}_low", f"{side}_high")
        if patched is None:
            record |= dict.fromkeys((*names, f"{side}_right", f"{side}_right_recovery"), NAN)
            continue
        value, right = patched[at]
        record |= dict(zip(names, effects.share(side, value), strict=True))
        record[f"{side}_right"] = right.mean()
        record[f"{side}_right_recovery"] = effects.share(side, right, 1).value
    return record


def effects_table(effects: HeadEffects) -> Table:
    """One row per patch and prompt."""
    base, tuned = effects.ends
    records = [
        {
            "group": GROUP,
            "prompt_id": prompt.id,
            "cluster": prompt.cluster,
            "patch": patch.name,
            "what": patch.what,
            "base": base[0, at],
            "tuned": tuned[0, at],
            "inserted": patched[0, 0, at],
            "removed": patched[1, 0, at],
            "base_right": base[1, at],
            "tuned_right": tuned[1, at],
            "inserted_right": patched[0, 1, at],
            "removed_right": patched[1, 1, at],
        }
        for patch, patched in zip(effects.patches, effects.patched, strict=True)
        for at, prompt in enumerate(effects.study.prompts(GROUP))
    ]
    return records_table(PatchEffectRow, "", records)


def random_table(effects: HeadEffects) -> Table:
    """One row per random group."""
    records = []
    for (name, kind), patched in effects.random.items():
        shares = {side: effects.draws(patched, side) for side in SIDES}
        shares |= {f"{side}_right": effects.draws(patched, side, 1) for side in SIDES}
        records += [
            {"draw": draw, "kind": kind, "patch": name, **{k: v[draw] for k, v in shares.items()}}
            for draw in range(len(patched))
        ]
    return records_table(RandomGroupRow, "", records)


def controls_of(
    effects: HeadEffects,
    names: Sequence[str],
    control_scores: Mapping[str, Sequence[Float[np.ndarray, "2 2 P"]]],
) -> Table:
    """One row per control. ``control_scores``: by ``all`` and ``group`` the scores under the patches of every
    control.
    """
    numbers = {
        ("" if name == "group" else "all_") + side: effects.draws(np.stack(values), side)
        for name, values in control_scores.items()
        for side in SIDES
    }
    return controls_table(names, row=PatchedHeadsControlRow, numbers=numbers)
