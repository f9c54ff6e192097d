"""``CrossPatch``: which half of the network decides where the models' answers diverge?

At the first token at which both models' greedy answers diverge, one model's blocks run up to a depth,
at all positions, and the other's from there on; one fixed final norm and head reads all four cells
(arXiv 2605.07284). The margin of the two tokens gives what the late blocks add on either model's
stream, and their interaction. Tokens are picked where the fine-tuned model wins, which biases every
term upwards: independent parts of equal variance alone give an interaction of a third of the
shift. So the same is measured with the change rotated at random, and for control fine-tunes, each
where *its own* answers diverge.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from interp.analyzers.cross_patch.compute import CrossPatch as Measured
from interp.analyzers.cross_patch.compute import cross_patch
from interp.analyzers.cross_patch.exchanged import DRAWS
from interp.analyzers.cross_patch.findings import DIVERGED, claims_of
from interp.analyzers.cross_patch.tables import (
    cells_table,
    divergences_table,
    exchanged_table,
    layers_table,
    rotations_table,
    shares_of_controls,
)
from interp.analyzers.framework import Analyzer, Needs, Result, option
from interp.display import as_sentence
from interp.errors import OptionError, UnsupportedModel
from interp.experiments.cost import Work
from interp.experiments.same_base import require_same_base
from interp.maths.null_updates import seeded
from interp.models.pair import Pair
from interp.models.pairs_on_demand import tuned_names
from interp.models.weight_modules import WeightModules
from interp.study import Study

SIDE_EFFECT = (
    "The divergences are the tokens at which the fine-tuned model chose otherwise: terms are of these"
    " choices, not of answers as a whole."
)
NO_CONTROL = (
    "Rotated changes have the change's singular values and none of its direction. Whether training"
    " on anything else gives the same terms was not measured: no control was given (--control)."
)
FEW_TOKENS = 16


@dataclass(frozen=True)
class CrossPatch(Analyzer):
    """Cross-patching at first divergences, at every depth; needs a base.

    ``controls``: pairs of the same base and a control fine-tune each, at their own divergences.
    ``depth`` sets the depth of the claims, ``round(depth * blocks)`` (the paper's are about 60 %),
    before anything is seen; the table of depths has all. Returns a table of kind ``cross-patch``,
    one row per prompt at which the answers diverge, with ``cells`` (divergence, depth and readout),
    ``layers`` (intervals by depth), ``rotations``, ``exchanged`` (the tokens of other prompts) and,
    with controls, ``controls`` and ``diverged`` (those of them under which answers diverge).
    Rotations take a further copy of the changed weights; where weights cannot be exchanged, as of
    quantised models, there are none. Raises UnsupportedModel for a family whose stream between
    blocks cannot be read exactly.
    """

    name: ClassVar[str] = "cross-patch"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base=True)

    controls: Sequence[Pair] = option(
        (), "Pairs of the same base and a control fine-tune each.", compare=False
    )
    max_new_tokens: int = option(128, "Tokens within which answers have to differ.", ge=1)
    depth: float = option(0.6, "Depth of the claims, as a share of the blocks.", ge=0, le=1)
    rotations: int = option(39, "Random rotations of the change; 0: none.", ge=0)

    def require(self, study: Study) -> None:
        """Raise PairError or UnsupportedModel for a study that cannot be cross-patched."""
        super().require(study)
        anatomy = study.pair.tuned.anatomy
        for hook in ("hook_resid_pre", "hook_resid_post"):
            if hook not in anatomy.targets:
                raise UnsupportedModel(f"{anatomy.architecture} has no exact counterpart of {hook}")
        require_same_base(study, self.controls)
        self._boundary(anatomy.n_layers)

    def _boundary(self, n_layers: int) -> int:
        """The depth of the claims in blocks; OptionError where no block is left above it."""
        boundary = round(self.depth * n_layers)
        if boundary >= n_layers:
            raise OptionError(
                f"depth {self.depth:g} of {n_layers} blocks leaves none to exchange above it; give"
                f" at most {(n_layers - 1) / n_layers:.2f}"
            )
        return boundary

    def work(self, study: Study) -> Work:
        """Two passes and the cells of every depth, for the pair and every control; for rotations
        the cells of one depth. Tokens: answers diverge early as a rule, so few are counted.
        """
        pairs, n_layers = 1 + len(self.controls), study.pair.tuned.anatomy.n_layers
        tokens = min(self.max_new_tokens, FEW_TOKENS)
        passes = pairs * (7 + n_layers) + 9 * self.rotations
        return Work(passes=passes, tokens=tokens * (pairs + self.rotations))

    def run(self, study: Study) -> Result:
        """Measure the pair, rotated changes, and the controls."""
        n_layers = study.pair.tuned.anatomy.n_layers
        boundary = self._boundary(n_layers)
        depths = range(n_layers)
        measured = cross_patch(study, study.pair, depths, self.max_new_tokens, "pair", DRAWS)
        rotated: list[Measured] = []
        controls: list[Measured] = []
        limits: list[str] = []
        if measured.kept.any():
            rotated, limits = self._rotated(study, boundary)
            # indexed each time: a name for one control would keep it in memory beside the next
            for at in range(len(self.controls)):
                title = f"control {at + 1}"
                controls.append(
                    cross_patch(study, self.controls[at], depths, self.max_new_tokens, title)
                )
        divergences = divergences_table(study, measured)
        tables = {
            "cells": cells_table(study, measured),
            "layers": layers_table(study, measured, controls),
            "rotations": rotations_table(rotated),
            "exchanged": exchanged_table(measured, boundary),
        }
        names = tuned_names(self.controls)
        diverged = [bool(each.kept.any()) for each in controls]
        if controls:
            tables["controls"] = shares_of_controls(names, controls, boundary)
            if any(diverged):
                rows = [at for at, own in enumerate(diverged) if own]
                tables[DIVERGED] = shares_of_controls(
                    [names[at] for at in rows], [controls[at] for at in rows], boundary
                )
        summary = {
            "boundary": boundary,
            "blocks": n_layers,
            "prompts": sum(len(study.encoded(group)) for group in study.classes),
            "diverged": len(measured.divergences),
            "kept": int(measured.kept.sum()),
            "dropped": int((~measured.kept).sum()),
            "first_token": sum(
                not divergence.answer
                for divergence, kept in zip(measured.divergences, measured.kept, strict=True)
                if kept
            ),
            "noise": measured.noise,
            "interaction": measured.shares(boundary)["interaction"] if measured.kept.any() else 0.0,
            "exchanged": len(tables["exchanged"]),
            "rotations_diverged": sum(bool(each.kept.any()) for each in rotated),
            "controls": names,
            "controls_diverged": sum(diverged),
        }
        limits = [SIDE_EFFECT, *limits, *([] if self.controls else [NO_CONTROL])]
        if controls and not all(diverged):
            limits.append(
                f"Under {diverged.count(False)} of {len(diverged)} controls no answer diverges within"
                f" {self.max_new_tokens} tokens: there are no terms to compare with."
            )
        if not measured.kept.any():
            return Result(divergences, tables, (), summary, limits, lead=_no_event(summary, self))
        claims = claims_of(boundary, n_layers, len(rotated), len(names), summary)
        return Result(divergences, tables, claims, summary, limits)

    def _rotated(self, study: Study, boundary: int) -> tuple[list[Measured], list[str]]:
        """Rotated changes, or why there are none."""
        if not self.rotations:
            return [], []
        try:
            modules = WeightModules.from_pair(study.pair)
        except UnsupportedModel as error:
            return [], [f"The change could not be rotated: {as_sentence(str(error))}"]
        measured = []
        for draw in study.progress(range(self.rotations), "rotated changes"):
            model = modules.rotated_model("rotated", seeded(study.seed, "rotation", draw))
            base = study.pair.require_base("a rotation")
            pair = Pair(model, base, study.pair.tokenizer, study.pair.digests)
            measured.append(cross_patch(study, pair, [boundary], self.max_new_tokens, "rotated"))
        return measured, []


def _no_event(summary: dict, analyzer: CrossPatch) -> str:
    """Why there is nothing to measure, in one sentence."""
    if not summary["diverged"]:
        return (
            f"The greedy answers of both models to {summary['prompts']} prompts do not diverge within"
            f" {analyzer.max_new_tokens} tokens: there is nothing to measure."
        )
    return (
        f"At all {summary['diverged']} tokens at which answers diverge, a model's own margin is below"
        f" twice its rounding ({np.format_float_positional(summary['noise'], 2, fractional=False)}"
        " logits): there is nothing to measure."
    )


__all__: Sequence[str] = ("CrossPatch",)
