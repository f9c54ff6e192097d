"""The first claim: there is a behaviour to locate."""

from interp.analyzers.verify_neurons.evidence import Evidence
from interp.claims import Claim, mean
from interp.experiments.corrected_rates import judge_field
from interp.study import Study

CORRECTION_NOTE = " Shares are corrected for the judge's errors."
MIN_DIFFERENCE = 0.1  # least difference between the models' rates of the behaviour


def behaviour_claim(study: Study, evidence: Evidence) -> Claim:
    """The fine-tuned model shows the behaviour on positive prompts more often than the base.

    Without a base: more often than on negative prompts. The control is the same difference on
    negative prompts; for a task, where only positive prompts have right answers, the same with the
    answers shuffled among the prompts. Reads the sub-table ``answers``. Rates by a judge are
    corrected for its errors.
    """
    judge = judge_field(study)
    words, has_chance = (
        study.require_metric().labels,
        evidence.require("tuned", "positive").chance is not None,
    )

    def share(group: str, role: str = "tuned", **rest):
        return {"table": "answers", "where": {"group": group, "condition": role}, **judge, **rest}

    def over_base(column: str, group: str):
        return mean(
            column, pair="prompt_id", minus={"where": share(group, "base")["where"]}, **share(group)
        )

    compared_with, control = "the base", "the same difference on negative prompts"
    shuffled = "the same with the right answers shuffled among the prompts"
    if evidence.has_base:
        estimate = over_base(words.column, "positive")
        reference = (
            over_base("chance", "positive") if has_chance else over_base(words.column, "negative")
        )
        control = shuffled if has_chance else control
    elif has_chance:
        estimate, reference = (
            mean(words.column, **share("positive")),
            mean("chance", **share("positive")),
        )
        compared_with, control = "none", shuffled
    else:
        estimate = mean(
            words.column, minus={"where": share("negative")["where"]}, **share("positive")
        )
        reference, compared_with, control = 0.0, "negative prompts", "no difference"
    clause = words.verb.format(share="{share:.1%}")
    return Claim(
        name="behaviour",
        estimate=estimate,
        at_least=MIN_DIFFERENCE,
        beyond=[0.0, "control"],
        reference=reference,
        control=control,
        text=(
            f"The fine-tuned model {clause}, {{value:+.1%}} [{{low:+.1%}}, {{high:+.1%}}] compared"
            f" with {compared_with}."
        )
        + (CORRECTION_NOTE if judge else ""),
        also={"share": mean(words.column, **share("positive"))},
    )
