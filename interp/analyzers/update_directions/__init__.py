"""``UpdateDirections``: what does fine-tuning write into the residual stream, and from what?

Of every block, the left singular vectors u of the change of the attention output projection and of
the MLP's down projection ("Watch the Weights", arXiv 2508.00161), with the tokens that u and -u make
likelier and the text that excites the right singular vector most. A direction's score is its share
of the update, ``sigma^2`` over the sum of all squared singular values of these matrices, times
``1 - |P u|^2`` with P the projection onto the directions of all other models: what the controls
write too does not count. Every control's directions are scored against all others in the same way.

Where it departs from the reference: ranks end at the numerical rank, since the vectors beyond it
are arbitrary (of a matrix that did not change they would be the coordinate axes), and directions are
compared with those of control fine-tunes. Left sides are compared: right sides of LoRAs that were
initialised from one seed are alike for that reason alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from interp.analyzers.framework import Analyzer, Needs, Result, evidence_result, option
from interp.analyzers.update_directions.readout import excitations
from interp.analyzers.update_directions.truncation import truncation_table
from interp.errors import UnsupportedModel
from interp.experiments.cost import Work
from interp.experiments.discovery import Evidence, each_model, model_names, of_own_items
from interp.experiments.discovery.lens import lens_tokens, marked_example
from interp.experiments.discovery.update_directions import (
    ModelDirections,
    place_of,
    shares_along,
    shares_outside,
    update_directions,
)
from interp.experiments.plain_text import coded_texts
from interp.experiments.same_base import require_same_base
from interp.models.pair import Pair
from interp.prompts import Encoded
from interp.study import Study

_LIMITS = (
    "A direction says what can be written, not how often, nor whether behaviour depends on it.",
    "Tokens are read by the logit lens: directions that act through later blocks may read as"
    " nothing.",
)


@dataclass(frozen=True)
class UpdateDirections(Analyzer):
    """Singular vectors of the update, beside those of the controls; needs a base.

    ``controls``: pairs of the same base and a control fine-tune each. Returns a table of kind
    ``update-directions``, one row per direction in order of evidence, with ``controls`` (the
    largest score of every model) and ``truncation`` (KL to the fine-tuned model of the base with
    the first ranks of the update only, beside random updates of equal singular values).
    """

    name: ClassVar[str] = "update-directions"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base=True)

    controls: Sequence[Pair] = option(
        (), "Pairs of the same base and a control fine-tune each.", compare=False
    )
    most: int = option(20, "Directions of a matrix at most; never beyond its numerical rank.", ge=1)
    rows: int = option(40, "Directions listed.", ge=1)
    tokens: int = option(8, "Tokens listed for each side of a direction.", ge=1)
    ranks: tuple[int, ...] = option(
        (1, 2, 4, 8, 16), "Ranks of the update that are kept in turn; none for no such table.", ge=1
    )
    truncation_texts: int = option(
        50, "Texts over which truncated updates are compared; 0 for no such table.", ge=0
    )
    draws: int = option(1, "Random updates for every number of ranks.", ge=0)

    def require(self, study: Study) -> None:
        """Raise OptionError or PairError for a study or controls that cannot be compared."""
        super().require(study)
        require_same_base(study, self.controls)

    def work(self, study: Study) -> Work:
        """A pass over every text, and two over some for every truncated update."""
        conditions = 1 + (1 + self.draws) * (1 + len(self.ranks)) if self.ranks else 0
        share = min(1.0, self.truncation_texts / max(1, len(study.prompts("positive"))))
        return Work(passes=1.0, full_logits=2 * conditions * share)

    def run(self, study: Study) -> Result:
        """Decompose the update of every model, rank the directions, read what they write."""
        texts = coded_texts(study, "positive")
        names = model_names(study, self.controls)
        models = []
        for _, pair in each_model(study, self.controls):
            models.append(update_directions(pair, self.most))
            del pair  # so that it is freed before the next is loaded
        evidence, outside, largest = _evidence(models, self.rows)
        own, listed = models[0], evidence.rows.tolist()
        keys = [own.keys[item] for item in listed]
        lefts = [own.matrices[weight].left[:, rank] for weight, rank in keys]
        rights = [own.matrices[weight].right[:, rank] for weight, rank in keys]
        seen = excitations(study, texts, [weight for weight, _ in keys], rights)
        signs = np.where(seen.size < 0, -1.0, 1.0)  # as it is written where it is written most
        oriented = [left * sign for left, sign in zip(lefts, signs, strict=True)]
        lens = lens_tokens(study, np.stack(oriented), self.tokens) if oriented else []
        truncation, limits = self._truncation(study, texts)
        values = [own.matrices[weight].values[rank] for weight, rank in keys]
        return evidence_result(
            self.name,
            evidence,
            names,
            [up for up, _ in lens],
            where=[place_of(*each) for each in keys],
            unit="share of the update",
            meaning=(
                "share of the squared singular values of all output and down projections' changes,"
                " times the part of the direction outside of the other models' directions"
            ),
            examples=[
                marked_example(study, texts, text, position)
                for text, position in zip(seen.text.tolist(), seen.position.tolist(), strict=True)
            ],
            largest_labels=largest,
            extra={
                "layer": (np.array([w.layer for w, _ in keys], np.int64), "key", "block, from 0"),
                "matrix": ([w.matrix for w, _ in keys], "key", "matrix that writes it"),
                "rank": (np.array([r + 1 for _, r in keys], np.int64), "key", "rank, from 1"),
                "sigma": (np.array(values, np.float64), "measure", "singular value of the change"),
                "share": (
                    own.shares[listed],
                    "measure",
                    "its share of all squared singular values",
                ),
                "outside": (
                    outside[listed],
                    "measure",
                    "share of its squared length outside of the other models' directions",
                ),
                "opposite": (
                    [down for _, down in lens],
                    "text",
                    "tokens of the opposite direction",
                ),
            },
            tables={} if truncation is None else {"truncation": truncation},
            limits=(*_LIMITS, *limits),
        )

    def _truncation(self, study: Study, texts: Sequence[Encoded]):
        if not self.ranks or not self.truncation_texts:
            return None, ()
        rows = study.prompts("positive").sample(self.truncation_texts)
        try:
            return truncation_table(study, texts, rows, self.ranks, self.draws), ()
        except UnsupportedModel as error:
            return None, (f"No truncated updates: {error}.",)


def _evidence(
    models: Sequence[ModelDirections], limit: int
) -> tuple[Evidence, np.ndarray, list[str]]:
    """The evidence, ``1 - |P u|^2`` of the first model's directions, and where the largest score
    of every model is.
    """
    outside = shares_outside(models)
    scores = [one.shares * part for one, part in zip(models, outside, strict=True)]
    controls = np.array([shares_along(models[0], other) for other in models[1:]], np.float64)
    controls = controls.reshape(len(models) - 1, len(scores[0]))
    maxima = np.array([one.max(initial=0.0) for one in scores[1:]], np.float64)
    largest = [
        place_of(*one.keys[int(part.argmax())]) if part.size else ""
        for one, part in zip(models, scores, strict=True)
    ]
    return of_own_items(scores[0], controls, maxima, limit=limit), outside[0], largest
