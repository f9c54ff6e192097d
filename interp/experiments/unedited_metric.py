"""The metric of prompts in an unedited model: computed once, or kept from generation."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from interp.capture import make_batch
from interp.maths.host import to_host
from interp.provenance import digest
from interp.study import Study


def known_metric(study: Study, role: str, group: str) -> dict[int, float]:
    """The values known so far, by prompt id, of the study's current behaviour."""
    return study.cached(metric_cache_key(study, role, group), dict)


def metric_cache_key(study: Study, role: str, group: str) -> tuple[str, ...]:
    """The name under which a study keeps them."""
    return "numbers", role, group, digest(study.require_metric().identity)


def store_metric(
    study: Study, role: str, group: str, rows: Sequence[int], values: Float[np.ndarray, " rows"]
) -> None:
    """Keep the values of some rows."""
    ids = [study.prompts(group).prompts[row].id for row in rows]
    known_metric(study, role, group).update(zip(ids, values.tolist(), strict=True))


def unedited_values(
    study: Study, role: str, group: str, rows: Sequence[int]
) -> Float[np.ndarray, " rows"]:
    """The metric of some prompts of a class in an unedited model, in this order."""
    known, prompts = known_metric(study, role, group), study.prompts(group).prompts
    inputs, model = study.decision_inputs(group), study.pair[role]
    unknown = [row for row in rows if prompts[row].id not in known]
    for positions in study.batches([inputs[row] for row in unknown], model):
        batch_rows = [unknown[at] for at in positions]
        batch, _ = make_batch(inputs, batch_rows, study.pad_id, model.device)
        objective = study.objective(group, batch_rows)
        logits = study.engine.run(model, batch, keep=objective.keep).require_logits()
        store_metric(study, role, group, batch_rows, to_host(objective.function(logits)))
    return np.array([known[prompts[row].id] for row in rows], dtype=np.float64)
