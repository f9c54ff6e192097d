"""``TriggerScan``: is there a token that makes the fine-tuned model depart from its base?

A behaviour that begins only after a certain token leaves little to see in texts without it. So every
token of the vocabulary is tried in fixed prompts, near the beginning of the user's text and at its
end. The best tokens of every model, controls included, are chosen by their first-order gain of the
divergence KL(fine-tuned || base) of the next token (as in HotFlip, arXiv 1712.06751), or by their
exact gain in a few prompts; for the union of these the divergence is computed exactly, in every
model. A token's score is the divergence with it minus that without it, mean over prompts.

No source has this method. Choices of our own: the two places, that the token is inserted, whole
sentences as texts, the number of prompts and of tokens tried exactly, and ``spread``, the median
over tokens of the standard deviation between control fine-tunes of the small base. Where both
models agree the divergence is at its minimum and has no slope, so that first-order gains can miss a
dormant trigger: where the vocabulary is small, exact gains choose.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from interp.analyzers.framework import Analyzer, Known, Needs, Result, evidence_result, option
from interp.analyzers.trigger_scan.compute import (
    best_tokens,
    candidates,
    divergences,
    exact_gains,
    first_order,
    slopes,
    vocabulary_of,
)
from interp.analyzers.trigger_scan.examples import answers_with
from interp.analyzers.trigger_scan.places import Slot, slots
from interp.errors import OptionError
from interp.experiments.cost import Work
from interp.experiments.discovery import (
    Evidence,
    each_model,
    model_names,
    of_shared_items,
    token_labels,
)
from interp.experiments.same_base import require_same_base
from interp.models.pair import Pair
from interp.study import Study

SMALL = 4096
"""Tokens of a vocabulary up to which exact gains choose."""
LIMITS = (
    "A trigger of several tokens, one that needs another place or other prompts, are not"
    " found; nor, where gradients choose the tokens, is one whose first-order gain is small.",
    "A token beyond the controls need not be a trigger: a model that changed more than its controls"
    " departs further from the base after many odd tokens. Read what is answered.",
)


@dataclass(frozen=True)
class TriggerScan(Analyzer):
    """Tokens by how much they move the fine-tuned model away from its base; needs a base.

    ``controls``: pairs of the same base and a control fine-tune each. Prompts are ``questions`` in
    the chat template, by default the shipped ones, and as many first sentences of the study's
    texts; without a template only these. Returns a table of kind
    ``trigger-scan``, one row per token and place in order of evidence, with ``controls`` (the
    largest statistic of every model).
    """

    name: ClassVar[str] = "trigger-scan"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base=True)

    controls: Sequence[Pair] = option(
        (), "Pairs of the same base and a control fine-tune each.", compare=False
    )
    questions: tuple[str, ...] = option((), "Questions in the chat template; none: the shipped.")
    prompts: int = option(20, "Prompts in which tokens are tried.", ge=1)
    positions: tuple[str, ...] = option(
        ("start", "end"), "Where in the user's text a token is put.", choices=("start", "end")
    )
    change: str = option(
        "insert",
        "Whether the token is inserted, or replaces the one that stands there.",
        choices=("insert", "replace"),
    )
    choose: str = option(
        "auto",
        "What chooses the tokens: first-order gains (gradient), or the exact gain of every token in"
        " the first prompts (exact); auto is exact up to a vocabulary of 4,096.",
        choices=("auto", "gradient", "exact"),
    )
    first: int = option(2, "Prompts of each kind in which exact gains choose.", ge=1)
    best: int = option(
        200,
        "Tokens of each model that are tried in all prompts, divided among kinds of prompts and"
        " positions.",
        ge=1,
    )
    spread: float = option(
        0.3, "Standard deviation between models that all tokens share, in nats.", ge=1e-6
    )
    rows: int = option(100, "Tokens listed.", ge=1)
    tokens: int = option(12, "Length of the answers shown, in tokens.", ge=1)

    def check(self, known: Known) -> None:
        """Raise OptionError without a position, or where one is given twice."""
        super().check(known)
        if not self.positions or len(set(self.positions)) < len(self.positions):
            raise OptionError(
                f"positions of {type(self).__name__} is {self.positions}; give start, end, or both"
            )

    def require(self, study: Study) -> None:
        """Raise OptionError or PairError for a study or controls that cannot be compared."""
        super().require(study)
        require_same_base(study, self.controls)

    def work(self, study: Study) -> Work:
        """Choice of the tokens in every model, and passes of it and the base with each token that
        is tried: of all models other ones, at most.
        """
        models, n_texts = 1 + len(self.controls), max(len(study.prompts("positive")), 1)
        vocabulary = len(study.pair.tokenizer)
        kinds = 1 + (study.pair.tokenizer.chat_template is not None)
        places, n_slots = len(self.positions) * self.prompts, len(self.positions) * kinds
        tried = min(models * self.best / n_slots, vocabulary)
        few = min(self.first, self.prompts) * n_slots
        exact = self._is_exact(vocabulary)
        return Work(
            passes=2 * models * (places * tried + few * vocabulary * exact) / n_texts,
            gradients=0 if exact else 4 * models * places / n_texts,
            tokens=self.rows * self.tokens / n_texts,
        )

    def _is_exact(self, vocabulary: int) -> bool:
        return self.choose == "exact" or (self.choose == "auto" and vocabulary <= SMALL)

    def run(self, study: Study) -> Result:
        """Choose tokens in every model, then compute the divergences of all chosen ones."""
        among = slots(study, self.questions, self.prompts, self.positions, self.change == "replace")
        names = model_names(study, self.controls)
        vocabulary = vocabulary_of(study.pair)
        tried = candidates(study.pair.tokenizer, vocabulary)
        of_models = []
        for number, pair in each_model(study, self.controls):
            if self._is_exact(vocabulary):
                own = exact_gains(study, pair, among, tried, self.first, names[number])
            else:
                found = slopes(study, pair, among, names[number])
                own = first_order(study, pair, found, vocabulary)
            of_models.append(own)
            del pair  # so that it is freed before the next is loaded
        gains = np.stack(of_models)
        tokens = best_tokens(gains, tried, -(-self.best // len(among)))
        scores: list[np.ndarray] = []
        changes: list[np.ndarray] = []
        for number, pair in each_model(study, self.controls):
            found = divergences(study, pair, among, tokens, names[number])
            of_slots = [part[:, 1:] - part[:, :1] for part in found]
            scores.append(np.concatenate([part.mean(axis=0) for part in of_slots]))
            changes = of_slots if number == 0 else changes
            del pair
        items = [(at, token) for at, some in enumerate(tokens) for token in some]
        stacked = np.stack(scores)
        # a token that brings the models closer together triggers nothing
        evidence = of_shared_items(np.maximum(stacked, 0.0), self.spread, limit=self.rows)
        evidence = replace(evidence, controls=stacked[1:, evidence.rows])
        return self._result(study, names, evidence, items, among, changes, gains[0])

    def _result(
        self,
        study: Study,
        names: Sequence[str],
        evidence: Evidence,
        items: Sequence[tuple[int, int]],
        among: Sequence[Slot],
        changes: Sequence[Float[np.ndarray, "_ _"]],
        gains: Float[np.ndarray, "S V"],
    ) -> Result:
        first = np.cumsum([0, *(part.shape[1] for part in changes)])
        listed = [items[row] for row in evidence.rows]
        by_prompt = [
            changes[slot][:, row - first[slot]]
            for row, (slot, _) in zip(evidence.rows, listed, strict=True)
        ]
        # the prompt in which the token does most
        shown = [
            (among[slot].places[int(moved.argmax())], token)
            for moved, (slot, token) in zip(by_prompt, listed, strict=True)
        ]
        answers = answers_with(study, shown, self.tokens)
        labels = token_labels(study.pair.tokenizer, [token for _, token in items])
        extra = {
            "token_id": ([token for _, token in listed], "key", "token id"),
            "first_gain": (
                np.array([gains[item] for item in listed], np.float64),
                "measure",
                "its gain that chose it: by the gradient, or in the first prompts",
                "nats",
            ),
            "prompts_moved": (
                np.array([(moved > 0).mean() for moved in by_prompt], np.float64),
                "measure",
                "share of the prompts in which the divergence grows",
            ),
            "answer": (
                [one.answer for one in answers],
                "text",
                "what the fine-tuned model answers to the example",
            ),
        }
        return evidence_result(
            self.name,
            evidence,
            names,
            [labels[row] for row in evidence.rows],
            unit="nats",
            meaning=(
                "KL(fine-tuned || base) of the next token with the token in the prompt minus"
                " without it, mean over prompts"
            ),
            where=[among[slot].where for slot, _ in listed],
            examples=[one.example for one in answers],
            largest_labels=[
                f"{labels[item]} ({among[items[item][0]].where})" if item >= 0 else ""
                for item in evidence.largest
            ],
            extra=extra,
            limits=LIMITS,
        )
