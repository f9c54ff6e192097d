"""Cost of a verifying run, estimated before it begins: passes, and tokens to generate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from interp.engines import Batch
from interp.experiments.cost import Work
from interp.study import Study

# Values measured on the real pair. LENGTH: length of answers as a share of the maximum. The others
# are passes over the control prompts: FURTHER for a random set that is not judged on all of them,
# LOCATED for a prefix of the ranking (most of its answers change and are generated), CELLS for a
# cell of the 2 x 2 design, RANDOM for a random set with the answers generated under it.
LENGTH, FURTHER, LOCATED, CELLS = 0.8, 0.8, 6.9, 0.5
RANDOM = {"necessity": 1.9, "sufficiency": 4.4}
REFINED = 3  # sets that bisection between two doses evaluates
SIZES = 1.1  # passes for the sizes of contributions and of their changes


@dataclass(frozen=True)
class VerificationSize:
    """Size of a verifying run: see ``VerifyNeurons``. ``sizes``: of the measured prefixes of the
    ranking.
    """

    selected: int
    conditions: int
    control_prompts: int
    random_sets: int
    judged_sets: int
    dose_draws: int
    sizes: Sequence[int]
    refined: bool
    cell_sets: int
    directions: Sequence[str]


def verification_work(study: Study, size: VerificationSize) -> Work:
    """Passes over all prompts of the study, both classes, and generated tokens per prompt."""
    has_base = study.pair.base is not None
    lengths = [len(each.ids) for group in study.classes for each in study.encoded(group)]
    new_tokens = LENGTH * study.max_new_tokens
    # a prompt with its answer, in passes over prompts
    read_passes = 1 + new_tokens / max(sum(lengths) / len(lengths) - _prefix_length(study), 1)
    models = 2 if has_base else 1
    # answers of the unedited models: generated, and read by the base
    unedited = Work(passes=1 + (read_passes if has_base else 0), tokens=new_tokens) * models
    if not size.selected:
        return unedited
    # an intervention runs together with the other model; two conditions have a divergence on
    # negative prompts, for which the base's values are not read again
    edited = (
        Work(passes=models + (read_passes if has_base else 0), tokens=models * new_tokens)
        * size.conditions
    )
    edited += Work(passes=(models + 1) * read_passes / 2 + SIZES)
    share = min(size.control_prompts, len(study.contrast.positive)) / len(lengths)
    dose_work = (
        Work(
            passes=share * ((models + 1) * read_passes + models), tokens=models * share * new_tokens
        )
        * size.dose_draws
    )
    if not has_base:
        return (
            unedited
            + edited
            + dose_work
            + Work(passes=share, tokens=share * new_tokens) * size.random_sets
        )
    n_judged = min(size.judged_sets, size.random_sets)
    n_drawn, n_bounded = (
        n_judged + size.dose_draws * (len(size.sizes) // 2),
        size.random_sets - n_judged,
    )
    passes_per_direction = (
        (len(size.sizes) - 1) * LOCATED
        + n_bounded * FURTHER
        + 2 * CELLS * min(size.cell_sets, size.random_sets)
    )
    passes = sum(
        n_drawn * RANDOM[direction] + passes_per_direction for direction in size.directions
    )
    passes += REFINED * LOCATED * size.refined
    return unedited + edited + dose_work + Work(passes=share * passes)


def _prefix_length(study: Study) -> int:
    """Number of tokens that all prompts begin with."""
    return Batch.pad(
        [each.ids for group in study.classes for each in study.encoded(group)], study.pad_id
    ).prefix_length
