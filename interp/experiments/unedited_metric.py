"""The metric of prompts in an unedited model: computed once, or kept from generation."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from interp.capture import make_batch
from interp.maths.host import to_host
from interp.provenance import digest
from interp.study import Study


def numbers_known(study: Study, role: str, group: str) -> dict[int, float]:
    """The values known so far, by prompt id, of the study's current behaviour."""
    return study.kept(numbers_name(study, role, group), dict)


def numbers_name(study: Study, role: str, group: str) -> tuple[str, ...]:
    """The name under which a study keeps them."""
    return "numbers", role, group, digest(study.require_metric().identity)


def keep_numbers(
    study: Study, role: str, group: str, rows: Sequence[int], number: Float[np.ndarray, " rows"]
) -> None:
    """Keep the values of some rows."""
    ids = [study.prompts(group).prompts[row].id for row in rows]
    numbers_known(study, role, group).update(zip(ids, number.tolist(), strict=True))


def own_numbers(
    study: Study, role: str, group: str, rows: Sequence[int]
) -> Float[np.ndarray, " rows"]:
    """The metric of some prompts of a class in an unedited model, in this order."""
    known, prompts = numbers_known(study, role, group), study.prompts(group).prompts
    posed, model = study.decision_inputs(group), study.pair[role]
    unknown = [row for row in rows if prompts[row].id not in known]
    for some in study.batches([posed[row] for row in unknown], model):
        chosen = [unknown[at] for at in some]
        batch, _ = make_batch(posed, chosen, study.pad_id, model.device)
        aim = study.objective(group, chosen)
        read = study.engine.run(model, batch, keep=aim.keep).require_logits()
        keep_numbers(study, role, group, chosen, to_host(aim.of(read)))
    return np.array([known[prompts[row].id] for row in rows], dtype=np.float64)
