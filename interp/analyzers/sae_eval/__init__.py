"""``DictionaryEval``: how well a dictionary replaces a site of a model, compared with baselines at
its L0.

1. A pass over the prompts: reconstruction of all tokens, the dictionary's L0, mean and covariance
   of the data.
2. Fit principal components and random rows with as many codes (rounded up).
3. A second pass: reconstructions by the baselines, and the model run with each reconstruction, zero
   or the mean at the site.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch

from interp.analyzers.base import Analyzer
from interp.analyzers.sae_eval.compute import (
    DEVIATION,
    OWN,
    PCA,
    PCA_ALONE,
    RANDOM,
    Made,
    Passes,
    Sums,
    alone,
    fitted,
)
from interp.analyzers.sae_eval.findings import claims_of, words
from interp.analyzers.sae_eval.tables import (
    errors,
    limits,
    prompts_table,
    recovered_table,
    shares,
    splice_table,
)
from interp.claims import conclude
from interp.errors import OptionError, required
from interp.sae import Dictionary
from interp.sae.analysis.baselines import Covariance
from interp.sae.analysis.input_output import TUNED, Place
from interp.sae.analysis.scores import Scores, conversations_table, density_table, scores_table
from interp.sae.analysis.token_groups import (
    OUTSIDE,
    UNKNOWN,
    Read,
    parts_of,
    read_whole,
    with_token_codes,
)
from interp.sae.training.activation_source import LONGEST
from interp.study import Study
from interp.table import Table


@dataclass(frozen=True)
class DictionaryEval(Analyzer):
    """Evaluate a dictionary of ``site`` on the study's prompts and the tuned model.

    ``target``: the site that a transcoder reconstructs. ``of``: which model the rows are from
    (``interp.sae.analysis.input_output``): the tuned model, both models concatenated (a crosscoder)
    or tuned minus base; the last two need a base. ``content_only``: ignore special tokens and those
    of the chat template, and do not splice them. Prompts with ``messages`` are read as entire
    conversations, each in its own sequence and truncated at the model's context length, as in
    training.

    Baselines read the same input as the dictionary: for a crosscoder concatenated rows, for a
    dictionary of differences the differences, for a transcoder the least-squares prediction of the
    target from the input; for a transcoder with a skip connection the baseline is the full
    prediction. A crosscoder is also scored per model, and on tuned minus base by the difference of
    its halves, compared with the same from joint components and with components of tuned minus
    base, with as many codes.

    Returns a table of kind ``sae-eval`` (a row per dictionary and part), with ``splice`` and
    ``prompts`` (rows per prompt), ``conversations`` (per prompt and part), ``density``,
    ``recovered``.
    """

    name: ClassVar[str] = "sae-eval"
    version: ClassVar[int] = 3

    dictionary: Dictionary = field(compare=False)
    site: str = ""
    content_only: bool = False
    target: str = ""
    of: str = TUNED
    parent: str | None = None

    def require(self, based: bool) -> Place:
        """Inputs and outputs of the dictionary; raises OptionError if it cannot be evaluated.
        ``based``: whether there is a base.
        """
        return Place.of_dictionary(self.dictionary.config, self.site, self.target, self.of, based)

    def __call__(self, study: Study) -> Table:
        """Run both passes; return scores and claims."""
        place, pair = self.require(study.pair.base is not None), study.pair
        for role in place.roles:
            for site in place.sites:
                pair[role].at(site)
        read, whole = _read(study, place)
        parts = {} if self.content_only else parts_of(read.encoded, whole)
        dictionary = self.dictionary.to(pair.tuned.device)
        config = dictionary.config
        passes = Passes(
            study, place, config, read.encoded, (*OUTSIDE, UNKNOWN) if self.content_only else ()
        )

        def empty(latents: int) -> Scores:
            return Scores(config.outputs, latents, parts, pair.tuned.device, place.views)

        own = empty(config.width)
        joint = place.site != place.target
        seen = Covariance.empty(config.outputs + joint * config.inputs, pair.tuned.device)
        for batch in passes.reading():
            own.update(
                batch.y,
                *passes.reconstructed(dictionary, batch.x),
                roles=batch.roles,
                owners=batch.owners,
            )
            seen.update(torch.cat([batch.x, batch.y], 1) if joint else batch.y)
        if own.count < 2:
            raise OptionError(
                f"{own.count} tokens are too few to score a dictionary; give more prompts"
            )
        k = max(1, int(np.ceil(own.summary()["l0"] - 1e-9)))
        made: dict[str, Made] = {OWN: dictionary} | fitted(
            seen, config, joint, k, study.seed, dictionary.W_dec.dtype
        )
        scored = {OWN: own} | {name: empty(made[name].config.width) for name in (PCA, RANDOM)}
        apart = alone(seen, k, dictionary.W_dec.dtype) if place.views else None
        sums = passes.splicing(made, scored, own.mean, apart)
        return self._table(
            study, place, scored, sums, required(made[PCA].config.k, "a number of codes"), read
        )

    def _table(
        self, study: Study, place: Place, scored: dict[str, Scores], sums: Sums, k: int, read: Read
    ) -> Table:
        prompts = study.prompts("positive")
        ids, clusters = (
            np.array([prompt.id for prompt in prompts]),
            np.array(prompts.clusters, dtype=object),
        )
        saved, wording = shares(sums), words(place, self.dictionary.config)
        made, own = claims_of(sums, k, wording), scored[OWN].summary()
        left_open = limits(saved, sums, read.limits(), wording)
        views = {
            f"{name}{part}_explained_variance": scored[which].summary(part)["explained_variance"]
            for which, name in ((OWN, ""), (PCA, "pca_"))
            for part in place.views
        }
        if sums.halves and (spread := sums.halves[DEVIATION].sum()) > 0:
            views["pca_alone_difference_explained_variance"] = (
                1 - sums.halves[PCA_ALONE].sum() / spread
            )
        stands = {} if place.site == place.target else {"target": str(place.target)}
        run = scores_table(
            scored,
            provenance=study.provenance(self),
            summary={
                "site": self.site,
                **stands,
                **({} if self.of == TUNED else {"of": self.of}),
                **own,
                "parts": errors(scored[OWN]),
                **{
                    f"{name}_explained_variance": scored[name].summary()["explained_variance"]
                    for name in (PCA, RANDOM)
                },
                **views,
                "baseline_codes": k,
                **{
                    f"{'' if role == TUNED else f'{role}_'}{what}_recovered_{over}": share
                    for (role, name, what, over), share in saved.items()
                    if name == OWN
                },
                "limits": left_open,
            },
            tables={
                "prompts": prompts_table(sums, ids, clusters),
                "conversations": conversations_table(scored, ids),
                "splice": splice_table(sums, ids, clusters, place),
                "recovered": recovered_table(saved, place),
                "density": density_table(scored),
            },
        )
        return conclude(run, made, lead="" if made else left_open[0])


def _read(study: Study, place: Place) -> tuple[Read, bool]:
    """The prompts with role codes, and whether there are conversations among them."""
    prompts, tokenizer = study.prompts("positive"), study.pair.tokenizer
    whole = any(prompt.messages for prompt in prompts)
    if not whole:
        return Read(
            [with_token_codes(tokenizer, coded) for coded in study.encoded("positive")], 0, 0
        ), False
    context = min(LONGEST, *(study.pair[role].context_length for role in place.roles))
    return read_whole(tokenizer, prompts, context, prompts.source), True


__all__ = ["DictionaryEval"]
