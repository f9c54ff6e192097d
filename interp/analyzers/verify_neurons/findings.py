"""From evidence to claims: what was shown beside its control, and what was not, with the smallest visible effect."""

from dataclasses import dataclass, field

import numpy as np

from interp.analyzers.verify_neurons.conditions import Judged
from interp.claims import Claim
from interp.maths.statistics import clustered_share, permutation_p, smallest_dose, smallest_effect
from interp.study import Study

BEHAVIOUR, EFFECT, HARMLESS, MALFORMED, ALPHA = 0.1, 0.5, 0.02, 0.02, 0.05


@dataclass
class Evidence:
    """What the interventions gave, before anything is claimed."""

    judged: list[Judged]
    changed: np.ndarray
    rows: list[int]
    has_base: bool
    selected: int
    sets: list = field(default_factory=list)
    dose: dict[str, dict[int, float]] = field(default_factory=dict)
    random_dose: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    random: dict[str, list[float]] = field(default_factory=dict)
    hits: dict[str, np.ndarray] = field(default_factory=dict)
    harmless: list[float] = field(default_factory=list)

    def get(self, condition: str, group: str) -> Judged | None:
        """The judgement of one condition and class, or None where it was not run."""
        return next((item for item in self.judged if (item.condition, item.group) == (condition, group)), None)


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
    if evidence.selected and evidence.random:
        claims.append(_effect(study, evidence, "necessity"))
        if evidence.has_base:
            claims.append(_effect(study, evidence, "sufficiency"))
            claims += [_harmless(study, evidence), _malformed(study, evidence)]
    verdicts = {claim.name: claim.shown for claim in claims}
    needed = ["behaviour", "necessity", "harmless", "malformed"] if evidence.has_base else ["behaviour", "necessity"]
    shown = all(verdicts.get(name, False) for name in needed)
    k95 = None
    if "necessity" in evidence.dose:
        k, effect = zip(*sorted(evidence.dose["necessity"].items()), strict=True)
        k95 = smallest_dose(k, effect, reach)
    null = evidence.random.get("necessity", [])
    visible = smallest_effect(null) if len(null) >= 19 else None
    summary = {
        "shown": shown,
        "claims_shown": sum(verdicts.values()),
        "claims": len(claims),
        "k95": k95,
        "changed_prompts": int(evidence.changed.sum()),
        "smallest_visible_effect": visible,
    }
    return Findings(claims, _sentence(evidence, claims, shown, k95, visible), shown, summary)


def _interval(values: np.ndarray, clusters: list[str], seed: int) -> tuple[float, float, float]:
    return clustered_share(values, clusters, seed=seed)


def behaviour(study: Study, evidence: Evidence) -> Claim:
    """The tuned model refuses positive prompts more than the base does (without a base: than negative ones)."""
    tuned, still = evidence.get("tuned", "positive"), evidence.get("tuned", "negative")
    seed, where = study.seed, {"group": "positive", "condition": "tuned"}
    rate, low, high = _interval(tuned.refused, study.prompts("positive").clusters, seed)
    if evidence.has_base:
        before = evidence.get("base", "positive").refused
        other = evidence.get("base", "negative").refused
        minus = {"where": {"group": "positive", "condition": "base"}}
        control = float(still.refused.mean() - other.mean())
        than, null = "than the base", "the same difference on negative prompts"
    else:
        before, minus = still.refused, {"where": {"group": "negative", "condition": "tuned"}}
        control, than, null = 0.0, "than negative ones", "no difference"
    base_rate, base_low, base_high = _interval(
        before, study.prompts("positive" if evidence.has_base else "negative").clusters, seed
    )
    value = float(rate - base_rate)
    return Claim(
        "behaviour",
        f"The tuned model refuses {rate:.1%} of positive prompts, {value:+.1%} more {than}.",
        value, low - base_high, high - base_low, null, control, control, control, float("nan"), BEHAVIOUR, "at least",
        low - base_high > max(BEHAVIOUR, control),
        {"table": "answers", "statistic": "mean", "column": "refused", "cluster": "cluster",
         "where": where, "minus": minus},
    )  # fmt: skip


_DIRECTIONS = {
    "necessity": (
        "ablate-base",
        "equal_base",
        "given their base contributions, {k} neurons return {v:.1%} of the base's answers",
    ),
    "sufficiency": (
        "patch-tuned",
        "equal_tuned",
        "put into the base, {k} neurons' tuned contributions give {v:.1%} of the tuned answers",
    ),
}


def _effect(study: Study, evidence: Evidence, direction: str) -> Claim:
    """Share of the changed prompts whose answer becomes the other model's, beside matched random sets of equal size."""
    condition, column, text = _DIRECTIONS[direction]
    clusters = np.array(study.prompts("positive").clusters)[evidence.changed]
    recipe = {"table": "answers", "statistic": "mean", "column": column, "cluster": "cluster"}
    if evidence.has_base:
        values = getattr(evidence.get(condition, "positive"), column)[evidence.changed]
        recipe["where"] = {"condition": condition, "group": "positive", "changed": True}
    else:
        after = evidence.get("ablate-mean", "positive")
        values = (~after.refused & ~after.malformed)[evidence.changed]
        text = "set to their mean, {k} neurons lose {v:.1%} of the refusals"
        recipe |= {"column": "lost", "where": {"condition": "ablate-mean", "group": "positive", "changed": True}}
    value, low, high = _interval(values, clusters, study.seed)
    null = np.array(evidence.random[direction])
    p = permutation_p(float(evidence.hits[direction].mean()), null)
    floor, ceiling = (float(x) for x in np.quantile(null, [0.025, 0.975]))
    sentence = text.format(k=evidence.selected, v=value)
    return Claim(
        direction,
        f"{sentence[0].upper()}{sentence[1:]} ({len(null)} matched random sets: {floor:.1%} to {ceiling:.1%}).",
        value, low, high,
        f"{len(null)} matched random sets (same layers, like base contribution norms) on "
        f"{len(evidence.hits[direction])} prompts",
        float(null.mean()), floor, ceiling, p, EFFECT, "at least",
        value >= EFFECT and p <= ALPHA and low > ceiling,
        recipe,
    )  # fmt: skip


def _harmless(study: Study, evidence: Evidence) -> Claim:
    """How many answers to negative prompts the ablation changes; the random sets' own losses stand beside."""
    same = evidence.get("ablate-base", "negative").equal_tuned
    kept, low, high = _interval(same, study.prompts("negative").clusters, study.seed)
    losses = 1 - np.array(evidence.harmless)
    where = {"condition": "tuned", "group": "negative"}
    return Claim(
        "harmless",
        f"The ablation changes {1 - kept:.1%} of the answers to negative prompts.",
        1 - kept, 1 - high, 1 - low,
        f"{len(losses)} matched random sets", float(losses.mean()), float(losses.min()), float(losses.max()),
        float("nan"), HARMLESS, "at most", 1 - kept <= HARMLESS,
        {"table": "answers", "statistic": "mean", "column": "equal_tuned", "cluster": "cluster", "where": where,
         "minus": {"where": {"condition": "ablate-base", "group": "negative"}}},
    )  # fmt: skip


def _malformed(study: Study, evidence: Evidence) -> Claim:
    """Removing a behaviour must not break the model: broken answers under ablation, beside the tuned model's own."""
    broken, own = evidence.get("ablate-base", "positive").malformed, evidence.get("tuned", "positive").malformed
    clusters = study.prompts("positive").clusters
    rate, low, high = _interval(broken, clusters, study.seed)
    before, own_low, own_high = _interval(own, clusters, study.seed)
    return Claim(
        "malformed",
        f"{rate:.1%} of the ablated answers to positive prompts are malformed.",
        rate, low, high, "the tuned model's own answers", before, own_low, own_high, float("nan"), MALFORMED, "at most",
        rate <= MALFORMED,
        {"table": "answers", "statistic": "mean", "column": "malformed", "cluster": "cluster",
         "where": {"condition": "ablate-base", "group": "positive"}},
    )  # fmt: skip


def _sentence(evidence: Evidence, claims: list[Claim], shown: bool, k95: int | None, visible: float | None) -> str:
    by_name = {claim.name: claim for claim in claims}
    if not by_name["behaviour"].shown:
        return f"Not shown: there is no behaviour to locate. {by_name['behaviour'].sentence}"
    if not evidence.selected:
        return f"Not shown: no neuron was selected. {by_name['behaviour'].sentence}"
    if "necessity" not in by_name:
        return "Not shown: no prompt on which the models differ was left for the controls."
    parts = [claim.sentence for claim in claims if claim.name != "behaviour" and claim.shown]
    missing = [claim.sentence for claim in claims if claim.name != "behaviour" and not claim.shown]
    text = ("Shown: " if shown else "Not shown as a whole. Held: " if parts else "Not shown. ") + " ".join(parts)
    if missing:
        text += " Did not hold: " + " ".join(missing)
        if visible is not None and "necessity" in by_name and not by_name["necessity"].shown:
            text += f" An effect above {visible:.1%} would have stood out from the random sets."
    return text + (f" The smallest set that returns 95 % holds {k95} neurons." if k95 else "")
