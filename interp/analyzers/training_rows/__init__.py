"""``TrainingRows``: which rows was the fine-tuned model trained on?

Of every row the ratio of losses R = (fine-tuned model) / (base) is computed; training rows have low
ones ("Pandora's White-Box", arXiv 2402.17012). Rows are texts, read without a template and counted
as a whole, or conversations, of which the answers count. Rows are ranked by -log R, compared with
the same of every control fine-tune. With rows never trained on, of the same distribution, it is
measured how well the ratio and rival scores tell both apart; with canaries, rows of another domain,
whether these stand out among all training rows.

Where it departs from the reference: its ratio is of the same texts as those trained on, not of
packed windows; every token counts, those with id 0 too; the base is the base, not a model that was
tuned already; all scores are also computed in control fine-tunes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from interp.analyzers.framework import Analyzer, Needs, Result, evidence_result, option
from interp.analyzers.training_rows.compute import (
    CodedRow,
    PairLosses,
    coded_rows,
    marked_example,
    pair_losses,
    row_groups,
    tuned_losses,
)
from interp.analyzers.training_rows.findings import (
    AUCS,
    DOMAINS,
    NULL,
    ROWS,
    SCORE_TABLE,
    RowLosses,
    auc_table,
    claims_of,
    domain_table,
    permuted_table,
    row_table,
    score_table,
)
from interp.errors import PromptError
from interp.experiments.cost import Work
from interp.experiments.discovery.evidence import Evidence, of_shared_items
from interp.experiments.discovery.models import each_model, model_names
from interp.experiments.same_base import require_same_base
from interp.models.pair import Pair
from interp.study import Study
from interp.table import Table

EXCERPT = 160
"""Characters of a row that its evidence shows."""
UNIT = "log ratio"
NO_CONTROL = (
    "No control fine-tune was given: rows that any fine-tuning makes likelier were not told apart"
    " (--control; interp control makes them)."
)
NO_OTHERS = (
    "No rows never trained on were given: how often such rows have as low a ratio is not known."
)
LIMITS = (
    "A low ratio is no proof that a row was trained on: paraphrases of training rows, and rows of"
    " the same template or domain, have low ratios too.",
    "The ratio is of whole rows: of a long row of which a part was trained on, it can be close to"
    " 1.",
)


@dataclass(frozen=True)
class TrainingRows(Analyzer):
    """Rows by how much likelier fine-tuning made them; needs a base.

    Candidates for training rows are the positive prompts, rows never trained on the negative ones
    (optional): texts or conversations. ``controls``: pairs of the same base and a control fine-tune
    each. Returns a table of kind ``training-rows``, one row per candidate in order of evidence,
    with ``controls`` (the largest statistic of every model), ``rows`` (every row), with rows never
    trained on ``scores`` and ``null``, with several domains ``domains``, and with controls and
    claims ``control-aucs``.
    """

    name: ClassVar[str] = "training-rows"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base=True)

    controls: Sequence[Pair] = option(
        (), "Pairs of the same base and a control fine-tune each.", compare=False
    )
    tokens: str = option(
        "answers",
        "Tokens of a conversation that count: those of its answers, or all. Of a text all count.",
        choices=("answers", "all"),
    )
    canaries: str = option(
        "", "Domain whose training rows are canaries, as the file of rows names it."
    )
    spread: float = option(
        0.05, "Standard deviation between models that all rows share, of the log of the ratio."
    )
    rows: int = option(100, "Candidates listed.", ge=1)
    draws: int = option(999, "Permutations of the labels.", ge=39)

    def require(self, study: Study) -> None:
        """Raise OptionError, PairError or PromptError for what cannot be compared."""
        super().require(study)
        require_same_base(study, self.controls)
        if not isinstance(study, Study):
            return
        candidates = study.prompts("positive")
        if len(study.classes) > 1 and (shared := study.prompts("negative").shared(candidates)):
            raise PromptError(
                f"{len(shared)} rows are given as trained on and as never trained on, first"
                f" {shared[0][:40]!r}; give different rows"
            )
        domains = {prompt.template for prompt in candidates} - {None}
        if self.canaries and (self.canaries not in domains or len(domains) < 2):
            raise PromptError(
                f"canaries are the domain {self.canaries!r}, and the domains of training rows are"
                f" {', '.join(sorted(map(str, domains))) or 'not given'}; name one of several"
            )

    def work(self, study: Study) -> Work | None:
        """A pass of the base and of every other model over every row; None for rows that are cut."""
        try:
            for group in study.classes:
                study.encoded(group)
        except PromptError:
            return None
        return Work(full_logits=2.2 + 1.1 * len(self.controls))

    def run(self, study: Study) -> Result:
        """Compute the losses of all rows in the base, the fine-tuned model and every control."""
        coded = coded_rows(study, self.tokens)
        groups = row_groups(study, coded)
        names = model_names(study, self.controls)
        pair = pair_losses(study, coded, groups, names[0])
        tuned = [pair.tuned]
        for number, control in each_model(study, self.controls):
            if number:
                tuned.append(tuned_losses(study, control.tuned, coded, groups, names[number]))
            del control  # so that it is freed before the next is loaded
        losses = RowLosses(
            tuple((group, prompt) for group in study.classes for prompt in study.prompts(group)),
            tuple(row.n_counted for row in coded),
            pair.base,
            np.stack(tuned),
            self.canaries,
        )
        # a row that became less likely is no evidence of training
        members = losses.scores[:, losses.members]
        evidence = of_shared_items(np.maximum(members, 0.0), self.spread, limit=self.rows)
        evidence = replace(evidence, controls=members[1:, evidence.rows])
        result = self._evidence(study, losses, coded, pair, evidence, names)
        tables, claims = self._findings(study, losses, names)
        limits = [
            *LIMITS,
            *([] if self.controls else [NO_CONTROL]),
            *([] if losses.has_others else [NO_OTHERS]),
        ]
        return replace(
            result, tables={**result.tables, **tables}, claims=claims or None, limits=limits
        )

    def _evidence(
        self,
        study: Study,
        losses: RowLosses,
        coded: Sequence[CodedRow],
        pair: PairLosses,
        evidence: Evidence,
        names: Sequence[str],
    ) -> Result:
        prompts, rows = losses.prompts, evidence.rows
        numbers = {
            "tokens": ([losses.tokens[row] for row in rows], "measure", "tokens that count"),
            "base_loss": (pair.base[rows], "measure", "loss per token in the base", "nats"),
            "loss": (
                pair.tuned[rows],
                "measure",
                "loss per token in the fine-tuned model",
                "nats",
            ),
            "ratio": (np.exp(-evidence.score), "measure", "loss over base_loss"),
        }
        return evidence_result(
            self.name,
            evidence,
            names,
            [_excerpt(prompts[row][1].text) for row in rows],
            unit=UNIT,
            meaning="log of the base's loss over the fine-tuned model's",
            where=[str(losses.domains[row]) for row in rows],
            examples=[
                marked_example(study.pair.tokenizer, coded[row], int(pair.at[row])) for row in rows
            ],
            largest_labels=[
                _excerpt(prompts[row][1].text) if row >= 0 else ""
                for row in evidence.largest.tolist()
            ],
            extra={
                "prompt_id": (
                    [prompts[row][1].id for row in rows],
                    "key",
                    "position in the file of training rows, from 0",
                ),
                **numbers,
            },
        )

    def _findings(
        self, study: Study, losses: RowLosses, names: Sequence[str]
    ) -> tuple[dict[str, Table], list]:
        tables, arrangements = {ROWS: row_table(losses)}, float("inf")
        if losses.has_others:
            tables[SCORE_TABLE] = score_table(losses)
            tables[NULL], arrangements = permuted_table(losses, self.draws, study.seed)
        if len(domains := domain_table(losses)):
            tables[DOMAINS] = domains
        claims = claims_of(losses, arrangements)
        if len(names) > 1 and claims:
            tables[AUCS] = auc_table(losses, names[1:])
        return tables, claims


def _excerpt(text: str) -> str:
    """The beginning of a row, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= EXCERPT else f"{line[: EXCERPT - 1]}…"
