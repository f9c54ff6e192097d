"""Tables of masks: heads, scores of sets of heads in every model, answers, random sets and
exchanged sources.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from interp.claims.control_fine_tunes import ControlRow, controls_table
from interp.experiments.component_masks import FittedMask
from interp.experiments.head_patches import Head
from interp.experiments.records import records_table
from interp.maths.intervals import cluster_interval
from interp.prompts import TokenRow
from interp.rows import DrawRow, PromptRow, UnitRow, flag, key, measure
from interp.table import Table

GROUP = "positive"
ROLES = ("base", "tuned")
SETS = ("none", "selected", "all")


class MaskRow(UnitRow):
    """A head, in one model's mask."""

    found: str = key("model in which the mask was learned: base or tuned")
    mask: float = measure("its mask before rounding: 0 takes the source's output, 1 keeps its own")
    selected: bool = flag("its rounded mask is 0")


class ScoreRow:
    """Some heads patched from the source, in one model, on test rows."""

    found: str = key("model whose mask selected the heads; base for none and all")
    model: str = key("model that is patched: base or tuned")
    heads: str = key("none: unpatched; selected by the mask; all heads")
    count: int = measure("number of heads", "heads")
    score: float = measure("share of rows whose most likely token is the source's target")
    low: float = measure("lower end of its interval")
    high: float = measure("upper end of its interval")
    answered: float = measure("share of rows whose most likely token is the row's own answer")


class MaskedAnswerRow(PromptRow):
    """A test row in one model, under the heads of one model's mask."""

    found: str = ScoreRow.found
    model: str = ScoreRow.model
    unpatched: bool = flag("the most likely token is the source's target unpatched")
    selected: bool = flag("it is with the selected heads patched")
    all: bool = flag("it is with all heads patched")
    answered: bool = flag("the unpatched model gives the row's own answer")


class TransferRow(PromptRow):
    """A test row, with the heads found in the base patched in either model."""

    base_gain: float = measure("target given with the base's heads minus unpatched, in the base")
    tuned_gain: float = measure("the same in the fine-tuned model")


class RandomHeadsRow(DrawRow):
    """As many random heads as a mask selected."""

    found: str = ScoreRow.found
    model: str = ScoreRow.model
    score: float = measure("share of rows that give the target with these heads patched")
    gain: float = measure("the same minus unpatched")


class PermutedSourcesRow(DrawRow):
    """Sources exchanged at random between test rows, patched at the selected heads."""

    found: str = ScoreRow.found
    model: str = ScoreRow.model
    score: float = measure("share of rows that give their own target from another row's source")


class FitRow:
    """A rounded mask that was tried while learning."""

    found: str = MaskRow.found
    step: int = key("batches before it")
    heads: int = measure("number of heads", "heads")
    accuracy: float = measure("share of validation rows that give the target")


class ExchangedGainRow(DrawRow):
    """Both models exchanged at random, cluster by cluster."""

    difference: float = measure("mean gain of the fine-tuned model minus the base's")


class MaskControlRow(ControlRow):
    """A control fine-tune, patched at the heads found in the base."""

    unpatched: float = measure("share of rows that give the target unpatched")
    score: float = measure("the same with the heads patched")
    gain: float = measure("the difference")
    difference: float = measure("the gain minus the base's")


@dataclass(frozen=True)
class Tested:
    """Most likely tokens of test rows, [R], in one model (``model``): unpatched, with the heads of
    one model's mask (``found``), and with all heads; under random sets, and with the heads patched
    from exchanged sources, [D, R].
    """

    found: str
    model: str
    heads: tuple[Head, ...]
    all_heads: int
    tokens: Mapping[str, Int[np.ndarray, " R"]]
    random: Sequence[Int[np.ndarray, " R"]]
    permuted: Sequence[Int[np.ndarray, " R"]]

    def gives(self, heads: str, targets: Int[np.ndarray, " R"]) -> Bool[np.ndarray, " R"]:
        """Rows whose most likely token is the target."""
        return self.tokens[heads] == targets

    def count(self, heads: str) -> int:
        """Number of heads of a set."""
        return {"none": 0, "selected": len(self.heads), "all": self.all_heads}[heads]


@dataclass(frozen=True)
class HeldOut:
    """The test rows, with the tokens of their targets and their own answers, [R]."""

    rows: Sequence[TokenRow]
    targets: Int[np.ndarray, " R"]

    @property
    def clusters(self) -> list[str]:
        """Clusters of the rows."""
        return [row.cluster for row in self.rows]

    @property
    def answers(self) -> Int[np.ndarray, " R"]:
        """The rows' own answers."""
        return np.array([row.answer for row in self.rows], np.int64)

    def keys(self, at: int) -> dict:
        """Key columns of a row."""
        row = self.rows[at]
        return {"group": GROUP, "prompt_id": row.id, "cluster": row.cluster}


def masks_table(masks: Mapping[str, FittedMask]) -> Table:
    """One row per head and model in which a mask was learned."""
    records = [
        {
            "layer": layer,
            "unit": head,
            "found": found,
            "mask": value,
            "selected": (layer, head) in mask.heads,
        }
        for found, mask in masks.items()
        for (layer, head), value in sorted(mask.values.items())
    ]
    return records_table(MaskRow, "", records, rename={"unit": "head"})


def scores_table(tested: Sequence[Tested], test: HeldOut) -> Table:
    """One row per set of heads and model; unpatched and all heads once for each model."""
    records = []
    for each in tested:
        for heads in SETS:
            if heads != "selected" and each.found != "base":
                continue
            gives = each.gives(heads, test.targets)
            interval = cluster_interval(gives, test.clusters)
            records.append(
                {
                    "found": each.found,
                    "model": each.model,
                    "heads": heads,
                    "count": each.count(heads),
                    **dict(zip(("score", "low", "high"), interval, strict=True)),
                    "answered": (each.tokens[heads] == test.answers).mean(),
                }
            )
    return records_table(ScoreRow, "", records)


def answers_table(tested: Sequence[Tested], test: HeldOut) -> Table:
    """One row per test row, model, and model in which heads were found."""
    records = []
    for each in tested:
        columns = {
            "unpatched": each.gives("none", test.targets),
            "selected": each.gives("selected", test.targets),
            "all": each.gives("all", test.targets),
            "answered": each.tokens["none"] == test.answers,
        }
        records += [
            {
                **test.keys(at),
                "found": each.found,
                "model": each.model,
                **{name: bool(values[at]) for name, values in columns.items()},
            }
            for at in range(len(test.rows))
        ]
    return records_table(MaskedAnswerRow, "", records)


def gains(each: Tested, test: HeldOut) -> np.ndarray:
    """By row, whether the selected heads give the target minus whether it is given unpatched."""
    selected, none = (each.gives(heads, test.targets) for heads in ("selected", "none"))
    return selected.astype(np.float64) - none


def transfer_table(base: Tested, tuned: Tested, test: HeldOut) -> Table:
    """One row per test row, with the base's heads in both models."""
    found = {"base_gain": gains(base, test), "tuned_gain": gains(tuned, test)}
    records = [
        {**test.keys(at), **{name: values[at] for name, values in found.items()}}
        for at in range(len(test.rows))
    ]
    return records_table(TransferRow, "", records)


def random_table(tested: Sequence[Tested], test: HeldOut) -> Table:
    """One row per random set and model."""
    records = []
    for each in tested:
        unpatched = each.gives("none", test.targets).mean()
        for draw, tokens in enumerate(each.random):
            score = (tokens == test.targets).mean()
            records.append(
                {
                    "draw": draw,
                    "found": each.found,
                    "model": each.model,
                    "score": score,
                    "gain": score - unpatched,
                }
            )
    return records_table(RandomHeadsRow, "", records)


def permuted_table(tested: Sequence[Tested], test: HeldOut) -> Table:
    """One row per draw of exchanged sources and model."""
    records = [
        {
            "draw": draw,
            "found": each.found,
            "model": each.model,
            "score": (tokens == test.targets).mean(),
        }
        for each in tested
        for draw, tokens in enumerate(each.permuted)
    ]
    return records_table(PermutedSourcesRow, "", records)


def fit_table(masks: Mapping[str, FittedMask]) -> Table:
    """One row per mask that was tried."""
    records = [
        {"found": found, "step": one.step, "heads": one.heads, "accuracy": one.accuracy}
        for found, mask in masks.items()
        for one in mask.steps
    ]
    return records_table(FitRow, "", records)


def controls_of(
    names: Sequence[str], controls: Sequence[Tested], base: Tested, test: HeldOut
) -> Table:
    """One row per control."""
    own = gains(base, test).mean()
    unpatched, scores = (
        np.array([each.gives(heads, test.targets).mean() for each in controls])
        for heads in ("none", "selected")
    )
    numbers = {
        "unpatched": unpatched,
        "score": scores,
        "gain": scores - unpatched,
        "difference": scores - unpatched - own,
    }
    return controls_table(names, row=MaskControlRow, numbers=numbers)
