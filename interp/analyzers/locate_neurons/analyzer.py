"""``LocateNeurons``: score every MLP neuron (or attention head), rank, select."""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from interp.analyzers.base import Analyzer
from interp.analyzers.locate_neurons import search, steps
from interp.analyzers.locate_neurons.cost import method_work
from interp.analyzers.locate_neurons.methods import METHODS, resolve
from interp.analyzers.locate_neurons.probes import FITS
from interp.analyzers.locate_neurons.scores import MethodOptions, Scores
from interp.analyzers.locate_neurons.selection import Top, rank, select
from interp.analyzers.locate_neurons.tokens import active_tokens
from interp.errors import OptionError
from interp.experiments.cost import Work
from interp.models.changes import can_read_weights, weight_change
from interp.models.units import Unit, unit_named
from interp.study import Study
from interp.table import Table, table

_MAX_TOKEN_UNITS = 20


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

    method: str = "auto"
    top: str = "0.5%"
    positions: str = "auto"
    steps: int | str = "auto"
    unit: str = "neuron"
    probe_fit: str = "optimum"
    excluded: tuple[tuple[int, int], ...] = field(default=(), metadata={"from_parent": True})

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

    def check(
        self, has_base: bool, n_units: int | None = None, differentiable: bool = True
    ) -> None:
        """Raise OptionError for options that cannot be used; no model is needed."""
        resolve(self.method, self.positions, has_base, self.unit, differentiable)
        top = Top.parse(self.top)
        if n_units is not None:
            top.count(n_units)
        search.require(top.kind == "smallest", has_base)
        if self.probe_fit not in FITS:
            raise OptionError(f"unknown --probe-fit {self.probe_fit!r}; use {' or '.join(FITS)}")
        if self.probe_fit != "optimum" and self.method != "probe":
            raise OptionError(
                f"--probe-fit applies to the method probe, not to {self.method}; add --method probe"
            )
        steps.require(self.steps)

    def require(self, study: Study) -> None:
        """Raise UnsupportedModel for a pair whose units cannot be read exactly.

        Checks first that the parts of each block add up, since else neither kind of unit is exact.
        """
        anatomy = study.pair.tuned.anatomy
        if anatomy.has_parts:
            study.require_parts()
        unit_named(self.unit).require(anatomy)

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

    def __call__(self, study: Study) -> Table:
        """Score, rank and select on the study's prompts."""
        has_base, anatomy, unit = (
            study.pair.base is not None,
            study.pair.tuned.anatomy,
            unit_named(self.unit),
        )
        self.require(study)
        self.check(
            has_base, anatomy.n_layers * unit.count(anatomy), study.require_metric().differentiable
        )
        method, scorer, positions = resolve(self.method, self.positions, has_base, self.unit)
        top = Top.parse(self.top)
        scores = scorer.score(
            study, MethodOptions(positions, self.steps, unit, self.probe_fit, self.top)
        )
        weight_changes = (
            weight_change(study.pair, unit)
            if has_base and can_read_weights(anatomy, unit)
            else None
        )
        ranks = rank(scores.score)
        in_top = select(scores.score, scores.floor, top, scores.eligible)
        chosen = in_top.copy()
        for pair in self.excluded:
            chosen[pair] = False
        search_summary: dict[str, Any] = {}
        if top.kind == "smallest":
            chosen, search_summary = _smallest(study, unit, ranks, chosen)
        first_units = np.argwhere(chosen)[np.argsort(ranks[chosen])][:_MAX_TOKEN_UNITS]
        layer, index = (index.ravel() for index in np.indices(ranks.shape))
        columns = {
            "layer": (layer, "key", "block"),
            unit.name: (
                index,
                "key",
                f"one of the block's {unit.plural}, a part of the input of {unit.matrix}",
            ),
            "score": (scores.score.ravel(), "measure", scores.meaning),
            "rank": (ranks.ravel(), "measure", "1 is the highest signed score"),
            "selected": (chosen.ravel(), "flag", f"within top {top} and above rounding error"),
        }
        extra = {**scores.measures}
        if self.parent is not None:
            columns["subtracted"] = (
                (in_top & ~chosen).ravel(),
                "flag",
                "removed: also selected on the utility prompts",
            )
        if weight_changes is not None:
            extra["weight_change"] = (
                weight_changes,
                f"norm of the change of the {unit.name}'s own weights from base to tuned",
            )
        columns.update(
            {
                name: (values.ravel(), "measure", meaning)
                for name, (values, meaning) in extra.items()
            }
        )
        tokens = active_tokens(study, [(int(a), int(b)) for a, b in first_units], unit)
        summary = {
            "method": method,
            "positions": positions,
            "top": str(top),
            "unit": unit.name,
            f"n_{unit.name}s": int(ranks.size),
            "n_selected": int(chosen.sum()),
            "n_tuned": None if weight_changes is None else int((weight_changes > 0).sum()),
            "positive": len(study.contrast.positive),
            "negative": len(study.contrast.negative),
            "n_subtracted": None if self.parent is None else int((in_top & ~chosen).sum()),
            **search_summary,
            **scores.summary,
        }
        summary["sentence"] = _sentence(summary, scores, unit, study.require_metric().labels.number)
        return table(
            self.name,
            columns,
            provenance=study.provenance(self),
            summary=summary,
            tables={"tokens": tokens, **scores.tables},
        )


def _smallest(
    study: Study, unit: Unit, ranks: np.ndarray, allowed: np.ndarray
) -> tuple[np.ndarray, dict[str, Any]]:
    """The smallest set among the allowed units, and the search's entries of the summary."""
    ranking = [(int(a), int(b)) for a, b in np.argwhere(allowed)[np.argsort(ranks[allowed])]]
    result = search.smallest_set(study, unit, ranking)
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
            f" {summary['best_auc']:.2f}"
        )
        text += f" (the prompt's length alone: {summary['length_auc']:.2f})"
    if summary["n_tuned"] is not None:
        text += f"; fine-tuning changed the weights of {summary['n_tuned']:,} {unit.name}s"
    return text + "."


__all__ = ["METHODS", "LocateNeurons"]
