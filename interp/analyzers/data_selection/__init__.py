"""``DataSelection``: which rows of a pool resemble, or complete, a target?

Three ways to score a row, each next to random rows:

* ``got-d``: optimal transport from the pool to the target; rows to which the target gives more
  weight than the pool come first, so those of which the pool has too little, not those that look
  most like the target (Kang et al. 2024, arXiv 2405.02774).
* ``mona``: generalised Jaccard similarity of mean latent codes (2025, arXiv 2503.15573).
* ``bm25``: words in common.

Where it departs from the references: GOT-D's embedding and code could not be compared. Here a row
is the mean residual stream of the given model over its tokens at one depth, costs are over their
median, and the pool stands for what the model was trained on. MONA takes the 192 largest latents of
a sparse autoencoder at the last block but one. Without a dictionary file, the model's own MLP
neurons after one block stand in for latents, the largest positive ones of every token: this is
another method than the published one.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from interp.analyzers.data_selection.findings import (
    GOT_D,
    LENGTH,
    METHODS,
    MONA,
    Scores,
    Settings,
    claims_of,
    ordinary_table,
    recall_tables,
    score_rows,
    selection_table,
)
from interp.analyzers.data_selection.rows import (
    Encoder,
    ReadRows,
    largest,
    largest_codes,
    read_rows,
    shared_rows,
)
from interp.analyzers.framework import Analyzer, Known, Needs, Result, option
from interp.errors import OptionError
from interp.experiments.cost import Work
from interp.sae import Dictionary
from interp.sites import Site
from interp.study import Study
from interp.table import Table

RESEMBLANCE = (
    "A row that resembles the target need not teach what the target needs: nothing was trained on"
    " the selected rows."
)
LACKING = (
    "Optimal transport takes what the pool has too little of; of a pool unlike the model's training"
    " data that is not what the model lacks."
)
NO_MARKS = "No row was said to be wanted: how many such rows were found is not known (--marks)."
NEURONS = "Codes are the model's own MLP neurons, not those of a sparse autoencoder."
_TOP = re.compile(r"([0-9]+(?:\.[0-9]+)?)(%?)")
NOTABLE = 0.1
"""Distance of the AUC of length from 1/2 beyond which it is mentioned."""
TOLERATED = 1e-3
"""Largest error of the plan's sums that is not mentioned."""


@dataclass(frozen=True)
class DataSelection(Analyzer):
    """Rows of a pool by their resemblance to target rows, as one model reads them.

    The target is the study's positive class, the pool its negative one; the model is the study's
    (fine-tuned) one. Returns a table of kind ``data-selection``, one row per row of the pool in the
    order of the first method, with ``ordinary`` (targets drawn from the pool), and with ``marked``
    (which rows are wanted) ``recall``, ``found`` and ``permuted``.
    """

    name: ClassVar[str] = "data-selection"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(negatives=True)

    marked: Sequence[bool] = option((), "Whether each row of the pool is one that is wanted.")
    methods: tuple[str, ...] = option(
        METHODS, "Methods; the first decides which rows are selected.", choices=METHODS
    )
    top: str = option("5%", "Rows that are selected: 5%, or a number of rows.")
    depth: float = option(
        0.5, "Blocks passed where rows are read, as a share of all blocks.", ge=0.0, le=1.0
    )
    tokens: str = option(
        "answers",
        "Tokens of a conversation that count: those of its answers, or all. Of a text all count.",
        choices=("answers", "all"),
    )
    dictionary: Dictionary | None = option(
        None, "Dictionary whose codes are compared.", compare=False
    )
    site: str = option("", "Site that the dictionary reads: blocks.3.hook_resid_post.")
    kept: int = option(192, "Codes kept per token; of MLP neurons at most an eighth of them.", ge=1)
    scale: str = option(
        "none",
        "Codes as they are, over their sum by row, or over each latent's largest value.",
        choices=("none", "row", "latent"),
    )
    epsilon: float = option(
        0.05, "Weight of the entropy in optimal transport, in median squared distances.", ge=1e-4
    )
    k1: float = option(1.5, "BM25: saturation of a word's count.", ge=0.0)
    b: float = option(0.75, "BM25: correction for a row's length.", ge=0.0, le=1.0)
    draws: int = option(200, "Permutations of the marks.", ge=39)
    ordinary: int = option(20, "Targets drawn from ordinary rows; selections of random rows.", ge=6)

    def check(self, known: Known) -> None:
        """Raise OptionError for options that do not fit each other."""
        del known
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise OptionError(
                f"methods are {', '.join(self.methods) or 'none'}; name each once, of"
                f" {', '.join(METHODS)}"
            )
        taken_of(self.top, 1)
        if self.dictionary is not None and self.dictionary.config.models != 1:
            raise OptionError("a crosscoder reads two models; give a dictionary of one")
        if self.dictionary is not None and not self.site:
            raise OptionError(
                "the site of the dictionary is not known; give site blocks.3.hook_resid_post"
            )

    def require(self, study: Study) -> None:
        """As ``Analyzer``; marks must be one per row of the pool, of both kinds."""
        super().require(study)
        if not isinstance(study, Study):
            return
        pool = study.prompts("negative")
        taken_of(self.top, len(pool))
        if len(pool) < 4:
            raise OptionError(f"the pool {pool.source} has {len(pool)} rows; give at least 4")
        if self.dictionary is None:
            study.pair.tuned.anatomy.require_neurons()
        if not len(self.marked):
            return
        if len(self.marked) != len(pool):
            raise OptionError(
                f"{len(self.marked)} rows are marked or not, and the pool has {len(pool)}; give one"
                " mark per row, in the same order"
            )
        if not 0 < sum(self.marked) <= len(pool) - 3:
            raise OptionError(
                f"{sum(self.marked)} of {len(pool)} rows are marked; mark at least one, and leave"
                " at least three"
            )

    def work(self, study: Study) -> Work:
        """A pass over target and pool."""
        del study
        return Work(passes=1.1)

    def run(self, study: Study) -> Result:
        """Read both classes, score the pool, and score it for targets drawn from itself."""
        stream, codes, encode = self.places(study)
        target, pool = (
            read_rows(study, group, stream, codes, encode, self.tokens)
            for group in ("positive", "negative")
        )
        settings = Settings(self.epsilon, self.scale, self.k1, self.b)

        def score(part: ReadRows, of: ReadRows) -> Scores:
            return score_rows(self.methods, part, of, settings)

        rows, marked = study.prompts("negative"), np.zeros(len(pool.texts), bool)
        if len(self.marked):
            marked = np.array(self.marked, bool)
        scores, taken = score(pool, target), taken_of(self.top, len(rows))
        tables = {
            "ordinary": ordinary_table(
                score,
                scores,
                pool,
                len(target.texts),
                taken,
                marked,
                study.progress(range(self.ordinary), "ordinary targets"),
                study.seed,
            )
        }
        arrangements = np.inf
        if marked.any():
            further, arrangements = recall_tables(
                scores, rows, pool.lengths, marked, (self.draws, self.ordinary), study.seed
            )
            tables |= further
        return Result(
            selection_table(scores, rows, pool, taken, self.marked),
            tables,
            claims_of(self.methods, len(rows), int(marked.sum()), arrangements),
            {
                "selected": taken,
                "methods": list(self.methods),
                "stream": str(stream),
                "codes": str(codes),
                "marked": int(marked.sum()),
                "shared": shared_rows(rows, study.prompts("positive")),
                "transport_error": scores.error,
            },
            [*self._limits(study, scores), *_length_alone(tables)],
        )

    def places(self, study: Study) -> tuple[Site, Site, Encoder]:
        """Where the stream is read, where codes are, and how they are made."""
        model = study.pair.tuned
        passed = round(self.depth * model.anatomy.n_layers)
        block = max(passed - 1, 0)
        stream = Site(block, "hook_resid_post" if passed else "hook_resid_pre")
        if self.dictionary is not None:
            site = Site.parse(self.site)
            model.at(site)
            return stream, site, largest_codes(self.dictionary, self.kept)
        kept = max(1, min(self.kept, model.anatomy.n_neurons // 8))
        return stream, Site(block, "mlp.hook_post"), largest(kept)

    def _limits(self, study: Study, scores: Scores) -> list[str]:
        shared = shared_rows(study.prompts("negative"), study.prompts("positive"))
        return [
            RESEMBLANCE,
            *([LACKING] if GOT_D in self.methods else []),
            *([NEURONS] if MONA in self.methods and self.dictionary is None else []),
            *([] if len(self.marked) else [NO_MARKS]),
            *([f"{shared} rows of the target are also in the pool."] if shared else []),
            *(
                [f"Optimal transport did not converge: sums are off by {scores.error:.1%}."]
                if scores.error > TOLERATED
                else []
            ),
        ]


def _length_alone(tables: Mapping[str, Table]) -> list[str]:
    """That the length of a row tells as much as a method does, where it does."""
    if "recall" not in tables:
        return []
    by_method = {row["method"]: row["auc"] for row in tables["recall"].rows()}
    auc = by_method[LENGTH]
    if abs(auc - 0.5) <= NOTABLE:
        return []
    longer = "longer" if auc > 0.5 else "shorter"
    return [
        f"Marked rows are {longer} than the others: the AUC of length alone is {auc:.2f}. A method"
        " may have found them by their length or their format."
    ]


def taken_of(top: str, rows: int) -> int:
    """Number of rows that ``top`` selects, at least 1; OptionError for what is no number of rows.

    ``rows`` 1: of the text only its form is checked.
    """
    match = _TOP.fullmatch(top.strip())
    value = float(match[1]) if match else 0.0
    is_share = match is not None and bool(match[2])
    if not value or (is_share and value > 100) or (not is_share and value != int(value)):
        raise OptionError(f"top is {top!r}; give a percentage (5%) or a number of rows (100)")
    if is_share:
        return max(1, round(rows * value / 100))
    if rows > 1 and value > rows:
        raise OptionError(f"top is {top}, and the pool has {rows} rows; select fewer")
    return int(value)
