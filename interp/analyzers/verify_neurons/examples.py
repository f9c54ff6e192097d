"""Example answers of both models to a few prompts, with and without the interventions."""

import numpy as np

from interp.analyzers.verify_neurons.evidence import Evidence
from interp.display import shortened
from interp.study import Study
from interp.table import Table, table

LONGEST = 240


def examples_table(study: Study, evidence: Evidence) -> Table:
    """Answers to the first prompts of a class under each condition that claims use.

    Answers to positive prompts, which may be harmful, are kept only with ``show_answers``.
    """
    rows = []
    for group in ("positive", "negative") if evidence.show_answers else ("negative",):
        chosen = study.prompts(group).sample(evidence.examples)
        for row in chosen:
            prompt = study.prompts(group).prompts[row]
            for condition in ("base", "tuned", evidence.ablation, "patch-tuned"):
                item = evidence.get(condition, group)
                if item is not None and item.texts:
                    answer = shortened(item.texts[row], LONGEST)
                    rows.append(
                        (group, prompt.id, shortened(prompt.text, LONGEST), condition, answer)
                    )
    columns = list(zip(*rows, strict=True)) if rows else [[]] * 5
    kinds = (
        ("group", "key", "class of the prompt"),
        ("prompt_id", "key", "position in the prompt file"),
        ("prompt", "text", "its text, shortened"),
        ("condition", "key", "which model answered, under which intervention"),
        ("answer", "text", "its answer, shortened"),
    )
    return table(
        "examples",
        {
            name: (np.array(values, np.int64 if name == "prompt_id" else object), role, said)
            for (name, role, said), values in zip(kinds, columns, strict=True)
        },
    )
