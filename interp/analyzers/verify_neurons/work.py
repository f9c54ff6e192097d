"""What a verifying run does, before it begins: how many passes, and how many tokens are written."""

from __future__ import annotations

from interp.engines import Batch
from interp.study import Study
from interp.trials.dose import grid
from interp.trials.work import Work

# Shares that are known only afterwards, as they were on the real pair: how far answers go, and how many passes over the
# prompts that it is tested on a random set takes, with the answers that are written under it; one that is judged on
# fewer; a part of the located ranking, under which most answers change and are written; and a cell of the two by two.
LENGTH, NECESSITY, SUFFICIENCY, FURTHER, LOCATED, CELLS = 0.8, 1.9, 4.4, 0.8, 6.9, 0.5
REFINED = 3  # sets between two doses that bisection judges
SETS_OF_CELLS = 19  # random sets of the two by two: as few as a rank test at 5 % needs
MEANS = 2.5  # passes for the means and norms of contributions


def work_of(
    study: Study,
    selected: int,
    conditions: int,
    sets: tuple[int, int],
    dose_draws: int,
    control_prompts: int,
    depth: int,
) -> Work:
    """Passes over all prompts of the study, both classes, and tokens that are written to each.

    ``sets``: how many random sets there are, and how many of them are judged on every prompt they are tested on.
    """
    random_sets, judged = sets
    has_base = study.pair.base is not None
    lengths = [len(each.ids) for group in study.classes for each in study.encoded(group)]
    written = LENGTH * study.max_new_tokens
    # a prompt with its answer, in passes over prompts
    read = 1 + written / max(sum(lengths) / len(lengths) - _shared(study), 1)
    models = 2 if has_base else 1
    # answers of the models as they are: where they begin, written, and read by the base
    plain = Work(passes=2 + (read if has_base else 0), tokens=written) * models
    if not selected:
        return plain
    # an intervention from the other model is read in step with it; divergence of negative prompts is of two of them
    edited = Work(passes=models + (read if has_base else 0), tokens=models * written) * conditions
    edited += Work(passes=(models + 2) * read / 2 + MEANS)
    share = min(control_prompts, len(study.contrast.positive)) / len(lengths)
    beside = Work(passes=share * ((models + 1) * read + models), tokens=models * share * written) * dose_draws
    if not has_base:
        return plain + edited + beside + Work(passes=share, tokens=share * written) * random_sets
    steps = grid(depth)
    drawn, further = min(judged, random_sets) + dose_draws * len(steps[::2]), max(random_sets - judged, 0)
    passes = drawn * (NECESSITY + SUFFICIENCY) + further * 2 * FURTHER + (2 * len(steps) + REFINED) * LOCATED
    passes += 2 * 2 * CELLS * min(random_sets, SETS_OF_CELLS)
    return plain + edited + beside + Work(passes=share * passes)


def _shared(study: Study) -> int:
    """Tokens that all prompts begin with."""
    return Batch.pad([each.ids for group in study.classes for each in study.encoded(group)], study.pad_id).shared
