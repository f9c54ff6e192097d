"""``SaeDiff``: what changed in each latent of a dictionary between a base and its tuned
model.

1. A pass over the prompts, identical tokens in both models: norms, whose median limits which rows
   are used.
2. A second pass: rows of both models through the dictionary, sums per fold of clusters
   (``interp.sae.analysis.diff.compare_models``).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.analyzers.base import Analyzer
from interp.capture import Captured, capture
from interp.errors import OptionError, PairError
from interp.maths.host import to_host
from interp.prompts import OTHER, Encoded, content_roles
from interp.provenance import Provenance
from interp.sae import Dictionary
from interp.sae.analysis.classes import Thresholds
from interp.sae.analysis.diff import ONE_SIDED_CLASSES, Batch, accumulator_for, compare_models
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
    is reported separately. ``max_norm_ratio``: tokens whose norm exceeds this many medians in either model
    are left out in both, 0 keeps all. ``draws``: exchanges of the models for the null.
    ``controls``: tables of control pairs on the same prompts, by their own dictionaries. Prompts of
    one cluster count as one document. Returns a table of kind ``sae-diff``, a row per latent, with
    ``classes`` (counts for this pair and the controls) and, with controls, ``control`` (their
    latents and classes) and ``controls`` (share of each class per control).
    """

    name: ClassVar[str] = "sae-diff"
    version: ClassVar[int] = 7

    dictionary: Dictionary = field(compare=False)
    comparison: str = "crosscoder"
    site: str = ""
    thresholds: Thresholds = field(default_factory=Thresholds)
    content_only: bool = False
    max_norm_ratio: float = 10.0
    draws: int = DRAWS
    controls: tuple[Table, ...] = field(default=(), compare=False)

    def require(self) -> Site:
        """The site; raises OptionError for a dictionary that does not fit the comparison, before
        any model is loaded.
        """
        accumulator_for(self.dictionary, self.comparison)
        if not 2 <= self.thresholds.folds <= FOLDS:
            raise OptionError(
                f"documents are split into {FOLDS} folds; require activity in 2 to {FOLDS} of"
                " them, not "
                f"{self.thresholds.folds}"
            )
        # a crosscoder's latents have two decoder rows, so p is doubled
        if self.draws < (least := 39 if self.comparison == "crosscoder" else 19):
            raise OptionError(f"{self.draws} draws cannot reach p = 0.05; use at least {least}")
        if self.max_norm_ratio and self.max_norm_ratio <= 1:
            raise OptionError(
                f"a norm limit of {self.max_norm_ratio:g} medians would remove about half of all rows;"
                " use 10, or 0 to keep every row"
            )
        return Site.parse(self.site)

    def require_study(self, study: Study) -> None:
        """Raise OptionError, PairError or UnsupportedModel for a study or a control that does not
        fit.
        """
        site = self.require()
        study.pair.require_base("comparing models by a dictionary")
        for role in ROLES:
            study.pair[role].at(site)
        clusters = len(set(_cluster_names(study)))
        if clusters < self.thresholds.folds:
            raise OptionError(
                f"the prompts have {clusters} clusters, but a latent must be active in"
                f" {self.thresholds.folds} folds to be classified; give more prompts"
            )
        provenance = study.provenance(self)
        for control in self.controls:
            if control.provenance is not None:
                self._require_comparable(control.provenance, provenance, study)

    def _require_comparable(
        self, control: Provenance, provenance: Provenance, study: Study
    ) -> None:
        """Raise OptionError or PairError for a control run with other inputs or options."""
        if control.inputs.get("base") != provenance.inputs.get("base"):
            raise PairError(
                f"the control was fine-tuned from another base than {study.pair.tuned.name};"
                " give a control of the same base"
            )
        if control.inputs.get("prompts") != provenance.inputs["prompts"]:
            raise OptionError(
                "the control was compared on other prompts; run it on the same prompts"
            )
        if differ := [
            name for name in SAME_OPTIONS if control.options.get(name) != provenance.options[name]
        ]:
            raise OptionError(
                f"the control was compared with another {differ[0]}; run it with the same options"
            )

    def __call__(self, study: Study) -> Table:
        """Run both passes; return classes and claims."""
        self.require_study(study)
        counts = _TokenCounts(len(set(_cluster_names(study))))
        comparison = compare_models(
            self.dictionary.to(study.pair.tuned.device),
            self.comparison,
            self._rows(study, counts),
            thresholds=self.thresholds,
            folds=min(FOLDS, counts.clusters),
            draws=self.draws,
            seed=study.seed,
            controls=self.controls,
        )
        control_provenances = [
            control.provenance for control in self.controls if control.provenance is not None
        ]
        summary = {
            "site": self.site,
            "tokens": counts.tokens,
            "sinks": sum(counts.sinks.values()),
            "clusters": counts.clusters,
            "sinks_by_token": {
                study.pair.tokenizer.decode([index]): count
                for index, count in counts.sinks.most_common(5)
            },
            "controls": [str(one.context.get("tuned", "")) for one in control_provenances],
            "control_runs": [one.key for one in control_provenances],
            **{group: len(study.prompts(group)) for group in study.classes},
        }
        if "special_share" in comparison.data:
            special = comparison["claimed"] & (
                comparison["class"] == ONE_SIDED_CLASSES.get(self.comparison, ("tuned-only",))[0]
            )
            summary["mainly_special"] = int(
                (comparison["special_share"][special] > MAINLY_SPECIAL).sum()
            )
        limits = self._limits(comparison, summary)
        return replace(
            comparison,
            provenance=study.provenance(self),
            summary={**comparison.summary, **summary, "limits": limits},
        )

    def _limits(self, comparison: Table, summary: dict[str, Any]) -> list[str]:
        sides = ONE_SIDED_CLASSES.get(self.comparison, ("tuned-only", "base-only"))
        lines = [
            ("Differences that this dictionary does not reconstruct are not in any row."),
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
                f"{summary['sinks']} tokens with a norm above {self.max_norm_ratio:g} medians were left out."
            )
        if self.comparison == "difference" and comparison.summary["claimed"]["tuned-only"]:
            lines.append(
                "A dictionary of differences can also claim latents that mix several features."
            )
        return lines

    def _rows(self, study: Study, counts: "_TokenCounts") -> Iterator[Batch]:
        """Rows of base and tuned model, document numbers, and which rows are of special tokens;
        attention sinks are left out in both models.
        """
        encoded, owners = _encoded(study)
        site, pair, config = self.require(), study.pair, self.dictionary.config
        excluded = (OTHER,) if self.content_only else ()
        groups = study.batches(encoded, pair.tuned, 8 * config.d_in)

        def passes(what: str) -> Iterator[tuple[Captured, Tensor, list[Tensor]]]:
            models = {role: pair[role] for role in ROLES}
            groups_with_progress = study.progress(groups, what)
            for batch in capture(
                study.engine, models, encoded, groups_with_progress, [site], pad_id=study.pad_id
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
    number: dict[str, int] = {}
    return encoded, torch.tensor(
        [number.setdefault(name, len(number)) for name in _cluster_names(study)]
    )


def _norm_masks(
    norms: Sequence[Float[np.ndarray, "2 _"]], max_norm_ratio: float
) -> list[Bool[np.ndarray, " _"]]:
    """Per batch, a mask of rows with finite norms of at most ``max_norm_ratio`` medians in both models."""
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
