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


def work_of(study: Study, asked: VerificationSize) -> Work:
    """Passes over all prompts of the study, both classes, and generated tokens per prompt."""
    has_base = study.pair.base is not None
    lengths = [len(each.ids) for group in study.classes for each in study.encoded(group)]
    written = LENGTH * study.max_new_tokens
    # a prompt with its answer, in passes over prompts
    read = 1 + written / max(sum(lengths) / len(lengths) - _shared(study), 1)
    models = 2 if has_base else 1
    # answers of the unedited models: generated, and read by the base
    plain = Work(passes=1 + (read if has_base else 0), tokens=written) * models
    if not asked.selected:
        return plain
    # an intervention runs together with the other model; two conditions have a divergence on
    # negative prompts, for which the base's values are not read again
    edited = (
        Work(passes=models + (read if has_base else 0), tokens=models * written) * asked.conditions
    )
    edited += Work(passes=(models + 1) * read / 2 + SIZES)
    share = min(asked.control_prompts, len(study.contrast.positive)) / len(lengths)
    beside = (
        Work(passes=share * ((models + 1) * read + models), tokens=models * share * written)
        * asked.dose_draws
    )
    if not has_base:
        return (
            plain + edited + beside + Work(passes=share, tokens=share * written) * asked.random_sets
        )
    judged = min(asked.judged_sets, asked.random_sets)
    drawn, further = judged + asked.dose_draws * (len(asked.sizes) // 2), asked.random_sets - judged
    both = (
        (len(asked.sizes) - 1) * LOCATED
        + further * FURTHER
        + 2 * CELLS * min(asked.cell_sets, asked.random_sets)
    )
    passes = sum(drawn * RANDOM[direction] + both for direction in asked.directions)
    passes += REFINED * LOCATED * asked.refined
    return plain + edited + beside + Work(passes=share * passes)


def _shared(study: Study) -> int:
    """Number of tokens that all prompts begin with."""
    return Batch.pad(
        [each.ids for group in study.classes for each in study.encoded(group)], study.pad_id
    ).shared
