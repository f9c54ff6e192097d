"""Side effects of a located set: on harmless answers, and on how well-formed answers are."""

from typing import Any

from interp.analyzers.verify_neurons.behaviour import CORRECTION_NOTE
from interp.analyzers.verify_neurons.evidence import Evidence
from interp.claims import Claim, Estimate, escape_braces, mean, statistic
from interp.experiments.corrected_rates import judge_field
from interp.study import Study

# Largest share of the behaviour that may be left or added, of harmless answers that may be lost, of
# malformed answers; and largest upper end of the interval of a loss.
MAX_LEFT, MAX_HARMED, MAX_MALFORMED, MAX_UPPER_END = 0.1, 0.02, 0.02, 0.1
# Largest increase of the base's loss per token on ablated answers: a perplexity of 1.65 times.
MAX_LOSS_INCREASE = 0.5
QUALITY_CLAIMS = ("malformed", "malformed-negative", "fluency", "fluency-negative")


def selective_claim(study: Study, evidence: Evidence) -> Claim:
    """With the located units patched in, the base shows the behaviour on negative prompts no more
    often than the fine-tuned model.

    A sufficient set that is not selective carries the behaviour but not its condition.
    """
    words, judge = study.require_metric().labels, judge_field(study)

    def share(condition: str, **rest: Any) -> Estimate:
        where = {"condition": condition, "group": "negative"}
        return mean(words.column, table="answers", where=where, **judge, **rest)

    clause = (
        escape_braces(words.verb)
        .replace("{{share}}", "{now:.1%}")
        .replace("positive prompts", "negative prompts")
    )
    tuned_share = share("tuned")
    return Claim(
        name="selective",
        estimate=share("patch-tuned", pair="prompt_id", minus={"where": tuned_share.where}),
        at_most=MAX_LEFT,
        reference=0.0,
        control="the fine-tuned model's own answers to negative prompts",
        text=(
            f"With them the base {clause} ({{own:.1%}} the fine-tuned model, {{base:.1%}} the base"
            " without them; the difference is at most"
            f" {{high:+.1%}}).{CORRECTION_NOTE if judge else ''}"
        ),
        also={"now": share("patch-tuned"), "own": tuned_share, "base": share("base")},
    )


def harmless_claim(study: Study, evidence: Evidence) -> Claim | None:
    """Share of harmless answers whose behaviour flips under ablation; for a task, any change.

    Where the fine-tuned model shows the behaviour on negative prompts too, an ablation that undoes
    it flips these back to the base's, which is no harm: the share is over the prompts on which both
    models agree; None where there are none. The verdict uses thresholds alone; random sets, few
    here, are reported in the same sentence.
    """
    count, flips = len(evidence.harmless), study.require_metric().applies("negative")
    all_rows = {"condition": evidence.ablation, "group": "negative"}
    agreeing = flips and evidence.has_base
    if agreeing and not evidence.agreeing.any():
        return None
    rows = all_rows | ({"agreeing": True} if agreeing else {})
    also = {"divergence": mean("divergence", table="answers", where=all_rows)}
    clause = "flips the behaviour in {value:.1%}" if flips else "changes {value:.1%}"
    text = f"The ablation {clause} of the answers to negative prompts"
    if agreeing:
        also["flipped"] = mean("flipped", table="answers", where=all_rows)
        also["agreeing"] = statistic("count", "harmed", table="answers", where=rows)
        text += (
            " on which both models agree ({agreeing:d}; at most {high:.1%}), and in {flipped:.1%}"
            " of all"
        )
    else:
        text += " (at most {high:.1%})"
    text += "; its divergence on them is {divergence:.3f} nats a token"
    if evidence.has_base:
        also["base"] = mean(
            "divergence", table="answers", where={"condition": "base", "group": "negative"}
        )
        text += ", the base's {base:.3f}"
    if count:
        also["random"] = statistic("mean", "divergence", table="random_harmless")
        also["random_lost"] = statistic("mean", "harmed", table="random_harmless")
        sets = "a random set" if count == 1 else f"{count} random sets on average"
        verb = "flips" if count == 1 else "flip"
        text += (
            f". For comparison, {sets} {verb if flips else verb.replace('flip', 'change')}"
            " {random_lost:.1%}, with a "
        )
        text += "divergence of {random:.3f}"
    return Claim(
        name="harmless",
        estimate=mean("harmed", table="answers", where=rows),
        at_most=MAX_HARMED,
        beyond=[MAX_UPPER_END],
        reference=0.0,
        control=(
            "the answers of both models"
            if evidence.has_base and flips
            else "the fine-tuned model's own answers"
        ),
        text=text + ".",
        also=also,
    )


def _reference(evidence: Evidence, group: str) -> tuple[str, str]:
    """Role and name of the model whose answers the ablated ones should resemble."""
    is_base = evidence.has_base and group == "positive"
    return ("base", "the base") if is_base else ("tuned", "the fine-tuned model")


def _named(name: str, group: str) -> str:
    return name if group == "positive" else f"{name}-{group}"


def malformed_claim(evidence: Evidence, group: str) -> Claim:
    """Share of malformed answers under ablation, minus the reference model's own."""
    reference, name = _reference(evidence, group)
    ablated, reference_rows = (
        {"condition": each, "group": group} for each in (evidence.ablation, reference)
    )
    return Claim(
        name=_named("malformed", group),
        estimate=mean(
            "malformed",
            table="answers",
            where=ablated,
            minus={"where": reference_rows},
            pair="prompt_id",
        ),
        at_most=MAX_MALFORMED,
        beyond=[MAX_UPPER_END],
        reference=mean("malformed", table="answers", where=reference_rows),
        control=f"the rate of {name} itself",
        text=(
            f"{{share:.1%}} of the ablated answers to {group} prompts are malformed, {{value:+.1%}}"
            f" compared with those of {name} ({{control:.1%}}; the difference is at most"
            " {high:+.1%})."
        ),
        also={"share": mean("malformed", table="answers", where=ablated)},
    )


def fluency_claim(evidence: Evidence, group: str) -> Claim | None:
    """Loss of the base on ablated answers, minus that on the reference model's; None without a
    base.
    """
    if not evidence.has_base:
        return None
    reference, name = _reference(evidence, group)
    ablated, reference_rows = (
        {"condition": each, "group": group} for each in (evidence.ablation, reference)
    )
    return Claim(
        name=_named("fluency", group),
        estimate=mean(
            "base_loss",
            table="answers",
            where=ablated,
            minus={"where": reference_rows},
            pair="prompt_id",
        ),
        at_most=MAX_LOSS_INCREASE,
        reference=mean("base_loss", table="answers", where=reference_rows),
        control=f"the loss of the answers of {name}",
        text=(
            f"Read by the base, ablated answers to {group} prompts have a loss of {{share:.2f}}"
            " nats a token, {value:+.2f} [{low:+.2f}, {high:+.2f}] compared with those of"
            f" {name} ({{control:.2f}})."
        ),
        also={"share": mean("base_loss", table="answers", where=ablated)},
    )
