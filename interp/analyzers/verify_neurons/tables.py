"""The verifying run's tables: one row per condition, per answer, per dose, per random set, per claim."""

import numpy as np

from interp.analyzers.verify_neurons.evidence import Evidence
from interp.analyzers.verify_neurons.findings import NEEDED, claims_of, lead, limits, smallest_visible
from interp.analyzers.verify_neurons.patching import patching_tables
from interp.claims import SUPPORTED, conclude, evaluate
from interp.maths.intervals import cluster_interval
from interp.maths.statistics import area_under_dose, smallest_dose
from interp.study import HasOptions, Study
from interp.table import Table, table
from interp.trials.dose import grid

NAN = float("nan")
_CONTROLLED = {"ablate-base": "necessity", "patch-tuned": "sufficiency", "ablate-mean": "necessity"}


def build(analyzer: HasOptions, study: Study, evidence: Evidence, reach: float) -> Table:
    """The table of kind ``verify-neurons`` with its named parts and its claims.

    ``supported`` of the summary is True where the behaviour is there and the set is necessary, harmless and breaks
    nothing, whether or not it is sufficient.
    """
    summary = {
        "k95": None,
        "selected_and_tuned": evidence.tuned,
        "changed_prompts": int(evidence.changed.sum()),
        "smallest_visible_effect": smallest_visible(study, evidence),
        "norm_ratio_of_random_sets": float(np.mean(evidence.ratios)) if evidence.ratios else None,
        "verified": analyzer.parent,
        "patch": evidence.patch,
        "selected": evidence.selected,
        "positive": len(study.contrast.positive),
        "negative": len(study.contrast.negative),
        "random_sets": len(evidence.sets),
    }
    if evidence.has_base and (effects := evidence.dose.get("necessity")):
        summary["k95"] = smallest_dose(list(effects), list(effects.values()), reach)
    for direction, effects in evidence.dose.items():
        # the area is comparable only on one grid: bisected doses are left out
        steps = [k for k in grid(evidence.depth) if k in effects] or sorted(effects)
        summary[f"dose_area_{direction}"] = area_under_dose(steps, [effects[k] for k in steps])
    run = table(
        analyzer.name,
        _conditions(study, evidence),
        provenance=study.provenance(analyzer),
        summary=summary,
        tables={
            "answers": answers_table(study, evidence),
            "dose": _dose(evidence),
            "random": _random(evidence),
            "random_harmless": _random_harmless(evidence),
            **(patching_tables(study, evidence) if evidence.has_base else {}),
        },
    )
    claims = claims_of(study, evidence)
    findings = {one.name: one for one in evaluate(claims, run)}
    return conclude(
        run,
        claims,
        lead=lead(evidence, findings),
        supported=all(name in findings and findings[name].verdict == SUPPORTED for name in NEEDED),
        limits=limits(study, evidence, findings),
    )


def _conditions(study: Study, evidence: Evidence) -> dict[str, tuple]:
    rows, words = [], study.require_metric().words
    for item in evidence.judged:
        clusters = study.prompts(item.group).clusters
        rate, low, high = cluster_interval(item.shown, clusters)
        if not study.require_metric().applies(item.group):
            rate = low = high = float("nan")
        controls = _controls(evidence, item.condition, item.group)
        kept = evidence.require("tuned", item.group)
        fell = float(np.exp(item.loss.mean() - kept.loss.mean()))
        rows.append(
            (item.condition, item.group, len(item.shown), rate, low, high, item.equal_base.mean(),
             item.equal_tuned.mean(), item.malformed.mean(), item.number.mean(), fell, *controls)
        )  # fmt: skip
    names = {
        "condition": ("key", "which model answered, under which intervention"),
        "group": ("key", "class of the prompts"),
        "n": ("measure", "prompts"),
        words.column: ("measure", words.share),
        "low": ("measure", "lower end of its 95 % interval over clusters"),
        "high": ("measure", "upper end of its 95 % interval over clusters"),
        "equal_base": ("measure", "share answered exactly as the base answers"),
        "equal_tuned": ("measure", "share answered exactly as the tuned model answers"),
        "malformed": ("measure", "share empty, unended or repeating"),
        words.short: ("measure", f"mean {words.number}, {words.unit}; NaN where it has no meaning"),
        "perplexity_ratio": ("measure", "perplexity of the reference answers over the tuned model's"),
        "control": ("measure", "mean effect of the matched random sets"),
        "control_low": ("measure", "their 2.5 % quantile"),
        "control_high": ("measure", "their 97.5 % quantile"),
    }
    columns = list(zip(*rows, strict=True))
    dtypes = {"condition": object, "group": object, "n": np.int64}
    return {
        name: (np.array(values, dtype=dtypes.get(name, np.float64)), *described)
        for (name, described), values in zip(names.items(), columns, strict=True)
    }


def _controls(evidence: Evidence, condition: str, group: str) -> tuple[float, float, float]:
    wanted = _CONTROLLED.get(condition)
    if wanted is None or group != "positive" or not evidence.random.get(wanted):
        return NAN, NAN, NAN
    if condition == "ablate-mean" and evidence.has_base:
        return NAN, NAN, NAN
    null = np.array(evidence.random[wanted])
    low, high = np.quantile(null, [0.025, 0.975])
    return float(null.mean()), float(low), float(high)


def answers_table(study: Study, evidence: Evidence) -> Table:
    """One row per condition, class and prompt: what the answer is like, and the metric's number."""
    blocks, words = [], study.require_metric().words
    for item in evidence.judged:
        prompts = study.prompts(item.group)
        changed = evidence.changed if item.group == "positive" else np.zeros(len(prompts), dtype=bool)
        kept = evidence.require("tuned", item.group)
        sampled = np.isin(np.arange(len(prompts)), evidence.rows) & (item.group == "positive")
        blocks.append(
            {
                "condition": np.full(len(prompts), item.condition, dtype=object),
                "group": np.full(len(prompts), item.group, dtype=object),
                "prompt_id": np.array([prompt.id for prompt in prompts]),
                "cluster": np.array(prompts.clusters, dtype=object),
                "changed": changed,
                words.column: item.shown,
                "sampled": sampled,
                "lost": item.lost(kept),
                "equal_base": item.equal_base,
                "equal_tuned": item.equal_tuned,
                "altered": ~item.equal_tuned,
                "malformed": item.malformed,
                words.short: item.number,
                "loss": item.loss,
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
            "base and tuned model answer this prompt differently (without a base: it shows the behaviour)",
        ),
        words.column: ("flag", words.flag),
        "sampled": ("flag", "used for doses and random sets"),
        "lost": ("flag", "the tuned model's answer shows the behaviour, and this one, well-formed, does not"),
        "equal_base": ("flag", "token for token the base's answer"),
        "equal_tuned": ("flag", "token for token the tuned model's answer"),
        "altered": ("flag", "not token for token the tuned model's answer"),
        "malformed": ("flag", "empty, unended or repeating"),
        words.short: ("measure", f"{words.number}; NaN where it has no meaning", words.unit_of_one),
        "loss": ("measure", "negative log-likelihood per token of the reference answer", "nats"),
    }
    if any(item.chance is not None for item in evidence.judged):
        described["chance"] = ("measure", "share of the other positive prompts to which this answer would be right")
    return table(
        "answers",
        {name: (np.concatenate([b[name] for b in blocks]), *rest) for name, rest in described.items()},
    )


def _dose(evidence: Evidence) -> Table:
    rows = []
    for direction, effects in evidence.dose.items():
        rows += [(direction, k, "located", 0, effect) for k, effect in sorted(effects.items())]
    for (direction, k), effects in evidence.random_dose.items():
        rows += [(direction, k, "random", draw, effect) for draw, effect in enumerate(effects, 1)]
    columns = list(zip(*rows, strict=True)) if rows else [[]] * 5
    return table(
        "dose",
        {
            "direction": (
                np.array(columns[0], object),
                "key",
                "necessity: base into tuned; sufficiency: tuned into base",
            ),
            "k": (np.array(columns[1], np.int64), "key", "units, in rank order"),
            "source": (np.array(columns[2], object), "key", "located, or a matched random set"),
            "draw": (np.array(columns[3], np.int64), "key", "0 for located"),
            "effect": (np.array(columns[4], np.float64), "measure", "share of answers that became the donor's"),
        },
    )


def _random(evidence: Evidence) -> Table:
    rows = [
        (direction, draw, len(evidence.sets[draw]), evidence.ratios[draw], effect)
        for direction, effects in evidence.random.items()
        for draw, effect in enumerate(effects)
    ]
    columns = list(zip(*rows, strict=True)) if rows else [[]] * 5
    return table(
        "random-sets",
        {
            "direction": (np.array(columns[0], object), "key", "necessity or sufficiency"),
            "draw": (np.array(columns[1], np.int64), "key", "number of the random set"),
            "k": (np.array(columns[2], np.int64), "measure", "units in it"),
            "norm_ratio": (np.array(columns[3], np.float64), "measure", "size of its contributions over the located's"),
            "effect": (np.array(columns[4], np.float64), "measure", "share of answers that became the donor's"),
        },
    )


def _random_harmless(evidence: Evidence) -> Table:
    return table(
        "random-harmless",
        {
            "draw": (np.arange(len(evidence.harmless)), "key", "number of the random set"),
            "altered": (
                np.array(evidence.harmless, np.float64),
                "measure",
                "share of answers to negative prompts that ablating it changes",
            ),
        },
    )
