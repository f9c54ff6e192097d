"""``SaeDiff``: what changed in each latent of a dictionary between a base and its tuned
model.

1. A pass over the prompts, identical tokens in both models: norms, whose median limits which rows
   are used.
2. A second pass: rows of both models through the dictionary, sums per fold of clusters
   (``interp.sae.analysis.diff.compare_models``).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.analyzers.framework import Analyzer, Known, Needs, Result, option
from interp.capture import Captured, capture
from interp.claims import from_table
from interp.errors import OptionError, PairError
from interp.maths.host import to_host
from interp.prompts import OTHER, Encoded, content_roles
from interp.provenance import Provenance
from interp.sae import Dictionary
from interp.sae.analysis.classes import Thresholds
from interp.sae.analysis.diff import (
    COMPARISONS,
    KIND,
    ONE_SIDED_CLASSES,
    Batch,
    accumulator_for,
    compare_models,
)
from interp.sae.analysis.jackknife import FOLDS
from interp.sae.analysis.model_swap_test import DRAWS
from interp.sae.analysis.splice import counted_positions
from interp.sites import Site
from interp.study import Study
from interp.table import Table

ROLES = ("base", "tuned")
SAME_OPTIONS = ("comparison", "site", "thresholds", "content_only", "max_norm_ratio")
MAINLY_SPECIAL = 0.5
"""A latent is mainly special if more than this share of its active tokens is special."""


@dataclass(frozen=True)
class SaeDiff(Analyzer):
    """Compare two models by a dictionary of ``site`` (of both models, one, or their difference:
    ``comparison``) on the study's prompts.

    ``content_only``: ignore special tokens and those of the chat template; otherwise their activity
    is reported separately. ``max_norm_ratio``: tokens whose norm exceeds this many medians in
    either model are left out in both, 0 keeps all. ``draws``: exchanges of the models for the null.
    ``controls``: tables of control pairs on the same prompts, by their own dictionaries. Prompts of
    one cluster count as one document. Returns a table of kind ``sae-diff``, a row per latent, with
    ``classes`` (counts for this pair and the controls) and, with controls, ``control`` (their
    latents and classes) and ``controls`` (share of each class per control).
    """

    name: ClassVar[str] = "sae-diff"
    version: ClassVar[int] = 7
    needs: ClassVar[Needs] = Needs(base=True)

    dictionary: Dictionary = option(help="The dictionary.", compare=False)
    comparison: str = option(
        "crosscoder",
        "Model that the dictionary reads: crosscoder, difference, base, tuned.",
        choices=COMPARISONS,
    )
    site: str = option("", "Site that the dictionary reads, as blocks.3.hook_resid_post.")
    thresholds: Thresholds = option(Thresholds(), "Thresholds of the classes.")
    content_only: bool = option(False, "Ignore special tokens and those of the template.")
    max_norm_ratio: float = option(10.0, "Leave out norms above X medians; 0: keep all.")
    draws: int = option(DRAWS, "Random exchanges of the models, for p.")
    controls: tuple[Table, ...] = option(
        (), "Runs of control pairs on the same prompts.", kind=KIND, compare=False
    )

    def check(self, known: Known) -> None:
        """Raise OptionError for a dictionary that does not fit the comparison, or options that do
        not fit each other.
        """
        del known
        accumulator_for(self.dictionary, self.comparison)
        if not 2 <= self.thresholds.folds <= FOLDS:
            raise OptionError(
                f"documents are split into {FOLDS} folds; require activity in 2 to {FOLDS} of"
                f" them, not {self.thresholds.folds}"
            )
        # a crosscoder's latents have two decoder rows, so p is doubled
        if self.draws < (least := 39 if self.comparison == "crosscoder" else 19):
            raise OptionError(f"{self.draws} draws cannot reach p = 0.05; use at least {least}")
        if self.max_norm_ratio and self.max_norm_ratio <= 1:
            raise OptionError(
                f"a norm limit of {self.max_norm_ratio:g} medians would remove about half of all"
                " rows; use 10, or 0 to keep every row"
            )
        Site.parse(self.site)

    def require(self, study: Study) -> None:
        """Raise OptionError, PairError or UnsupportedModel for a study or a control that does not
        fit.
        """
        super().require(study)
        for role in ROLES:
            study.pair[role].at(Site.parse(self.site))
        clusters = len(set(_cluster_names(study)))
        if clusters < self.thresholds.folds:
            raise OptionError(
                f"the prompts have {clusters} clusters, but a latent must be active in"
                f" {self.thresholds.folds} folds to be classified; give more prompts"
            )
        own = study.provenance(self)
        for control in self._control_provenances:
            if control.inputs.get("base") != own.inputs.get("base"):
                raise PairError(
                    f"the control was fine-tuned from another base than {study.pair.tuned.name};"
                    " give a control of the same base"
                )
            if control.inputs.get("prompts") != own.inputs["prompts"]:
                raise OptionError(
                    "the control was compared on other prompts; run it on the same prompts"
                )
            for name in SAME_OPTIONS:
                if control.options.get(name) != own.options[name]:
                    raise OptionError(
                        f"the control was compared with another {name}; run it with the same"
                        " options"
                    )

    @property
    def _control_provenances(self) -> list[Provenance]:
        return [one.provenance for one in self.controls if one.provenance is not None]

    def run(self, study: Study) -> Result:
        """Run both passes over the prompts."""
        counts = _TokenCounts(len(set(_cluster_names(study))))
        latents = compare_models(
            self.dictionary.to(study.pair.tuned.device),
            self.comparison,
            self._rows(study, counts),
            thresholds=self.thresholds,
            folds=min(FOLDS, counts.clusters),
            draws=self.draws,
            seed=study.seed,
            controls=self.controls,
        )
        summary = {
            **latents.summary,
            "site": self.site,
            "tokens": counts.tokens,
            "sinks": counts.sinks.total(),
            "clusters": counts.clusters,
            "sinks_by_token": {
                study.pair.tokenizer.decode([index]): count
                for index, count in counts.sinks.most_common(5)
            },
            "controls": [str(one.context.get("tuned", "")) for one in self._control_provenances],
            "control_runs": [one.key for one in self._control_provenances],
        }
        if not self.content_only:
            one_sided = latents["class"] == ONE_SIDED_CLASSES[self.comparison][0]
            is_special = latents["special_share"] > MAINLY_SPECIAL
            summary["mainly_special"] = int((latents["claimed"] & one_sided & is_special).sum())
        # evaluated already; the summary has their sentence and whether any is supported
        claims = [finding.claim for finding in from_table(latents.tables["claims"])]
        return Result(latents, latents.tables, claims, summary, self._limits(summary))

    def _limits(self, summary: dict[str, Any]) -> list[str]:
        sides = ONE_SIDED_CLASSES[self.comparison]
        lines = [
            "Differences that this dictionary does not reconstruct are not in any row.",
            "Latents were only read, without interventions; whether they have an effect was not"
            " measured.",
        ]
        if not self.controls:
            lines.insert(
                0,
                f"Without a control it is unknown how many {' and '.join(sides)} latents any"
                " further training would show (--control TUNED --control-dictionary DIR).",
            )
        if summary.get("mainly_special"):
            lines.append(
                f"{summary['mainly_special']} of the claimed {sides[0]} latents are mainly"
                " active on special and template tokens."
            )
        if summary["sinks"]:
            lines.append(
                f"{summary['sinks']} tokens with a norm above {self.max_norm_ratio:g} medians were"
                " left out."
            )
        if self.comparison == "difference" and summary["claimed"]["tuned-only"]:
            lines.append(
                "A dictionary of differences can also claim latents that mix several features."
            )
        return lines

    def _rows(self, study: Study, counts: "_TokenCounts") -> Iterator[Batch]:
        """Rows of base and tuned model, document numbers, and which rows are of special tokens;
        attention sinks are left out in both models.
        """
        encoded, owners = _encoded(study)
        site, pair, config = Site.parse(self.site), study.pair, self.dictionary.config
        excluded = (OTHER,) if self.content_only else ()
        groups = study.batches(encoded, pair.tuned, 8 * config.d_in)

        def passes(what: str) -> Iterator[tuple[Captured, Tensor, list[Tensor]]]:
            for batch in capture(
                study.engine,
                {role: pair[role] for role in ROLES},
                encoded,
                study.progress(groups, what),
                [site],
                pad_id=study.pad_id,
            ):
                counted = counted_positions(batch.batch, batch.roles, excluded)
                values = [batch.values[role, site] for role in ROLES]
                if values[0].shape[-1] != config.d_in:
                    raise OptionError(
                        f"the dictionary has width {config.d_in} and {site} has"
                        f" {values[0].shape[-1]}"
                    )
                rows = [
                    value[counted.to(value.device)].to(self.dictionary.W_dec) for value in values
                ]
                yield batch, counted, rows

        norms = [
            to_host(torch.stack([part.norm(dim=1) for part in rows]))
            for _, _, rows in passes("norms")
        ]
        norm_masks = _norm_masks(norms, self.max_norm_ratio)
        for within_norms, (captured, counted, rows) in zip(
            norm_masks, passes("comparing"), strict=True
        ):
            counts.tokens += int(within_norms.sum())
            counts.sinks.update(to_host(captured.batch.ids[counted])[~within_norms].tolist())
            row_mask = torch.from_numpy(within_norms).to(counted.device)
            owner = (
                owners[captured.rows]
                .to(counted.device)[:, None]
                .expand_as(counted)[counted][row_mask]
            )
            base, tuned = (part[row_mask.to(part.device)] for part in rows)
            if self.content_only:
                yield base, tuned, owner
            else:
                yield base, tuned, owner, (captured.roles[counted] == OTHER)[row_mask]


@dataclass
class _TokenCounts:
    """Counts of clusters, tokens and attention sinks."""

    clusters: int
    tokens: int = 0
    sinks: Counter[int] = field(default_factory=Counter)


def _cluster_names(study: Study) -> list[str]:
    """The cluster of each prompt, in order."""
    return [name for group in study.classes for name in study.prompts(group).clusters]


def _encoded(study: Study) -> tuple[list[Encoded], Tensor]:
    """All prompts, with special tokens marked, and the cluster number of each."""
    tokenizer = study.pair.tokenizer
    encoded = [
        content_roles(tokenizer, coded) for group in study.classes for coded in study.encoded(group)
    ]
    names = _cluster_names(study)
    number = {name: at for at, name in enumerate(dict.fromkeys(names))}
    return encoded, torch.tensor([number[name] for name in names])


def _norm_masks(
    norms: Sequence[Float[np.ndarray, "2 _"]], max_norm_ratio: float
) -> list[Bool[np.ndarray, " _"]]:
    """Per batch, a mask of rows with finite norms of at most ``max_norm_ratio`` medians in both
    models; 0 allows every finite norm.
    """
    finite = [np.all(np.isfinite(part), axis=0) for part in norms]
    if not max_norm_ratio:
        return finite
    finite_norms = np.concatenate(
        [part[:, kept] for part, kept in zip(norms, finite, strict=True)], 1
    )
    if not finite_norms.size:
        return finite
    limits = max_norm_ratio * np.median(finite_norms, axis=1)
    return [
        kept & np.all(part <= limits[:, None], axis=0)
        for part, kept in zip(norms, finite, strict=True)
    ]
