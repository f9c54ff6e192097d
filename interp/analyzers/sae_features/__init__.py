"""``SaeFeatures``: what single latents of a dictionary fire on, and their effects on logits,
each with its nulls.

1. A pass over the prompts: firing rates and activations of all latents, with a base also in its
   activations.
2. Some latents are selected; a second pass records where they, and other latents for comparison,
   are active.
3. Labels by mutual information on one half of the documents, scored on the other half; logit
   effects; contexts.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from interp.analyzers.base import Analyzer
from interp.analyzers.sae_features.compute import (
    BOTH,
    DIFFERENCE,
    MODEL_ROLES,
    TUNED,
    FeatureReader,
)
from interp.analyzers.sae_features.contexts import contexts_table
from interp.analyzers.sae_features.findings import (
    claims_of,
    firing_columns,
    first_sentence,
    label_columns,
    labels_table,
    logit_columns,
)
from interp.analyzers.sae_features.logits import LogitEffects, logit_effects
from interp.claims import conclude
from interp.errors import OptionError
from interp.sae import Dictionary
from interp.sae.analysis.firing_statistics import FiringStatistics
from interp.sae.analysis.token_labels import MIN_ACTIVE, label_latents
from interp.sae.analysis.unembedding import require_residual_site
from interp.sites import Site
from interp.study import Study
from interp.table import Table, table

ORDERS = {
    "density": "share of tokens on which it is active",
    "max": "largest code",
    "gain": "absolute difference of its density in the tuned model and in the base",
}
N_OTHERS = 99


@dataclass(frozen=True)
class SaeFeatures(Analyzer):
    """Describe some latents of a dictionary of ``site`` on the study's prompts.

    ``model_role``: which model the rows are from: the tuned model, both models concatenated (a crosscoder)
    or tuned minus base. ``latents``: which, in this order; if empty, the first ``top`` by ``by``
    (see ``ORDERS``). ``target``: the site that a transcoder writes. ``logits``: whether to compute
    logit effects. ``contexts``: number per activation level, with ``window`` tokens on each side.
    ``examples``: at most this many active and quiet tokens score a label. ``draws`` of each null.
    Returns a table of kind ``sae-features``, one row per latent, with ``contexts`` (rows per
    token), ``labels``, ``logits``.
    """

    name: ClassVar[str] = "sae-features"
    version: ClassVar[int] = 3

    dictionary: Dictionary = field(compare=False)
    site: str = ""
    target: str = ""
    model_role: str = TUNED
    latents: tuple[int, ...] = ()
    top: int = 50
    by: str = "density"
    logits: bool = True
    contexts: int = 5
    window: int = 10
    examples: int = 100
    draws: int = 199

    def require(self, has_base: bool) -> Site:
        """The site; raises OptionError for options that do not fit. ``has_base``: whether there is
        a base.
        """
        config, site = self.dictionary.config, Site.parse(self.site)
        if self.model_role not in MODEL_ROLES:
            raise OptionError(
                f"unknown model role {self.model_role!r}; use {', '.join(MODEL_ROLES)}"
            )
        if config.models > 2 or (config.models == 2) != (self.model_role == BOTH):
            raise OptionError(
                f"a dictionary of {config.models} models cannot read {self.model_role!r}"
            )
        if (self.model_role != TUNED or (self.by == "gain" and not self.latents)) and not has_base:
            needed_by = {BOTH: "a crosscoder", DIFFERENCE: "a dictionary of differences"}.get(
                self.model_role, "--by gain"
            )
            raise OptionError(f"{needed_by} needs the base's activations too; add --base BASE")
        if self.by not in ORDERS:
            raise OptionError(f"unknown order {self.by!r}; use {', '.join(ORDERS)}")
        if self.by == "gain" and self.model_role != TUNED:
            raise OptionError(
                f"a dictionary that reads {self.model_role!r} has the same density for both models; use"
                " --by density or max"
            )
        if out_of_range := [latent for latent in self.latents if not 0 <= latent < config.width]:
            raise OptionError(
                f"there is no latent {out_of_range[0]}; the dictionary has {config.width}, numbered"
                " from 0"
            )
        if len(set(self.latents)) < len(self.latents):
            raise OptionError("a latent is given twice; give each one once")
        for name in ("top", "contexts", "window", "examples", "draws"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be at least 1, not {getattr(self, name)}")
        if config.is_transcoder and not self.target and self.logits:
            raise OptionError(
                "this transcoder's files do not name its target site; add --target SITE, or"
                " leave logit effects out with --no-logits"
            )
        if self.logits:
            require_residual_site(Site.parse(self.target) if config.is_transcoder else site)
        return site

    def __call__(self, study: Study) -> Table:
        """Run both passes; return labels, logit effects, contexts and claims."""
        site = self.require(study.pair.base is not None)
        study.pair.tuned.at(site)
        reader = FeatureReader(study, self)
        texts = reader.texts(study.seed)
        statistics = reader.activity()
        selected = self._selected(statistics)
        generator = np.random.default_rng(study.seed)
        candidates = np.setdiff1d(
            np.flatnonzero(statistics[TUNED].counts >= 2 * MIN_ACTIVE), selected
        )
        # as many others as the null needs, even if no selected latent has a label
        others = generator.choice(
            candidates, min(N_OTHERS, len(candidates)), replace=False
        ).tolist()
        active = reader.active_tokens([*selected, *others])
        latent_labels = label_latents(
            active[TUNED],
            texts,
            selected,
            n_other_labels=N_OTHERS,
            draws=self.draws,
            max_examples=self.examples,
            seed=study.seed,
        )
        row_effects = (
            logit_effects(study, self.dictionary, selected, self.draws) if self.logits else None
        )
        columns = {
            "latent": (np.array(selected, np.int64), "key", "number of the latent"),
            **firing_columns(reader, statistics, active, selected),
            **label_columns(latent_labels, study.pair.decode),
            **(logit_columns(row_effects) if row_effects else {}),
        }
        live = int((statistics[TUNED].counts > 0).sum())
        run = table(
            self.name,
            columns,
            provenance=study.provenance(self),
            summary={
                "site": self.site,
                "of": self.model_role,
                "order": "as named" if self.latents else self.by,
                "latents": len(selected),
                "live": live,
                "tokens": len(reader.tokens),
                "documents": len(reader.encoded),
                "scored": int(columns["scored"][0].sum()),
                "detected": int(columns["detected"][0].sum()),
                "limits": _limits(
                    columns,
                    row_effects,
                    max((len(label.others) for label in latent_labels), default=0),
                    self.draws,
                ),
            },
            tables={
                "contexts": contexts_table(
                    reader, active[TUNED], selected, self.contexts, self.window, study
                ),
                "labels": labels_table(latent_labels, study.pair.decode),
                **({"logits": row_effects.table(study.pair.decode)} if row_effects else {}),
            },
        )
        return conclude(
            run, claims_of(columns, row_effects is not None), lead=first_sentence(columns, live)
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


def _limits(
    columns: dict[str, tuple], logit_effects: LogitEffects | None, n_others: int, draws: int
) -> list[str]:
    unscored = [
        str(latent)
        for latent, scored in zip(columns["latent"][0], columns["scored"][0], strict=True)
        if not scored
    ]
    scored = len(columns["scored"][0]) - len(unscored)
    min_significant = int(np.ceil(scored / (0.05 * (1 + min(n_others, draws)))))
    latent_list = f"{', '.join(unscored[:20])}{', ...' if len(unscored) > 20 else ''}"
    return [
        *(
            [
                f"Latents with fewer than {MIN_ACTIVE} active tokens in a half have no label and no"
                " score:"
                f" {latent_list}."
            ]
            if unscored
            else []
        ),
        *(
            [f"Only {n_others} other latents have labels, too few for p = 0.05; 19 are needed."]
            if n_others < 19
            else []
        ),
        *(
            [
                f"With so few draws and correction for {scored} latents, labels are significant"
                f" only if at least {min_significant} are."
            ]
            if n_others >= 19 and min_significant > 1
            else []
        ),
        (
            "A label is a list of tokens. A latent can depend on more than the current token,"
            " which such labels miss."
        ),
        "A label describes where a latent fires, not what it does.",
        *(
            [
                "Logit effects are direct effects of the direction: later blocks and the rest of"
                " the residual stream are ignored."
            ]
            if logit_effects
            else []
        ),
    ]


__all__ = ["ORDERS", "SaeFeatures"]
