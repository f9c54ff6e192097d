"""Do methods agree on where tuning put something? Stored runs of one pair, laid over the same
blocks and matrices.

Every method says where in its own units: neurons have scores, matrices have intruders, grafts have
weights, blocks add tuned parts. Here each is an intensity per place (what lies there by what could
lie there), so that a large matrix does not agree with another method merely by being large. Two
methods are compared over the finest places that both know: single matrices, attention and MLP, or
whole blocks. Their rank correlation is compared with that of intensities permuted among the blocks,
within each kind of matrix: that MLPs differ from attention is no agreement on depth.

What depth profiles cannot say: neighbouring blocks are alike in many ways, so that two smooth
profiles agree more often than permuted ones; and where methods agree because all follow how far
weights moved, ``beyond_movement`` is near zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, ClassVar

import numpy as np

from interp.agreement.compared import Compared, agreement_table, cells_table, null_table
from interp.agreement.places import METHODS, POOLED, Place
from interp.claims import Finding, conclude, evaluate
from interp.errors import OptionError
from interp.maths.statistics import benjamini_hochberg
from interp.provenance import Provenance, environment
from interp.table import Table, table

ROLES = ("base", "tuned", "adapter")


@dataclass(frozen=True)
class Runs:
    """Two or more stored runs of one pair of models, and a seed: what is under examination here.

    Raises OptionError for runs of other models, of kinds that say nothing about places, or fewer
    than two.
    """

    tables: Sequence[Table]
    seed: int = 0

    def __post_init__(self) -> None:
        if len({run.require_provenance().key for run in self.tables}) < 2:
            raise OptionError(
                "agreement needs two runs at least; give keys of stored runs (interp ls)"
            )
        first = self.tables[0].require_provenance()
        for run in self.tables:
            made = run.require_provenance()
            if run.kind not in METHODS:
                raise OptionError(
                    f"run {made.key} is of kind {run.kind}, which says nothing of places; use"
                    f" {', '.join(METHODS)}"
                )
            for role in ROLES:
                if made.inputs.get(role) != first.inputs.get(role):
                    raise OptionError(
                        f"runs {first.key} and {made.key} are of different models ({role}); use one"
                        " pair"
                    )

    def provenance(self, analyzer: Any) -> Provenance:
        """What a result of this analyzer on these runs is made from."""
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
    """Where runs put things, and how far they agree beyond chance; ``draws`` of every null.

    Returns a table of kind ``places``, one row per run, block and part; ``agreement`` has one row
    per pair of methods, ``cells`` the intensities that were compared, ``null`` the correlations of
    dealt-out intensities.
    """

    name: ClassVar[str] = "places"
    version: ClassVar[int] = 2

    draws: int = 999

    @property
    def options(self) -> dict[str, Any]:
        """What determines the numbers."""
        return asdict(self)

    def __call__(self, runs: Runs) -> Table:
        """Lay the runs over each other."""
        if self.draws < 19:
            raise OptionError(f"{self.draws} draws cannot give p of 0.05; use 19 at least")
        tables = sorted(
            runs.tables,
            key=lambda run: (list(METHODS).index(run.kind), run.require_provenance().key),
        )
        named: dict[str, list[Place]] = {}
        for name, run in zip(_names(tables), tables, strict=True):
            named.setdefault(name, []).extend(METHODS[run.kind][1](run))
        movement = next((name for name in named if name.startswith("movement")), None)
        generator = np.random.default_rng(runs.seed)
        pairs = [
            Compared.of(a, b, named, movement, generator, self.draws)
            for a, b in combinations(named, 2)
        ]
        adjusted = benjamini_hochberg(np.array([pair.p for pair in pairs]))
        made = [pair.claim for pair in pairs]
        keys: dict[str, str] = {}
        for name, run in zip(_names(tables), tables, strict=True):
            own = run.require_provenance().key
            keys[name] = f"{keys[name]} {own}" if name in keys else own
        run = _places(
            named,
            list(keys.values()),
            runs.provenance(self),
            summary={
                "methods": keys,
                "silent": [
                    name
                    for name, places in named.items()
                    if not any(place.amount for place in places)
                ],
            },
            tables={
                "agreement": agreement_table(pairs, adjusted),
                "cells": cells_table(pairs),
                "null": null_table(pairs),
            },
        )
        findings = evaluate(made, run)
        return conclude(
            run,
            made,
            lead=_sentence(findings, named),
            supported=any(one.supported for one in findings),
        )


def _names(tables: Sequence[Table]) -> list[str]:
    """One name per run: of its method, with its key where two runs are of one, unless they are
    taken together.
    """
    names = [METHODS[run.kind][0] for run in tables]
    keys = [run.require_provenance().key for run in tables]
    return [
        f"{name} {key[:8]}" if names.count(name) > 1 and name not in POOLED else name
        for name, key in zip(names, keys, strict=True)
    ]


def _sentence(made: Sequence[Finding], named: Mapping[str, Sequence[Place]]) -> str:
    supported = [one.name for one in made if one.supported]
    silent = [name for name, places in named.items() if not any(place.amount for place in places)]
    compared = sum(not np.isnan(claim.value) for claim in made)
    said = (
        f"{len(supported)} of {compared} pairs of methods agree beyond chance on where tuning"
        " put it."
    )
    return said + (f" Found nothing anywhere: {', '.join(silent)}." if silent else "")


def _places(
    named: Mapping[str, Sequence[Place]], keys: Sequence[str], provenance: Provenance, **parts: Any
) -> Table:
    rows = [
        (
            key,
            name,
            *place,
            place.amount / place.size if place.size else 0.0,
            place.amount / (total or 1.0),
        )
        for key, (name, places) in zip(keys, named.items(), strict=True)
        for total in [sum(place.amount for place in places)]
        for place in places
    ]
    columns = list(zip(*rows, strict=True))
    about = {
        "made_by": ("key", "key of the run, of several taken together all of them"),
        "method": ("key", "which method"),
        "layer": ("key", "block, from 0"),
        "part": ("key", "matrix, attention, mlp, or the whole block"),
        "amount": (
            "measure",
            "of |scores|, intruders, grafted weights, the tuned part's norm, squared movement",
        ),
        "size": (
            "measure",
            "units, vectors, weights, the base part's norm, squared norm that it is out of",
        ),
        "intensity": ("measure", "amount by size"),
        "share": ("measure", "of the method's amount in all places"),
    }
    data = {
        name: (list(values), *said)
        for (name, said), values in zip(about.items(), columns, strict=True)
    }
    return table("places", data, provenance=provenance, **parts)
