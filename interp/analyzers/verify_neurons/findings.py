"""From evidence to claims: what was shown beside its control, and what was not, with the smallest visible effect."""

from dataclasses import dataclass

import numpy as np

from interp.analyzers.verify_neurons.behaviour import BEHAVIOUR, behaviour
from interp.analyzers.verify_neurons.evidence import Evidence
from interp.claims import Claim
from interp.maths.statistics import (
    clopper_pearson,
    clustered_rise,
    clustered_share,
    permutation_p,
    smallest_dose,
    smallest_effect,
)
from interp.study import Study

# What a claim needs: share of answers returned, loss of harmless answers, malformed answers, the upper end that the
# interval of a loss may have, and the level of tests.
EFFECT, HARMLESS, MALFORMED, BOUND, ALPHA = 0.5, 0.02, 0.02, 0.1, 0.05
LEAST = 0.25  # what the interval of an effect must exclude, also where the random sets do nothing
NAN = float("nan")


@dataclass(frozen=True)
class Findings:
    """Claims, the one sentence, and the numbers of the summary."""

    claims: list[Claim]
    sentence: str
    shown: bool
    summary: dict


def find(study: Study, evidence: Evidence, reach: float) -> Findings:
    """State every finding as a claim with its interval, control and threshold."""
    claims = [behaviour(study, evidence)]
    if evidence.selected and "necessity" in evidence.random:
        claims += [effect(study, evidence, direction) for direction in evidence.random]
        claims += [harmless(study, evidence), malformed(study, evidence)]
    verdicts = {claim.name: claim.shown for claim in claims}
    shown = all(verdicts.get(name, False) for name in ("behaviour", "necessity", "harmless", "malformed"))
    k95 = None
    if evidence.has_base and "necessity" in evidence.dose:
        k95 = smallest_dose(list(evidence.dose["necessity"]), list(evidence.dose["necessity"].values()), reach)
    visible = smallest_visible(study, evidence)
    summary = {
        "shown": shown,
        "claims_shown": sum(verdicts.values()),
        "claims": len(claims),
        "k95": k95,
        "selected_and_tuned": evidence.tuned,
        "changed_prompts": int(evidence.changed.sum()),
        "smallest_visible_effect": visible,
        "norm_ratio_of_random_sets": float(np.mean(evidence.ratios)) if evidence.ratios else None,
    }
    return Findings(claims, _sentence(study, evidence, claims, shown, k95, reach, visible), shown, summary)


_DIRECTIONS = {
    "necessity": (
        "ablate-base",
        "equal_base",
        "given their base contributions, {k} {units} return {v:.1%} of the base's answers",
    ),
    "sufficiency": (
        "patch-tuned",
        "equal_tuned",
        "put into the base, {k} {units}' tuned contributions give {v:.1%} of the tuned answers",
    ),
}


def effect(study: Study, evidence: Evidence, direction: str) -> Claim:
    """Share of the changed prompts whose answer becomes the other model's, beside matched random sets of equal size."""
    condition, column, text = _DIRECTIONS[direction]
    if not evidence.has_base:
        condition, column, text = "ablate-mean", "lost", "set to their mean, {k} {units} lose {v:.1%} of the {many}"
    judged, kept = evidence.get(condition, "positive"), evidence.get("tuned", "positive")
    values = judged.lost(kept) if column == "lost" else getattr(judged, column)
    clusters = np.array(study.prompts("positive").clusters)[evidence.changed]
    value, low, high = clustered_share(values[evidence.changed], clusters, seed=study.seed)
    null = np.array(evidence.random[direction])
    located = evidence.dose[direction][evidence.selected]
    p = permutation_p(located, null) if len(null) else NAN
    floor, ceiling = (float(x) for x in np.quantile(null, [0.025, 0.975])) if len(null) else (NAN, NAN)
    beside = f"{len(null)} matched random sets: {floor:.1%} to {ceiling:.1%}" if len(null) else "no set of equal size"
    sentence = text.format(k=evidence.selected, v=value, units=f"{evidence.unit.name}s", many=study.metric.words.many)
    match = f", contributions {np.mean(evidence.ratios):.2f} times as large" if evidence.ratios else ""
    where = {"condition": condition, "group": "positive", "changed": True}
    return Claim(
        direction,
        f"{sentence[0].upper()}{sentence[1:]} ({beside}).",
        value, low, high,
        f"{len(null)} random sets (same layers{match}) on {len(evidence.rows)} prompts, where the located give "
        f"{located:.1%}",
        float(null.mean()) if len(null) else NAN, floor, ceiling, p, EFFECT, "at least",
        bool(value >= EFFECT and p <= ALPHA and low > max(ceiling, LEAST)),
        {"table": "answers", "statistic": "mean", "column": column, "cluster": "cluster", "where": where,
         "beyond": ["control_high", LEAST],
         "p": {"null": {"table": "random", "column": "effect", "where": {"direction": direction}},
               "observed": {"table": "dose", "statistic": "mean", "column": "effect",
                            "where": {"direction": direction, "k": evidence.selected, "source": "located"}}}},
    )  # fmt: skip


def harmless(study: Study, evidence: Evidence) -> Claim:
    """How many answers to negative prompts the ablation changes; the random sets' own losses stand beside."""
    same = evidence.get(evidence.ablation, "negative").equal_tuned
    kept, low, high = clustered_share(same, study.prompts("negative").clusters, seed=study.seed)
    losses = 1 - np.array(evidence.harmless) if evidence.harmless else np.array([NAN])
    return Claim(
        "harmless",
        f"The ablation changes {1 - kept:.1%} of the answers to negative prompts (at most {1 - low:.1%}).",
        1 - kept, 1 - high, 1 - low,
        f"{len(evidence.harmless)} matched random sets", losses.mean(), losses.min(), losses.max(),
        NAN, HARMLESS, "at most", 1 - kept <= HARMLESS and 1 - low <= BOUND,
        {"table": "answers", "statistic": "mean", "column": "equal_tuned", "cluster": "cluster",
         "where": {"condition": "tuned", "group": "negative"}, "beyond": [BOUND],
         "minus": {"where": {"condition": evidence.ablation, "group": "negative"}}},
    )  # fmt: skip


def malformed(study: Study, evidence: Evidence) -> Claim:
    """Removing a behaviour must not break the model: broken answers under ablation, over the reference's own."""
    reference = "base" if evidence.has_base else "tuned"
    broken = evidence.get(evidence.ablation, "positive").malformed
    own = evidence.get(reference, "positive").malformed
    clusters = study.prompts("positive").clusters
    value, low, high = clustered_rise(broken, own, clusters, study.seed)
    before = clustered_share(own, clusters, seed=study.seed)
    return Claim(
        "malformed",
        f"{broken.mean():.1%} of the ablated answers to positive prompts are malformed, {value:+.1%} over the "
        f"{reference} model's own (at most {high:+.1%}).",
        value, low, high, f"the {reference} model's own rate", *before, NAN, MALFORMED, "at most",
        value <= MALFORMED and high <= BOUND,
        {"table": "answers", "statistic": "mean", "column": "malformed", "cluster": "cluster",
         "where": {"condition": evidence.ablation, "group": "positive"}, "beyond": [BOUND],
         "minus": {"where": {"condition": reference, "group": "positive"}}},
    )  # fmt: skip


def smallest_visible(study: Study, evidence: Evidence) -> float | None:
    """The smallest necessity that this run could have shown: above threshold, null and interval; None if none could."""
    null = evidence.random.get("necessity", [])
    if not len(null) or not np.isfinite(smallest_effect(null, ALPHA)):
        return None
    ceiling = max(float(np.quantile(null, 0.975)), smallest_effect(null, ALPHA), LEAST)
    n = len(set(np.array(study.prompts("positive").clusters)[evidence.changed]))
    reached = [count / n for count in range(1, n + 1) if clopper_pearson(count, n)[0] > ceiling]
    return max(EFFECT, reached[0]) if reached else None


def fewest_clusters() -> int:
    """Clusters per class below which no loss, even none at all, is bounded tightly enough for a claim."""
    return next(n for n in range(1, 1000) if clopper_pearson(0, n)[1] <= BOUND)


def _sentence(
    study: Study,
    evidence: Evidence,
    claims: list[Claim],
    shown: bool,
    k95: int | None,
    reach: float,
    visible: float | None,
) -> str:
    by_name = {claim.name: claim for claim in claims}
    first = by_name["behaviour"]
    if not first.shown:
        return f"Not shown: {_no_behaviour(study, first)}. {first.sentence} The interval is {_range(first)}."
    if not evidence.selected:
        return f"Not shown: no {evidence.unit.name} was selected. {first.sentence}"
    if "necessity" not in by_name:
        return f"Not shown: base and tuned model answer every positive prompt alike. {first.sentence}"
    parts = [claim.sentence for claim in claims if claim.shown]
    missing = [claim for claim in claims[1:] if not claim.shown]
    # a loss that was not seen, among prompts too few to say so
    open_ended = [claim for claim in missing if claim.direction == "at most" and claim.value <= claim.threshold]
    failed = [claim.sentence for claim in missing if claim not in open_ended]
    halved = shown and "sufficiency" in by_name and not by_name["sufficiency"].shown
    whole = "Shown to be necessary, not sufficient:" if halved else "Shown:"
    text = whole if shown else "Not shown as a whole. Held:" if parts else f"Not shown. {first.sentence}"
    text = " ".join([text, *parts])
    if failed:
        text += " Not shown: " + " ".join(failed)
    if open_ended:
        text += f" Not settled by {_clusters(study)} clusters ({fewest_clusters()} at least are needed): " + " ".join(
            claim.sentence for claim in open_ended
        )
    if not by_name["necessity"].shown:
        what = "base's answers" if evidence.has_base else study.metric.words.many
        text += (
            " Fewer than 19 random sets of equal size, or too few prompts, can show nothing."
            if visible is None
            else f" The smallest share of the {what} that this run could have shown is {visible:.0%}."
        )
    if k95:
        already = "already " if k95 < evidence.selected else ""
        text += (
            f" The first {k95} of the ranking {already}return {reach:.0%} on the {len(evidence.rows)} control prompts."
        )
    if evidence.tuned == 0 and by_name["necessity"].shown:
        text += " Tuning moved the weights of none of them: they transmit what was changed elsewhere."
    return text


def _no_behaviour(study: Study, first: Claim) -> str:
    if first.high < 0:
        return "the base shows the behaviour more than the tuned model does; are the two exchanged?"
    if first.value >= BEHAVIOUR or first.high >= BEHAVIOUR:
        return f"{_clusters(study)} clusters are too few to say whether there is a behaviour to locate"
    return "there is no behaviour to locate"


def _clusters(study: Study) -> int:
    return min(len(set(study.prompts(group).clusters)) for group in ("positive", "negative"))


def _range(claim: Claim) -> str:
    return f"{claim.low:+.1%} to {claim.high:+.1%}"
