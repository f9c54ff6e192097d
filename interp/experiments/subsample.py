"""A study on some of another's prompts, which reuses what was computed for them."""

from interp.experiments.base_losses import known_losses
from interp.experiments.unedited_metric import known_metric, metric_cache_key
from interp.study import Study


def subsample_study(study: Study, count: int) -> Study:
    """The same study on at most ``count`` prompts of each class, with the answers and values it
    has.
    """
    smaller = study.with_prompts(study.contrast.limit(count))
    for group in smaller.classes:
        for role in study.pair.roles:
            answers = dict(
                zip(
                    [prompt.id for prompt in study.prompts(group)],
                    study.answers(role, group),
                    strict=True,
                )
            )
            smaller.cached(
                ("answers", role, group),
                lambda known=answers, group=group: [
                    known[prompt.id] for prompt in smaller.prompts(group)
                ],
            )
            numbers = known_metric(study, role, group)
            smaller.cached(metric_cache_key(study, role, group), lambda known=numbers: known)
        smaller.cached(("base losses", group), lambda group=group: known_losses(study, group))
    return smaller
