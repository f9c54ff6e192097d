"""``SaeFeatures``: what single latents of a dictionary fire on, and their effects on logits,
each with its nulls.

1. A pass over the prompts: firing rates and activations of all latents, with a base also in its
   activations.
2. Some latents are selected; a second pass records where they, and other latents for comparison,
   are active.
3. Labels by mutual information on one half of the documents, scored on the other half; logit
   effects; contexts.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from interp.analyzers.framework import Analyzer, Known, Result, option
from interp.analyzers.sae_features.compute import BOTH, DIFFERENCE, TUNED, FeatureReader
from interp.analyzers.sae_features.contexts import contexts_table
from interp.analyzers.sae_features.findings import claims_of, first_sentence
from interp.analyzers.sae_features.logits import logit_effects
from interp.analyzers.sae_features.tables import (
    FeatureRow,
    firing_columns,
    label_columns,
    labels_table,
    logit_columns,
)
from interp.errors import OptionError
from interp.rows import rows_table
from interp.sae import Dictionary
from interp.sae.analysis.firing_statistics import FiringStatistics
from interp.sae.analysis.token_labels import MIN_ACTIVE, label_latents
from interp.sae.analysis.unembedding import require_residual_site
from interp.sae.core.edits import MODEL_ROLES, require_latents
from interp.sites import Site
from interp.study import Study
from interp.table import Table

ORDERS = {
    "density": "share of tokens on which it is active",
    "max": "largest code",
    "gain": "absolute difference of its density in the tuned model and in the base",
}
N_OTHERS = 99


@dataclass(frozen=True)
class SaeFeatures(Analyzer):
    """Describe some latents of a dictionary of ``site`` on the study's prompts.

    ``model_role``: which model the rows are from: the tuned model, both models concatenated (a
    crosscoder) or tuned minus base. ``by``: see ``ORDERS``. Returns a table of kind
    ``sae-features``, one row per latent, with ``contexts`` (rows per token), ``labels``,
    ``logits``.
    """

    name: ClassVar[str] = "sae-features"
    version: ClassVar[int] = 3

    dictionary: Dictionary = option(help="The dictionary.", compare=False)
    site: str = option("", "Site that the dictionary reads: blocks.3.hook_resid_post.")
    target: str = option("", "Target site of a transcoder.")
    model_role: str = option(TUNED, "Model it reads.", choices=MODEL_ROLES)
    latents: tuple[int, ...] = option((), "Describe these latents.")
    top: int = option(50, "Otherwise the first N ...", ge=1)
    by: str = option(
        "density", "... by density, max, or gain over the base.", choices=tuple(ORDERS)
    )
    logits: bool = option(True, "Whether to compute logit effects.")
    contexts: int = option(5, "Contexts per level: top, middle, low.", ge=1)
    window: int = option(10, "Tokens shown on each side.", ge=1)
    examples: int = option(100, "Active and quiet tokens, at most, that score a label.", ge=1)
    draws: int = option(199, "Of each null.", ge=1)

    def check(self, known: Known) -> None:
        """Raise OptionError for options that do not fit the dictionary or each other."""
        config, site = self.dictionary.config, Site.parse(self.site)
        if config.models > 2 or (config.models == 2) != (self.model_role == BOTH):
            raise OptionError(
                f"a dictionary of {config.models} models cannot read {self.model_role!r}"
            )
        reads_base = self.model_role != TUNED or (self.by == "gain" and not self.latents)
        if reads_base and known.has_base is False:
            needed_by = {BOTH: "a crosscoder", DIFFERENCE: "a dictionary of differences"}.get(
                self.model_role, "--by gain"
            )
            raise OptionError(f"{needed_by} needs the base's activations too; add --base BASE")
        if self.by == "gain" and self.model_role != TUNED:
            raise OptionError(
                f"a dictionary that reads {self.model_role!r} has the same density for both models;"
                " use --by density or max"
            )
        require_latents(self.dictionary, self.latents)
        if config.is_transcoder and not self.target and self.logits:
            raise OptionError(
                "this transcoder's files do not name its target site; add --target SITE, or"
                " leave logit effects out with --no-logits"
            )
        if self.logits:
            require_residual_site(Site.parse(self.target) if config.is_transcoder else site)

    def run(self, study: Study) -> Result:
        """Run both passes; return labels, logit effects and contexts."""
        study.pair.tuned.at(Site.parse(self.site))
        reader, decode = (
            FeatureReader(study, self.dictionary, self.site, self.model_role),
            study.pair.decode,
        )
        texts = reader.texts(study.seed)
        statistics = reader.activity()
        selected, counts = self._selected(statistics), statistics[TUNED].counts
        candidates = np.setdiff1d(np.flatnonzero(counts >= 2 * MIN_ACTIVE), selected)
        # as many others as the null needs, even if no selected latent has a label
        others = (
            np.random.default_rng(study.seed)
            .choice(candidates, min(N_OTHERS, len(candidates)), replace=False)
            .tolist()
        )
        active = reader.active_tokens([*selected, *others])
        labels = label_latents(
            active[TUNED],
            texts,
            selected,
            n_other_labels=N_OTHERS,
            draws=self.draws,
            max_examples=self.examples,
            seed=study.seed,
        )
        effects = (
            logit_effects(study, self.dictionary, selected, self.draws) if self.logits else None
        )
        rows = rows_table(
            FeatureRow,
            "",
            {
                "latent": np.array(selected, np.int64),
                **firing_columns(reader, statistics, active, selected),
                **label_columns(labels, decode),
                **(logit_columns(effects) if effects else {}),
            },
        )
        live = int((counts > 0).sum())
        return Result(
            rows,
            {
                "contexts": contexts_table(
                    reader, active[TUNED], selected, self.contexts, self.window, study
                ),
                "labels": labels_table(labels, decode),
                **({"logits": effects.table(decode)} if effects else {}),
            },
            claims_of(rows),
            {
                "site": self.site,
                "of": self.model_role,
                "order": "as named" if self.latents else self.by,
                "latents": len(selected),
                "live": live,
                "tokens": len(reader.tokens),
                "documents": len(reader.encoded),
                "scored": int(rows["scored"].sum()),
                "detected": int(rows["detected"].sum()),
            },
            _limits(rows, max((len(label.others) for label in labels), default=0), self.draws),
            first_sentence(rows, live),
        )

    def _selected(self, statistics: dict[str, FiringStatistics]) -> list[int]:
        """The requested latents, or the first in order among those that fire; raises OptionError if
        none does.
        """
        if self.latents:
            return list(self.latents)
        tuned = statistics[TUNED]
        score = tuned.maximum if self.by == "max" else tuned.density
        live = tuned.counts > 0
        if self.by == "gain":
            score, live = (
                np.abs(tuned.density - statistics["base"].density),
                live | (statistics["base"].counts > 0),
            )
        if not live.any():
            raise OptionError(
                "no latent of this dictionary is active on these prompts; check that it belongs"
                " to this model and site"
            )
        order = np.lexsort((np.arange(len(score)), -score))
        return [int(latent) for latent in order if live[latent]][: self.top]


def _limits(rows: Table, n_others: int, draws: int) -> list[str]:
    unscored = [str(latent) for latent in rows["latent"][~rows["scored"]]]
    scored = len(rows) - len(unscored)
    min_significant = int(np.ceil(scored / (0.05 * (1 + min(n_others, draws)))))
    limits = []
    if unscored:
        limits.append(
            f"Latents with fewer than {MIN_ACTIVE} active tokens in a half have no label and no"
            f" score: {', '.join(unscored[:20])}{', ...' if len(unscored) > 20 else ''}."
        )
    if n_others < 19:
        limits.append(
            f"Only {n_others} other latents have labels, too few for p = 0.05; 19 are needed."
        )
    elif min_significant > 1:
        limits.append(
            f"With so few draws and correction for {scored} latents, labels are significant"
            f" only if at least {min_significant} are."
        )
    limits += [
        "A label is a list of tokens. A latent can depend on more than the current token, which"
        " such labels miss.",
        "A label describes where a latent fires, not what it does.",
    ]
    if "largest_logit" in rows.data:
        limits.append(
            "Logit effects are direct effects of the direction: later blocks and the rest of the"
            " residual stream are ignored."
        )
    return limits


__all__ = ["ORDERS", "SaeFeatures"]
