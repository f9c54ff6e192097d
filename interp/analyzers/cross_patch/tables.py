"""Tables of events, cells, depths, rotations and controls."""

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
    "late_base": "what the fine-tuned model's late blocks add on the base's stream",
    "late_tuned": "what they add on the fine-tuned model's own stream",
    "interaction": "late_tuned minus late_base",
    "upstream_base": "what the fine-tuned model's stream adds in the base's late blocks",
    "upstream_tuned": "what it adds in the fine-tuned model's late blocks",
}
PLACES = ("all", "first", "later")
NAN = float("nan")


class EventRow(PromptRow):
    """A prompt at which the models' greedy answers part."""

    position: int = key("token of the answer at which they part, from 0")
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
    """An event that was kept, at one depth, by one readout."""

    depth: int = key("blocks of the upstream model, from 0")
    readout: str = key("model whose final norm and head reads all four cells")
    first: bool = flag("the answers part at their first token")
    late_base: float = measure(MEANINGS["late_base"], "logits")
    late_tuned: float = measure(MEANINGS["late_tuned"], "logits")
    interaction: float = measure(MEANINGS["interaction"], "logits")
    upstream_base: float = measure(MEANINGS["upstream_base"], "logits")
    upstream_tuned: float = measure(MEANINGS["upstream_tuned"], "logits")
    shift: float = measure("native margin of the fine-tuned model minus the base's", "logits")


class DepthRow:
    """A depth, for all events or for those at the first or a later token."""

    readout: str = CellRow.readout
    place: str = key("events: all, at the first token of the answer, or later")
    depth: int = CellRow.depth
    events: int = measure("number of events")
    shift: float = measure("mean native shift", "logits")
    late_base: float = measure(f"{MEANINGS['late_base']}, over the shift")
    late_base_low: float = measure("lower end of its interval")
    late_base_high: float = measure("upper end of its interval")
    late_tuned: float = measure(f"{MEANINGS['late_tuned']}, over the shift")
    late_tuned_low: float = measure("lower end of its interval")
    late_tuned_high: float = measure("upper end of its interval")
    interaction: float = measure(f"{MEANINGS['interaction']}, over the shift")
    interaction_low: float = measure("lower end of its interval")
    interaction_high: float = measure("upper end of its interval")
    upstream_base: float = measure(f"{MEANINGS['upstream_base']}, over the shift")
    upstream_base_low: float = measure("lower end of its interval")
    upstream_base_high: float = measure("upper end of its interval")
    control_interaction: float = measure("interaction, mean over the controls; NaN without one")


class TermsRow:
    """Terms at the depth of the claims, by the fine-tuned model's readout, at own divergences."""

    events: int = measure("events that were kept")
    shift: float = measure("mean native shift; NaN without an event", "logits")
    late_base: float = measure(f"{MEANINGS['late_base']}, over the shift")
    late_tuned: float = measure(f"{MEANINGS['late_tuned']}, over the shift")
    interaction: float = measure(f"{MEANINGS['interaction']}, over the shift")


class RotationRow(TermsRow, DrawRow):
    """A random rotation of the change."""

    parted: bool = flag("some answer parts, so that there are terms")


class CrossPatchControlRow(TermsRow, ControlRow):
    """A control fine-tune."""


def events_table(study: Study, measured: CrossPatch) -> Table:
    """One row per prompt at which the answers part."""
    shift = measured.terms("tuned")["shift"]
    records = [
        {
            **_keys(study, event),
            "position": len(event.answer),
            "base_token": study.pair.decode([event.base_token]),
            "tuned_token": study.pair.decode([event.tuned_token]),
            "base_margin": measured.native[at, 0],
            "tuned_margin": measured.native[at, 1],
            "shift": shift[at, 0],
            "kept": measured.kept[at],
        }
        for at, event in enumerate(measured.events)
    ]
    return records_table(EventRow, "", records)


def cells_table(study: Study, measured: CrossPatch) -> Table:
    """One row per kept event, depth and readout."""
    records = []
    for readout in READOUTS:
        terms = measured.terms(readout)
        for at in np.flatnonzero(measured.kept).tolist():
            event = measured.events[at]
            shared = {**_keys(study, event), "readout": readout, "first": not event.answer}
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
    clusters = np.array([_keys(study, event)["cluster"] for event in measured.events], object)
    first = np.array([not event.answer for event in measured.events], bool)
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
                    "events": int(rows.sum()),
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
        {"draw": draw, "parted": bool(each.kept.any()), **_terms(each, 0)}
        for draw, each in enumerate(rotated)
    ]
    return records_table(RotationRow, "", records)


def shares_of_controls(names: Sequence[str], controls: Sequence[CrossPatch], depth: int) -> Table:
    """One row per control."""
    terms = [_terms(each, depth) for each in controls]
    numbers = {name: [each[name] for each in terms] for name in terms[0]}
    return controls_table(names, row=CrossPatchControlRow, numbers=numbers)


def _terms(measured: CrossPatch, depth: int) -> dict[str, int | float]:
    shares = measured.shares(depth)
    names = ("shift", "late_base", "late_tuned", "interaction")
    return {"events": int(measured.kept.sum()), **{name: shares[name] for name in names}}


def _keys(study: Study, event: Divergence) -> dict[str, int | str]:
    prompt = study.prompts(event.group).prompts[event.row]
    return {"group": event.group, "prompt_id": prompt.id, "cluster": prompt.cluster}
