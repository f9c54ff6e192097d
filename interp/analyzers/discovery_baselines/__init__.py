"""``DiscoveryBaselines``: what any finding of discovery has to be more than.

1. The context-free share: how much of the change one bias of the logits explains. A bias b over the
   vocabulary is fitted on one half of the texts; on the other half the share is ``1 - KL(p_t ||
   softmax(l_b + b)) / KL(p_t || p_b)``. Where it is large, one list of tokens says it all, and
   topics or places say no more. Two biases: the mean change e = l_t - l_b of the log probabilities,
   and the one that fits best.
2. What any chat-like fine-tuning does: three rules on the logits make a base model answer like a
   chat model ("Instruction Following without Instruction Tuning", arXiv 2409.14254): the text ends
   sooner, tokens that were already read are repeated less, some tokens (list marks, line breaks)
   are shifted. Given is the change of the log odds that the next token has such a role. The
   reference's token ids are those of Llama 2; here roles are read off the tokenizer.
3. Where the whole change is: tokens by their contribution ``p_t e`` to KL(p_t || p_b), and the
   positions with the largest divergence, with their context. Most of them can be one template.

Every control fine-tune is measured in the same way. None of this is a finding, and nothing of it
enters the test over methods.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from interp.analyzers.discovery_baselines.compute import FIT as FIT_HALF
from interp.analyzers.discovery_baselines.compute import (
    Halves,
    context_free_shares,
    fitted_biases,
    measure,
)
from interp.analyzers.discovery_baselines.roles import Roles
from interp.analyzers.discovery_baselines.tables import (
    models_table,
    positions_table,
    roles_table,
    tokens_table,
)
from interp.analyzers.framework import Analyzer, Needs, Result, option
from interp.experiments.cost import Work
from interp.experiments.discovery import each_model, finite_number, form_tokens, model_names
from interp.experiments.same_base import require_same_base
from interp.models.pair import Pair
from interp.study import Study

LIMITS = (
    "These are baselines: what any chat-like fine-tuning does, and what one list of tokens explains,"
    " is not a finding of its own.",
    "The context-free share is of these texts: a change that shows on other texts only is not in"
    " it.",
)


@dataclass(frozen=True)
class DiscoveryBaselines(Analyzer):
    """Context-free share, roles of chat-like fine-tuning, tokens and positions of the divergence.

    ``controls``: pairs of the same base and a control fine-tune each. Returns a table of kind
    ``discovery-baselines``, one row per role, with ``controls`` (divergence and context-free share
    of every model), ``tokens`` and ``positions``. A model that equals the base has no rows.
    """

    name: ClassVar[str] = "discovery-baselines"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base=True)

    controls: Sequence[Pair] = option(
        (), "Pairs of the same base and a control fine-tune each.", compare=False
    )
    fit_steps: int = option(
        3, "Steps in which the bias is fitted, from the mean change; 0: that alone.", ge=0
    )
    rows: int = option(50, "Tokens listed, and positions.", ge=1)

    def require(self, study: Study) -> None:
        """Raise OptionError or PairError for a study or controls that cannot be compared."""
        super().require(study)
        require_same_base(study, self.controls)

    def work(self, study: Study) -> Work:
        """Passes of the base and of one other model for every model; of the base alone over half
        of the texts for every step and for the share.
        """
        return Work(full_logits=2.4 * (1 + len(self.controls)) + 0.5 * (1 + self.fit_steps))

    def run(self, study: Study) -> Result:
        """Measure the fine-tuned model and every control."""
        halves = Halves.split(study)
        names, tokenizer = model_names(study, self.controls), study.pair.tokenizer
        base, tuned = study.pair.require_base(self.name), study.pair.tuned
        vocabulary = min(base.anatomy.vocabulary, tuned.anatomy.vocabulary)
        roles = Roles.from_tokenizer(tokenizer, vocabulary, study.stop_ids)
        changes = []
        for number, pair in each_model(study, self.controls):
            changes.append(measure(study, pair, halves, roles, self.rows, names[number]))
            del pair  # so that it is freed before the next is loaded
        means = np.stack([change.gain[FIT_HALF] / change.count[FIT_HALF] for change in changes])
        fitted = fitted_biases(study, halves, changes, self.fit_steps)
        shares = context_free_shares(study, halves, changes, np.stack([fitted, means]))
        form = form_tokens(tokenizer, vocabulary)
        positions = positions_table(f"{self.name}-positions", changes[0], halves, tokenizer)
        bias_share = finite_number(shares[0, 0])
        sentence = (
            f"The divergence from the base is {changes[0].mean_divergence:.3g} nats a token"
            + (
                "."
                if bias_share is None
                else f"; one bias of the logits, the same everywhere, explains {bias_share:.0%} of it."
            )
        )
        return Result(
            roles_table(self.name, changes, roles.present),
            {
                "controls": models_table(f"{self.name}-controls", names, changes, shares),
                "tokens": tokens_table(f"{self.name}-tokens", changes, form, tokenizer, self.rows),
                "positions": positions,
            },
            None,
            {
                "sentence": sentence,
                "kl": changes[0].mean_divergence,
                "context_free_share": bias_share,
                "context_free_share_of_mean": finite_number(shares[1, 0]),
                "share_of_listed_positions": float(positions["share"].sum()),
                "controls": names[1:],
                "kl_of_controls": [change.mean_divergence for change in changes[1:]],
                "context_free_share_of_controls": [finite_number(value) for value in shares[0, 1:]],
            },
            LIMITS,
        )
