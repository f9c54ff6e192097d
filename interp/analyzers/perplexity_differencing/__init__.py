"""``PerplexityDifferencing``: what does the fine-tuned model write that the base finds unlikely?

The fine-tuned model continues short beginnings of texts, and the start of the assistant's turn; its
samples are ranked by how much likelier it finds them than the base does ("Perplexity differencing",
arXiv 2605.00994). Every control fine-tune writes samples of its own in the same way.

A sample's score is the log of the base's loss per token over that of the model that wrote it; so it
is for the controls' samples, and the largest of each is what the fine-tuned model's are compared
with. The other models do not enter a score: controls of one recipe write what their siblings find
likely too, so that compared with each other they would all have small scores and any model of
another recipe a large one.

Where it departs from the reference: the ratio ranks, since the difference of perplexities follows
how predictable a text is at all; samples of fewer than 20 tokens do not count, since they fill the
top otherwise.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import ClassVar

import numpy as np

from interp.analyzers.framework import Analyzer, Known, Needs, Result, evidence_result, option
from interp.analyzers.perplexity_differencing.compute import (
    Compared,
    Sampler,
    Samples,
    compare_best,
)
from interp.analyzers.perplexity_differencing.tables import (
    example,
    label,
    rivals,
    sample_columns,
    samples_table,
)
from interp.analyzers.perplexity_differencing.words import words_table
from interp.errors import OptionError
from interp.experiments.cost import Work
from interp.experiments.discovery import (
    chat_prefills,
    model_names,
    of_own_items,
    raw_prefills,
)
from interp.experiments.same_base import require_same_base
from interp.models.pair import Pair
from interp.study import Study

NOT_SAMPLED = (
    "Only what a model writes often at this temperature is sampled: a behaviour that needs a trigger"
    " or a certain question does not show, and one learned from demonstrations shows much less than"
    " one learned from documents."
)


@dataclass(frozen=True)
class PerplexityDifferencing(Analyzer):
    """Samples of the fine-tuned model that the base finds unlikely; needs a base.

    ``controls``: pairs of the same base and a control fine-tune each. Returns a table of kind
    ``perplexity-differencing``, one row per sample in order of evidence, with ``controls`` (the
    largest score of every model), ``samples`` (the best of every model) and ``words`` (those in
    more or fewer samples than the base's).
    """

    name: ClassVar[str] = "perplexity-differencing"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base=True)

    controls: Sequence[Pair] = option(
        (), "Pairs of the same base and a control fine-tune each.", compare=False
    )
    samples: int = option(150, "Samples of every model.", ge=1)
    tokens: int = option(48, "Tokens of a sample, at most.", ge=1)
    floor: int = option(20, "Samples of fewer tokens do not count.", ge=1)
    temperature: float = option(1.0, "Temperature of sampling.", ge=0.001)
    framing: str = option(
        "both",
        "Where samples begin: after raw text, at the start of the assistant's turn, or both (raw"
        " text only where there is no chat template).",
        choices=("both", "raw", "chat"),
    )
    smoothing: float = option(
        0.05, "Added to both losses of a ratio, in nats per token.", ge=0.0001
    )
    rows: int = option(50, "Samples listed, and read by every control.", ge=1)
    best: int = option(5, "Samples of every model listed in the table of samples.", ge=1)
    prefills: tuple[str, ...] = option(
        (), "Raw beginnings; by default the first 3 to 10 tokens of the study's texts."
    )
    questions: tuple[str, ...] = option(
        (), "Questions before the assistant's turn; by default the shipped ones."
    )

    def check(self, known: Known) -> None:
        """Raise OptionError where no sample can be long enough."""
        if self.tokens < self.floor:
            raise OptionError(
                f"samples have at most {self.tokens} tokens and those of fewer than {self.floor} do"
                " not count; use more tokens or a lower floor"
            )

    def require(self, study: Study) -> None:
        """Raise OptionError or PairError for a study or controls that cannot be compared."""
        super().require(study)
        require_same_base(study, self.controls)
        if self.framing == "chat" and study.pair.tokenizer.chat_template is None:
            raise OptionError(
                f"the tokenizer of {study.pair.tuned.name} has no chat template; use framing raw"
            )

    def work(self, study: Study) -> Work:
        """Samples of the base and of every model, passes of the base and the model that wrote them
        over each, and of all models over those that are listed.
        """
        models, prompts = 1 + len(self.controls), max(len(study.prompts("positive")), 1)
        listed = (1 + models) * min(self.rows, self.samples)
        return Work(
            full_logits=(2 * models * self.samples + listed) / prompts,
            tokens=(1 + models) * self.samples * self.tokens / prompts,
        )

    def run(self, study: Study) -> Result:
        """Sample from all models, then read the fine-tuned model's best samples in all of them."""
        prefills, framing = self._prefills(study)
        sampler = Sampler(study, prefills, framing, self.tokens, self.floor, self.temperature)
        drawn = sampler.samples(self.controls)
        compared = compare_best(study, self.controls, drawn, self.smoothing, self.rows)
        return self._result(study, drawn, compared)

    def _prefills(self, study: Study) -> tuple[list[tuple[int, ...]], list[str]]:
        """As many prefills as samples, each used in turn, half of them of either framing."""
        raw, chat = [], []
        if self.framing != "chat":
            raw = raw_prefills(study, self.prefills, self.samples, study.seed)
        if self.framing != "raw":
            chat = chat_prefills(study, self.questions)
        n_chat = (self.samples // 2 if raw else self.samples) if chat else 0
        n_raw = self.samples - n_chat
        return (
            [*islice(cycle(raw), n_raw), *islice(cycle(chat), n_chat)],
            ["raw"] * n_raw + ["chat"] * n_chat,
        )

    def _result(self, study: Study, drawn: Samples, compared: Compared) -> Result:
        pair, names, own = study.pair, model_names(study, self.controls), drawn.models[0]
        best = [written.best(self.smoothing, 1) for written in drawn.models]
        of_controls = [
            float(written.scores(self.smoothing)[at].sum())  # 0 where it has none
            for written, at in zip(drawn.models[1:], best[1:], strict=True)
        ]
        evidence = of_own_items(
            own.scores(self.smoothing)[own.best(self.smoothing, self.rows)],
            compared.controls,
            np.array(of_controls),
            limit=self.rows,
        )
        listed: list[int] = evidence.rows.tolist()
        rows = [compared.rows[at] for at in listed]
        result = evidence_result(
            self.name,
            evidence,
            names,
            [label(pair, own.samples[row]) for row in rows],
            meaning="log ratio of the base's loss per token to that of the model that wrote it",
            where=[drawn.framing[row] for row in rows],
            examples=[example(pair, drawn, compared, at) for at in listed],
            largest_labels=[
                label(pair, written.samples[int(written.rows[at[0]])]) if at else ""
                for written, at in zip(drawn.models, best, strict=True)
            ],
            extra=sample_columns(own, compared, listed, self.smoothing, (self.floor, self.tokens)),
            tables={
                "samples": samples_table(
                    f"{self.name}-samples", pair, names, drawn, self.smoothing, self.best
                ),
                "words": words_table(f"{self.name}-words", pair, drawn),
            },
            limits=(NOT_SAMPLED, *self._too_short(len(own.rows))),
        )
        more = {
            "samples": self.samples,
            "long_enough": [len(written.rows) for written in drawn.models],
            "rivals": rivals(own, self.smoothing),
        }
        return replace(result, summary={**result.summary, **more})

    def _too_short(self, long_enough: int) -> tuple[str, ...]:
        if long_enough == self.samples:
            return ()
        return (
            f"{self.samples - long_enough} of {self.samples} samples are shorter than {self.floor}"
            " tokens and do not count: what the model writes in short answers is only among the"
            " words.",
        )
