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
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from interp.analyzers.framework import Analyzer, Known, Needs, Result, option
from interp.analyzers.sae_probe import findings
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
from interp.analyzers.sae_probe.evidence import (
    BASE,
    DICTIONARY,
    GIVEN,
    PROBED,
    Evidence,
    InterventionResult,
    Probes,
)
from interp.analyzers.sae_probe.intervention_tables import tables_of_interventions
from interp.analyzers.sae_probe.probe_tables import probes_table, tables_of_probes
from interp.claims import evaluate
from interp.display import as_sentence
from interp.errors import OptionError
from interp.experiments.conditions import PatchTarget, evaluate_condition
from interp.maths.host import to_host
from interp.metrics import require_number
from interp.prompts import Contrast
from interp.sae import Dictionary
from interp.sae.analysis.baselines import Covariance, principal_components, random_directions
from interp.sae.analysis.causal_validation import rate_matched
from interp.sae.analysis.probe import SparseProbe
from interp.sae.core.edits import (
    MODEL_ROLES,
    require_latents,
    require_model_role,
    require_revert,
)
from interp.sites import Site
from interp.study import Study


@dataclass(frozen=True)
class SaeProbe(Analyzer):
    """Probe a dictionary of ``site`` with a contrast; ``model_role``: which model it reads (see
    ``LatentEdit``).

    The latents selected at the largest ``k`` are tested causally, and those of ``given``, reported
    as ``named``. ``revert`` (crosscoders): ablation replaces the tuned model's part of a latent by
    the base's. Returns a table of kind ``sae-probe``, a row per probe; ``latents``, ``effects``,
    ``sets``, ``numbers``, ``answers``, ``scores`` and ``null`` are its sub-tables.
    """

    name: ClassVar[str] = "sae-probe"
    version: ClassVar[int] = 8
    needs: ClassVar[Needs] = Needs(negatives=True, metric=True)

    dictionary: Dictionary = option(help="The dictionary.", compare=False)
    site: str = option("", "Site that the dictionary reads: blocks.3.hook_resid_post.")
    model_role: str = option("tuned", "Model it reads.", choices=MODEL_ROLES)
    position: str = option(
        "last", "Code of a prompt: of its last token, or max or mean.", choices=POOLS
    )
    k: tuple[int, ...] = option((1, 2, 4), "Numbers of latents in a probe.")
    given: tuple[int, ...] = option((), "Also test these latents causally.")
    named: str = option(GIVEN, "Name of the set of given latents.")
    held_out: Contrast | None = option(
        None, "Prompts of the held-out split; by default half of the clusters."
    )
    permutations: int = option(199, "Permutations of labels, for the probes' null.", ge=1)
    random_sets: int = option(200, "Matched random sets.", ge=1)
    control_prompts: int = option(96, "Prompts per class for random sets.", ge=1)
    steer: float = option(1.0, "Steering strength in mean codes of the set.")
    revert: bool = option(
        False, "Crosscoders: replace a latent by the base's part instead of removing it."
    )

    def check(self, known: Known) -> None:
        """Raise OptionError for options that contradict each other or the dictionary."""
        require_model_role(self.dictionary, self.model_role)
        require_revert(self.revert, self.model_role)
        if self.model_role != "tuned" and known.has_base is False:
            raise OptionError("this dictionary also reads the base; add --base MODEL")
        width = self.dictionary.config.width
        if (
            not self.k
            or sorted(set(self.k)) != list(self.k)
            or not 1 <= self.k[0] <= self.k[-1] <= width
        ):
            raise OptionError(
                f"k {self.k} must be increasing numbers of latents, from 1 to {width}"
            )
        require_latents(self.dictionary, self.given)
        if not self.steer > 0:
            raise OptionError(f"steer of SaeProbe is {self.steer}; use a number above 0")
        Site.parse(self.site)

    def require(self, study: Study) -> None:
        """Raise OptionError also for a metric without a number, and a class without prompts."""
        super().require(study)
        require_number(study.require_metric(), "confirming latents")
        if not len(study.prompts("negative")):
            raise OptionError("a probe needs two classes; give --negative FILE too")
        study.pair.tuned.at(Site.parse(self.site))

    def run(self, study: Study) -> Result:
        """Probe on the selection split, test interventions on the held-out split."""
        contrast = study.require_contrast()
        splits = contrast.split(study.seed) if self.held_out is None else (contrast, self.held_out)
        splits[0].require_disjoint(splits[1])
        selection, held_out = (study.with_prompts(half) for half in splits)
        reader = DictionaryReader(
            self.dictionary.to(study.pair.tuned.device),
            Site.parse(self.site),
            self.model_role,
            self.position,
            self.revert,
        )
        probes, firing = self._probes(selection, held_out, reader)
        sets = {PROBED: [int(j) for j in probes.chosen]}
        if self.given:
            sets[self.named] = list(self.given)
        untested, interventions, ablated, unedited = {}, [], [], {}
        for name, latents in sets.items():
            if not latents:
                untested[name] = "no latent has larger codes on positive prompts"
                continue
            try:
                controls = rate_matched(latents, firing.rates, self.random_sets, held_out.seed)
            except OptionError as error:
                untested[name] = str(error)
                continue
            interventions += self._intervene(held_out, reader, firing, name, latents, controls)
            ablation = reader.change(held_out, ABLATE, latents, 0.0)
            ablated += [
                evaluate_condition(held_out, name, group, PatchTarget("tuned", ablation))
                for group in GROUP.values()
            ]
        if interventions:
            unedited = {
                role: evaluate_condition(held_out, role, "positive", PatchTarget(role))
                for role in ("tuned", "base")
                if role == "tuned" or held_out.pair.base is not None
            }
        evidence = Evidence(
            held_out, self.k, probes, firing, sets, untested, interventions, ablated, unedited
        )
        rows, claims = probes_table(evidence), findings.claims_of(evidence)
        tables = tables_of_probes(evidence) | tables_of_interventions(evidence)
        supported = [
            finding.name
            for finding in evaluate(claims, replace(rows, tables=tables))
            if finding.supported
        ]
        return Result(
            rows,
            tables,
            claims,
            _summary(evidence),
            [*findings.limits_of(evidence), *map(as_sentence, held_out.notes)],
            supported=all(
                any(name.startswith(kind) for name in supported)
                for kind in findings.REQUIRED_CLAIMS
            ),
        )

    def _probes(
        self, selection: Study, held_out: Study, reader: DictionaryReader
    ) -> tuple[Probes, FiringSums]:
        covariance_of_inputs = covariance(selection, reader)
        _, firing = codes(selection, reader, {DICTIONARY: reader.dictionary}, False)
        # mean codes per token, rounded up; the baselines get as many
        l0 = max(1, int(np.ceil(firing.count.sum() / max(firing.tokens, 1) - 1e-9)))
        dtype, width = reader.dictionary.W_dec.dtype, reader.dictionary.config.width
        dictionaries = {
            DICTIONARY: reader.dictionary,
            "principal components": _live_components(covariance_of_inputs, l0, dtype),
            "random rows": random_directions(
                covariance_of_inputs, l0, width, selection.seed, dtype
            ),
        }
        reads_base = selection.pair.base is not None and self.model_role == "tuned"
        halves = (selection, held_out)
        parts = [codes(half, reader, dictionaries, reads_base) for half in halves]
        all_codes = {
            name: _rounded(np.concatenate([part[0][name] for part in parts]))
            for name in parts[0][0]
        }
        training, labels, names = (
            np.array(values)
            for values in zip(
                *(
                    (half is selection, group == "positive", f"{which} {cluster}")
                    for which, half in enumerate(halves)
                    for group in half.classes
                    for cluster in half.prompts(group).clusters
                ),
                strict=True,
            )
        )
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
                base_codes = all_codes[BASE][:, results[DICTIONARY, k].latents]
                results[BASE, k] = probe(base_codes, labels, clusters, training)
        return Probes(results, all_codes[DICTIONARY], labels, training, l0), parts[0][1]

    def _intervene(
        self,
        held_out: Study,
        reader: DictionaryReader,
        firing: FiringSums,
        name: str,
        latents: list[int],
        controls: list[list[int]],
    ) -> list[InterventionResult]:
        """Ablation and steering of a set and of its random sets ``controls``."""
        norms = to_host(reader.dictionary.decoder_norms[:, -1].double())
        amount, results = self.steer * firing.mean_active(latents), []
        ratio = float(
            np.mean([firing.size(latent_set, norms) for latent_set in controls])
            / max(firing.size(latents, norms), 1e-30)
        )
        for change_kind, group in GROUP.items():
            if not held_out.require_metric().applies(group):
                continue
            rows = held_out.prompts(group).spread_rows(self.control_prompts)
            metric_values = MetricValues(held_out, reader, group, rows)
            unedited = metric_values.values(None)
            base_answers = (
                BaseAnswers(held_out, reader, rows)
                if change_kind == ABLATE and held_out.pair.base is not None
                else None
            )
            effects, matches = [], []
            for latent_set in held_out.progress([latents, *controls], f"{name}, {change_kind}"):
                steering = (
                    amount * _length(reader, latents) / max(_length(reader, latent_set), 1e-30)
                )
                change = reader.change(held_out, change_kind, latent_set, steering)
                difference = metric_values.values(change) - unedited
                effects.append(-difference if change_kind == ABLATE else difference)
                matches.append(
                    base_answers.matches(change) if base_answers else np.full(len(rows), np.nan)
                )
            results.append(
                InterventionResult(
                    name,
                    change_kind,
                    rows,
                    len(latents),
                    amount if change_kind == STEER else 0.0,
                    ratio,
                    self.revert,
                    unedited,
                    effects[0],
                    [float(effect.mean()) for effect in effects[1:]],
                    matches[0] == 1,
                    [float(match.mean()) for match in matches[1:]],
                )
            )
        return results


def _summary(evidence: Evidence) -> dict[str, Any]:
    results = evidence.interventions
    return {
        "auc": {str(k): evidence.probes.results[DICTIONARY, k].auc for k in evidence.k},
        "latents": {PROBED: evidence.sets[PROBED]},
        "sizes": {name: len(latents) for name, latents in evidence.sets.items()},
        "effects": {
            f"{result.name} {result.change}": float(result.effect.mean()) for result in results
        },
        "size_of_random_sets": {
            result.name: result.size_ratio for result in results if result.change == ABLATE
        },
        "baseline_codes": evidence.probes.l0,
        "held_positive": len(evidence.held.prompts("positive")),
        "held_negative": len(evidence.held.prompts("negative")),
    }


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
