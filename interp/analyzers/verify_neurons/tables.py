"""The verifying run's tables: per condition, per answer, per dose, per random set, per claim."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from interp.analyzers.verify_neurons.evidence import Evidence
from interp.analyzers.verify_neurons.examples import examples_table
from interp.analyzers.verify_neurons.findings import REQUIRED_CLAIMS, claims_of, lead, limits
from interp.analyzers.verify_neurons.patching import patching_tables
from interp.analyzers.verify_neurons.sampled import sampled_tables
from interp.analyzers.verify_neurons.sets import dose_table, harmless_table, random_table
from interp.claims import SUPPORTED, conclude, evaluate
from interp.claims.opening import opening_lines
from interp.experiments.conditions import DIRECTIONS, RECEIVERS, ConditionResult
from interp.experiments.corrected_rates import corrected_rates
from interp.experiments.dose import dose_grid
from interp.experiments.outcomes import MEASURES
from interp.experiments.warnings import behaviour_warnings, disagreements
from interp.maths.intervals import cluster_interval
from interp.maths.statistics import area_under_dose, smallest_dose
from interp.metrics import MetricLabels
from interp.provenance import JSON, HasOptions
from interp.study import Study
from interp.table import Table, table

NAN = float("nan")


_CONTROLLED = {"ablate-base": "necessity", "patch-tuned": "sufficiency", "ablate-mean": "necessity"}


def build(analyzer: HasOptions, study: Study, evidence: Evidence, reach: float) -> Table:
    """The table of kind ``verify-neurons`` with its sub-tables and claims.

    ``supported`` of the summary is True where there is a behaviour and the set is necessary,
    harmless and breaks no answers, whether or not it is sufficient.
    """
    words = study.require_metric().labels
    summary: dict[str, JSON] = {
        "selected_and_tuned": evidence.tuned,
        "changed_prompts": int(evidence.changed.sum()),
        "norm_ratio_of_random_sets": _average(evidence.ratios),
        "change_ratio_of_random_sets": _average(evidence.change_ratios),
        "random_units_matched_on_change": _average(evidence.matched),
        "verified": analyzer.parent,
        "patch": evidence.patch,
        "selected": evidence.selected,
        "positive": len(study.contrast.positive),
        "negative": len(study.contrast.negative),
        "random_sets": len(evidence.sets),
        "unit": evidence.unit.name,
        "units": evidence.units,
        "labels": {"many": words.plural, "column": words.column, "number": words.number},
    }
    summary |= {f"k95_{name}": None for name in MEASURES}
    if evidence.excluded:
        summary["excluded"] = evidence.excluded
    warnings = behaviour_warnings(study)
    if evidence.has_base and evidence.doses and (effects := evidence.dose.get("necessity")):
        for name in MEASURES:
            known = {k: one[name] for k, one in effects.items() if not np.isnan(one[name])}
            summary[f"k95_{name}"] = (
                smallest_dose(list(known), list(known.values()), reach) if known else None
            )
    agreements = {
        item.condition: _agreement(words, item)
        for item in evidence.results
        if item.group == "positive"
    }
    if not all(map(np.isnan, agreements.values())):
        summary["agreement"] = agreements
        warnings += disagreements(
            [item for item in evidence.results if item.group == "positive"], words
        )
    if warnings:
        summary["warnings"] = warnings
    for direction, effects in evidence.dose.items() if evidence.doses else ():
        # areas are comparable only on one grid: bisected doses are not used
        steps = [k for k in dose_grid(evidence.depth) if k in effects] or sorted(effects)
        for name in MEASURES:
            summary[f"dose_area_{name}_{direction}"] = area_under_dose(
                steps, [effects[k][name] for k in steps]
            )
    run = table(
        analyzer.name,
        _conditions(study, evidence),
        provenance=study.provenance(analyzer),
        summary=summary,
        tables={
            "answers": answers_table(study, evidence),
            "examples": examples_table(study, evidence),
            "dose": dose_table(evidence),
            "random": random_table(evidence),
            "random_harmless": harmless_table(evidence),
            **({"recovery": recovery_table(study, evidence)} if evidence.has_base else {}),
            **(patching_tables(study, evidence) if evidence.has_base else {}),
            **corrected_rates(study, evidence.results),
            **sampled_tables(study, evidence),
        },
    )
    claims = claims_of(study, evidence)
    findings = {one.name: one for one in evaluate(claims, run)}
    needed = [findings[name] for name in REQUIRED_CLAIMS if name in findings]
    result = conclude(
        run,
        claims,
        lead=lead(evidence, findings),
        supported={"necessity", "harmless"} <= {*findings}
        and all(one.verdict == SUPPORTED for one in needed),
        limits=[*warnings, *limits(study, evidence, findings)],
    )
    return replace(result, summary={**result.summary, "opening": opening_lines(result)})


def _conditions(study: Study, evidence: Evidence) -> dict[str, tuple]:
    rows, words = [], study.require_metric().labels
    for item in evidence.results:
        clusters = study.prompts(item.group).clusters
        rate, low, high = cluster_interval(item.exhibits, clusters)
        if not study.require_metric().applies(item.group):
            rate = low = high = float("nan")
        controls = _controls(evidence, item.condition, item.group)
        base = evidence.get("base", item.group)
        fluency = (
            NAN if base is None else float(np.exp(item.base_loss.mean() - base.base_loss.mean()))
        )
        rows.append(
            (
                item.condition,
                item.group,
                len(item.exhibits),
                rate,
                low,
                high,
                item.matches_base.mean(),
                item.matches_tuned.mean(),
                item.malformed.mean(),
                item.number.mean(),
                item.tokens.mean(),
                item.repeats.mean(),
                fluency,
                item.divergence.mean(),
                _agreement(words, item),
                *controls,
            )
        )
    names = {
        "condition": ("key", "which model answered, under which intervention"),
        "group": ("key", "class of the prompts"),
        "n": ("measure", "prompts"),
        words.column: ("measure", words.share),
        "low": ("measure", "lower end of its 95 % interval over clusters"),
        "high": ("measure", "upper end of its 95 % interval over clusters"),
        "matches_base": ("measure", "share answered exactly as the base answers"),
        "matches_tuned": ("measure", "share answered exactly as the fine-tuned model answers"),
        "malformed": ("measure", "share empty, unended or repeating"),
        words.short: ("measure", f"mean {words.number}, {words.unit}; NaN where it has no meaning"),
        "tokens": ("measure", "mean length of the answers, tokens"),
        "repeats": ("measure", "mean share of an answer's 4-grams that occurred earlier in it"),
        "fluency_ratio": (
            "measure",
            "perplexity of the answers under the base over that of the base's own answers",
        ),
        "divergence": (
            "measure",
            (
                "KL divergence from the fine-tuned model's next tokens on its own answers, nats a"
                " token"
            ),
        ),
        "agreement": (
            "measure",
            (
                "share of prompts whose answer shows the behaviour if and only if the log-odds"
                " where it begins are above 0; NaN where there are none"
            ),
        ),
        "control": (
            "measure",
            f"{words.share}, mean over the first matched random sets on the control prompts",
        ),
        "control_low": ("measure", "their 2.5 % quantile"),
        "control_high": ("measure", "their 97.5 % quantile"),
    }
    columns = list(zip(*rows, strict=True))
    dtypes = {"condition": object, "group": object, "n": np.int64}
    return {
        name: (np.array(values, dtype=dtypes.get(name, np.float64)), *described)
        for (name, described), values in zip(names.items(), columns, strict=True)
    }


def _agreement(words: MetricLabels, item: ConditionResult) -> float:
    """How often the behaviour of the answer agrees with the sign of the log-odds where it
    begins.
    """
    known = np.isfinite(item.number)
    if not words.is_log_odds or not known.any():
        return NAN
    return float(((item.number > 0) == item.exhibits)[known].mean())


def _controls(evidence: Evidence, condition: str, group: str) -> tuple[float, float, float]:
    direction = _CONTROLLED.get(condition)
    if direction is None or group != "positive" or not evidence.random.get(direction):
        return NAN, NAN, NAN
    if condition == "ablate-mean" and evidence.has_base:
        return NAN, NAN, NAN
    null = np.array([one["rate"] for one in evidence.random[direction][: evidence.n_judged_sets]])
    low, high = np.quantile(null, [0.025, 0.975])
    return float(null.mean()), float(low), float(high)


def _average(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def recovery_table(study: Study, evidence: Evidence) -> Table:
    """Per direction and positive prompt: the metric's number under the patch, in the receiver and
    in the donor.
    """
    words, prompts, blocks = study.require_metric().labels, study.prompts("positive"), []
    for direction, condition in DIRECTIONS.items():
        result = evidence.get(condition, "positive")
        if result is None:
            continue
        receiver, donor = (
            evidence.require(role, "positive").number for role in RECEIVERS[direction]
        )
        blocks.append((direction, result.number, receiver, donor))
    ids, clusters = [prompt.id for prompt in prompts], prompts.clusters
    repeated = len(blocks)
    meaning = f"{words.number} where the answer begins"
    return table(
        "recovery",
        {
            "direction": (
                np.repeat(np.array([one[0] for one in blocks], object), len(ids)),
                "key",
                "necessity: base into fine-tuned model; sufficiency: fine-tuned model into base",
            ),
            "prompt_id": (np.array(ids * repeated, np.int64), "key", "position in the prompt file"),
            "cluster": (
                np.array(clusters * repeated, object),
                "key",
                "prompts that intervals take as one",
            ),
            "number": (
                _joined([one[1] for one in blocks]),
                "measure",
                f"{meaning}, under the patch",
                words.unit,
            ),
            "receiver": (
                _joined([one[2] for one in blocks]),
                "measure",
                f"{meaning}, without it",
                words.unit,
            ),
            "donor": (
                _joined([one[3] for one in blocks]),
                "measure",
                f"{meaning}, in the other model",
                words.unit,
            ),
        },
    )


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([*parts, np.zeros(0)])


def answers_table(study: Study, evidence: Evidence) -> Table:
    """One row per condition, class and prompt: properties of the answer, and the metric's
    number.
    """
    blocks, words = [], study.require_metric().labels
    for item in evidence.results:
        prompts = study.prompts(item.group)
        changed = (
            evidence.changed if item.group == "positive" else np.zeros(len(prompts), dtype=bool)
        )
        tuned, base = (
            evidence.require("tuned", item.group),
            evidence.has_base and evidence.require("base", item.group),
        )
        sampled = np.isin(np.arange(len(prompts)), evidence.rows) & (item.group == "positive")
        blocks.append(
            {
                "condition": np.full(len(prompts), item.condition, dtype=object),
                "group": np.full(len(prompts), item.group, dtype=object),
                "prompt_id": np.array([prompt.id for prompt in prompts]),
                "cluster": np.array(prompts.clusters, dtype=object),
                "changed": changed,
                words.column: item.exhibits,
                "sampled": sampled,
                "lost": item.lost(tuned),
                "matches_base": item.matches_base,
                "matches_tuned": item.matches_tuned,
                "altered": ~item.matches_tuned,
                "flipped": item.flipped(tuned),
                "agreeing": np.ones(len(prompts), bool)
                if not base
                else base.exhibits == tuned.exhibits,
                "harmed": item.harmed(
                    tuned, base or None, study.require_metric().applies(item.group)
                ),
                "malformed": item.malformed,
                words.short: item.number,
                "tokens": item.tokens,
                "repeats": item.repeats,
                "base_loss": item.base_loss,
                "divergence": item.divergence,
                "chance": np.full(len(prompts), np.nan) if item.chance is None else item.chance,
            }
        )
    described = {
        "condition": ("key", "which model answered, under which intervention"),
        "group": ("key", "class of the prompt"),
        "prompt_id": ("key", "position in the prompt file"),
        "cluster": ("key", "prompts that intervals take as one"),
        "changed": (
            "flag",
            (
                "base and fine-tuned model answer this prompt differently (without a base: it shows"
                " the behaviour)"
            ),
        ),
        words.column: ("flag", words.flag),
        "sampled": ("flag", "used for doses and random sets"),
        "lost": (
            "flag",
            (
                "the fine-tuned model's answer shows the behaviour, and this one, well-formed, does"
                " not"
            ),
        ),
        "matches_base": ("flag", "token for token the base's answer"),
        "matches_tuned": ("flag", "token for token the fine-tuned model's answer"),
        "altered": ("flag", "not token for token the fine-tuned model's answer"),
        "flipped": (
            "flag",
            "one of this and the fine-tuned model's answer shows the behaviour, the other does not",
        ),
        "agreeing": (
            "flag",
            (
                "both models show the behaviour on this prompt, or neither does; without a base:"
                " always"
            ),
        ),
        "harmed": (
            "flag",
            (
                "the behaviour flips, not back to the base's (where the class has no behaviour: the"
                " answer is not the fine-tuned model's)"
            ),
        ),
        "malformed": ("flag", "empty, unended or repeating"),
        words.short: ("measure", f"{words.number}; NaN where it has no meaning", words.prompt_unit),
        "tokens": ("measure", "length of the answer", "tokens"),
        "repeats": ("measure", "share of the answer's 4-grams that occurred earlier in it"),
        "base_loss": (
            "measure",
            "negative log-likelihood per token of this answer in the base",
            "nats",
        ),
        "divergence": (
            "measure",
            (
                "KL divergence from the fine-tuned model's next tokens, per token of the tuned"
                " model's own answer; NaN where it was not measured"
            ),
            "nats",
        ),
    }
    if any(item.chance is not None for item in evidence.results):
        described["chance"] = (
            "measure",
            "share of the other positive prompts for which this answer would be right",
        )
    return table(
        "answers",
        {
            name: (np.concatenate([b[name] for b in blocks]), *rest)
            for name, rest in described.items()
        },
    )
