"""Figures: one function per kind of table, found by ``plot``. Only this package and ``report``
import plotly.

A figure's title says what is drawn and, where rows are left out, how many;
``layout.meta["caption"]`` explains how to read it. Text from tables is escaped, because plotly
interprets markup in labels.
"""

from __future__ import annotations

from collections.abc import Callable

from plotly.graph_objects import Figure

from interp.errors import OptionError
from interp.figures.baselines import baselines_figure
from interp.figures.claims import claims_figure
from interp.figures.coalitions import coalitions_figure
from interp.figures.compare import (
    compare_figure,
    compare_layers_figure,
    compare_tokens_figure,
    compare_weights_figure,
)
from interp.figures.conditions import conditions_figure
from interp.figures.control_locations import control_locations_figure
from interp.figures.dissociation import dissociation_figure
from interp.figures.dose import dose_figure
from interp.figures.graft import graft_figure, graft_layers_figure
from interp.figures.intruder_forgetting import intruder_forgetting_figure
from interp.figures.intruder_scaling import intruder_scaling_figure
from interp.figures.intruders import intruders_figure, intruders_image_figure
from interp.figures.overlaps import overlaps_figure
from interp.figures.patching import patching_figure
from interp.figures.places import agreement_figure, places_figure
from interp.figures.random_sets import random_sets_figure
from interp.figures.redundancy import redundancy_figure
from interp.figures.refusal_direction import refusal_direction_figure
from interp.figures.sae_diff import dictionary_classes_figure, dictionary_diff_figure
from interp.figures.sae_eval import (
    dictionary_density_figure,
    dictionary_recovered_figure,
    dictionary_scores_figure,
)
from interp.figures.sae_features import concept_shift_figure, dictionary_features_figure
from interp.figures.sae_probe import (
    dictionary_probe_effects_figure,
    dictionary_probe_figure,
    dictionary_probe_sets_figure,
)
from interp.figures.scores import scores_figure
from interp.figures.stability import stability_figure
from interp.figures.stitch import stitch_figure
from interp.figures.transfer import transfer_figure
from interp.figures.tuco import (
    ftc_alpha_figure,
    tuco_figure,
    tuco_layers_figure,
    tuco_tokens_figure,
)
from interp.table import Table

FIGURES: dict[str, Callable[[Table], Figure]] = {
    "baselines": baselines_figure,
    "claims": claims_figure,
    "coalitions": coalitions_figure,
    "compare": compare_figure,
    "compare-layers": compare_layers_figure,
    "compare-tokens": compare_tokens_figure,
    "compare-weights": compare_weights_figure,
    "control-locations": control_locations_figure,
    "sae-diff-classes": dictionary_classes_figure,
    "sae-eval-density": dictionary_density_figure,
    "sae-diff": dictionary_diff_figure,
    "sae-eval-recovered": dictionary_recovered_figure,
    "sae-eval": dictionary_scores_figure,
    "concept-shift": concept_shift_figure,
    "sae-features": dictionary_features_figure,
    "sae-probe": dictionary_probe_figure,
    "sae-probe-effects": dictionary_probe_effects_figure,
    "sae-probe-sets": dictionary_probe_sets_figure,
    "dissociation": dissociation_figure,
    "dose": dose_figure,
    "ftc-alpha": ftc_alpha_figure,
    "graft": graft_figure,
    "graft-layers": graft_layers_figure,
    "intruder-forgetting": intruder_forgetting_figure,
    "intruder-scaling": intruder_scaling_figure,
    "intruders": intruders_figure,
    "intruders-image": intruders_image_figure,
    "locate-neurons": scores_figure,
    "places": places_figure,
    "places-agreement": agreement_figure,
    "overlaps": overlaps_figure,
    "patching-cells": patching_figure,
    "random-sets": random_sets_figure,
    "redundancy": redundancy_figure,
    "refusal-direction": refusal_direction_figure,
    "sampled": conditions_figure,
    "stability": stability_figure,
    "stitch": stitch_figure,
    "transfer": transfer_figure,
    "tuco": tuco_figure,
    "tuco-layers": tuco_layers_figure,
    "tuco-tokens": tuco_tokens_figure,
    "verify-neurons": conditions_figure,
}


def plot(table: Table) -> Figure:
    """The figure for a table of this kind.

    Raises ``OptionError`` for a kind without a figure and for an empty table.
    """
    if table.kind not in FIGURES:
        raise OptionError(
            f"there is no figure for tables of kind {table.kind!r}: there are {', '.join(FIGURES)}"
        )
    if not len(table):
        raise OptionError(f"the table of kind {table.kind!r} has no rows: there is nothing to draw")
    return FIGURES[table.kind](table)


__all__ = ["FIGURES", "plot"]
