"""Sampled answers: tables, and the claim that there is a behaviour to locate."""

from typing import Any

import numpy as np

from interp.analyzers.verify_neurons.behaviour import MIN_DIFFERENCE
from interp.analyzers.verify_neurons.evidence import Evidence
from interp.analyzers.verify_neurons.keys import ClassRow, ConditionRow
from interp.claims import Claim, escape_braces, mean
from interp.experiments.records import records_table
from interp.experiments.sampled import sampling_options
from interp.maths.intervals import cluster_interval
from interp.metrics import Sampling
from interp.rows import PromptRow, flag, key, measure
from interp.study import Study
from interp.table import Table


class SampleRow(PromptRow, ConditionRow):
    """A row per sampled answer; the column ``exhibits`` is stored under the behaviour's name."""

    sample: int = key(
        "number of the sample; equal numbers use equal random numbers in every condition"
    )
    exhibits: bool = flag("the sampled answer shows the behaviour")


class SampledRateRow(ClassRow):
    """A row per condition and class; the column ``value`` is stored under the behaviour's name."""

    n: int = measure("prompts")
    samples: int = measure("answers sampled to each")
    value: float = measure("share of sampled answers that show the behaviour")
    low: float = measure("lower end of its 95 % interval over clusters of prompts")
    high: float = measure("upper end of its 95 % interval over clusters of prompts")
    mixed: float = measure(
        "share of prompts with both samples that show the behaviour and samples that do not"
    )
    greedy: float = measure("share of greedy answers that show the behaviour")


def sampled_tables(study: Study, evidence: Evidence) -> dict[str, Table]:
    """Sub-tables ``samples``, a row per answer, and ``sampled``, one per condition and class; empty
    without samples.
    """
    sampling = sampling_options(study)
    if sampling is None or not evidence.sampled:
        return {}
    return {
        "samples": _samples(study, evidence),
        "sampled": _rates(study, sampling, evidence),
    }


def _samples(study: Study, evidence: Evidence) -> Table:
    records = [
        {
            "condition": item.condition,
            "group": item.group,
            "prompt_id": prompt.id,
            "cluster": prompt.cluster,
            "sample": sample,
            "exhibits": exhibits,
        }
        for item in evidence.sampled
        for prompt, samples in zip(study.prompts(item.group), item.exhibits, strict=True)
        for sample, exhibits in enumerate(samples)
    ]
    column = study.require_metric().labels.column
    return records_table(SampleRow, "samples", records, rename={"exhibits": column})


def _rates(study: Study, sampling: Sampling, evidence: Evidence) -> Table:
    records = [
        {
            "condition": item.condition,
            "group": item.group,
            "n": len(item.exhibits),
            "samples": sampling.samples,
            "mixed": (item.exhibits.any(1) & ~item.exhibits.all(1)).mean(),
            "greedy": evidence.require(item.condition, item.group).exhibits.mean(),
            **cluster_interval(
                item.exhibits.ravel(),
                np.repeat(study.prompts(item.group).clusters, sampling.samples),
            )._asdict(),
        }
        for item in evidence.sampled
    ]
    column = study.require_metric().labels.column
    return records_table(SampledRateRow, "sampled", records, rename={"value": column})


def sampled_behaviour_claim(study: Study, sampling: Sampling, evidence: Evidence) -> Claim:
    """``behaviour`` by sampled answers, from the sub-table ``samples``; its sentence has the
    interventions' rates.

    Samples are paired by prompt and number, and intervals are over clusters of prompts.
    """
    words = study.require_metric().labels

    def share(condition: str, group: str = "positive", **rest: Any) -> Any:
        return mean(
            words.column, table="samples", where={"group": group, "condition": condition}, **rest
        )

    def against(condition: str, group: str) -> dict[str, Any]:
        return {"where": {"group": group, "condition": condition}}

    if evidence.has_base:
        pair = ["prompt_id", "sample"]
        estimate, reference = (
            share("tuned", group, pair=pair, minus=against("base", group))
            for group in ("positive", "negative")
        )
        than, control = "the base", "the same difference on negative prompts"
    else:
        estimate, reference = share("tuned", minus=against("tuned", "negative")), 0.0
        than, control = "negative prompts", "no difference"
    also = {"share": share("tuned")}
    text = (
        f"Of {sampling}, {{share:.1%}} of the fine-tuned model's to positive prompts are"
        f" {escape_braces(words.plural)}, "
    )
    text += f"{{value:+.1%}} [{{low:+.1%}}, {{high:+.1%}}] compared with {than}"
    units = f"{evidence.selected} {evidence.unit.name}s"
    treatment = f"at the base's {evidence.patch}s" if evidence.has_base else "at their mean"
    for name, condition, clause in (
        ("ablated", evidence.ablation, f"with {units} {treatment}"),
        ("patched", "patch-tuned", f"of the base with the {units} patched in"),
    ):
        if any(item.condition == condition for item in evidence.sampled):
            also[name] = share(condition)
            text += f"; {clause} {{{name}:.1%}}"
    return Claim(
        name="behaviour-sampled",
        estimate=estimate,
        at_least=MIN_DIFFERENCE,
        beyond=[0.0, "control"],
        reference=reference,
        control=control,
        text=text + ".",
        also=also,
    )
