"""Do methods agree on where fine-tuning changed the model? Compares stored runs of one pair over
the same blocks and matrices.

Every method measures in its own units: neurons have scores, matrices have intruder dimensions,
grafts have weights, blocks have contributions. Each is converted to an intensity per place (amount
divided by the possible amount), so that a large matrix does not appear to agree merely because it
is large. Two methods are compared at the finest level that both have: single heads, single
matrices, attention and MLP, or whole blocks. The null of their rank correlation permutes
intensities among all heads, else among the blocks within each kind of matrix, because a difference
between MLPs and attention is not agreement on depth.

Limits of depth profiles: neighbouring blocks are alike in many ways, so two smooth profiles agree
more often than permuted ones. Where methods agree only because all follow how far the weights
moved, ``beyond_movement`` is near zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, ClassVar

import numpy as np

from interp.agreement.comparison import MethodComparison, agreement_table, cells_table, null_table
from interp.agreement.places import METHODS, POOLED_METHODS, Place, PlaceRow, method_name
from interp.claims import Finding, conclude, evaluate
from interp.errors import OptionError
from interp.provenance import Provenance, environment
from interp.rows import columns_of, rows_table
from interp.table import Table

ROLES = ("base", "tuned", "adapter")


@dataclass(frozen=True)
class Runs:
    """Two or more stored runs of one pair of models, and a random seed.

    Raises OptionError for runs of different models, for kinds without places, and for fewer than
    two runs.
    """

    tables: Sequence[Table]
    seed: int = 0

    def __post_init__(self) -> None:
        if len({run.require_provenance().key for run in self.tables}) < 2:
            raise OptionError(
                "agreement needs at least two runs; give keys of stored runs (interp ls)"
            )
        first = self.tables[0].require_provenance()
        for run in self.tables:
            provenance = run.require_provenance()
            if run.kind not in METHODS:
                raise OptionError(
                    f"run {provenance.key} is of kind {run.kind}, which has no places to compare;"
                    f" use {', '.join(METHODS)}"
                )
            for role in ROLES:
                if provenance.inputs.get(role) != first.inputs.get(role):
                    raise OptionError(
                        f"runs {first.key} and {provenance.key} are of different models ({role});"
                        " use one pair"
                    )
        names = {method_name(run) for run in self.tables}
        if len(names) == 1 and names <= {*POOLED_METHODS}:
            raise OptionError(
                f"all runs are of interp {self.tables[0].kind.replace('-', ' ')}, which are pooled:"
                " nothing is left to compare them with; add a run of another method"
            )

    def provenance(self, analyzer: Any) -> Provenance:
        """The provenance of this analyzer's result on these runs."""
        first = self.tables[0].require_provenance()
        inputs = {role: first.inputs[role] for role in ROLES if first.inputs.get(role)}
        inputs |= {
            "runs": sorted(run.require_provenance().key for run in self.tables),
            "seed": self.seed,
        }
        context = {name: first.context[name] for name in ("base", "tuned") if name in first.context}
        context["environment"] = environment()
        return Provenance(analyzer.name, analyzer.version, analyzer.options, None, inputs, context)


@dataclass(frozen=True)
class Agreement:
    """Places of changes by several runs, and their agreement beyond chance; ``draws`` is the number
    of permutations.

    Returns a table of kind ``places``, one row per run, block and part. The table ``agreement`` has
    one row per pair of methods, ``cells`` the compared intensities, ``null`` the correlations of
    permuted intensities.
    """

    name: ClassVar[str] = "places"
    version: ClassVar[int] = 2

    draws: int = 999

    @property
    def options(self) -> dict[str, Any]:
        """What determines the numbers."""
        return asdict(self)

    def __call__(self, runs: Runs) -> Table:
        """Compare the runs."""
        if self.draws < 19:
            raise OptionError(f"{self.draws} draws cannot give p <= 0.05; use at least 19")
        tables = sorted(
            runs.tables,
            key=lambda run: (list(METHODS).index(run.kind), run.require_provenance().key),
        )
        places_by_method: dict[str, list[Place]] = {}
        keys: dict[str, str] = {}
        for name, run in zip(_method_names(tables), tables, strict=True):
            places_by_method.setdefault(name, []).extend(METHODS[run.kind][1](run))
            key = run.require_provenance().key
            keys[name] = f"{keys[name]} {key}" if name in keys else key
        movement = next((name for name in places_by_method if name.startswith("movement")), None)
        generator = np.random.default_rng(runs.seed)
        pairs = [
            MethodComparison.from_places(a, b, places_by_method, movement, generator, self.draws)
            for a, b in combinations(places_by_method, 2)
        ]
        silent = [
            name
            for name, places in places_by_method.items()
            if not any(place.amount for place in places)
        ]
        run = rows_table(
            PlaceRow,
            self.name,
            _place_columns(places_by_method, keys),
            provenance=runs.provenance(self),
            summary={"methods": keys, "silent": silent},
            tables={
                "agreement": agreement_table(pairs),
                "cells": cells_table(pairs),
                "null": null_table(pairs),
            },
        )
        claims = [pair.claim for pair in pairs]
        findings = evaluate(claims, run)
        return conclude(
            run,
            claims,
            lead=_sentence(findings, silent),
            supported=any(finding.supported for finding in findings),
        )


def _method_names(tables: Sequence[Table]) -> list[str]:
    """One name per run: its method, followed by its key if several runs have the same method and
    are not pooled.
    """
    names = [method_name(run) for run in tables]
    keys = [run.require_provenance().key for run in tables]
    return [
        f"{name} {key[:8]}" if names.count(name) > 1 and name not in POOLED_METHODS else name
        for name, key in zip(names, keys, strict=True)
    ]


def _sentence(findings: Sequence[Finding], silent: Sequence[str]) -> str:
    n_supported = sum(finding.supported for finding in findings)
    compared = sum(not np.isnan(finding.value) for finding in findings)
    sentence = (
        f"{n_supported} of {compared} pairs of methods agree beyond chance on where fine-tuning"
        " changed the model."
    )
    return sentence + (f" No change found by: {', '.join(silent)}." if silent else "")


def _place_columns(
    places_by_method: Mapping[str, Sequence[Place]], keys: Mapping[str, str]
) -> dict[str, list]:
    rows = [
        (
            keys[name],
            name,
            *place,
            place.amount / place.size if place.size else 0.0,
            place.amount / (total or 1.0),
        )
        for name, places in places_by_method.items()
        for total in [sum(place.amount for place in places)]
        for place in places
    ]
    return {name: [row[at] for row in rows] for at, name in enumerate(columns_of(PlaceRow))}
