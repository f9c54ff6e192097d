"""Claims of a verifying run, and its limits."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from interp.analyzers.verify_neurons.behaviour import BEHAVIOUR, CORRECTED, behaviour
from interp.analyzers.verify_neurons.evidence import Evidence
from interp.analyzers.verify_neurons.sampled import sampled_behaviour
from interp.analyzers.verify_neurons.side_effects import (
    BOUND,
    BREAKS,
    LEFT,
    fluency,
    harmless,
    malformed,
    selective,
)
from interp.claims import SUPPORTED, Claim, Draws, Estimate, Finding, literal, mean, statistic
from interp.experiments.conditions import DIRECTIONS, RECEIVERS
from interp.experiments.corrected_rates import judge_of
from interp.experiments.sampled import sampling_of
from interp.maths.intervals import effective_clusters, exact_interval
from interp.study import GROUPS, Study

# Largest share of the gap between both models' rates that may remain (or be missing); least share
# of the gap between their log-odds that must be recovered.
OF_GAP, RECOVERED = 0.5, 0.5
# Without a base: least share lost, and the value that its interval must exclude in any case.
LOST, LEAST = 0.5, 0.25
FEWEST_SETS = 39
LOSSES = ("necessity", "sufficiency", "selective", "harmless", "malformed", "malformed-negative")
# claims that the verdict needs; a set can be necessary without being sufficient
NEEDED = ("behaviour", "necessity", "harmless", *BREAKS)


def claims_of(study: Study, evidence: Evidence) -> list[Claim]:
    """The run's claims: ``behaviour``, and where a located set was tested its effects."""
    claims = [behaviour(study, evidence)]
    if evidence.sampled and (sampling := sampling_of(study)):
        claims.append(sampled_behaviour(study, sampling, evidence))
    if not evidence.selected or "necessity" not in evidence.random:
        return claims
    if evidence.has_base:
        for direction in evidence.random:
            claims.append(changed(study, evidence, direction))
            if evidence.has_number:
                claims.append(recovered(study, evidence, direction))
    else:
        claims.append(lost(study, evidence))
    patched = evidence.get("patch-tuned", "negative") is not None
    if patched and "sufficiency" in evidence.random and study.require_metric().applies("negative"):
        claims.append(selective(study, evidence))
    broken = [made(evidence, group) for group in GROUPS for made in (malformed, fluency)]
    return [
        *claims,
        *(claim for claim in (harmless(study, evidence), *broken) if claim is not None),
    ]


def changed(study: Study, evidence: Evidence, direction: str) -> Claim:
    """``necessity`` and ``sufficiency``: under the patch the behaviour is as rare, or as frequent,
    as in the donor.
    """
    words, condition, judge = study.require_metric().words, DIRECTIONS[direction], judge_of(study)
    role, donor = RECEIVERS[direction]

    def share(name: str, **rest: Any) -> Estimate:
        where = {"condition": name, "group": "positive"}
        return mean(words.column, table="answers", where=where, **judge, **rest)

    gone = direction == "necessity"
    own = {"where": {"condition": donor, "group": "positive"}}
    taken, units = f"{evidence.patch}s", f"{evidence.selected} {evidence.unit.name}s"
    said = literal(words.verb).replace("{{share}}", "{now:.1%}")
    if gone:
        text = (
            f"Given the base's {taken} in {units}, the fine-tuned model {said} ({{without:.1%}}"
            " without, the base "
        )
    else:
        text = (
            f"Given the fine-tuned model's {taken} in {units}, the base {said} ({{without:.1%}}"
            " without, the "
        )
        text += "fine-tuned model "
    random, drawn = {"table": "random", "where": {"direction": direction, "whole": True}}, {}
    if evidence.random[direction]:
        ends = {"random_low": "minimum", "random_high": "maximum"}
        drawn = {name: statistic(end, "rate", **random) for name, end in ends.items()}
        drawn["there"] = _at_the_located_size(direction, "rate", evidence)
    left = min(LEFT, OF_GAP * evidence.gap) if evidence.gap > 0 else LEFT
    return Claim(
        name=direction,
        estimate=share(condition, pair="prompt_id", minus=own),
        at_most=left if gone else None,
        at_least=None if gone else -left,
        null=Draws(
            "random",
            "difference",
            {"direction": direction},
            observed=_at_the_located_size(direction, "difference", evidence),
            alternative="less" if gone else "greater",
            fewest=FEWEST_SETS,
            shown={"first": True},
        ),
        control=_control(evidence, direction),
        requires=["behaviour", *([f"{direction}-recovery"] if evidence.has_number else [])],
        text=text
        + "{own:.1%}"
        + (_beside(evidence, direction) if drawn else "")
        + f"{', as judged' if judge and drawn else ''}).{CORRECTED if judge else ''}",
        also={"now": share(condition), "without": share(role), "own": share(donor), **drawn},
    )


def _beside(evidence: Evidence, direction: str) -> str:
    """Clause that compares located and random sets on the control prompts."""
    whole = sum(not np.isnan(one["rate"]) for one in evidence.random[direction])
    others = len(evidence.random[direction]) - whole
    there = f"; on {len(evidence.rows)} control prompts {{there:.1%}}, with {whole} random sets "
    there += "{random_low:.1%} to {random_high:.1%}"
    if others:
        there += (
            f", and {others} more, judged on fewer of them, do less than the located"
            f" {evidence.unit.name}s"
        )
    return there


def recovered(study: Study, evidence: Evidence, direction: str) -> Claim:
    """The patch closes the gap between both models' numbers where the answer begins (a ratio of
    means over prompts).
    """
    number, own = literal(study.require_metric().words.number), {"column": "receiver"}
    return Claim(
        name=f"{direction}-recovery",
        estimate=mean(
            "number",
            table="recovery",
            where={"direction": direction},
            minus=own,
            over={"column": "donor", "minus": own},
        ),
        at_least=RECOVERED,
        null=Draws(
            "random",
            "recovery",
            {"direction": direction},
            observed=_at_the_located_size(direction, "recovery", evidence),
            fewest=FEWEST_SETS,
        ),
        control=_control(evidence),
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


def lost(study: Study, evidence: Evidence) -> Claim:
    """Without a base: share of the behaviour lost when the units are set to their mean."""
    words, sets = study.require_metric().words, len(evidence.random["necessity"])
    said = (
        f"Set to their mean, {evidence.selected} {evidence.unit.name}s lose {{value:.1%}} of the"
        f" {literal(words.many)}"
    )
    where = {"condition": "ablate-mean", "group": "positive", "changed": True}
    return Claim(
        name="necessity",
        estimate=mean("lost", table="answers", where=where),
        at_least=LOST,
        beyond=["control", LEAST],
        null=Draws(
            "random",
            "behaviour",
            {"direction": "necessity"},
            observed=_at_the_located_size("necessity", "behaviour", evidence),
            fewest=FEWEST_SETS,
        ),
        control=_control(evidence),
        text=said
        + (
            f" ({sets} matched random sets: {{control_low:.1%}} to {{control_high:.1%}})."
            if sets
            else "."
        ),
    )


def _at_the_located_size(direction: str, column: str, evidence: Evidence) -> Estimate:
    """The located set's effect on the control prompts, with which those of the random sets are
    compared.
    """
    where = {"direction": direction, "k": evidence.selected, "source": "located"}
    return statistic("mean", column, table="dose", where=where)


def _control(evidence: Evidence, judged: str | None = None) -> str:
    """Description of the random sets and of how well they match the located set; ``judged``: a
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
    said = (
        f"{len(evidence.sets)} random sets (same layers, {match}) on {len(evidence.rows)} control"
        " prompts"
    )
    further = sum(np.isnan(one["rate"]) for one in evidence.random[judged]) if judged else 0
    return said + (
        f"; {further} of them only until it was certain that they do less: these count for p and"
        " not for the range"
        if further
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
    first, lines = findings["behaviour"], []
    clusters = min(
        effective_clusters(study.prompts(group).clusters) for group in ("positive", "negative")
    )
    if not first.supported:
        lines.append(_no_behaviour(first, clusters))
    # losses that were not observed, with too few clusters to exclude them
    unseen = [
        one.name
        for one in findings.values()
        if one.name in LOSSES and one.holds and one.verdict != SUPPORTED
    ]
    if unseen and clusters < fewest_clusters():
        lines.append(
            f"{clusters:.3g} clusters of prompts are too few to exclude a difference of 10 % (at"
            f" least {fewest_clusters()} are needed): {', '.join(unseen)}."
        )
    if "necessity" not in findings:
        return lines
    if "harmless" not in findings:
        lines.append(
            "Both models agree on no negative prompt: harm by the ablation was not measured."
        )
    if findings["necessity"].supported:
        if evidence.tuned == 0:
            lines.append(
                f"Fine-tuning changed the weights of none of the {evidence.unit.name}s: they"
                " transmit what changed elsewhere."
            )
        return lines
    if len(evidence.random["necessity"]) < FEWEST_SETS:
        lines.append(
            f"Fewer than {FEWEST_SETS} random sets of equal size: no effect could have been"
            " supported."
        )
    return lines


def fewest_clusters() -> int:
    """Clusters per class from which on zero observed losses exclude a loss above the bound."""
    return next(n for n in range(1, 1000) if exact_interval(0, n)[1] <= BOUND)


def _no_behaviour(first: Finding, clusters: float) -> str:
    if first.high < 0:
        return (
            "The base shows the behaviour more often than the fine-tuned model: are the two"
            " exchanged?"
        )
    if first.value >= BEHAVIOUR or first.high >= BEHAVIOUR:
        return (
            f"{clusters:.3g} clusters of prompts are too few to decide whether there is a behaviour"
            " to locate."
        )
    return "There is no behaviour to locate."
