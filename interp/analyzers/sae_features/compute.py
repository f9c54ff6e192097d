"""Passes over the prompts: statistics of all latents, and the tokens on which selected ones are
active.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from interp.capture import capture
from interp.errors import OptionError
from interp.maths.precision import widen
from interp.prompts import Encoded, content_roles
from interp.sae import Codes, Dictionary
from interp.sae.analysis.firing_statistics import ActivePositions, FiringStatistics
from interp.sae.analysis.token_labels import ActiveTokens, Texts
from interp.sites import Site
from interp.study import Study

TUNED, BOTH, DIFFERENCE = "tuned", "both", "difference"


class FeatureReader:
    """The study's prompts as numbered tokens, and passes over a dictionary's codes of them.

    Tokens are numbered in file order, independent of batching; ``first`` is False for tokens of a
    repeated text. ``roles``: the models that have codes of their own; a dictionary of both models
    or of their difference has one set of codes.
    """

    def __init__(self, study: Study, dictionary: Dictionary, site: str, model_role: str) -> None:
        self.study, self.site, self.model_role = study, Site.parse(site), model_role
        self.dictionary = dictionary.to(study.pair.tuned.device)
        self.encoded: list[Encoded] = [
            content_roles(study.pair.tokenizer, one) for one in study.encoded("positive")
        ]
        lengths = np.array([len(coded.ids) for coded in self.encoded])
        self.starts = np.concatenate([[0], np.cumsum(lengths)])
        self.tokens = np.array([token for coded in self.encoded for token in coded.ids])
        self.documents = np.repeat(np.arange(len(lengths)), lengths)
        prompts = study.prompts("positive")
        self.first = np.isin(self.documents, prompts.sample(len(prompts)))
        clusters = np.array(prompts.clusters, dtype=object)
        self.clusters = np.unique(clusters, return_inverse=True)[1][self.documents]
        self.models = {"tuned": study.pair.tuned}
        if study.pair.base is not None or self.model_role != TUNED:
            self.models = {"base": study.pair.require_base("this dictionary"), **self.models}
        self.roles = tuple(self.models) if self.model_role == TUNED else (TUNED,)

    def texts(self, seed: int) -> Texts:
        """The tokens, with clusters split into two halves."""
        return Texts.from_tokens(self.tokens, self.documents, self.clusters, seed)

    def activity(self) -> dict[str, FiringStatistics]:
        """Firing statistics of all latents, by role."""
        device, width = self.dictionary.W_dec.device, self.dictionary.config.width
        statistics = {role: FiringStatistics(width, device) for role in self.roles}
        for codes, _, parts in self._codes("reading"):
            for role in self.roles:
                statistics[role].update(codes[role], parts)
        return statistics

    def active_tokens(self, latents: Sequence[int]) -> dict[str, dict[int, ActiveTokens]]:
        """Tokens on which some latents are active, by role."""
        positions = {
            role: ActivePositions(latents, self.dictionary.config.width) for role in self.roles
        }
        for codes, rows, _ in self._codes("contexts"):
            for role in self.roles:
                positions[role].update(codes[role], rows)
        return {role: each.result() for role, each in positions.items()}

    def _codes(
        self, what: str
    ) -> Iterator[tuple[Mapping[str, Codes], Int[Tensor, " n"], Int[Tensor, " n"]]]:
        """For each batch: codes by role of the non-padding tokens, the tokens' numbers, and which
        of them are content.
        """
        study, model, config = self.study, self.study.pair.tuned, self.dictionary.config
        bytes_per_token = 8 * (config.inputs + config.width) * len(self.roles)
        groups = study.progress(study.batches(self.encoded, model, bytes_per_token), what)
        starts = torch.tensor(self.starts, device=model.device)
        batches = capture(
            study.engine, self.models, self.encoded, groups, [self.site], pad_id=study.pad_id
        )
        for captured in batches:
            device = captured.batch.ids.device
            real = captured.batch.real
            rows = starts.to(device)[captured.rows.to(device)][:, None] + captured.batch.positions
            values = {
                role: (
                    widen(captured.values[role, self.site])[real.to(self.models[role].device)].to(
                        self.dictionary.W_dec
                    )
                )
                for role in self.models
            }
            yield self._encoded(values), rows[real], captured.roles[real]

    @torch.no_grad()
    def _encoded(self, values: Mapping[str, Tensor]) -> dict[str, Codes]:
        if self.model_role == BOTH:
            values = {TUNED: torch.cat([values["base"], values["tuned"]], 1)}
        elif self.model_role == DIFFERENCE:
            values = {TUNED: values["tuned"] - values["base"]}
        width = values[TUNED].shape[1]
        if width != self.dictionary.config.inputs:
            raise OptionError(
                f"the dictionary has width {self.dictionary.config.inputs} and {self.site} has"
                f" {width}; give the dictionary's site"
            )
        return {role: self.dictionary.encode_sparse(value) for role, value in values.items()}
