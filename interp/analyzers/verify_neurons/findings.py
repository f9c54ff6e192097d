"""From evidence to claims, and what a run could not have supported."""

from collections.abc import Mapping

import numpy as np

from interp.analyzers.verify_neurons.behaviour import BEHAVIOUR, behaviour
from interp.analyzers.verify_neurons.evidence import Evidence
from interp.claims import ALPHA, Claim, Draws, Finding, literal, mean, statistic
from interp.maths.intervals import FEWEST_CLUSTERS, effective_clusters, exact_interval
from interp.maths.statistics import smallest_effect
from interp.study import Study

# What a claim needs: share of answers returned, loss of harmless answers, malformed answers, and the upper end that the
# interval of a loss may have.
EFFECT, HARMLESS, MALFORMED, BOUND = 0.5, 0.02, 0.02, 0.1
LEAST = 0.25  # what the interval of an effect must exclude, also where the random sets do nothing
NEEDED = ("behaviour", "necessity", "harmless", "malformed")  # a set can be necessary without being sufficient

_TEXTS = {
    "necessity": "Given the base's {taken}, {k} {units} return {{value:.1%}} of the base's answers",
    "sufficiency": "Given the fine-tuned model's {taken}, {k} {units} of the base give {{value:.1%}} of the "
    "fine-tuned model's answers",
    "without a base": "Set to their mean, {k} {units} lose {{value:.1%}} of the {many}",
}


def claims_of(study: Study, evidence: Evidence) -> list[Claim]:
    """What the run claims: ``behaviour``, and where a located set was tested also what it does."""
    claims = [behaviour(study, evidence)]
    if evidence.selected and "necessity" in evidence.random:
        claims += [effect(study, evidence, direction) for direction in evidence.random]
        claims += [harmless(evidence), malformed(evidence)]
    return claims


def effect(study: Study, evidence: Evidence, direction: str) -> Claim:
    """Share of the changed prompts whose answer becomes the other model's, compared with matched random sets."""
    condition, column = {"necessity": ("ablate-base", "equal_base"), "sufficiency": ("patch-tuned", "equal_tuned")}[
        direction
    ]
    key = direction
    if not evidence.has_base:
        condition, column, key = "ablate-mean", "lost", "without a base"
    units, many = f"{evidence.unit.name}s", literal(study.require_metric().words.many)
    text = _TEXTS[key].format(k=evidence.selected, units=units, many=many, taken=f"{evidence.patch}s")
    sets = len(evidence.random[direction])
    match = f", contributions {np.mean(evidence.ratios):.2f} times as large" if evidence.ratios else ""
    located = {"direction": direction, "k": evidence.selected, "source": "located"}
    observed = statistic("mean", "effect", table="dose", where=located)
    return Claim(
        name=direction,
        estimate=mean(column, table="answers", where={"condition": condition, "group": "positive", "changed": True}),
        at_least=EFFECT,
        beyond=["control", LEAST],
        null=Draws("random", "effect", {"direction": direction}, observed=observed),
        control=f"{sets} random sets (same layers{match}) on {len(evidence.rows)} control prompts"
        if sets
        else "no random set of equal size could be drawn",
        text=text + (f" ({sets} matched random sets: {{control_low:.1%}} to {{control_high:.1%}})." if sets else "."),
    )


def harmless(evidence: Evidence) -> Claim:
    """How many answers to negative prompts the ablation changes, next to what ablating random sets changes."""
    drawn = bool(evidence.harmless)
    return Claim(
        name="harmless",
        estimate=mean("altered", table="answers", where={"condition": evidence.ablation, "group": "negative"}),
        at_most=HARMLESS,
        beyond=[BOUND],
        reference=statistic("mean", "altered", table="random_harmless", spread="range") if drawn else 0.0,
        control=f"{len(evidence.harmless)} matched random sets" if drawn else "the fine-tuned model's own answers",
        text="The ablation changes {value:.1%} of the answers to negative prompts (at most {high:.1%}).",
    )


def malformed(evidence: Evidence) -> Claim:
    """Removing a behaviour must not break the model: broken answers under ablation, over the reference's own."""
    reference, name = ("base", "the base") if evidence.has_base else ("tuned", "the fine-tuned model")
    ablated, own = ({"condition": each, "group": "positive"} for each in (evidence.ablation, reference))
    return Claim(
        name="malformed",
        estimate=mean("malformed", table="answers", where=ablated, minus={"where": own}, pair="prompt_id"),
        at_most=MALFORMED,
        beyond=[BOUND],
        reference=mean("malformed", table="answers", where=own),
        control=f"the rate of {name} itself",
        text="{share:.1%} of the ablated answers to positive prompts are malformed, {value:+.1%} compared with those "
        f"of {name} (at most {{high:+.1%}}).",
        also={"share": mean("malformed", table="answers", where=ablated)},
    )


def lead(evidence: Evidence, findings: Mapping[str, Finding]) -> str:
    """The first sentence of the run: the effect of the located set, or why there is none; "" is the behaviour's."""
    if not findings["behaviour"].supported:
        return ""
    if not evidence.selected:
        return f"No {evidence.unit.name} was selected."
    if "necessity" not in findings:
        return "No control prompt shows what could be returned: the set was not tested."
    return findings["necessity"].sentence


def limits(study: Study, evidence: Evidence, findings: Mapping[str, Finding]) -> list[str]:
    """What this run cannot say, and why a claim of it is not supported, in plain words."""
    first, lines = findings["behaviour"], []
    clusters = min(effective_clusters(study.prompts(group).clusters) for group in ("positive", "negative"))
    if not first.supported:
        lines.append(_no_behaviour(first, clusters))
    # a loss that was not seen, among prompts too few to say so
    unseen = [one.name for one in findings.values() if one.direction == "at most" and one.holds and not one.supported]
    if unseen:
        lines.append(
            f"{clusters:.3g} clusters of prompts are too few to exclude that 10 % of the answers are lost (at least "
            f"{fewest_clusters()} are needed): {', '.join(unseen)}."
        )
    if "necessity" not in findings:
        return lines
    if findings["necessity"].supported:
        if evidence.tuned == 0:
            lines.append(
                f"Fine-tuning moved the weights of none of the {evidence.unit.name}s: they transmit what was changed "
                "elsewhere."
            )
        return lines
    what = "base's answers" if evidence.has_base else study.require_metric().words.many
    visible = smallest_visible(study, evidence)
    lines.append(
        "Fewer than 19 random sets of equal size, or too few prompts: no effect could have been supported."
        if visible is None
        else f"The smallest share of the {what} that this run could have supported is {visible:.0%}."
    )
    return lines


def smallest_visible(study: Study, evidence: Evidence) -> float | None:
    """The smallest necessity that this run could have supported: above threshold, null and interval; None if none."""
    null = evidence.random.get("necessity", [])
    clusters = np.array(study.prompts("positive").clusters)[evidence.changed]
    n = effective_clusters(clusters)
    if n < FEWEST_CLUSTERS or not len(null) or not np.isfinite(smallest_effect(null, ALPHA)):
        return None
    ceiling = max(float(np.quantile(null, 0.975)), smallest_effect(null, ALPHA), LEAST)
    shares = np.arange(1, len(clusters) + 1) / len(clusters)
    reached = [float(share) for share in shares if exact_interval(share * n, n)[0] > ceiling]
    return max(EFFECT, reached[0]) if reached else None


def fewest_clusters() -> int:
    """Clusters per class below which no loss, even none at all, is bounded tightly enough for a claim."""
    return next(n for n in range(1, 1000) if exact_interval(0, n)[1] <= BOUND)


def _no_behaviour(first: Finding, clusters: float) -> str:
    if first.high < 0:
        return "The base shows the behaviour more than the fine-tuned model does: are the two exchanged?"
    if first.value >= BEHAVIOUR or first.high >= BEHAVIOUR:
        return f"{clusters:.3g} clusters of prompts are too few to say whether there is a behaviour to locate."
    return "There is no behaviour to locate."
