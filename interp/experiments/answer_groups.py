"""Batches of prompts with given answers, for passes that keep the logits of every answer token."""

from collections.abc import Sequence

from interp.maths.batches import EACH_ON_CPU, EACH_ON_GPU, least_padded
from interp.models.model import Model
from interp.study import Study


def answer_groups(
    study: Study,
    group: str,
    model: Model,
    answers: Sequence[Sequence[int]],
    rows: Sequence[int],
    held: int,
) -> list[list[int]]:
    """Some rows of a class in batches of similar length of prompt and answer.

    ``answers``: of every row of the class. ``held``: bytes that a pass keeps for each logit.
    """
    encoded = study.encoded(group)
    shortest = min(len(each.ids) for each in encoded)
    whole = study.groups(
        group, model, held * model.anatomy.vocabulary * study.max_new_tokens // shortest
    )
    most = min(map(len, whole[:-1]), default=len(whole[0]))
    lengths = [len(encoded[row].ids) + len(answers[row]) for row in rows]
    fixed = EACH_ON_CPU if model.device.type == "cpu" else EACH_ON_GPU
    return [[rows[at] for at in some] for some in least_padded(lengths, most, fixed)]
