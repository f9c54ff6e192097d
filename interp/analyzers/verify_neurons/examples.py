"""Example answers of both models to a few prompts, with and without the interventions."""

from interp.analyzers.verify_neurons.evidence import Evidence
from interp.analyzers.verify_neurons.keys import ConditionRow
from interp.display import shortened
from interp.experiments.records import records_table
from interp.rows import PromptRow, text
from interp.study import Study
from interp.table import Table

LONGEST = 240


class ExampleRow:
    """A row per example answer."""

    group: str = PromptRow.group
    prompt_id: int = PromptRow.prompt_id
    prompt: str = text("its text, shortened")
    condition: str = ConditionRow.condition
    answer: str = text("the answer, shortened")


def examples_table(study: Study, evidence: Evidence) -> Table:
    """Answers to the first prompts of a class under each condition that claims use.

    Answers to positive prompts, which may be harmful, are kept only with ``show_answers``.
    """
    records = [
        {
            "group": group,
            "prompt_id": study.prompts(group).prompts[row].id,
            "prompt": shortened(study.prompts(group).prompts[row].text, LONGEST),
            "condition": condition,
            "answer": shortened(item.texts[row], LONGEST),
        }
        for group in (("positive", "negative") if evidence.show_answers else ("negative",))
        for row in study.prompts(group).sample(evidence.examples)
        for condition in ("base", "tuned", evidence.ablation, "patch-tuned")
        if (item := evidence.get(condition, group)) is not None and item.texts
    ]
    return records_table(ExampleRow, "examples", records)
