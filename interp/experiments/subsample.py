"""A study on some of another's prompts, which reuses what was computed for them."""

from interp.experiments.base_losses import losses_known
from interp.experiments.unedited_metric import numbers_known, numbers_name
from interp.study import Study


def few_of(study: Study, count: int) -> Study:
    """The same study on at most ``count`` prompts of each class, with the answers and values it
    has.
    """
    few = study.with_prompts(study.contrast.limit(count))
    for group in few.classes:
        for role in study.pair.roles:
            answers = dict(
                zip(
                    [prompt.id for prompt in study.prompts(group)],
                    study.answers(role, group),
                    strict=True,
                )
            )
            few.kept(
                ("answers", role, group),
                lambda known=answers, group=group: [
                    known[prompt.id] for prompt in few.prompts(group)
                ],
            )
            numbers = numbers_known(study, role, group)
            few.kept(numbers_name(study, role, group), lambda known=numbers: known)
        few.kept(("base losses", group), lambda group=group: losses_known(study, group))
    return few
