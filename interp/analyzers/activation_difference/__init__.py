"""``ActivationDifference``: what does the mean difference of the two models' streams say?

The activation difference lens (arXiv 2510.13900): on ordinary texts that both models read, the mean
over texts of the fine-tuned model's residual stream minus the base's, at the first five positions
and several depths. A narrow fine-tune leaves a constant trace there, even on unrelated texts. It is
read by the logit lens (the ranked table), by patchscope, on request by steering with it, and, where
training text is given, by what removing it does to the loss on that text. Every control fine-tune
is read in the same way.

Where it departs from the reference: position 0 is apart, since it is an attention sink whose stream
is a hundred times longer; the logit lens goes through the base's final norm and head as well as the
fine-tuned model's, since a part of the trace can be in a changed head; the scale of patchscope and
the strength of steering follow from stated rules and not from a language model as a judge, which
names a topic whatever it is shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from interp.analyzers.activation_difference.causal import causal_table
from interp.analyzers.activation_difference.differences import (
    Differences,
    blocks_at,
    difference_of,
    differences_table,
    first_tokens,
    group_name,
    mean_norm_from,
    mean_streams,
    position_batches,
)
from interp.analyzers.activation_difference.lens import GROUPS, ranks_at, scores_at_places
from interp.analyzers.activation_difference.patchscope import (
    PROMPTS,
    RANDOM_DIRECTIONS,
    SCALES,
    patchscope_table,
)
from interp.analyzers.activation_difference.steering import QUESTIONS, steered_table
from interp.analyzers.framework import Analyzer, Needs, Result, evidence_result, option
from interp.errors import OptionError
from interp.experiments.cost import Work
from interp.experiments.discovery import (
    each_model,
    form_tokens,
    model_names,
    of_shared_items,
    token_labels,
)
from interp.experiments.plain_text import coded_texts
from interp.experiments.same_base import require_same_base
from interp.models.pair import Pair
from interp.prompts import Encoded, PromptSet
from interp.study import Study
from interp.table import Table

NORM_TOKENS = 32
"""Tokens of every text whose streams give the mean norm for patchscope."""
LIMIT = (
    "All tokens at one place are readings of one direction: where the direction is unlike those of"
    " the controls, many tokens are beyond them, of which the first ones say most."
)
HEADS = ("base's head", "fine-tuned head")


@dataclass(frozen=True)
class ActivationDifference(Analyzer):
    """Tokens that the mean difference of the residual streams writes; needs a base.

    ``controls``: pairs of the same base and a control fine-tune each. A token's score at a place (a
    block, position 0 or the later ones, a head) is its logit along the difference, in standard
    deviations over the vocabulary, see ``lens.lens_scores``: exactly 0 where the models do not
    differ, and exactly the opposite, through the base's head, where they are exchanged.

    ``training``: texts of the training set, of which a share of what was learned is assigned to the
    difference. Returns a table of kind ``activation-difference``, one row per token and place in
    order of evidence, with ``controls`` (the largest statistic of every model), ``differences``
    (sizes and cosines), and ``patchscope``, ``steered`` and ``causal`` where they are asked for.
    """

    name: ClassVar[str] = "activation-difference"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base=True)

    controls: Sequence[Pair] = option(
        (), "Pairs of the same base and a control fine-tune each.", compare=False
    )
    depths: tuple[float, ...] = option(
        (0.25, 0.5, 0.75, 1.0), "Depths of the blocks that are read, from 0 to 1.", ge=0, le=1
    )
    positions: int = option(5, "First positions of the texts that are read; 0 is apart.", ge=2)
    spread: float = option(
        0.5,
        "Standard deviation between models that all tokens share, in standard deviations over the"
        " vocabulary.",
    )
    rows: int = option(100, "Tokens listed.", ge=1)
    patchscope: bool = option(True, "Also read the differences by patchscope.")
    steer: int = option(0, "Steered answers per question; 0 for none.", ge=0)
    questions: tuple[str, ...] = option(QUESTIONS, "What is asked where answers are steered.")
    training: PromptSet | None = option(None, "Texts of the training set, for the causal share.")

    def require(self, study: Study) -> None:
        """Raise OptionError or PairError for a study or controls that cannot be compared."""
        super().require(study)
        require_same_base(study, self.controls)
        if not self.depths:
            raise OptionError("depths is empty; give one or more from 0 to 1")
        if self.steer and not self.questions:
            raise OptionError("steer needs questions and there are none; give one or more")

    def work(self, study: Study) -> Work:
        """Passes over the first tokens of every text, and over single tokens for patchscope."""
        texts = coded_texts(study, "positive")
        tokens, models = sum(len(text.ids) for text in texts), 1 + len(self.controls)
        passes = (1 + models) * sum(min(self.positions, len(text.ids)) for text in texts) / tokens
        if self.patchscope:
            directions = RANDOM_DIRECTIONS + models * self.positions
            blocks = sum(depth < 1 for depth in self.depths)
            passes += 1 + blocks * directions * len(SCALES) * len(PROMPTS) / tokens
        # up to 14 rounds of answers for every model
        answers = 14 * models * self.steer * len(self.questions) * study.max_new_tokens
        return Work(passes=passes, tokens=answers / len(texts))

    def run(self, study: Study) -> Result:
        """Read the mean differences of the fine-tuned model and of every control."""
        texts, names = coded_texts(study, "positive"), model_names(study, self.controls)
        blocks = blocks_at(self.depths, study.pair.tuned.anatomy.n_layers)
        found, scores = self._read(study, texts, blocks, names)
        places = [
            ", ".join(filter(None, (f"block {block}", group_name(group, self.positions), head)))
            for head in (HEADS if scores.shape[1] == len(HEADS) else ("",))
            for block in blocks
            for group in GROUPS
        ]
        vocabulary = scores.shape[-1]
        form = form_tokens(study.pair.tokenizer, vocabulary)
        evidence = of_shared_items(
            scores.reshape(len(names), -1),
            self.spread,
            limit=self.rows,
            form=np.tile(form, len(places)),
        )
        where, tokens = np.divmod(evidence.rows, vocabulary)
        ranks = ranks_at(scores[0].reshape(len(places), -1), where, tokens)
        return evidence_result(
            self.name,
            evidence,
            names,
            token_labels(study.pair.tokenizer, [int(token) for token in tokens]),
            unit="standard deviations over the vocabulary",
            meaning=(
                "the token's logit along the mean difference of the residual streams, minus the"
                " mean over the vocabulary"
            ),
            where=[places[at] for at in where],
            largest_labels=[
                _label(study, places, int(index), vocabulary) for index in evidence.largest
            ],
            extra={
                "token_id": (tokens, "key", "token id"),
                "rank": (ranks, "measure", "its rank there among the tokens of the same sign"),
            },
            tables=self._tables(study, texts, found, names),
            limits=(LIMIT,),
        )

    def _read(
        self, study: Study, texts: Sequence[Encoded], blocks: Sequence[int], names: Sequence[str]
    ) -> tuple[list[Differences], Float[np.ndarray, "M C L G V"]]:
        """Mean differences of every model, and scores by head, block, group and token.

        One head only where the two give the same in every model.
        """
        base = study.pair.require_base(self.name)
        cut = first_tokens(texts, self.positions)
        groups = position_batches(study, cut, blocks)
        reference = mean_streams(study, base, cut, groups, blocks, "base")
        found, scores = [], []
        for number, pair in each_model(study, self.controls):
            streams = mean_streams(study, pair.tuned, cut, groups, blocks, names[number])
            one = difference_of(reference, streams)
            models = base, pair.tuned
            size = min(model.anatomy.vocabulary for model in models)
            through = [scores_at_places(study.engine, model, one, size) for model in models]
            found.append(one)
            scores.append(np.stack(through).astype(np.float32))
            del pair, models  # so that they are freed before the next are loaded
        size = min(one.shape[-1] for one in scores)
        all_scores = np.stack([one[..., :size] for one in scores])
        if np.array_equal(all_scores[:, 0], all_scores[:, 1]):
            all_scores = all_scores[:, :1]
        return found, all_scores

    def _tables(
        self,
        study: Study,
        texts: Sequence[Encoded],
        by_model: Sequence[Differences],
        names: Sequence[str],
    ) -> dict[str, Table]:
        tables = {"differences": differences_table(names, by_model)}
        if self.patchscope:
            cut = first_tokens(texts, NORM_TOKENS)
            groups, blocks = position_batches(study, cut, by_model[0].blocks), by_model[0].blocks
            streams = mean_streams(study, study.pair.tuned, cut, groups, blocks, "all positions")
            norms = mean_norm_from(streams, self.positions)
            tables["patchscope"] = patchscope_table(study, by_model, names, norms)
        if self.steer:
            tables["steered"] = steered_table(study, by_model, names, self.steer, self.questions)
        if self.training is not None:
            tables["causal"] = causal_table(study, texts, self.training, by_model, names)
        return tables


def _label(study: Study, places: Sequence[str], index: int, vocabulary: int) -> str:
    """The item of a maximum: the token and where it is."""
    if index < 0:
        return ""
    token = token_labels(study.pair.tokenizer, [index % vocabulary])[0]
    return f"{token} ({places[index // vocabulary]})"
