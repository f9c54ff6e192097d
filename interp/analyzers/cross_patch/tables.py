"""Tables of divergences, cells, depths, rotations and controls."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from interp.analyzers.cross_patch.compute import READOUTS, TERMS, CrossPatch
from interp.claims.control_fine_tunes import ControlRow, controls_table
from interp.experiments.first_divergence import Divergence
from interp.experiments.records import records_table
from interp.maths.intervals import cluster_interval
from interp.rows import DrawRow, PromptRow, flag, key, measure, text
from interp.study import Study
from interp.table import Table

MEANINGS = {
    "late_on_base": "what the fine-tuned model's late blocks add on the base's stream",
    "late_on_tuned": "what they add on the fine-tuned model's own stream",
    "interaction": "late_on_tuned minus late_on_base",
    "upstream_in_base": "what the fine-tuned model's stream adds in the base's late blocks",
    "upstream_in_tuned": "what it adds in the fine-tuned model's late blocks",
}
PLACES = ("all", "first", "later")
NAN = float("nan")


class DivergenceRow(PromptRow):
    """A prompt at which the models' greedy answers diverge."""

    position: int = key("token of the answer at which they diverge, from 0")
    base_token: str = text("what the base writes there")
    tuned_token: str = text("what the fine-tuned model writes there")
    base_margin: float = measure("the base's logit of its token minus that of the other", "logits")
    tuned_margin: float = measure("the fine-tuned model's, of its own token", "logits")
    shift: float = measure(
        "margin of the fine-tuned model's token in it minus in the base, both read by its final"
        " norm and head",
        "logits",
    )
    kept: bool = flag("both margins are at least twice the rounding")


class CellRow(PromptRow):
    """A divergence that was kept, at one depth, by one readout."""

    depth: int = key("blocks of the upstream model, from 0")
    readout: str = key("model whose final norm and head reads all four cells")
    first: bool = flag("the answers diverge at their first token")
    late_on_base: float = measure(MEANINGS["late_on_base"], "logits")
    late_on_tuned: float = measure(MEANINGS["late_on_tuned"], "logits")
    interaction: float = measure(MEANINGS["interaction"], "logits")
    upstream_in_base: float = measure(MEANINGS["upstream_in_base"], "logits")
    upstream_in_tuned: float = measure(MEANINGS["upstream_in_tuned"], "logits")
    shift: float = measure("native margin of the fine-tuned model minus the base's", "logits")


class DepthRow:
    """A depth, for all divergences or for those at the first or a later token."""

    readout: str = CellRow.readout
    place: str = key("divergences: all, at the first token of the answer, or later")
    depth: int = CellRow.depth
    divergences: int = measure("number of divergences")
    shift: float = measure("mean native shift", "logits")
    late_on_base: float = measure(f"{MEANINGS['late_on_base']}, over the shift")
    late_on_base_low: float = measure("lower end of its interval")
    late_on_base_high: float = measure("upper end of its interval")
    late_on_tuned: float = measure(f"{MEANINGS['late_on_tuned']}, over the shift")
    late_on_tuned_low: float = measure("lower end of its interval")
    late_on_tuned_high: float = measure("upper end of its interval")
    interaction: float = measure(f"{MEANINGS['interaction']}, over the shift")
    interaction_low: float = measure("lower end of its interval")
    interaction_high: float = measure("upper end of its interval")
    upstream_in_base: float = measure(f"{MEANINGS['upstream_in_base']}, over the shift")
    upstream_in_base_low: float = measure("lower end of its interval")
    upstream_in_base_high: float = measure("upper end of its interval")
    control_interaction: float = measure("interaction, mean over the controls; NaN without one")


class TermsRow:
    """Terms at the depth of the claims, by the fine-tuned model's readout, at own divergences."""

    divergences: int = measure("divergences that were kept")
    shift: float = measure("mean native shift; NaN without a divergence", "logits")
    late_on_base: float = measure(f"{MEANINGS['late_on_base']}, over the shift")
    late_on_tuned: float = measure(f"{MEANINGS['late_on_tuned']}, over the shift")
    interaction: float = measure(f"{MEANINGS['interaction']}, over the shift")


class RotationRow(TermsRow, DrawRow):
    """A random rotation of the change."""

    diverged: bool = flag("some answer diverges, so that there are terms")


class ExchangedTokensRow(TermsRow, DrawRow):
    """Random tokens of other prompts in place of a prompt's own; shares are of the own shift."""


class CrossPatchControlRow(TermsRow, ControlRow):
    """A control fine-tune."""


def divergences_table(study: Study, measured: CrossPatch) -> Table:
    """One row per prompt at which the answers diverge."""
    shift = measured.terms("tuned")["shift"]
    records = [
        {
            **_keys(study, divergence),
            "position": len(divergence.answer),
            "base_token": study.pair.decode([divergence.base_token]),
            "tuned_token": study.pair.decode([divergence.tuned_token]),
            "base_margin": measured.native[at, 0],
            "tuned_margin": measured.native[at, 1],
            "shift": shift[at, 0],
            "kept": measured.kept[at],
        }
        for at, divergence in enumerate(measured.divergences)
    ]
    return records_table(DivergenceRow, "", records)


def cells_table(study: Study, measured: CrossPatch) -> Table:
    """One row per kept divergence, depth and readout."""
    records = []
    for readout in READOUTS:
        terms = measured.terms(readout)
        for at in np.flatnonzero(measured.kept).tolist():
            divergence = measured.divergences[at]
            shared = {
                **_keys(study, divergence),
                "readout": readout,
                "first": not divergence.answer,
            }
            records += [
                {
                    **shared,
                    "depth": depth,
                    **{name: values[at, depth] for name, values in terms.items()},
                }
                for depth in range(terms["shift"].shape[1])
            ]
    return records_table(CellRow, "", records)


def layers_table(study: Study, measured: CrossPatch, controls: Sequence[CrossPatch]) -> Table:
    """One row per readout, place and depth, with intervals over clusters of prompts."""
    clusters = np.array(
        [_keys(study, divergence)["cluster"] for divergence in measured.divergences], object
    )
    first = np.array([not divergence.answer for divergence in measured.divergences], bool)
    records = []
    for readout in READOUTS:
        terms = measured.terms(readout)
        of_controls = [each.terms(readout) for each in controls]
        for place in PLACES:
            rows = measured.kept & {"all": first | ~first, "first": first, "later": ~first}[place]
            if not rows.any():
                continue
            for depth in range(terms["shift"].shape[1]):
                record = {
                    "readout": readout,
                    "place": place,
                    "depth": depth,
                    "divergences": int(rows.sum()),
                    "shift": float(terms["shift"][rows, depth].mean()),
                    "control_interaction": NAN,
                }
                for name in TERMS[:4]:
                    interval = cluster_interval(
                        terms[name][rows, depth],
                        clusters[rows],
                        over=terms["shift"][rows, depth],
                    )
                    record |= dict(
                        zip((name, f"{name}_low", f"{name}_high"), interval, strict=True)
                    )
                if place == "all" and of_controls:
                    shares = [each.shares(depth, readout)["interaction"] for each in controls]
                    record["control_interaction"] = float(np.mean(shares))
                records.append(record)
    return records_table(DepthRow, "", records)


def rotations_table(rotated: Sequence[CrossPatch]) -> Table:
    """One row per rotation."""
    records = [
        {"draw": draw, "diverged": bool(each.kept.any()), **_terms(each, 0)}
        for draw, each in enumerate(rotated)
    ]
    return records_table(RotationRow, "", records)


def exchanged_table(measured: CrossPatch, depth: int) -> Table:
    """One row per draw of tokens of other prompts."""
    names = TermsRow.__annotations__
    records = [
        {"draw": draw, **{name: shares[name] for name in names}}
        for draw, shares in enumerate(measured.exchanged_shares(depth))
    ]
    return records_table(ExchangedTokensRow, "", records)


def shares_of_controls(names: Sequence[str], controls: Sequence[CrossPatch], depth: int) -> Table:
    """One row per control."""
    terms = [_terms(each, depth) for each in controls]
    numbers = {name: [each[name] for each in terms] for name in terms[0]}
    return controls_table(names, row=CrossPatchControlRow, numbers=numbers)


def _terms(measured: CrossPatch, depth: int) -> dict[str, int | float]:
    shares = measured.shares(depth)
    names = ("shift", "late_on_base", "late_on_tuned", "interaction")
    return {"divergences": int(measured.kept.sum()), **{name: shares[name] for name in names}}


def _keys(study: Study, divergence: Divergence) -> dict[str, int | str]:
    prompt = study.prompts(divergence.group).prompts[divergence.row]
    return {"group": divergence.group, "prompt_id": prompt.id, "cluster": prompt.cluster}
