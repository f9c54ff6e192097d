"""``SaeProbe``: which latents of a dictionary predict a behaviour, and do they cause it?

1. On the selection split, k latents that best separate the classes are selected and a regression on
   them is fitted (Gurnee et al. 2023, arXiv 2305.01610). Its AUC is measured on the held-out split,
   compared with permuted labels that repeat the selection among all latents. The same for principal
   components and random rows with as many codes, and for the same latents read in the base.
2. On the held-out split, the selected latents (those with larger codes on positive prompts) and any
   given set are ablated on positive prompts and steered on negative ones, with the dictionary's
   error kept, compared with random sets of other latents with similar firing rates. How often
   ablation gives the base's answer, and how often a malformed one, is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from interp.analyzers.base import Analyzer
from interp.analyzers.sae_probe import findings, tables
from interp.analyzers.sae_probe.compute import (
    ABLATE,
    GROUP,
    POOLS,
    STEER,
    BaseAnswers,
    DictionaryReader,
    FiringSums,
    MetricValues,
    codes,
    covariance,
)
from interp.analyzers.sae_probe.tables import GIVEN, PROBED, Evidence, InterventionResult, Probes
from interp.claims import SUPPORTED, conclude
from interp.errors import OptionError
from interp.experiments.conditions import PatchTarget, evaluate_condition
from interp.maths.host import to_host
from interp.metrics import require_number
from interp.prompts import Contrast
from interp.sae import Dictionary
from interp.sae.analysis.baselines import Covariance, principal_components, random_directions
from interp.sae.analysis.causal_validation import rate_matched
from interp.sae.analysis.probe import SparseProbe
from interp.sae.core.edits import MODEL_ROLES, require_model_role, require_revert
from interp.sites import Site
from interp.study import Study
from interp.table import Table


@dataclass(frozen=True)
class SaeProbe(Analyzer):
    """Probe a dictionary of ``site`` with a contrast; ``model_role``: which model it reads (see
    ``LatentEdit``).

    ``held_out``: prompts of the held-out split, by default half of the study's clusters. ``position``: a
    prompt's code is that of its last token, or the maximum or mean over its tokens. ``k``: numbers
    of latents; those selected at the largest k are tested causally. ``given``: a further set to
    test, reported as ``named``. ``permutations`` of labels and ``random_sets`` random sets, the
    latter on ``control_prompts`` prompts of each class. ``steer``: in units of the mean code of the
    set where it fires. ``revert`` (crosscoders): ablation replaces the tuned model's part of a
    latent by the base's. Returns a table of kind ``sae-probe``, a row per probe; ``latents``,
    ``effects``, ``sets``, ``numbers``, ``answers``, ``scores`` and ``null`` are its sub-tables.
    """

    name: ClassVar[str] = "sae-probe"
    version: ClassVar[int] = 8

    dictionary: Dictionary = field(compare=False)
    site: str = ""
    model_role: str = "tuned"
    position: str = "last"
    k: tuple[int, ...] = (1, 2, 4)
    given: tuple[int, ...] = ()
    named: str = GIVEN
    held_out: Contrast | None = None
    permutations: int = 199
    random_sets: int = 200
    control_prompts: int = 96
    steer: float = 1.0
    revert: bool = False

    def require(self, has_base: bool) -> Site:
        """The site; raises OptionError for options that contradict each other or the dictionary."""
        require_model_role(self.dictionary, self.model_role)
        require_revert(self.revert, self.model_role)
        if self.model_role != MODEL_ROLES[0] and not has_base:
            raise OptionError("this dictionary also reads the base; add --base MODEL")
        if self.position not in POOLS:
            raise OptionError(f"unknown position {self.position!r}; use {', '.join(POOLS)}")
        width = self.dictionary.config.width
        if (
            not self.k
            or sorted(set(self.k)) != list(self.k)
            or not 1 <= self.k[0] <= self.k[-1] <= width
        ):
            raise OptionError(
                f"k {self.k} must be increasing numbers of latents, from 1 to {width}"
            )
        if out_of_range := [latent for latent in self.given if not 0 <= latent < width]:
            raise OptionError(
                f"there is no latent {out_of_range[0]}; the dictionary has {width}, numbered from 0"
            )
        if len(set(self.given)) < len(self.given):
            raise OptionError("a latent is given twice; give each one once")
        if self.permutations < 1 or self.random_sets < 1 or not self.steer > 0:
            raise OptionError("permutations and random sets must be at least 1, and steer above 0")
        return Site.parse(self.site)

    def __call__(self, study: Study) -> Table:
        """Probe on the selection split, test interventions on the held-out split, return claims."""
        site = self.require(study.pair.base is not None)
        require_number(study.require_metric("confirming latents"), "confirming latents")
        if len(study.classes) < 2 or not len(study.prompts("negative")):
            raise OptionError("a probe needs two classes; give --negative FILE too")
        study.pair.tuned.at(site)
        contrast = study.require_contrast("a probe")
        splits = contrast.split(study.seed) if self.held_out is None else (contrast, self.held_out)
        splits[0].require_disjoint(splits[1])
        selection, held_out = (study.with_prompts(half) for half in splits)
        reader = DictionaryReader(
            self.dictionary.to(study.pair.tuned.device),
            site,
            self.model_role,
            self.position,
            self.revert,
        )
        probes, firing = self._probes(selection, held_out, reader)
        sets = {PROBED: [int(j) for j in probes.chosen]}
        if self.given:
            sets[self.named] = list(self.given)
        interventions = [
            result
            for name, latents in sets.items()
            for result in self._intervene(held_out, reader, firing, name, latents)
        ]
        evidence = Evidence(
            study,
            selection,
            held_out,
            self.k,
            probes,
            firing,
            sets,
            interventions,
            self._norms(reader),
        )
        run = tables.result_table(
            self.name, evidence, findings.limits_of(evidence), study.provenance(self)
        )
        run = conclude(run, findings.claims_of(evidence))
        supported_claims = [
            name for name, verdict in run.summary["verdicts"].items() if verdict == SUPPORTED
        ]
        supported = all(
            any(name.startswith(kind) for name in supported_claims)
            for kind in findings.REQUIRED_CLAIMS
        )
        return replace(run, summary={**run.summary, "supported": supported})

    @staticmethod
    def _norms(reader: DictionaryReader) -> NDArray[np.float64]:
        return to_host(reader.dictionary.decoder_norms[:, -1].double())

    def _probes(
        self, selection: Study, held_out: Study, reader: DictionaryReader
    ) -> tuple[Probes, FiringSums]:
        covariance_of_inputs = covariance(selection, reader)
        l0 = self._mean_l0(selection, reader)
        dtype, width = reader.dictionary.W_dec.dtype, reader.dictionary.config.width
        dictionaries = {
            "dictionary": reader.dictionary,
            "principal components": _live_components(covariance_of_inputs, l0, dtype),
            "random rows": random_directions(
                covariance_of_inputs, l0, width, selection.seed, dtype
            ),
        }
        reads_base = selection.pair.base is not None and self.model_role == "tuned"
        parts = [codes(half, reader, dictionaries, reads_base) for half in (selection, held_out)]
        all_codes = {
            name: _rounded(np.concatenate([part[0][name] for part in parts]))
            for name in parts[0][0]
        }
        labels = np.concatenate([_labels(half) for half in (selection, held_out)])
        names = [
            f"{which} {cluster}"
            for which, half in enumerate((selection, held_out))
            for cluster in half.require_contrast().clusters
        ]
        training = np.arange(len(labels)) < len(_labels(selection))
        clusters = np.unique(names, return_inverse=True)[1]
        results = {}
        for k in self.k:
            probe = SparseProbe(k, self.permutations, selection.seed, firing=True)
            for name in selection.progress(list(dictionaries), f"probes of {k}"):
                # latents that never fire in the selection split cannot be selected; leaving them
                # out does not change the null
                live = np.flatnonzero(all_codes[name][training].any(0))
                if len(live) < k:
                    raise OptionError(
                        f"only {len(live)} latents of {name} fire on these prompts, too few to"
                        f" select {k}"
                    )
                result = probe(all_codes[name][:, live], labels, clusters, training)
                results[name, k] = result._replace(latents=live[result.latents])
            if reads_base:
                base_codes = all_codes["base"][:, results["dictionary", k].latents]
                results["base", k] = probe(base_codes, labels, clusters, training)
        return Probes(results, all_codes["dictionary"], labels, clusters, training, l0), parts[0][1]

    def _mean_l0(self, selection: Study, reader: DictionaryReader) -> int:
        """Mean codes per token, rounded up; the baselines get as many."""
        _, firing = codes(selection, reader, {"dictionary": reader.dictionary}, False)
        return max(1, int(np.ceil(firing.count.sum() / max(firing.tokens, 1) - 1e-9)))

    def _intervene(
        self,
        held_out: Study,
        reader: DictionaryReader,
        firing: FiringSums,
        name: str,
        latents: Sequence[int],
    ) -> list[InterventionResult]:
        """Ablation and steering of a set and of its random sets; a result with a reason only if
        there is no set or no control for it.
        """
        if not latents:
            return [
                InterventionResult(
                    name, "none", [], "no latent has larger codes on positive prompts"
                )
            ]
        try:
            sets = rate_matched(latents, firing.rates, self.random_sets, held_out.seed)
        except OptionError as error:
            return [InterventionResult(name, "none", [], str(error))]
        norms, length = self._norms(reader), self._length
        amount, results = self.steer * firing.mean_active(latents), []
        ratio = float(
            np.mean([firing.size(latent_set, norms) for latent_set in sets])
            / max(firing.size(latents, norms), 1e-30)
        )
        for change_kind, group in GROUP.items():
            if not held_out.require_metric().applies(group):
                continue
            prompt_rows = _spread_rows(held_out, group, self.control_prompts)
            metric_values, sign = (
                MetricValues(held_out, reader, group, prompt_rows),
                -1.0 if change_kind == ABLATE else 1.0,
            )
            unedited = metric_values.values(None)
            base_answers = (
                BaseAnswers(held_out, reader, prompt_rows)
                if change_kind == ABLATE and held_out.pair.base is not None
                else None
            )
            result = InterventionResult(
                name,
                change_kind,
                prompt_rows,
                amount=amount if change_kind == STEER else 0.0,
                sets=sets,
                size_ratio=ratio,
            )
            result.revert = self.revert
            result.unedited = unedited
            for index, latent_set in enumerate(
                [latents, *held_out.progress(sets, f"{name}, {change_kind}")]
            ):
                steering = amount * length(reader, latents) / max(length(reader, latent_set), 1e-30)
                change = reader.change(held_out, change_kind, latent_set, steering)
                effect = sign * (metric_values.values(change) - unedited)
                matches_base = base_answers.matches(change) if base_answers else None
                if index == 0:
                    result.effect, result.matches_base = effect, matches_base
                else:
                    result.null.append(float(effect.mean()))
                    result.null_matches_base.append(
                        float("nan") if matches_base is None else float(matches_base.mean())
                    )
            if change_kind == ABLATE:
                change = reader.change(held_out, change_kind, latents, 0.0)
                result.tuned = evaluate_condition(
                    held_out, "tuned", "positive", PatchTarget("tuned")
                )
                result.ablated = evaluate_condition(
                    held_out, name, "positive", PatchTarget("tuned", change)
                )
                result.ablated_harmless = evaluate_condition(
                    held_out, name, "negative", PatchTarget("tuned", change)
                )
                if held_out.pair.base is not None:
                    result.base = evaluate_condition(
                        held_out, "base", "positive", PatchTarget("base")
                    )
            results.append(result)
        return results

    @staticmethod
    def _length(reader: DictionaryReader, latents: Sequence[int]) -> float:
        """Norm of what steering adds per unit of code; random sets are steered by the same norm."""
        width = reader.dictionary.config.outputs // reader.dictionary.config.models
        return float(to_host(reader.dictionary.W_dec[list(latents), -width:].sum(0).norm()))


def _live_components(covariance: Covariance, k: int, dtype: torch.dtype) -> Dictionary:
    """Principal components, with those of zero variance silenced, since their directions are
    arbitrary.
    """
    components = principal_components(covariance, k, dtype)
    variances = torch.linalg.eigvalsh(covariance.deviation).flip(0)
    is_constant = variances <= 1e-12 * variances[0]
    components.W_enc[:, torch.cat([is_constant, is_constant])] = 0
    return components


def _rounded(codes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Codes rounded to five digits of the latent's largest code; latents below a millionth of the
    largest code overall are silent.

    Codes that differ only by rounding become ties, independent of how prompts are batched.
    """
    largest = np.abs(codes).max(0)
    scale = np.where(largest > 1e-6 * largest.max(initial=0.0), largest, np.inf)
    return np.where(
        np.isfinite(scale),
        np.round(codes / scale, 5) * np.where(np.isfinite(scale), scale, 0.0),
        0.0,
    )


def _labels(study: Study) -> NDArray[np.bool_]:
    return np.arange(len(study.prompts("positive")) + len(study.prompts("negative"))) < len(
        study.prompts("positive")
    )


def _spread_rows(study: Study, group: str, count: int) -> list[int]:
    """Indices of at most ``count`` prompts, from as many clusters as possible."""
    return study.prompts(group).spread_rows(count)
