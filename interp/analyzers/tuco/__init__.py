"""``Tuco``: what share of what a model's blocks add to the stream is due to tuning (arXiv 2506.23423).

1. The tuned model reads a prompt; its stream is kept for that batch.
2. The base's blocks read that stream: ``PTC`` is what they would have added, ``FTC`` what the tuned ones add beyond it.
3. Both are summed over blocks as vectors, at the last token of the prompt; TuCo is ``|FTC| / (|PTC| + |FTC|)`` of the
   sums, by sums of magnitudes (L1). The embedding is in neither; what is outside the blocks is not seen.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from interp import claims
from interp.analyzers.base import Analyzer
from interp.analyzers.tuco.compared import rows_and_claims
from interp.analyzers.tuco.passes import Measured, measure, noise
from interp.errors import OptionError, UnsupportedModel
from interp.models.invisible import remarks
from interp.study import Study
from interp.table import Table, table
from interp.trials.split import require_here, sites_needed

ORDERS = (1, 2)


@dataclass(frozen=True)
class Tuco(Analyzer):
    """TuCo of every prompt, ``pre_co`` (one minus it), ``output_co`` and ``beta``; needs a base.

    ``granularity``: ``block`` is the paper's; ``sublayer`` gives the base's MLP what it reads after the tuned
    attention, with the same total in another split. ``positions``: the ``last`` token, or ``all`` tokens as one vector.
    ``path``: ``fast`` takes the base's output projections and MLPs of the last token alone, ``full`` of all, ``auto``
    the fast one where it can. ``order`` of the norm is 1 or 2; dimensions in ``drop`` are left out of it. ``output``
    false leaves out ``output_co`` and with it a pass of the base on its own stream. With two classes, the AUC of
    positive above negative prompts, over all pairs and over those whose lengths differ by at most ``caliper`` tokens.

    Returns a table of kind ``tuco``, one row per prompt, with ``layers`` (sizes and betas after every block), ``floor``
    (the same pair of models taken twice, by arithmetic of another shape) and, for ``all`` positions, ``tokens``.
    """

    name: ClassVar[str] = "tuco"
    version: ClassVar[int] = 1

    granularity: str = "block"
    positions: str = "last"
    path: str = "auto"
    order: int = 1
    drop: tuple[int, ...] = ()
    output: bool = True
    caliper: int = 1
    permutations: int = 200
    floor_prompts: int = 8
    map_prompts: int = 8
    parent: str | None = None

    @property
    def way(self) -> str:
        """The path that is taken."""
        return ("fast" if self.positions == "last" else "full") if self.path == "auto" else self.path

    def check(self) -> None:
        """Raise OptionError for options that mean nothing, before any model is loaded."""
        known = {
            "granularity": ("block", "sublayer"), "positions": ("last", "all"), "path": ("auto", "fast", "full"),
            "order": ORDERS,
        }  # fmt: skip
        for name, values in known.items():
            if (given := getattr(self, name)) not in values:
                raise OptionError(f"unknown {name} {given!r}; use {', '.join(map(str, values))}")
        if self.positions == "all" and self.path == "fast":
            raise OptionError("the fast path is of the last token; take path full (or auto) for all positions")
        if any(dimension < 0 for dimension in self.drop):
            raise OptionError(f"dimensions to drop are counted from 0, not {min(self.drop)}")

    def __call__(self, study: Study) -> Table:
        """Split the tuned stream of every prompt."""
        self.check()
        study.pair.require_base("TuCo")
        require_here(study.engine)
        anatomy = study.pair.tuned.anatomy
        if missing := [hook for hook in sites_needed() if hook not in anatomy.targets]:
            raise UnsupportedModel(f"{anatomy.architecture} has no exact place for {missing[0]}")
        if self.drop and max(self.drop) >= anatomy.width:
            raise OptionError(f"there is no dimension {max(self.drop)} to drop: the stream has {anatomy.width}")
        study.require_parts()
        notes = remarks(study.pair)
        found = [measure(study, self, group) for group in study.classes]
        floor = noise(study, self)
        columns, made, permuted = rows_and_claims(study, self, found, float(np.max(floor["tuco"])))
        tables = {"layers": _layers(found), "floor": floor}
        if self.positions == "all":
            tables["tokens"] = _tokens(found)
        if permuted is not None:
            tables["permuted"] = permuted
        tuco = np.concatenate([part.tuco for part in found])
        return table(
            self.name,
            columns,
            provenance=study.provenance(self),
            summary={
                "sentence": " ".join(claim.sentence for claim in made),
                "shown": all(claim.shown for claim in made),
                "tuco": float(tuco.mean()),
                "output_co": float(np.concatenate([part.output_co for part in found]).mean()),
                "noise_floor": float(np.max(floor["tuco"])),
                "largest_error": max(float(part.errors.max()) for part in found),
                "path": self.way,
                "limits": list(notes),
                **{group: len(study.prompts(group)) for group in study.classes},
            },
            tables={**tables, "claims": claims.to_table(made)},
        )


def _layers(found: list[Measured]) -> Table:
    """One row per prompt and block."""
    shape = [part.betas.shape for part in found]
    places = [np.indices(size) for size in shape]
    ids = [np.array([p.id for p in part.prompts])[place[0]].ravel() for part, place in zip(found, places, strict=True)]
    groups = [part.group for part, size in zip(found, shape, strict=True) for _ in range(size[0] * size[1])]

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name).ravel() for part in found])

    return table("tuco-layers", {
        "group": (groups, "key", "class of the prompt"),
        "prompt_id": (np.concatenate(ids), "key", "position in the prompt file, from 0"),
        "layer": (np.concatenate([place[1].ravel() for place in places]), "key", "block, from 0"),
        "beta": (joined("betas"), "measure", "share of tuning in what the blocks up to and with this one added"),
        "base_size": (joined("base_sizes"), "measure", "norm of what the base's block adds (PTC)"),
        "tuned_size": (joined("tuned_sizes"), "measure", "norm of what the tuned block adds beyond it (FTC)"),
        "cosine": (joined("cosines"), "measure", "of the two"),
        "error": (joined("errors"), "measure", "stream after this block less embedding and both sums, relative to it"),
    })  # fmt: skip


def _tokens(found: list[Measured]) -> Table:
    """One row per prompt, position and block, of the first prompts of each class."""
    rows = [
        (part.group, part.prompts[row].id, position, text, layer, value)
        for part in found
        for row, (words, shares) in part.tokens.items()
        for position, text in enumerate(words)
        for layer, value in enumerate(shares[:, position].tolist())
    ]
    names = {
        "group": ("key", "class of the prompt"), "prompt_id": ("key", "position in the prompt file, from 0"),
        "position": ("key", "token of the prompt, from 0"), "token": ("text", "the token"),
        "layer": ("key", "block, from 0"),
        "beta": ("measure", "share of tuning in what the blocks up to and with this one added at this token"),
    }  # fmt: skip
    values = zip(*rows, strict=True)
    return table("tuco-tokens", {n: (list(v), *about) for (n, about), v in zip(names.items(), values, strict=True)})
