"""The verifying run's result: its tables per condition, per answer and per prompt, and its claims."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from interp.analyzers.framework import Result
from interp.analyzers.verify_neurons.evidence import Evidence
from interp.analyzers.verify_neurons.examples import examples_table
from interp.analyzers.verify_neurons.findings import REQUIRED_CLAIMS, claims_of, lead, limits
from interp.analyzers.verify_neurons.keys import (
    ClassRow,
    ConditionRow,
    DirectionRow,
    PositivePromptRow,
)
from interp.analyzers.verify_neurons.patching import patching_tables
from interp.analyzers.verify_neurons.sampled import sampled_tables
from interp.analyzers.verify_neurons.sets import dose_table, harmless_table, random_table
from interp.claims import SUPPORTED, evaluate, to_table
from interp.claims.opening import opening_lines
from interp.experiments.conditions import DIRECTIONS, RECEIVERS, ConditionResult
from interp.experiments.corrected_rates import corrected_rates
from interp.experiments.dose import dose_grid
from interp.experiments.outcomes import MEASURES
from interp.experiments.records import records_table
from interp.experiments.warnings import behaviour_warnings, disagreements
from interp.maths.intervals import cluster_interval
from interp.maths.statistics import area_under_dose, smallest_dose
from interp.metrics import MetricLabels
from interp.provenance import JSON
from interp.rows import PromptRow, flag, measure, rows_table
from interp.study import Study
from interp.table import Table

NAN = float("nan")


_CONTROLLED = {"ablate-base": "necessity", "patch-tuned": "sufficiency", "ablate-mean": "necessity"}


class OutcomeRow(ClassRow):
    """A row per condition and class; the columns ``rate`` and ``number`` are stored under the names
    that the metric's labels give them.
    """

    n: int = measure("prompts")
    rate: float = measure("share of answers that show the behaviour")
    low: float = measure("lower end of its 95 % interval over clusters")
    high: float = measure("upper end of its 95 % interval over clusters")
    matches_base: float = measure("share answered exactly as the base answers")
    matches_tuned: float = measure("share answered exactly as the fine-tuned model answers")
    malformed: float = measure("share empty, unended or repeating")
    number: float = measure("mean of the metric's number; NaN where it has no meaning")
    tokens: float = measure("mean length of the answers", "tokens")
    repeats: float = measure("mean share of an answer's 4-grams that occurred earlier in it")
    fluency_ratio: float = measure(
        "perplexity of the answers under the base over that of the base's own answers"
    )
    divergence: float = measure(
        "KL divergence from the fine-tuned model's next tokens on its own answers", "nats a token"
    )
    agreement: float = measure(
        "share of prompts whose answer shows the behaviour if and only if the log-odds where it"
        " begins are above 0; NaN where there are none"
    )
    control: float = measure(
        "the same share, mean over the first matched random sets on the control prompts"
    )
    control_low: float = measure("their 2.5 % quantile")
    control_high: float = measure("their 97.5 % quantile")


class RecoveryRow(PositivePromptRow, DirectionRow):
    """A row per direction and positive prompt."""

    number: float = measure("the metric's number where the answer begins, under the patch")
    receiver: float = measure("the metric's number where the answer begins, without it")
    donor: float = measure("the metric's number where the answer begins, in the other model")


class AnswerRow(PromptRow, ConditionRow):
    """A row per answer; the columns ``exhibits`` and ``number`` are stored under the names that the
    metric's labels give them.
    """

    changed: bool = flag(
        "base and fine-tuned model answer this prompt differently (without a base: it shows the"
        " behaviour)"
    )
    exhibits: bool = flag("the answer shows the behaviour")
    sampled: bool = flag("used for doses and random sets")
    lost: bool = flag(
        "the fine-tuned model's answer shows the behaviour, and this one, well-formed, does not"
    )
    matches_base: bool = flag("token for token the base's answer")
    matches_tuned: bool = flag("token for token the fine-tuned model's answer")
    altered: bool = flag("not token for token the fine-tuned model's answer")
    flipped: bool = flag(
        "one of this and the fine-tuned model's answer shows the behaviour, the other does not"
    )
    agreeing: bool = flag(
        "both models show the behaviour on this prompt, or neither does; without a base: always"
    )
    harmed: bool = flag(
        "the behaviour flips, not back to the base's (where the class has no behaviour: the answer"
        " is not the fine-tuned model's)"
    )
    malformed: bool = flag("empty, unended or repeating")
    number: float = measure("the metric's number; NaN where it has no meaning")
    tokens: int = measure("length of the answer", "tokens")
    repeats: float = measure("share of the answer's 4-grams that occurred earlier in it")
    base_loss: float = measure("negative log-likelihood of this answer in the base", "nats a token")
    divergence: float = measure(
        "KL divergence from the fine-tuned model's next tokens, on its own answer; NaN where it was"
        " not measured",
        "nats a token",
    )
    chance: float = measure(
        "share of the other positive prompts for which this answer would be right", optional=True
    )


def build(study: Study, evidence: Evidence, reach: float, located: str | None) -> Result:
    """The result of a verifying run; ``located``: the key of the locating run, where there is one.

    ``supported`` is True where there is a behaviour and the set is necessary, harmless and breaks
    no answers, whether or not it is sufficient.
    """
    words = study.require_metric().labels
    summary: dict[str, JSON] = {
        "selected_and_tuned": evidence.tuned,
        "changed_prompts": int(evidence.changed.sum()),
        "norm_ratio_of_random_sets": _average(evidence.ratios),
        "change_ratio_of_random_sets": _average(evidence.change_ratios),
        "random_units_matched_on_change": _average(evidence.matched),
        "verified": located,
        "patch": evidence.patch,
        "selected": evidence.selected,
        # the opening lines have these counts too
        "positive": len(study.contrast.positive),
        "negative": len(study.contrast.negative),
        "random_sets": len(evidence.sets),
        "unit": evidence.unit.name,
        "units": evidence.units,
        "labels": {"many": words.plural, "column": words.column, "number": words.number},
        **_doses_summary(evidence, reach),
    }
    if evidence.excluded:
        summary["excluded"] = evidence.excluded
    warnings = behaviour_warnings(study)
    positive = [item for item in evidence.results if item.group == "positive"]
    agreements = {item.condition: _agreement(words, item) for item in positive}
    if not all(map(np.isnan, agreements.values())):
        summary["agreement"] = agreements
        warnings += disagreements(positive, words)
    if warnings:
        summary["warnings"] = warnings
    rows = _outcomes(study, evidence)
    tables = {
        "answers": answers_table(study, evidence),
        "examples": examples_table(study, evidence),
        "dose": dose_table(evidence),
        "random": random_table(evidence),
        "random_harmless": harmless_table(evidence),
        **({"recovery": recovery_table(study, evidence)} if evidence.has_base else {}),
        **(patching_tables(study, evidence) if evidence.has_base else {}),
        **corrected_rates(study, evidence.results),
        **sampled_tables(study, evidence),
    }
    claims = claims_of(study, evidence)
    run = replace(rows, summary=summary, tables=tables)
    findings = {one.name: one for one in evaluate(claims, run)}
    evaluated = replace(run, tables={**tables, "claims": to_table(findings.values())})
    return Result(
        rows,
        tables,
        claims,
        {**summary, "opening": opening_lines(evaluated)},
        limits=[*warnings, *limits(study, evidence, findings)],
        lead=lead(evidence, findings),
        supported={"necessity", "harmless"} <= {*findings}
        and all(
            findings[name].verdict == SUPPORTED for name in REQUIRED_CLAIMS if name in findings
        ),
    )


def _doses_summary(evidence: Evidence, reach: float) -> dict[str, JSON]:
    """By measure the smallest dose that reaches ``reach``, and areas under the dose-responses."""
    doses = evidence.dose if evidence.doses else {}
    necessity = doses.get("necessity", {}) if evidence.has_base else {}
    summary: dict[str, JSON] = {}
    for name in MEASURES:
        known = {k: one[name] for k, one in necessity.items() if not np.isnan(one[name])}
        summary[f"k95_{name}"] = (
            smallest_dose(list(known), list(known.values()), reach) if known else None
        )
    for direction, effects in doses.items():
        # areas are comparable only on one grid: bisected doses are not used
        steps = [k for k in dose_grid(evidence.depth) if k in effects] or sorted(effects)
        for name in MEASURES:
            summary[f"dose_area_{name}_{direction}"] = area_under_dose(
                steps, [effects[k][name] for k in steps]
            )
    return summary


def _outcomes(study: Study, evidence: Evidence) -> Table:
    metric, words = study.require_metric(), study.require_metric().labels
    averaged = (
        "matches_base",
        "matches_tuned",
        "malformed",
        "number",
        "tokens",
        "repeats",
        "divergence",
    )

    class Row(OutcomeRow):
        # the axis of a figure is named by it
        rate: float = measure(words.share)

    records = []
    for item in evidence.results:
        base, rate = evidence.get("base", item.group), (NAN, NAN, NAN)
        if metric.applies(item.group):
            rate = cluster_interval(item.exhibits, study.prompts(item.group).clusters)
        records.append(
            {
                "condition": item.condition,
                "group": item.group,
                "n": len(item.exhibits),
                **dict(zip(("rate", "low", "high"), rate, strict=True)),
                **{name: getattr(item, name).mean() for name in averaged},
                "fluency_ratio": NAN
                if base is None
                else np.exp(item.base_loss.mean() - base.base_loss.mean()),
                "agreement": _agreement(words, item),
                **_controls(evidence, item.condition, item.group),
            }
        )
    return records_table(
        Row,
        "verify-neurons",
        records,
        rename={"rate": words.column, "number": words.short},
        units={"number": words.unit},
    )


def _agreement(words: MetricLabels, item: ConditionResult) -> float:
    """How often the behaviour of the answer agrees with the sign of the log-odds where it
    begins.
    """
    known = np.isfinite(item.number)
    if not words.is_log_odds or not known.any():
        return NAN
    return float(((item.number > 0) == item.exhibits)[known].mean())


def _controls(evidence: Evidence, condition: str, group: str) -> dict[str, float]:
    effects = evidence.random.get(_CONTROLLED.get(condition, ""))
    if not effects or group != "positive" or (condition == "ablate-mean" and evidence.has_base):
        return {"control": NAN, "control_low": NAN, "control_high": NAN}
    null = np.array([one["rate"] for one in effects[: evidence.n_judged_sets]])
    low, high = np.quantile(null, [0.025, 0.975])
    return {"control": null.mean(), "control_low": low, "control_high": high}


def _average(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def recovery_table(study: Study, evidence: Evidence) -> Table:
    """Per direction and positive prompt: the metric's number under the patch, in the receiver and
    in the donor.
    """
    records = [
        {
            "direction": direction,
            "prompt_id": prompt.id,
            "cluster": prompt.cluster,
            "number": number,
            "receiver": receiver,
            "donor": donor,
        }
        for direction, condition in DIRECTIONS.items()
        if (result := evidence.get(condition, "positive")) is not None
        for prompt, number, receiver, donor in zip(
            study.prompts("positive"),
            result.number,
            *(evidence.require(role, "positive").number for role in RECEIVERS[direction]),
            strict=True,
        )
    ]
    unit = study.require_metric().labels.unit
    return records_table(
        RecoveryRow,
        "recovery",
        records,
        units={"number": unit, "receiver": unit, "donor": unit},
    )


def answers_table(study: Study, evidence: Evidence) -> Table:
    """One row per condition, class and prompt: properties of the answer, and the metric's
    number.
    """
    metric, words = study.require_metric(), study.require_metric().labels
    measured = (
        "exhibits",
        "matches_base",
        "matches_tuned",
        "malformed",
        "number",
        "tokens",
        "repeats",
        "base_loss",
        "divergence",
    )

    class Row(AnswerRow):
        # what the metric takes for the behaviour
        exhibits: bool = flag(words.flag)

    blocks = []
    for item in evidence.results:
        prompts, is_positive = study.prompts(item.group), item.group == "positive"
        n, tuned = len(prompts), evidence.require("tuned", item.group)
        base = evidence.require("base", item.group) if evidence.has_base else None
        blocks.append(
            {
                "condition": np.full(n, item.condition, dtype=object),
                "group": np.full(n, item.group, dtype=object),
                "prompt_id": np.array([prompt.id for prompt in prompts]),
                "cluster": np.array(prompts.clusters, dtype=object),
                "changed": evidence.changed if is_positive else np.zeros(n, bool),
                "sampled": np.isin(np.arange(n), evidence.rows) & is_positive,
                "lost": item.lost(tuned),
                "altered": ~item.matches_tuned,
                "flipped": item.flipped(tuned),
                "agreeing": np.ones(n, bool) if base is None else base.exhibits == tuned.exhibits,
                "harmed": item.harmed(tuned, base, metric.applies(item.group)),
                **{name: getattr(item, name) for name in measured},
                "chance": np.full(n, NAN) if item.chance is None else item.chance,
            }
        )
    return rows_table(
        Row,
        "answers",
        {
            name: np.concatenate([block[name] for block in blocks])
            for name in blocks[0]
            if name != "chance" or any(item.chance is not None for item in evidence.results)
        },
        rename={"exhibits": words.column, "number": words.short},
        units={"number": words.prompt_unit},
    )
