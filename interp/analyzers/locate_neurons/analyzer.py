"""``LocateNeurons``: score every MLP neuron (or attention head), rank, select."""

from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar

import numpy as np

from interp.analyzers.framework import Analyzer, Known, Needs, Result, option
from interp.analyzers.locate_neurons import search, steps
from interp.analyzers.locate_neurons.cost import method_work
from interp.analyzers.locate_neurons.methods import METHODS, resolve
from interp.analyzers.locate_neurons.probes import FITS
from interp.analyzers.locate_neurons.scores import POSITIONS, MethodOptions, Scores
from interp.analyzers.locate_neurons.selection import Top, rank, select
from interp.analyzers.locate_neurons.tokens import active_tokens
from interp.errors import OptionError
from interp.experiments.cost import Work
from interp.models.changes import can_read_weights, weight_change
from interp.models.units import UNITS, Unit, unit_named
from interp.rows import UnitRow, flag, measure, rows_table
from interp.study import Study
from interp.table import Table

_MAX_TOKEN_UNITS = 20


class LocatedRow(UnitRow):
    """A unit with its score; further measures depend on the method."""

    score: float = measure("score by the method")
    rank: int = measure("1 is the highest signed score")
    selected: bool = flag("within the top of the ranking and above rounding error")
    subtracted: bool = flag("removed: also selected on the utility prompts", optional=True)


@dataclass(frozen=True)
class LocateNeurons(Analyzer):
    """Score every MLP neuron of the fine-tuned model (or attention head) by how much it carries the
    behaviour.

    ``method``: one of ``METHODS`` or ``auto`` (``integrated`` with a base, else ``act-grad``).
    ``top``: see ``Top``. ``positions``: which tokens are read, ``auto`` for the method's own.
    ``steps`` of the integral: 3, 7, 15 or 31, or ``auto``, which refines until the scores agree.
    ``unit``: ``neuron`` or ``head``. ``probe_fit``: how the method ``probe`` fits, ``optimum`` or
    ``published``. Returns a table of kind ``locate-neurons``, one row per unit; scores are finite,
    0 where nothing changed.

    ``excluded``: units that are never selected, whatever their rank. ``minus`` fills it with those
    that another run, its ``parent``, selected on prompts without the behaviour.
    """

    name: ClassVar[str] = "locate-neurons"
    version: ClassVar[int] = 7
    needs: ClassVar[Needs] = Needs(negatives=True, metric=True)

    method: str = option("auto", f"auto, {', '.join(METHODS)}.", choices=("auto", *METHODS))
    top: str = option("0.5%", "How many units are selected: 30, 0.5%, z3.")
    positions: str = option("auto", f"Token positions that are read: auto, {', '.join(POSITIONS)}.")
    steps: int | str = option(
        "auto", "Steps of an integral: 3, 7, 15, 31; auto: as many as scores need."
    )
    unit: str = option("neuron", "What is scored: neuron or head.", choices=tuple(UNITS))
    probe_fit: str = option(
        "optimum",
        "Of the method probe: optimum, or published, its paper's own steps.",
        choices=FITS,
    )
    excluded: tuple[tuple[int, int], ...] = option(
        (), "Units (layer, unit) that are never selected.", from_parent=True
    )

    def minus(self, utility: Table) -> "LocateNeurons":
        """The same analyzer without the units that a run on utility prompts selected (set
        difference).
        """
        unit = utility.summary["unit"]
        if unit != self.unit:
            raise OptionError(
                f"units of kind {unit} cannot be subtracted from units of kind {self.unit}"
            )
        mask = utility["selected"]
        pairs = zip(utility["layer"][mask].tolist(), utility[unit][mask].tolist(), strict=True)
        return replace(self, parent=utility.require_provenance().key, excluded=tuple(pairs))

    def check(self, known: Known) -> None:
        """Raise OptionError for options that cannot be used; no model is needed."""
        resolve(
            self.method,
            self.positions,
            known.has_base is not False,
            self.unit,
            known.differentiable is not False,
        )
        top = Top.parse(self.top)
        if known.shape is not None:
            top.count(prod(known.shape))
        if top.kind == "smallest" and known.has_base is False:
            raise OptionError(
                "--top smallest needs a base model to return to; add --base MODEL, or give a count"
            )
        if self.probe_fit != "optimum" and self.method != "probe":
            raise OptionError(
                f"--probe-fit applies to the method probe, not to {self.method}; add --method probe"
            )
        steps.require(self.steps)

    def require(self, study: Study) -> None:
        """Raise OptionError for options that do not fit the study, UnsupportedModel for a pair
        whose units cannot be read exactly.

        Checks that the parts of each block add up before it checks the units, since else neither
        kind of unit is exact.
        """
        super().require(study)
        anatomy, unit = study.pair.tuned.anatomy, unit_named(self.unit)
        if anatomy.has_parts:
            study.require_parts()
        unit.require(anatomy)
        self.check(Known(shape=(anatomy.n_layers, unit.count(anatomy))))

    def work(self, study: Study) -> Work | None:
        """Scoring, and a pass that reads on which tokens the selected units are active; None for a
        search.
        """
        if Top.parse(self.top).kind == "smallest":
            return None
        method, _, positions = resolve(
            self.method, self.positions, study.pair.base is not None, self.unit
        )
        scoring = method_work(method, self.steps, positions, study)
        return None if scoring is None else scoring + Work(passes=1)

    def run(self, study: Study) -> Result:
        """Score, rank and select on the study's prompts."""
        pair, unit, top = study.pair, unit_named(self.unit), Top.parse(self.top)
        method, scorer, positions = resolve(
            self.method, self.positions, pair.base is not None, self.unit
        )
        scores = scorer.score(
            study, MethodOptions(positions, self.steps, unit, self.probe_fit, self.top)
        )
        ranks = rank(scores.score)
        in_top = select(scores.score, scores.floor, top, scores.eligible)
        chosen = in_top.copy()
        for excluded in self.excluded:
            chosen[excluded] = False
        search_summary: dict[str, Any] = {}
        if top.kind == "smallest":
            chosen, search_summary = _smallest(study, unit, ranks, chosen)
        removed = in_top & ~chosen
        measures, n_tuned = {"score": (scores.score, scores.meaning), **scores.measures}, None
        if pair.base is not None and can_read_weights(pair.tuned.anatomy, unit):
            changes = weight_change(pair, unit)
            n_tuned = int((changes > 0).sum())
            measures["weight_change"] = (
                changes,
                "norm of the change of the unit's own weights from base to tuned",
            )
        layer, index = np.indices(ranks.shape)
        data = {
            "layer": layer,
            "unit": index,
            "score": scores.score,
            "rank": ranks,
            "selected": chosen,
        }
        if self.parent is not None:
            data["subtracted"] = removed
        rows = rows_table(
            LocatedRow,
            "",
            {name: values.ravel() for name, values in data.items()},
            rename={"unit": unit.name},
            # the score again, since its meaning is that of the method
            extra={
                name: (values.ravel(), "measure", meaning)
                for name, (values, meaning) in measures.items()
            },
        )
        summary = {
            "method": method,
            "positions": positions,
            "top": str(top),
            "unit": unit.name,
            f"n_{unit.name}s": int(ranks.size),
            "n_selected": int(chosen.sum()),
            "n_tuned": n_tuned,
            "n_subtracted": None if self.parent is None else int(removed.sum()),
            **search_summary,
            **scores.summary,
        }
        sentence = _sentence(summary, scores, unit, study.require_metric().labels.number)
        tokens = active_tokens(study, _by_rank(chosen, ranks)[:_MAX_TOKEN_UNITS], unit)
        return Result(
            rows,
            {"tokens": tokens, **scores.tables},
            claims=None,
            summary={**summary, "sentence": sentence},
        )


def _by_rank(chosen: np.ndarray, ranks: np.ndarray) -> search.Set:
    """The chosen units as (layer, unit), the first rank first."""
    return [(int(a), int(b)) for a, b in np.argwhere(chosen)[np.argsort(ranks[chosen])]]


def _smallest(
    study: Study, unit: Unit, ranks: np.ndarray, allowed: np.ndarray
) -> tuple[np.ndarray, dict[str, Any]]:
    """The smallest set among the allowed units, and the search's entries of the summary."""
    result = search.smallest_set(study, unit, _by_rank(allowed, ranks))
    chosen = np.zeros_like(allowed)
    for pair in result.units:
        chosen[pair] = True
    return chosen, {
        "searched_prefix": result.prefix,
        "searched_effect": result.effect,
        "searched_recovery": result.recovery,
        "searched_prompts": result.prompts,
    }


def _sentence(summary: dict, scores: Scores, unit: Unit, number: str) -> str:
    n_selected, total = summary["n_selected"], summary[f"n_{unit.name}s"]
    text = (
        f"{summary['method']} selects {n_selected:,} of {total:,} {unit.plural} (top"
        f" {summary['top']})"
    )
    if summary.get("searched_prefix"):
        text = (
            f"of {summary['method']}'s {total:,} {unit.plural} the first"
            f" {summary['searched_prefix']:,} return the base's behaviour on {search.REACH:.0%} of"
            f" {summary['searched_prompts']} prompts of the selection split where the models differ"
            f" in it, and {n_selected:,} of these suffice"
        )
    elif summary["top"] == "smallest" and not summary["searched_prompts"]:
        text = (
            "base and fine-tuned model show the behaviour on the same prompts of the selection"
            " split: no set can return it"
        )
    elif summary["top"] == "smallest":
        text = (
            f"no set of {summary['method']}'s {unit.plural} returns the base's behaviour on"
            f" {search.REACH:.0%} of {summary['searched_prompts']} prompts of the selection split"
            " where the models differ in it"
        )
    if summary["n_subtracted"] is not None:
        text += f", without {summary['n_subtracted']:,} that it also selects on the utility prompts"
    if not np.any(np.abs(scores.score) > scores.floor):
        text = (
            f"{summary['method']} finds no {unit.plural[:-1]} that changed: every score is zero to"
            " rounding error"
        )
    if (share := summary.get(f"{unit.part}_share")) is not None:
        name = "MLP" if unit.part == "mlp" else unit.part
        text += f"; {share:.0%} of the rise of the {number} runs through {name} outputs"
    if summary.get("steps_at_cap"):
        text += (
            f"; at {summary['steps']} steps, the maximum, the last two rules still differ (selected"
            f" sets share {summary['steps_jaccard']:.0%}, scores correlate at"
            f" {summary['steps_spearman']:.3f})"
        )
    if "test" in summary:
        text += f"; {summary['n_significant']:,} differ by Student's t {summary['test']}"
    if summary.get("best_auc") is not None:
        text += (
            "; the best module separates the classes with a held-out AUC of"
            f" {summary['best_auc']:.2f} (the prompt's length alone: {summary['length_auc']:.2f})"
        )
    if summary["n_tuned"] is not None:
        text += f"; fine-tuning changed the weights of {summary['n_tuned']:,} {unit.name}s"
    return text + "."
