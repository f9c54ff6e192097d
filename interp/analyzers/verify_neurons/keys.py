"""Keys that rows of several tables of a verifying run have."""

from interp.rows import PromptRow, key


class ConditionRow:
    """A row of a condition under which a model answers."""

    condition: str = key("which model answered, under which intervention")


class ClassRow(ConditionRow):
    """A row of a condition and a class of prompts."""

    group: str = PromptRow.group


class DirectionRow:
    """A row of a direction of patching."""

    direction: str = key(
        "necessity: base into fine-tuned model; sufficiency: fine-tuned model into base"
    )


class PositivePromptRow:
    """A row of a positive prompt, where there is no other class."""

    prompt_id: int = PromptRow.prompt_id
    cluster: str = PromptRow.cluster
