"""``LocateNeurons``: score every MLP neuron, rank, select."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from interp.analyzers.base import Analyzer
from interp.analyzers.locate_neurons.methods import METHODS, resolve
from interp.analyzers.locate_neurons.scores import Scores
from interp.analyzers.locate_neurons.selection import Top, rank, select
from interp.analyzers.locate_neurons.tokens import active_tokens
from interp.errors import OptionError
from interp.models.changes import weight_change
from interp.study import Study
from interp.table import Table, table

_SHOWN = 20


@dataclass(frozen=True)
class LocateNeurons(Analyzer):
    """Score every MLP neuron of the tuned model by how much it carries the behaviour.

    ``method``: one of ``METHODS`` or ``auto`` (``integrated`` with a base, else ``act-grad``). ``top``: see ``Top``.
    ``positions``: which tokens are read, ``auto`` for the method's own. ``steps`` of the integral. Returns a table of
    kind ``locate-neurons``, one row per neuron; scores are finite, 0 where nothing changed.
    """

    name: ClassVar[str] = "locate-neurons"
    version: ClassVar[int] = 2
    parent: ClassVar[None] = None

    method: str = "auto"
    top: str = "0.5%"
    positions: str = "auto"
    steps: int = 20

    def check(self, has_base: bool, n_neurons: int | None = None) -> None:
        """Raise OptionError for options that cannot be used; no model is needed."""
        resolve(self.method, self.positions, has_base)
        top = Top.parse(self.top)
        if n_neurons is not None:
            top.count(n_neurons)
        if self.steps < 1:
            raise OptionError(f"--steps {self.steps} integrates over nothing; use at least 1")

    def __call__(self, study: Study) -> Table:
        """Score, rank and select on the study's prompts."""
        has_base, anatomy = study.pair.base is not None, study.pair.tuned.anatomy
        anatomy.require_neurons()
        self.check(has_base, anatomy.n_layers * anatomy.n_neurons)
        study.require_parts()
        method, how, positions = resolve(self.method, self.positions, has_base)
        top = Top.parse(self.top)
        scores = how.score(study, positions, self.steps)
        moved = weight_change(study.pair) if has_base else None
        ranks = rank(scores.score)
        chosen = select(scores.score, scores.floor, top, scores.eligible)
        first = np.argwhere(chosen)[np.argsort(ranks[chosen])][:_SHOWN]
        layer, neuron = (index.ravel() for index in np.indices(ranks.shape))
        columns = {
            "layer": (layer, "key", "block"),
            "neuron": (neuron, "key", "MLP neuron, an input of the down projection"),
            "score": (scores.score.ravel(), "measure", scores.meaning),
            "rank": (ranks.ravel(), "measure", "1 is the highest signed score"),
            "selected": (chosen.ravel(), "flag", f"within top {top} and above rounding error"),
        }
        extra = {**scores.measures}
        if moved is not None:
            extra["weight_change"] = (moved, "norm of the change of the neuron's own weights from base to tuned")
        columns.update({name: (values.ravel(), "measure", meaning) for name, (values, meaning) in extra.items()})
        tokens = active_tokens(study, [(int(a), int(b)) for a, b in first])
        summary = {
            "method": method,
            "positions": positions,
            "top": str(top),
            "n_neurons": int(ranks.size),
            "n_selected": int(chosen.sum()),
            "n_tuned": None if moved is None else int((moved > 0).sum()),
            "positive": len(study.contrast.positive),
            "negative": len(study.contrast.negative),
            **scores.summary,
        }
        summary["sentence"] = _sentence(summary, scores)
        return table(
            self.name, columns, provenance=study.provenance(self), summary=summary,
            tables={"tokens": tokens, **scores.tables},
        )  # fmt: skip


def _sentence(summary: dict, scores: Scores) -> str:
    found, total = summary["n_selected"], summary["n_neurons"]
    text = f"{summary['method']} selects {found:,} of {total:,} MLP neurons (top {summary['top']})"
    if not np.any(np.abs(scores.score) > scores.floor):
        text = f"{summary['method']} finds no MLP neuron that changed: every score is zero to rounding error"
    if summary.get("mlp_share") is not None:
        text += f"; {summary['mlp_share']:.0%} of the rise of the refusal log-odds runs through MLP outputs"
    if "test" in summary:
        text += f"; {summary['n_significant']:,} differ by Student's t {summary['test']}"
    if summary.get("best_auc") is not None:
        text += f"; the best module tells the classes apart at a held-out AUC of {summary['best_auc']:.2f}"
        text += f" (the prompt's length alone: {summary['length_auc']:.2f})"
    if summary["n_tuned"] is not None:
        text += f"; tuning moved the weights of {summary['n_tuned']:,} neurons"
    return text + "."


__all__ = ["METHODS", "LocateNeurons"]
