"""Sampled answers: tables, and the claim that there is a behaviour to locate."""

from typing import Any

import numpy as np

from interp.analyzers.verify_neurons.behaviour import MIN_DIFFERENCE
from interp.analyzers.verify_neurons.evidence import Evidence
from interp.claims import Claim, escape_braces, mean
from interp.experiments.sampled import sampling_options
from interp.maths.intervals import cluster_interval
from interp.metrics import Sampling
from interp.study import Study
from interp.table import Table, table

_CONDITION = "which model answered, under which intervention"


def sampled_tables(study: Study, evidence: Evidence) -> dict[str, Table]:
    """Sub-tables ``samples``, a row per answer, and ``sampled``, one per condition and class; empty
    without samples.
    """
    sampling = sampling_options(study)
    if sampling is None or not evidence.sampled:
        return {}
    return {
        "samples": _samples(study, sampling, evidence),
        "sampled": _rates(study, sampling, evidence),
    }


def _samples(study: Study, sampling: Sampling, evidence: Evidence) -> Table:
    words, n_samples = study.require_metric().labels, sampling.samples
    sizes = [item.exhibits.size for item in evidence.sampled]
    sets = [study.prompts(item.group) for item in evidence.sampled]
    clusters = [np.repeat(np.array(prompts.clusters, object), n_samples) for prompts in sets]
    return table(
        "samples",
        {
            "condition": (
                np.repeat(np.array([one.condition for one in evidence.sampled], object), sizes),
                "key",
                _CONDITION,
            ),
            "group": (
                np.repeat(np.array([one.group for one in evidence.sampled], object), sizes),
                "key",
                "class of the prompt",
            ),
            "prompt_id": (
                np.concatenate(
                    [np.repeat([prompt.id for prompt in prompts], n_samples) for prompts in sets]
                ),
                "key",
                "position in the prompt file",
            ),
            "cluster": (np.concatenate(clusters), "key", "prompts that intervals take as one"),
            "sample": (
                np.concatenate([np.tile(np.arange(n_samples), len(prompts)) for prompts in sets]),
                "key",
                ("number of the sample; equal numbers use equal random numbers in every condition"),
            ),
            words.column: (
                np.concatenate([item.exhibits.ravel() for item in evidence.sampled]),
                "flag",
                f"{words.flag}, of a sampled answer",
            ),
        },
    )


def _rates(study: Study, sampling: Sampling, evidence: Evidence) -> Table:
    words, conditions = study.require_metric().labels, evidence.sampled
    rates = [
        cluster_interval(
            item.exhibits.ravel(), np.repeat(study.prompts(item.group).clusters, sampling.samples)
        )
        for item in conditions
    ]
    mixed = [float((item.exhibits.any(1) & ~item.exhibits.all(1)).mean()) for item in conditions]
    greedy = [
        float(evidence.require(item.condition, item.group).exhibits.mean()) for item in conditions
    ]
    return table(
        "sampled",
        {
            "condition": ([item.condition for item in conditions], "key", _CONDITION),
            "group": ([item.group for item in conditions], "key", "class of the prompts"),
            "n": ([len(item.exhibits) for item in conditions], "measure", "prompts"),
            "samples": ([sampling.samples] * len(conditions), "measure", "answers sampled to each"),
            words.column: (
                [one.value for one in rates],
                "measure",
                f"{words.share}, of sampled answers",
            ),
            "low": (
                [one.low for one in rates],
                "measure",
                "lower end of its 95 % interval over clusters of prompts",
            ),
            "high": (
                [one.high for one in rates],
                "measure",
                "upper end of its 95 % interval over clusters of prompts",
            ),
            "mixed": (
                mixed,
                "measure",
                (
                    "share of prompts with both samples that show the behaviour and samples that do"
                    " not"
                ),
            ),
            "greedy": (greedy, "measure", f"{words.share}, of greedy answers"),
        },
    )


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
