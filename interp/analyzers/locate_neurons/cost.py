"""Cost of scoring units by each method, in passes over the prompts of a study."""

from interp.experiments.cost import Work
from interp.study import Study

_AUTO = 7
"""Steps assumed for ``auto``: the two coarsest rules, which are always compared."""


def method_work(method: str, steps: int | str, positions: str, study: Study) -> Work | None:
    """Work of ``method`` (not ``auto``) per prompt of the study; None for ``probe``, whose fits
    take longer than its passes.
    """
    counts = {group: len(study.encoded(group)) for group in study.classes}
    positive = counts["positive"] / sum(counts.values())
    has_base = study.pair.base is not None
    n_steps = _AUTO if isinstance(steps, str) else steps
    # the ends of a path: both models' own, and the fine-tuned model with what the path starts from
    ends = Work(passes=3 if has_base else 2)
    answers = Work(tokens=study.max_new_tokens)
    work_by_method = {
        "integrated": ends + Work(attributions=n_steps),
        "integrated-fixed": ends + Work(attributions=n_steps),
        "integrated-zero": Work(passes=2, attributions=n_steps),
        "cross": ends + Work(attributions=1),
        "change": Work(passes=2) + (answers if positions == "completion" else Work()),
        "act-grad": Work(attributions=1),
        "gradient": Work(gradients=1),
        "weight": Work(),
    }
    if method in work_by_method:
        return work_by_method[method] * positive
    if method == "gradient-counterfactual":
        return Work(gradients=1) * positive + answers * (positive if has_base else 1 - positive)
    if method == "change-difference":
        return work_by_method["change"]
    return Work(passes=1) if method == "contrast" else None
