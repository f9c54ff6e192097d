"""Claims of a verifying run, and its limits."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from interp.analyzers.verify_neurons.behaviour import (
    CORRECTION_NOTE,
    MIN_DIFFERENCE,
    behaviour_claim,
)
from interp.analyzers.verify_neurons.evidence import Evidence
from interp.analyzers.verify_neurons.sampled import sampled_behaviour_claim
from interp.analyzers.verify_neurons.side_effects import (
    MAX_LEFT,
    MAX_UPPER_END,
    QUALITY_CLAIMS,
    fluency_claim,
    harmless_claim,
    malformed_claim,
    selective_claim,
)
from interp.claims import SUPPORTED, Claim, Draws, Estimate, Finding, escape_braces, mean, statistic
from interp.experiments.conditions import DIRECTIONS, RECEIVERS
from interp.experiments.corrected_rates import judge_field
from interp.experiments.sampled import sampling_options
from interp.maths.intervals import effective_clusters, exact_interval
from interp.study import GROUPS, Study

# Largest share of the gap between both models' rates that may remain (or be missing); least share
# of the gap between their log-odds that must be recovered.
MAX_OF_GAP, MIN_RECOVERY = 0.5, 0.5
# Without a base: least share lost, and the value that its interval must exclude in any case.
MIN_LOST, MIN_LOST_BOUND = 0.5, 0.25
MIN_RANDOM_SETS = 39
LOSSES = ("necessity", "sufficiency", "selective", "harmless", "malformed", "malformed-negative")
# claims that the verdict needs; a set can be necessary without being sufficient
REQUIRED_CLAIMS = ("behaviour", "necessity", "harmless", *QUALITY_CLAIMS)


def claims_of(study: Study, evidence: Evidence) -> list[Claim]:
    """The run's claims: ``behaviour``, and where a located set was tested its effects."""
    claims = [behaviour_claim(study, evidence)]
    if evidence.sampled and (sampling := sampling_options(study)):
        claims.append(sampled_behaviour_claim(study, sampling, evidence))
    if not evidence.selected or "necessity" not in evidence.random:
        return claims
    if evidence.has_base:
        for direction in evidence.random:
            claims.append(direction_claim(study, evidence, direction))
            if evidence.has_number:
                claims.append(recovery_claim(study, evidence, direction))
    else:
        claims.append(loss_claim(study, evidence))
    patched = evidence.get("patch-tuned", "negative") is not None
    if patched and "sufficiency" in evidence.random and study.require_metric().applies("negative"):
        claims.append(selective_claim(study, evidence))
    broken = [
        made(evidence, group) for group in GROUPS for made in (malformed_claim, fluency_claim)
    ]
    return [
        *claims,
        *(claim for claim in (harmless_claim(study, evidence), *broken) if claim is not None),
    ]


def direction_claim(study: Study, evidence: Evidence, direction: str) -> Claim:
    """``necessity`` and ``sufficiency``: under the patch the behaviour is as rare, or as frequent,
    as in the donor.
    """
    words, condition, judge = (
        study.require_metric().labels,
        DIRECTIONS[direction],
        judge_field(study),
    )
    role, donor = RECEIVERS[direction]

    def share(name: str, **rest: Any) -> Estimate:
        rows = {"condition": name, "group": "positive"}
        return mean(words.column, table="answers", where=rows, **judge, **rest)

    is_necessity = direction == "necessity"
    donor_rows = {"where": {"condition": donor, "group": "positive"}}
    patched_values, units = f"{evidence.patch}s", f"{evidence.selected} {evidence.unit.name}s"
    clause = escape_braces(words.verb).replace("{{share}}", "{now:.1%}")
    if is_necessity:
        text = (
            f"Given the base's {patched_values} in {units}, the fine-tuned model {clause}"
            " ({without:.1%} without, the base "
        )
    else:
        text = (
            f"Given the fine-tuned model's {patched_values} in {units}, the base {clause}"
            " ({without:.1%} without, the "
        )
        text += "fine-tuned model "
    random, random_estimates = (
        {"table": "random", "where": {"direction": direction, "whole": True}},
        {},
    )
    if evidence.random[direction]:
        ends = {"random_low": "minimum", "random_high": "maximum"}
        random_estimates = {name: statistic(end, "rate", **random) for name, end in ends.items()}
        random_estimates["there"] = _located_effect(direction, "rate", evidence)
    bound = min(MAX_LEFT, MAX_OF_GAP * evidence.gap) if evidence.gap > 0 else MAX_LEFT
    return Claim(
        name=direction,
        estimate=share(condition, pair="prompt_id", minus=donor_rows),
        at_most=bound if is_necessity else None,
        at_least=None if is_necessity else -bound,
        null=Draws(
            "random",
            "difference",
            {"direction": direction},
            observed=_located_effect(direction, "difference", evidence),
            alternative="less" if is_necessity else "greater",
            min_draws=MIN_RANDOM_SETS,
            control_where={"first": True},
        ),
        control=_control_description(evidence, direction),
        requires=["behaviour", *([f"{direction}-recovery"] if evidence.has_number else [])],
        text=text
        + "{own:.1%}"
        + (_random_clause(evidence, direction) if random_estimates else "")
        + f"{', as judged' if judge and random_estimates else ''}).{CORRECTION_NOTE if judge else ''}",
        also={
            "now": share(condition),
            "without": share(role),
            "own": share(donor),
            **random_estimates,
        },
    )


def _random_clause(evidence: Evidence, direction: str) -> str:
    """Clause that compares located and random sets on the control prompts."""
    n_judged = sum(not np.isnan(one["rate"]) for one in evidence.random[direction])
    n_bounded = len(evidence.random[direction]) - n_judged
    clause = (
        f"; on {len(evidence.rows)} control prompts {{there:.1%}}, with {n_judged} random sets "
    )
    clause += "{random_low:.1%} to {random_high:.1%}"
    if n_bounded:
        clause += (
            f", and {n_bounded} more, judged on fewer of them, do less than the located"
            f" {evidence.unit.name}s"
        )
    return clause


def recovery_claim(study: Study, evidence: Evidence, direction: str) -> Claim:
    """The patch closes the gap between both models' numbers where the answer begins (a ratio of
    means over prompts).
    """
    number, receiver = escape_braces(study.require_metric().labels.number), {"column": "receiver"}
    return Claim(
        name=f"{direction}-recovery",
        estimate=mean(
            "number",
            table="recovery",
            where={"direction": direction},
            minus=receiver,
            over={"column": "donor", "minus": receiver},
        ),
        at_least=MIN_RECOVERY,
        null=Draws(
            "random",
            "recovery",
            {"direction": direction},
            observed=_located_effect(direction, "recovery", evidence),
            min_draws=MIN_RANDOM_SETS,
        ),
        control=_control_description(evidence),
        text=(
            "That closes {value:.2f} [{low:.2f}, {high:.2f}] of the gap between both models'"
            f" {number} where the answer begins (1 is all of it, more is overshoot; random sets"
            " {control:.2f} [{control_low:.2f}, {control_high:.2f}])."
        ),
        undefined=(
            f"Both models' {number} where the answer begins do not differ significantly: no"
            " recovery is reported."
        ),
    )


def loss_claim(study: Study, evidence: Evidence) -> Claim:
    """Without a base: share of the behaviour lost when the units are set to their mean."""
    words, sets = study.require_metric().labels, len(evidence.random["necessity"])
    sentence = (
        f"Set to their mean, {evidence.selected} {evidence.unit.name}s lose {{value:.1%}} of the"
        f" {escape_braces(words.plural)}"
    )
    rows = {"condition": "ablate-mean", "group": "positive", "changed": True}
    return Claim(
        name="necessity",
        estimate=mean("lost", table="answers", where=rows),
        at_least=MIN_LOST,
        beyond=["control", MIN_LOST_BOUND],
        null=Draws(
            "random",
            "behaviour",
            {"direction": "necessity"},
            observed=_located_effect("necessity", "behaviour", evidence),
            min_draws=MIN_RANDOM_SETS,
        ),
        control=_control_description(evidence),
        text=sentence
        + (
            f" ({sets} matched random sets: {{control_low:.1%}} to {{control_high:.1%}})."
            if sets
            else "."
        ),
    )


def _located_effect(direction: str, column: str, evidence: Evidence) -> Estimate:
    """The located set's effect on the control prompts, with which those of the random sets are
    compared.
    """
    rows = {"direction": direction, "k": evidence.selected, "source": "located"}
    return statistic("mean", column, table="dose", where=rows)


def _control_description(evidence: Evidence, direction: str | None = None) -> str:
    """Description of the random sets and of how well they match the located set; ``direction``: a
    direction.
    """
    if not evidence.sets:
        return "no random set of equal size could be drawn"
    match = f"contributions {np.mean(evidence.ratios):.2f} times as large"
    if evidence.change_ratios:
        match += (
            f", their change {np.mean(evidence.change_ratios):.2f} times;"
            f" {np.mean(evidence.matched):.1%} of the units matched on the change within a factor"
            " of 2, the others on the size"
        )
    if evidence.excluded:
        match += f"; none of {evidence.excluded} excluded {evidence.unit.name}s is drawn"
    description = (
        f"{len(evidence.sets)} random sets (same layers, {match}) on {len(evidence.rows)} control"
        " prompts"
    )
    n_bounded = sum(np.isnan(one["rate"]) for one in evidence.random[direction]) if direction else 0
    return description + (
        f"; {n_bounded} of them only until it was certain that they do less: these count for p and"
        " not for the range"
        if n_bounded
        else ""
    )


def lead(evidence: Evidence, findings: Mapping[str, Finding]) -> str:
    """The first sentence of the run: the located set's effect or why there is none; empty: the
    behaviour's.
    """
    if not findings["behaviour"].supported:
        return ""
    if not evidence.selected:
        return f"No {evidence.unit.name} was selected."
    if "necessity" not in findings:
        return "The models differ on no control prompt: the set was not tested."
    return findings["necessity"].sentence


def limits(study: Study, evidence: Evidence, findings: Mapping[str, Finding]) -> list[str]:
    """Limits of this run: why claims are not supported or were not tested."""
    first_finding, notes = findings["behaviour"], []
    clusters = min(
        effective_clusters(study.prompts(group).clusters) for group in ("positive", "negative")
    )
    if not first_finding.supported:
        notes.append(_no_behaviour(first_finding, clusters))
    # losses that were not observed, with too few clusters to exclude them
    unsupported = [
        one.name
        for one in findings.values()
        if one.name in LOSSES and one.reaches_threshold and one.verdict != SUPPORTED
    ]
    if unsupported and clusters < min_clusters():
        notes.append(
            f"{clusters:.3g} clusters of prompts are too few to exclude a difference of 10 % (at"
            f" least {min_clusters()} are needed): {', '.join(unsupported)}."
        )
    if "necessity" not in findings:
        return notes
    if "harmless" not in findings:
        notes.append(
            "Both models agree on no negative prompt: harm by the ablation was not measured."
        )
    if findings["necessity"].supported:
        if evidence.tuned == 0:
            notes.append(
                f"Fine-tuning changed the weights of none of the {evidence.unit.name}s: they"
                " transmit what changed elsewhere."
            )
        return notes
    if len(evidence.random["necessity"]) < MIN_RANDOM_SETS:
        notes.append(
            f"Fewer than {MIN_RANDOM_SETS} random sets of equal size: no effect could have been"
            " supported."
        )
    return notes


def min_clusters() -> int:
    """Clusters per class from which on zero observed losses exclude a loss above the bound."""
    return next(n for n in range(1, 1000) if exact_interval(0, n)[1] <= MAX_UPPER_END)


def _no_behaviour(finding: Finding, clusters: float) -> str:
    if finding.high < 0:
        return (
            "The base shows the behaviour more often than the fine-tuned model: are the two"
            " exchanged?"
        )
    if finding.value >= MIN_DIFFERENCE or finding.high >= MIN_DIFFERENCE:
        return (
            f"{clusters:.3g} clusters of prompts are too few to decide whether there is a behaviour"
            " to locate."
        )
    return "There is no behaviour to locate."
